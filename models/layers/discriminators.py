"""PatchGAN discriminators (Isola et al. 2017) with spectral norm: of masks, and of photographs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from models.layers.normalization import NORMS, InstanceNorm, SpectralConv, xavier_small
from models.layers.semantic import CHANNELS

PADDING = ((0, 0), (2, 2), (2, 2), (0, 0))  # of PatchDiscriminator's convolutions
ARCHITECTURES = {"big": (64, 3), "small": (32, 3), "verysmall": (16, 2)}  # filters, stride-2 layers


@tf.custom_gradient
def _leaky_relu(maps: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """Apply leaky ReLU of slope 0.2. Not tf.nn.leaky_relu: TensorFlow 2.15's graph rewriter fails
    on it after a convolution with bias, and then leaves out all its fusions of the step."""
    outputs = tf.maximum(maps, 0.2 * maps)
    return outputs, lambda upstream: tf.raw_ops.LeakyReluGrad(
        gradients=upstream, features=outputs, alpha=0.2
    )


def _to_float32(features: list[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.cast(maps, tf.float32) for maps in features]


class ClassConv(SpectralConv):
    """SpectralConv over a map with the one-hot vector of a class joined to every pixel.

    The one-hot part is constant over the map, so its share of an output pixel is the sum of the
    class's kernel taps that fall inside the map: looked up, not convolved over K channels.
    """

    def __init__(self, num_classes: int, filters: int, **kwargs: Any):
        super().__init__(filters, **kwargs)
        self.num_classes = num_classes

    def build(self, input_shape):
        super().build((*input_shape[:-1], input_shape[-1] + self.num_classes))

    def call(self, inputs: tf.Tensor, classes: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return (O, h, w, filters) of inputs (O, h, w, c) and classes int32 (O,)."""
        kernel = self.normalized_kernel(training)  # (3, 3, c + K, filters)
        by_class = tf.transpose(kernel[:, :, inputs.shape[-1] :], [2, 0, 1, 3])
        taps = tf.gather(by_class, classes)  # (O, 3, 3, filters)
        height, width = tf.shape(inputs)[1], tf.shape(inputs)[2]
        inside = tf.einsum("yi,xj->yxij", _inside(height), _inside(width))
        constant = tf.matmul(
            tf.reshape(inside, [1, height * width, 9]), tf.reshape(taps, [-1, 9, self.filters])
        )
        of_inputs = tf.cast(kernel[:, :, : inputs.shape[-1]], inputs.dtype)
        varying = tf.nn.conv2d(inputs, of_inputs, 1, "SAME")
        outputs = varying + tf.cast(tf.reshape(constant, tf.shape(varying)), varying.dtype)
        return outputs if self.bias is None else tf.nn.bias_add(outputs, self.bias)


def _inside(side: tf.Tensor) -> tf.Tensor:
    """Return float32 (side, 3): 1 where tap 0, 1, 2 of a kernel at a pixel lies in the map."""
    rows = tf.range(side)[:, None] + tf.range(-1, 2)
    return tf.cast((rows >= 0) & (rows < side), tf.float32)


class MaskDiscriminator(tf.keras.layers.Layer):
    """Discriminator of masks (O, M, M) of known classes: patch scores in (0, 1), 1 = real.

    Convolutions of stride 2, doubling in width from `filters`; the class joins as a one-hot vector
    at every pixel; one more doubling and the scores at stride 1. M = 64 gives 8 x 8 scores for
    three stride-2 layers.
    """

    def __init__(
        self,
        num_classes: int,
        filters: int,
        strided: int,
        spectral_norm: bool = True,
        norm: str = "instance",
        **kwargs,
    ):
        """norm: 'instance' or 'none', after all convolutions but the first and the last."""
        super().__init__(**kwargs)
        bare = norm == "none"
        conv = functools.partial(SpectralConv, normalize=spectral_norm)
        self.convs = [
            conv(filters * 2**i, stride=2, use_bias=bare or i == 0, name=f"conv_{i}")
            for i in range(strided)
        ]
        self.joined = ClassConv(
            num_classes, filters * 2**strided, use_bias=bare, normalize=spectral_norm
        )
        self.norms = [NORMS[norm]() for _ in range(strided)]
        self.scores = conv(1, name="scores")

    def call(
        self, masks: tf.Tensor, classes: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Return scores (O, h, w) and the maps after each inner layer, for feature matching.

        masks: (O, M, M) in [0, 1]. classes: int32 (O,)."""
        maps = self.convs[0](masks[..., None], training=training)
        features = [_leaky_relu(maps)]
        for conv, norm in zip(self.convs[1:], self.norms):
            features.append(_leaky_relu(norm(conv(features[-1], training=training))))
        maps = self.joined(features[-1], classes, training=training)
        features.append(_leaky_relu(self.norms[-1](maps)))
        scores = self.scores(features[-1], training=training)
        return tf.nn.sigmoid(tf.cast(scores, tf.float32)[..., 0]), _to_float32(features)


class LayoutConv(SpectralConv):
    """SpectralConv over pictures with the one-hot layout joined to every pixel.

    Layouts may be fewer than the pictures: they belong to every B-th one, as when photographs and
    generated pictures of one layout are scored together, and their share is convolved once.
    """

    def build(self, input_shape):
        super().build((*input_shape[:-1], input_shape[-1] + CHANNELS))

    def call(self, inputs: tf.Tensor, layouts: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return (kB, h, w, filters) of inputs (kB, H, W, c) and layouts (B, H, W, CHANNELS)."""
        kernel = tf.cast(self.normalized_kernel(training), inputs.dtype)
        of_layouts, of_pictures = kernel[:, :, :CHANNELS], kernel[:, :, CHANNELS:]
        layouts = tf.cast(layouts, inputs.dtype)
        shared = tf.nn.conv2d(layouts, of_layouts, self.stride, self.padding) + self.bias
        outputs = tf.nn.conv2d(inputs, of_pictures, self.stride, self.padding)
        shape = tf.shape(outputs)
        by_layout = tf.reshape(outputs, [-1, *tf.unstack(tf.shape(shared))])
        return tf.reshape(by_layout + shared, shape)


class PatchDiscriminator(tf.keras.layers.Layer):
    """Discriminator of pictures with their layouts: patch scores, high = a photograph (Park et al.
    2019, appendix A).

    Three convolutions of stride 2, doubling in width from `filters`, a fourth and the scores at
    stride 1; 4x4 kernels, two pixels of padding; spectral norm and instance norm, without
    parameters, on all but the first and the last.
    """

    # Paper: spectral norm on all layers; here: not on the first and the last, as in its code.

    def __init__(self, filters: int, **kwargs: Any):
        super().__init__(**kwargs)
        options = {"kernel_size": 4, "padding": PADDING, "initializer": xavier_small}
        conv = functools.partial(SpectralConv, **options)
        self.joined = LayoutConv(filters, stride=2, normalize=False, name="joined", **options)
        self.convs = [
            conv(filters * 2**i, stride=2 if i < 3 else 1, use_bias=False, name=f"conv_{i}")
            for i in (1, 2, 3)
        ]
        self.norms = [InstanceNorm(learned=False) for _ in self.convs]
        self.scores = conv(1, normalize=False, name="scores")

    def call(
        self, pictures: tf.Tensor, layouts: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Return scores (kB, h, w) and the maps after each inner layer.

        pictures: float32 (kB, H, W, 3). layouts: (B, H, W, CHANNELS), see LayoutConv."""
        features = [_leaky_relu(self.joined(pictures, layouts, training=training))]
        for conv, norm in zip(self.convs, self.norms):
            features.append(_leaky_relu(norm(conv(features[-1], training=training))))
        scores = self.scores(features[-1], training=training)
        return tf.cast(scores, tf.float32)[..., 0], _to_float32(features)


class MultiScaleDiscriminator(tf.keras.layers.Layer):
    """PatchDiscriminators of the pictures at full size and at half of it (Wang et al. 2018)."""

    def __init__(self, filters: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.scales = [PatchDiscriminator(filters, name=f"scale_{i}") for i in range(2)]

    def call(
        self, pictures: tf.Tensor, layouts: tf.Tensor, training: bool = False
    ) -> list[tuple[tf.Tensor, list[tf.Tensor]]]:
        """Return what PatchDiscriminator does, for each scale."""
        judged = []
        for scale in self.scales:
            judged.append(scale(pictures, layouts, training=training))
            pictures, layouts = (tf.nn.avg_pool2d(x, 3, 2, "SAME") for x in (pictures, layouts))
        return judged
