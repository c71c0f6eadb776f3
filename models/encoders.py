"""Crops and sketches -> object vectors: encoders and the common embedding.

crops uint8 (B, H, W, 3)    -> photo backbone, pooled -> Dense 512, Dense 256 -> encoding
sketches uint8 (B, H, W, 1) -> sketch backbone, pooled -> Dense 256           -> encoding
encoding (B, 256) -> classifier of its domain -> logits (B, K)
                  -> shared net: Dense 256, ReLU = vector (B, D) -> Dense 128, ReLU, L2 norm
                     = embedding (B, E)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from core.errors import HParamError
from core.hparams import hp
from core.model import EncodedObjects
from models.addons import euclidean_dist_transform
from models.backbones import BACKBONES, read_weights
from models.layers.mlp import MLP


@dataclass(frozen=True)
class EncoderHParams:
    """Hparams of the encoders, which all stages have."""

    image_size: int = hp(96, "side of crops and sketches, pixels", low=16, high=1024)
    encoding_size: int = hp(256, "width of the encodings", low=1, high=4096)
    edge_repr_net_hidden_size: int = hp(
        256, "shared net: width of object vectors", low=1, high=4096
    )
    common_repr_size: int = hp(128, "shared net: width of the common embedding", low=1, high=4096)
    pretrained_e_model: str = hp(
        "mobilenet2", "backbone; shallow is for tests and demos", choices=tuple(BACKBONES)
    )
    backbone_alpha: float = hp(
        1.0, "width of mobilenet2 or shallow, 1 = as published", low=0.1, high=8.0
    )
    pretrained_weights: str = hp(
        "imagenet", "where stage 1 starts: imagenet (download by Keras), a weights file, or none"
    )
    batch_norm: str = hp(
        "auto",
        "encoders' batch norm statistics; auto: frozen with pretrained weights, else trained",
        choices=("auto", "frozen", "trained"),
    )
    use_euclidean_distance_map: bool = hp(
        False, "show the sketch encoder each pixel's distance to the drawing"
    )

    def __post_init__(self) -> None:
        backbone = BACKBONES[self.pretrained_e_model]
        if self.image_size < backbone.smallest:
            raise HParamError(
                f"pretrained_e_model={self.pretrained_e_model} takes images of at least "
                f"{backbone.smallest} pixels a side: raise image_size={self.image_size}"
            )
        if self.backbone_alpha != 1.0 and not backbone.widths_vary:
            raise HParamError(
                f"pretrained_e_model={self.pretrained_e_model} has one width: leave out "
                f"backbone_alpha={self.backbone_alpha}, or take mobilenet2 or shallow"
            )
        if self.pretrained_e_model == "shallow" and self.pretrained_weights != "none":
            raise HParamError(
                "pretrained_e_model=shallow has no pretrained weights: add pretrained_weights=none"
            )

    @property
    def freeze_statistics(self) -> bool:
        """True if the encoders' batch norm keeps its statistics in training."""
        if self.batch_norm == "auto":
            return self.pretrained_weights != "none"
        return self.batch_norm == "frozen"


# --- preprocessing: uint8 images (B, H, W, c) -> float32 (B, H, W, c) ---


def scale_photos(images: tf.Tensor) -> tf.Tensor:
    """Return photographs scaled to [-1, 1], as the published weights of all backbones have it."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def scale_sketches(images: tf.Tensor) -> tf.Tensor:
    """Return sketches scaled to [0, 1], 1 = white paper."""
    return tf.cast(images, tf.float32) / 255.0


def distance_map(images: tf.Tensor) -> tf.Tensor:
    """Return the distance of each pixel of sketches (B, H, W, 1) to the nearest line, in [0, 1].

    Pixels darker than half are lines. The unit is half a side, because a drawing that fills its
    canvas leaves no pixel further from a line: maps of all image sizes use the whole range. As in
    the sketch itself, 0 is line and 1 is empty paper; pixels further away than half a side, and all
    of a blank sketch, are 1.
    """
    dark = tf.where(images < 128, tf.constant(0, tf.uint8), tf.constant(255, tf.uint8))
    # Without a line the library answers the largest distance it can hold, which is finite.
    return tf.minimum(euclidean_dist_transform(dark) / (images.shape[1] / 2), 1.0)


# --- encoders ---


class Encoder(tf.keras.layers.Layer):
    """uint8 images (B, H, W, c) -> float32 encodings (B, widths[-1])."""

    def __init__(
        self,
        backbone: tf.keras.layers.Layer,
        widths: list[int],
        preprocess: Callable[[tf.Tensor], tf.Tensor],
        **kwargs: Any,
    ):
        """widths: of the Dense layers after pooling (no activations). preprocess: from uint8 images
        to the backbone's input."""
        super().__init__(**kwargs)
        self.backbone = backbone
        self.head = MLP(widths, activation=None)
        self.preprocess = preprocess

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        maps = self.backbone(self.preprocess(images), training=training)
        return self.head(tf.reduce_mean(tf.cast(maps, tf.float32), axis=[1, 2]))


class ObjectRepresentation(tf.Module):
    """Both encoders, the shared net and the classifiers, which stage 1 trains and stage 2 starts
    from (paper section 3.1)."""

    def __init__(self, hparams: EncoderHParams, num_classes: int):
        super().__init__()
        self._weights_from = hparams.pretrained_weights, hparams.image_size
        make = BACKBONES[hparams.pretrained_e_model]
        photo, sketch = (make(hparams.backbone_alpha, hparams.freeze_statistics) for _ in range(2))
        size = hparams.encoding_size
        preprocess = distance_map if hparams.use_euclidean_distance_map else scale_sketches
        self.photo_encoder = Encoder(photo, [512, size], scale_photos)
        self.sketch_encoder = Encoder(sketch, [size], preprocess)
        # float32 in any precision: distances and losses are computed of these.
        dense = functools.partial(tf.keras.layers.Dense, dtype="float32")
        self.representation = dense(hparams.edge_repr_net_hidden_size, "relu")
        self.projection = dense(hparams.common_repr_size, "relu")
        self.photo_classifier = dense(num_classes)
        self.sketch_classifier = dense(num_classes)
        side = hparams.image_size
        self.photos(tf.zeros((1, side, side, 3), tf.uint8))  # builds the variables
        self.sketches(tf.zeros((1, side, side, 1), tf.uint8))
        # For inference: one graph for batches of any size.
        self.embed_photos = self._compile(self.photos, side, channels=3)
        self.embed_sketches = self._compile(self.sketches, side, channels=1)

    def photos(self, crops: tf.Tensor, training: bool = False) -> EncodedObjects:
        """Encode crops uint8 (B, H, W, 3)."""
        return self._encoded(self.photo_encoder(crops, training=training), self.photo_classifier)

    def sketches(self, sketches: tf.Tensor, training: bool = False) -> EncodedObjects:
        """Encode sketches uint8 (B, H, W, 1)."""
        return self._encoded(
            self.sketch_encoder(sketches, training=training), self.sketch_classifier
        )

    @staticmethod
    def _compile(encode: Callable, side: int, channels: int) -> Callable:
        images = tf.TensorSpec((None, side, side, channels), tf.uint8)
        return tf.function(encode, input_signature=[images], autograph=False)

    def _encoded(self, encodings: tf.Tensor, classifier: tf.keras.layers.Layer) -> EncodedObjects:
        vector = self.representation(encodings)
        embedding = tf.math.l2_normalize(self.projection(vector), axis=-1)
        return EncodedObjects(vector, embedding, classifier(encodings))

    def load_pretrained(self) -> None:
        """Fill both backbones from `pretrained_weights`; UserError when they cannot be had."""
        weights, image_size = self._weights_from
        if weights == "none":
            return
        keras_model = read_weights(self.photo_encoder.backbone, weights, image_size)
        for encoder in (self.photo_encoder, self.sketch_encoder):
            encoder.backbone.load_from(keras_model)
