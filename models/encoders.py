"""Crops and sketches -> object vectors: backbones by name, encoders, the common embedding.

crops uint8 (B, H, W, 3)    -> photo backbone, pooled -> Dense 512, Dense 256 -> encoding
sketches uint8 (B, H, W, 1) -> sketch backbone, pooled -> Dense 256           -> encoding
encoding (B, 256) -> classifier of its domain -> logits (B, K)
                  -> shared net: Dense 256, ReLU = vector (B, D) -> Dense 128, ReLU, L2 norm
                     = embedding (B, E)
"""

from __future__ import annotations

import functools
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from core.errors import HParamError, UserError
from core.hparams import hp
from models.layers.mlp import MLP
from models.layers.normalization import ConvBatchNorm


@dataclass(frozen=True)
class EncoderHParams:
    """What both models have in common."""

    image_size: int = hp(96, "side of crops and sketches, pixels", low=16, high=1024)
    encoding_size: int = hp(256, "width of what the encoders give", low=1)
    edge_repr_net_hidden_size: int = hp(256, "shared net: width of object vectors", low=1)
    common_repr_size: int = hp(128, "shared net: width of the common embedding", low=1)
    pretrained_e_model: str = hp(
        "mobilenet2", "backbone; shallow is for tests and demos", choices=("mobilenet2", "shallow")
    )
    backbone_alpha: float = hp(1.0, "width of the backbone, 1 = as published", low=0.1)
    pretrained_weights: str = hp(
        "imagenet", "where stage 1 starts: imagenet (download by Keras), a weights file, or none"
    )
    batch_norm: str = hp(
        "auto",
        "encoders' batch norm statistics; auto: frozen with pretrained weights, else trained",
        choices=("auto", "frozen", "trained"),
    )

    def __post_init__(self) -> None:
        if self.pretrained_e_model == "shallow" and self.pretrained_weights != "none":
            raise HParamError(
                "pretrained_e_model=shallow has no pretrained weights: add pretrained_weights=none"
            )

    @property
    def freeze_statistics(self) -> bool:
        """Whether the encoders' batch norm keeps its statistics in training."""
        if self.batch_norm == "auto":
            return self.pretrained_weights != "none"
        return self.batch_norm == "frozen"


# --- backbones: images float32 (B, H, W, 3 or 1) -> maps (B, h, w, C) -----------------------------


class Shallow(tf.keras.layers.Layer):
    """Four 3x3 convolutions of stride 2: quick to train from scratch on simple drawings."""

    def __init__(self, alpha: float, freeze_statistics: bool, **kwargs: Any):
        super().__init__(**kwargs)
        widths = [3, *(max(8, int(width * alpha)) for width in (32, 64, 128, 256))]
        self.convs = [
            ConvBatchNorm(
                narrow, wide, stride=2, activation=tf.nn.relu, freeze_statistics=freeze_statistics
            )
            for narrow, wide in zip(widths, widths[1:])
        ]

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        for conv in self.convs:
            images = conv(images, training=training)
        return images


class MobileNetV2(tf.keras.layers.Layer):
    """MobileNetV2 (Sandler et al. 2018) up to and with Keras' `block_16_project_BN`.

    The same function as tf.keras.applications.MobileNetV2 cut there, for any image size. Written
    out so that frozen batch norm can be folded into the convolutions, which takes about half of
    the memory and of the passes over it.
    """

    # filters, repeats, stride of the first; paper table 2
    GROUPS = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))

    def __init__(self, alpha: float, freeze_statistics: bool, **kwargs: Any):
        super().__init__(**kwargs)
        self.alpha = alpha
        conv = functools.partial(ConvBatchNorm, freeze_statistics=freeze_statistics)
        width = _divisible(32 * alpha)
        self.stem = conv(3, width, stride=2, activation=tf.nn.relu6)
        self.keras_names = [("Conv1", "bn_Conv1")]  # of self.convs(), in order
        self.blocks: list[list[ConvBatchNorm]] = []
        for filters, repeats, stride in self.GROUPS:
            for i in range(repeats):
                wide = width if not self.blocks else 6 * width
                block = [] if not self.blocks else [conv(width, wide, 1, activation=tf.nn.relu6)]
                block.append(
                    conv(wide, None, stride=stride if i == 0 else 1, activation=tf.nn.relu6)
                )
                width = _divisible(filters * alpha)
                block.append(conv(wide, width, 1))
                self._name_block(len(self.blocks))
                self.blocks.append(block)

    def _name_block(self, index: int) -> None:
        prefix = f"block_{index}" if index else "expanded_conv"
        for part in ("expand", "depthwise", "project") if index else ("depthwise", "project"):
            self.keras_names.append((f"{prefix}_{part}", f"{prefix}_{part}_BN"))

    def convs(self) -> list[ConvBatchNorm]:
        """All convolutions, in the order of the data."""
        return [self.stem, *(conv for block in self.blocks for conv in block)]

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        maps = self.stem(images, training=training)
        for block in self.blocks:
            before = maps
            for conv in block:
                maps = conv(maps, training=training)
            if before.shape[-1] == maps.shape[-1] and block[-2].stride == 1:
                maps += before
        return maps

    def load_from(self, keras_model: tf.keras.Model) -> None:
        """Copies the variables of tf.keras.applications.MobileNetV2 of the same alpha."""
        for conv, (conv_name, norm_name) in zip(self.convs(), self.keras_names):
            conv.kernel.assign(keras_model.get_layer(conv_name).get_weights()[0])
            conv.norm.set_weights(keras_model.get_layer(norm_name).get_weights())


def _divisible(width: float) -> int:
    """Nearest multiple of 8 that is at least 8 and not more than 10 % below `width`."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8


BACKBONES = {"mobilenet2": MobileNetV2, "shallow": Shallow}


def read_mobilenet_weights(weights: str, alpha: float, image_size: int) -> tf.keras.Model:
    """Keras' MobileNetV2 (without top) with the weights 'imagenet' or of the file `weights`.

    Raises UserError, naming the alternatives, when they cannot be had or do not fit.
    """
    others = "Give pretrained_weights another value: imagenet, a path to a weights file, or none"
    build = functools.partial(tf.keras.applications.MobileNetV2, alpha=alpha, include_top=False)
    if weights == "imagenet":
        published = image_size in (96, 128, 160, 192, 224)
        side = image_size if published else 96
        try:
            return build(input_shape=(side, side, 3), weights="imagenet")
        except Exception as error:  # Keras wraps whatever urllib raises in a bare Exception
            raise UserError(
                f"the ImageNet weights of MobileNetV2 (alpha {alpha}) could not be downloaded "
                f"({_first_line(error)}). {others}"
            ) from error
    if not Path(weights).is_file():
        raise UserError(f"there is no weights file {weights}. {others}")
    model = build(input_shape=(96, 96, 3), weights=None)
    try:
        model.load_weights(weights)
    except Exception as error:  # h5py and Keras raise OSError, ValueError, KeyError, RuntimeError..
        raise UserError(
            f"{weights} is not a readable weights file of MobileNetV2 without top, alpha {alpha} "
            f"({_first_line(error)}). {others}"
        ) from error
    for variable in model.variables:
        if not bool(tf.reduce_all(tf.math.is_finite(variable))):
            raise UserError(f"{weights}: {variable.name} holds NaN or infinity. {others}")
    return model


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return textwrap.shorten(line, 200, placeholder=" ...")


# --- encoders -------------------------------------------------------------------------------------


class Encoder(tf.keras.layers.Layer):
    """uint8 images (B, H, W, c) -> float32 encodings (B, widths[-1])."""

    def __init__(
        self, backbone: tf.keras.layers.Layer, widths: list[int], signed: bool, **kwargs: Any
    ):
        """widths: of the Dense layers after pooling (no activations). signed: scale images to
        [-1, 1] (photographs), not [0, 1] (sketches)."""
        super().__init__(**kwargs)
        self.backbone = backbone
        self.head = MLP(widths, activation=None)
        self.signed = signed

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        pixels = tf.cast(images, tf.float32)
        pixels = pixels / 127.5 - 1.0 if self.signed else pixels / 255.0
        return self.head(tf.reduce_mean(self.backbone(pixels, training=training), axis=[1, 2]))


class Encoded(NamedTuple):
    """What the encoders say of B crops or sketches."""

    vector: tf.Tensor  # float32 (B, D), first layer of the shared net: what a scene is made of
    embedding: tf.Tensor  # float32 (B, E), L2 norm 1, the space common to photographs and sketches
    logits: tf.Tensor  # float32 (B, K), of the domain's own classifier


class ObjectRepresentation(tf.Module):
    """Both encoders, the shared net and the classifiers: what stage 1 trains and stage 2 starts
    from (paper section 3.1)."""

    def __init__(self, hparams: EncoderHParams, num_classes: int):
        super().__init__()
        self._weights_from = (
            hparams.pretrained_weights,
            hparams.backbone_alpha,
            hparams.image_size,
        )
        make = BACKBONES[hparams.pretrained_e_model]
        photo, sketch = (make(hparams.backbone_alpha, hparams.freeze_statistics) for _ in range(2))
        size = hparams.encoding_size
        self.photo_encoder = Encoder(photo, [512, size], signed=True)
        self.sketch_encoder = Encoder(sketch, [size], signed=False)
        self.representation = tf.keras.layers.Dense(hparams.edge_repr_net_hidden_size, "relu")
        self.projection = tf.keras.layers.Dense(hparams.common_repr_size, "relu")
        self.photo_classifier = tf.keras.layers.Dense(num_classes)
        self.sketch_classifier = tf.keras.layers.Dense(num_classes)
        side = hparams.image_size
        self.photos(tf.zeros((1, side, side, 3), tf.uint8))  # builds the variables
        self.sketches(tf.zeros((1, side, side, 1), tf.uint8))

    def photos(self, crops: tf.Tensor, training: bool = False) -> Encoded:
        """crops uint8 (B, H, W, 3)."""
        return self._encoded(self.photo_encoder(crops, training=training), self.photo_classifier)

    def sketches(self, sketches: tf.Tensor, training: bool = False) -> Encoded:
        """sketches uint8 (B, H, W, 1)."""
        return self._encoded(
            self.sketch_encoder(sketches, training=training), self.sketch_classifier
        )

    def _encoded(self, encodings: tf.Tensor, classifier: tf.keras.layers.Layer) -> Encoded:
        vector = self.representation(encodings)
        embedding = tf.math.l2_normalize(self.projection(vector), axis=-1)
        return Encoded(vector, embedding, classifier(encodings))

    def load_pretrained(self) -> None:
        """Fills both backbones from `pretrained_weights`; UserError when they cannot be had."""
        weights, alpha, image_size = self._weights_from
        if weights == "none":
            return
        keras_model = read_mobilenet_weights(weights, alpha, image_size)
        for encoder in (self.photo_encoder, self.sketch_encoder):
            encoder.backbone.load_from(keras_model)
