"""Nearest-neighbour x2 upsampling followed by a 3x3 convolution, with a quarter of the work."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def upsample_conv(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Return (B, 2H, 2W, out): nearest upsampling x2, then a 'same' convolution, exactly.

    inputs: (B, H, W, in). kernel: (3, 3, in, out), of the same dtype.

    Nearest upsampling puts zeros between the pixels and then sums each 2x2 box. Convolutions
    commute, so the kernel may go first, when three of four pixels are still zero: a transposed
    convolution of stride 2, with 9 multiplications an input pixel and channel pair in place of
    36; then the boxes are summed, as averages of four times the values.
    """
    shape = tf.shape(inputs)
    spread = tf.nn.conv2d_transpose(
        inputs,
        4.0 * tf.transpose(kernel[::-1, ::-1], [0, 1, 3, 2]),
        [shape[0], 2 * shape[1] + 1, 2 * shape[2] + 1, kernel.shape[-1]],
        strides=2,
        padding="VALID",
    )
    return _box_means(spread)


@tf.custom_gradient
def _box_means(maps: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """Return the means of all 2x2 boxes of (B, H, W, C): (B, H - 1, W - 1, C).

    The gradient is the same operation on the padded map, which TensorFlow's own AvgPoolGrad takes
    half as long again to find.
    """

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        return tf.nn.avg_pool2d(tf.pad(upstream, [[0, 0], [1, 1], [1, 1], [0, 0]]), 2, 1, "VALID")

    return tf.nn.avg_pool2d(maps, 2, 1, "VALID"), gradient


class UpsampleConv(tf.keras.layers.Layer):
    """Nearest upsampling x2, then a 3x3 'same' convolution: (B, H, W, in) to (B, 2H, 2W, filters).

    The trained variables are the 3x3 kernel (3, 3, in, filters) and, with `use_bias`, the bias
    (filters,).
    """

    def __init__(
        self,
        filters: int,
        kernel_initializer: str | tf.keras.initializers.Initializer = "glorot_uniform",
        use_bias: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_initializer = tf.keras.initializers.get(kernel_initializer)
        self.use_bias = use_bias

    def build(self, input_shape):
        shape = (3, 3, input_shape[-1], self.filters)
        self.kernel = self.add_weight("kernel", shape, initializer=self.kernel_initializer)
        self.bias = self.add_weight("bias", (self.filters,)) if self.use_bias else None
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        outputs = upsample_conv(inputs, self.kernel)
        return outputs if self.bias is None else outputs + self.bias
