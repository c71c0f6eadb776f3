"""Convolutions with their normalisation: batch norm that can be frozen, and spectral norm.

In mixed precision maps come and go in the layers' compute type; statistics, and kernels until they
are scaled, are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from core import replicas

# Of batch norm's statistics. MobileNetV2's own 0.999 needs thousands of steps before those that
# inference uses resemble the ones the weights were trained with; short runs would evaluate noise.
MOMENTUM = 0.9
# Options of a variable that a step assigns: all replicas give it one value.
SAME_ON_REPLICAS = {"aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}


class InstanceNorm(tf.keras.layers.GroupNormalization):
    """Normalises each channel of each sample over its pixels; `learned`: with a scale and offset
    that are learned."""

    def __init__(self, learned: bool = True):
        numerics = {"epsilon": 1e-5, "dtype": "float32", "autocast": False}
        super().__init__(groups=-1, center=learned, scale=learned, **numerics)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        # Keras would take the moments of bfloat16 maps in bfloat16.
        return tf.cast(super().call(tf.cast(inputs, tf.float32)), inputs.dtype)


def moments(inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return mean and variance of each channel over the global batch, float32 (C,), and the number
    of values in a channel, float32 (). inputs: (..., C)."""
    axes = list(range(inputs.shape.rank - 1))
    mean, variance = tf.nn.moments(tf.cast(inputs, tf.float32), axes)
    number = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], tf.float32)
    if replicas.count() == 1:
        return mean, variance, number
    # From the moments of each replica (Chan et al. 1979): a mean of squares less a squared mean
    # would lose the variance of a channel whose mean is large.
    each = replicas.all_gather(tf.concat([number[None], mean, variance], axis=0)[None])
    numbers, means, variances = tf.split(each, [1, mean.shape[0], mean.shape[0]], axis=1)
    total = tf.reduce_sum(numbers)
    mean = tf.reduce_sum(numbers * means, axis=0) / total
    spread = variances + tf.math.squared_difference(means, mean)
    return mean, tf.reduce_sum(numbers * spread, axis=0) / total, total


class BatchNorm(tf.keras.layers.BatchNormalization):
    """Keras' batch norm, with the statistics of the global batch where a step is spread over
    replicas.

    Own code, because Keras' `synchronized` gives up the fused kernel on a single device, moves the
    running variance by another estimate than that one, and keeps running statistics apart on every
    replica: reading them, as a checkpoint does, is then a sum in which every machine must take
    part.
    """

    def add_weight(self, *args: Any, **kwargs: Any) -> tf.Variable:
        """Add a weight as Keras does, but equal on all replicas at all times."""
        same = {"synchronization": tf.VariableSynchronization.AUTO, **SAME_ON_REPLICAS}
        return super().add_weight(*args, **{**kwargs, **same})

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or replicas.count() == 1:
            return super().call(inputs, training=training)
        mean, variance, number = moments(inputs)
        maps = inputs.shape.rank == 4  # where Keras takes the fused kernel's unbiased estimate
        unbiased = number / tf.maximum(number - 1.0, 1.0) if maps else 1.0
        for running, value in (
            (self.moving_mean, mean), (self.moving_variance, unbiased * variance),
        ):  # fmt: skip
            running.assign_add((1.0 - self.momentum) * (value - running))
        outputs = tf.nn.batch_normalization(
            tf.cast(inputs, tf.float32), mean, variance, self.beta, self.gamma, self.epsilon
        )
        return tf.cast(outputs, inputs.dtype)


def batch_norm() -> BatchNorm:
    """Return the batch norm used everywhere."""
    return BatchNorm(momentum=MOMENTUM, epsilon=1e-3)


def _no_norm(inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
    return inputs


# By the values of hparams, each made by NORMS[name](). A layer before a norm needs no bias, because
# the norm would take any constant out again.
NORMS = {"batch": batch_norm, "instance": InstanceNorm, "none": lambda: _no_norm}


def xavier_small() -> tf.keras.initializers.Initializer:
    """Return the kernels' start in the published code of SPADE: Xavier normal times 0.02. A kernel
    that is divided by its spectral norm turns the faster for being small."""
    return tf.keras.initializers.VarianceScaling(0.02**2, "fan_avg", "untruncated_normal")


class ConvBatchNorm(tf.keras.layers.Layer):
    """'same' convolution without bias, batch norm, activation: (B, H, W, in) -> (B, H', W', out).

    With frozen statistics (always in inference) the batch norm is a fixed scale and offset of each
    channel, so it is folded into the kernel: the same function of the same variables (kernel,
    gamma, beta; all still train), but one map to compute and keep a layer where there were two.
    """

    def __init__(
        self,
        in_channels: int,
        filters: int | None,
        kernel_size: int = 3,
        stride: int = 1,
        activation: Callable[[tf.Tensor], tf.Tensor] | None = None,
        freeze_statistics: bool = False,
        **kwargs: Any,
    ):
        """filters: channels out, None for a depthwise convolution. A one-channel input is read as
        one tiled to `in_channels`."""
        super().__init__(**kwargs)
        self.in_channels = in_channels
        self.filters = filters
        self.kernel_size = kernel_size
        self.stride = stride
        self.activation = activation
        self.freeze_statistics = freeze_statistics
        self.norm = batch_norm()

    def build(self, input_shape):
        depthwise = self.filters is None
        shape = (self.kernel_size, self.kernel_size, self.in_channels, self.filters or 1)
        fan_in = self.kernel_size**2 * (1 if depthwise else self.in_channels)
        # Written out because Keras would count the channels of a depthwise kernel as inputs.
        self.kernel = self.add_weight(
            "kernel",
            shape,
            initializer=tf.keras.initializers.RandomNormal(0, (2 / fan_in) ** 0.5),
            experimental_autocast=False,
        )
        self.norm.build((None, None, None, self.filters or self.in_channels))
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if training and not self.freeze_statistics:
            outputs = self.norm(self._convolve(inputs, self.kernel), training=True)
        else:
            norm = self.norm
            scale = norm.gamma * tf.math.rsqrt(norm.moving_variance + norm.epsilon)
            by_output = scale[:, None] if self.filters is None else scale
            outputs = self._convolve(inputs, self.kernel * by_output)
            offset = norm.beta - norm.moving_mean * scale
            outputs = tf.nn.bias_add(outputs, tf.cast(offset, outputs.dtype))
        return outputs if self.activation is None else self.activation(outputs)

    def _convolve(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        if inputs.shape[-1] == 1 and self.in_channels > 1:
            kernel = tf.reduce_sum(kernel, axis=2, keepdims=True)
        kernel = tf.cast(kernel, inputs.dtype)
        if self.filters is None:
            strides = [1, self.stride, self.stride, 1]
            return tf.nn.depthwise_conv2d(inputs, kernel, strides, "SAME")
        return tf.nn.conv2d(inputs, kernel, self.stride, "SAME")


class SpectralConv(tf.keras.layers.Layer):
    """Convolution whose kernel is divided by its spectral norm (Miyato et al. 2018).

    One step of power iteration a training call; the vector it moves is saved with the weights.
    Own code, because the wrappers of Keras and TensorFlow Addons overwrite the kernel by its
    normalised value in the forward pass: the optimizer then moves a variable that was changed
    behind its back, and the gradient of the norm is lost.
    """

    def __init__(
        self,
        filters: int,
        stride: int = 1,
        use_bias: bool = True,
        normalize: bool = True,
        kernel_size: int = 3,
        padding: Any = "SAME",
        initializer: Callable = tf.keras.initializers.GlorotUniform,
        **kwargs,
    ):
        """padding: as of tf.nn.conv2d. initializer: called without arguments for the kernel's."""
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.stride = stride
        self.use_bias = use_bias
        self.normalize = normalize
        self.padding = padding
        self.initializer = initializer

    def build(self, input_shape):
        shape = (self.kernel_size, self.kernel_size, input_shape[-1], self.filters)
        self.kernel = self.add_weight(
            "kernel", shape, initializer=self.initializer(), experimental_autocast=False
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight("bias", (self.filters,), initializer="zeros")
        self.u = self.add_weight(
            "u",
            (1, self.filters),
            initializer=tf.keras.initializers.RandomNormal(),
            trainable=False,
            **SAME_ON_REPLICAS,
            experimental_autocast=False,
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        kernel = tf.cast(self.normalized_kernel(training), inputs.dtype)
        outputs = tf.nn.conv2d(inputs, kernel, self.stride, self.padding)
        return outputs if self.bias is None else tf.nn.bias_add(outputs, self.bias)

    def normalized_kernel(self, training: bool) -> tf.Tensor:
        """Return the kernel divided by its spectral norm: float32 (size, size, in, filters).
        training: also move the estimate of the norm by a step."""
        if not self.normalize:
            return tf.convert_to_tensor(self.kernel)
        matrix = tf.reshape(self.kernel, [-1, self.filters])
        fixed = tf.stop_gradient(matrix)
        v = tf.math.l2_normalize(tf.matmul(self.u, fixed, transpose_b=True))
        u = tf.math.l2_normalize(tf.matmul(v, fixed))
        if training:
            self.u.assign(u)
        sigma = tf.matmul(tf.matmul(v, matrix), u, transpose_b=True)
        return self.kernel / sigma
