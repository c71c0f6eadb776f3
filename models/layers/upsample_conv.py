"""Nearest-neighbour x2 upsampling followed by a 3x3 convolution, as one transposed convolution."""

from __future__ import annotations

import tensorflow as tf


def transposed_kernel(kernel: tf.Tensor) -> tf.Tensor:
    """The stride-2 transposed-convolution kernel equal to 'upsample x2, then convolve'.

    kernel: float32 (3, 3, in, out), of a 'same' convolution on the upsampled map.
    Returns float32 (4, 4, out, in), the layout of tf.nn.conv2d_transpose.

    Nearest upsampling copies each pixel into a 2x2 box, so the pair of operations scatters every
    input pixel through the flipped kernel convolved with a 2x2 box of ones.
    """
    padded = tf.pad(kernel, [[1, 1], [1, 1], [0, 0], [0, 0]])
    rows = padded[:-1] + padded[1:]
    boxed = rows[:, :-1] + rows[:, 1:]  # (4, 4, in, out)
    return tf.transpose(boxed[::-1, ::-1], [0, 1, 3, 2])


class UpsampleConv(tf.keras.layers.Layer):
    """float32 (B, H, W, in) -> (B, 2H, 2W, filters): nearest upsample x2, then 3x3 'same' conv.

    Exact: the trained variables are the 3x3 kernel (3, 3, in, filters) and, with `use_bias`, the
    bias (filters,). 16 multiplications an input pixel and channel pair in place of 36, and the
    upsampled input is never stored.
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
        shape = tf.shape(inputs)
        output_shape = [shape[0], 2 * shape[1], 2 * shape[2], self.filters]
        outputs = tf.nn.conv2d_transpose(
            inputs, transposed_kernel(self.kernel), output_shape, strides=2, padding="SAME"
        )
        return outputs if self.bias is None else outputs + self.bias
