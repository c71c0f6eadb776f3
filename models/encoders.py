"""Crops and sketches -> object vectors: encoders and the common embedding.

crops uint8 (B, H, W, 3)    -> photo backbone, pooled = features -> Dense 512, Dense 256 -> encoding
sketches uint8 (B, H, W, 1) -> sketch backbone, pooled = features -> Dense 256           -> encoding
             (adapter_size: a residual adapter of each domain after its features)
encoding (B, 256) -> classifier of its domain -> logits (B, K)
                  -> shared net: Dense 256, ReLU = vector (B, D) -> Dense 128, ReLU, L2 norm
                     = embedding (B, E)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from core.errors import HParamError
from core.hparams import hp
from core.model import EncodedObjects, FrozenEncoder, variables_digest
from models.addons import euclidean_dist_transform
from models.backbones import BACKBONES, read_weights
from models.encoder_files import read_encoder
from models.layers.mlp import MLP, ResidualAdapter

SAVED_MODEL = "saved_model"


@dataclass(frozen=True)
class BackboneHParams:
    """Hparams of a backbone and the weights it starts from."""

    image_size: int = hp(96, "side of crops and sketches, pixels", low=16, high=1024)
    pretrained_e_model: str = hp(
        "mobilenet2",
        "backbone; saved_model: the one in encoder; shallow is for tests and demos",
        choices=(*BACKBONES, SAVED_MODEL),
    )
    encoder: str = hp(
        "",
        "of saved_model: folder of a SavedModel, or a Keras file, from images float32 "
        "(N, H, W, 3) in [0, 1] to vectors (N, D); image_size is its side",
        folder=True,
    )
    encoder_training: str = hp(
        "all",
        "which variables of the backbone learn; last: its last kernel (a convolution's, or of a "
        "Dense layer) with the bias and batch norm after it; frozen: none, and crops and sketches "
        "share it",
        choices=("all", "last", "frozen"),
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

    def __post_init__(self) -> None:
        if self.pretrained_e_model == SAVED_MODEL:
            self._check_file()
        else:
            self._check_named(BACKBONES[self.pretrained_e_model])
        keeps = self.pretrained_e_model == SAVED_MODEL or self.encoder_training != "all"
        if keeps and self.batch_norm == "trained":
            raise HParamError(
                "batch_norm=trained needs a named backbone with encoder_training=all: leave it out"
            )

    def _check_file(self) -> None:
        if not self.encoder:
            raise HParamError(
                "pretrained_e_model=saved_model needs encoder=PATH: the folder of a SavedModel, or "
                "a Keras file"
            )
        if self.pretrained_weights != "imagenet":
            raise HParamError(
                "pretrained_e_model=saved_model starts with the weights in its file: leave out "
                f"pretrained_weights={self.pretrained_weights}"
            )
        if self.backbone_alpha != 1.0:
            raise HParamError(
                "pretrained_e_model=saved_model has the width of its file: leave out "
                f"backbone_alpha={self.backbone_alpha}"
            )

    def _check_named(self, backbone: Any) -> None:
        if self.encoder:
            raise HParamError(
                f"encoder={self.encoder} is read with pretrained_e_model=saved_model only: add "
                f"that, or leave it out with pretrained_e_model={self.pretrained_e_model}"
            )
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
        if self.encoder_training != "all":
            return True
        if self.batch_norm == "auto":
            return self.pretrained_weights != "none"
        return self.batch_norm == "frozen"


@dataclass(frozen=True)
class EncoderHParams(BackboneHParams):
    """Hparams of the encoders of objects, which all stages have."""

    encoding_size: int = hp(256, "width of the encodings", low=1, high=4096)
    edge_repr_net_hidden_size: int = hp(
        256, "shared net: width of object vectors", low=1, high=4096
    )
    common_repr_size: int = hp(128, "shared net: width of the common embedding", low=1, high=4096)
    adapter_size: int = hp(
        0, "width of each domain's residual adapter after the backbone; 0: none", low=0, high=16384
    )
    use_euclidean_distance_map: bool = hp(
        False, "show the sketch encoder each pixel's distance to the drawing"
    )


# --- preprocessing: uint8 images (B, H, W, c) -> float32 (B, H, W, c) ---


def scale_photos(images: tf.Tensor) -> tf.Tensor:
    """Return photographs scaled to [-1, 1], as the published weights of named backbones have it."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def scale_unit(images: tf.Tensor) -> tf.Tensor:
    """Return images scaled to [0, 1], 1 = white."""
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


def make_backbone(hparams: BackboneHParams) -> tf.keras.layers.Layer:
    """Return a new backbone, from the output of `preprocessing` to maps (B, h, w, C) or vectors
    (B, C); UserError for a file that holds none."""
    trains = hparams.encoder_training
    if hparams.pretrained_e_model == SAVED_MODEL:
        return read_encoder(hparams.encoder, hparams.image_size, trains)
    make = BACKBONES[hparams.pretrained_e_model]
    return make(hparams.backbone_alpha, hparams.freeze_statistics, trains)


def load_published(hparams: BackboneHParams, backbones: Sequence[tf.keras.layers.Layer]) -> None:
    """Fill backbones from `pretrained_weights`; UserError when they cannot be had."""
    if hparams.pretrained_e_model == SAVED_MODEL or hparams.pretrained_weights == "none":
        return
    model = read_weights(backbones[0], hparams.pretrained_weights, hparams.image_size)
    for backbone in backbones:
        backbone.load_from(model)


class Encoder(tf.keras.layers.Layer):
    """uint8 images (B, H, W, c) -> float32 encodings (B, widths[-1])."""

    def __init__(
        self,
        backbone: tf.keras.layers.Layer,
        widths: list[int],
        preprocess: Callable[[tf.Tensor], tf.Tensor],
        adapter_size: int = 0,
        **kwargs: Any,
    ):
        """widths: of the Dense layers after pooling (no activations). preprocess: from uint8 images
        to the backbone's input. adapter_size: width of the residual adapter, 0: none."""
        super().__init__(autocast=False, **kwargs)
        self.backbone = backbone
        self.adapter = ResidualAdapter(adapter_size) if adapter_size else None
        self.head = MLP(widths, activation=None)
        self.preprocess = preprocess

    def features(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the pooled features of uint8 images (B, H, W, c): float32 (B, C)."""
        maps = tf.cast(self.backbone(self.preprocess(images), training=training), tf.float32)
        return maps if maps.shape.rank == 2 else tf.reduce_mean(maps, axis=[1, 2])

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return encodings. images: or their features, float32 (B, C), as `features` gives them."""
        features = images if images.shape.rank == 2 else self.features(images, training)
        if self.adapter is not None:
            features = self.adapter(features)
        return self.head(features)


class ObjectRepresentation(tf.Module):
    """Both encoders, the shared net and the classifiers, which stage 1 trains and stage 2 starts
    from (paper section 3.1)."""

    def __init__(self, hparams: EncoderHParams, num_classes: int):
        super().__init__()
        self._hparams = hparams
        from_file = hparams.pretrained_e_model == SAVED_MODEL
        photo = make_backbone(hparams)
        sketch = photo if hparams.encoder_training == "frozen" else make_backbone(hparams)
        size, adapter = hparams.encoding_size, hparams.adapter_size
        scale = scale_unit if from_file else scale_photos
        preprocess = distance_map if hparams.use_euclidean_distance_map else scale_unit
        self.photo_encoder = Encoder(photo, [512, size], scale, adapter)
        self.sketch_encoder = Encoder(sketch, [size], preprocess, adapter)
        # float32 in any precision: distances and losses are computed of these.
        dense = functools.partial(tf.keras.layers.Dense, dtype="float32")
        self.representation = dense(hparams.edge_repr_net_hidden_size, "relu")
        self.projection = dense(hparams.common_repr_size, "relu")
        self.photo_classifier = dense(num_classes)
        self.sketch_classifier = dense(num_classes)
        self._side = side = hparams.image_size
        self.photos(tf.zeros((1, side, side, 3), tf.uint8))  # builds the variables
        self.sketches(tf.zeros((1, side, side, 1), tf.uint8))
        # For inference.
        self.embed_photos = self._compile(self.photos, channels=3)
        self.embed_sketches = self._compile(self.sketches, channels=1)

    def photos(self, crops: tf.Tensor, training: bool = False) -> EncodedObjects:
        """Encode crops uint8 (B, H, W, 3)."""
        return self._encoded(self.photo_encoder(crops, training=training), self.photo_classifier)

    def sketches(self, sketches: tf.Tensor, training: bool = False) -> EncodedObjects:
        """Encode sketches uint8 (B, H, W, 1)."""
        return self._encoded(
            self.sketch_encoder(sketches, training=training), self.sketch_classifier
        )

    def frozen_encoders(self) -> tuple[FrozenEncoder, FrozenEncoder]:
        """Return those of crops and of sketches, which must not be trained."""
        frozen = []
        for encoder, channels in ((self.photo_encoder, 3), (self.sketch_encoder, 1)):
            images = tf.TensorSpec((None, self._side, self._side, channels), tf.uint8)
            encode = tf.function(encoder.features, input_signature=[images], autograph=False)
            width = encode.get_concrete_function().output_shapes[-1]
            backbone = encoder.backbone
            digest = (
                f"{encoder.preprocess.__name__} {self._side} {backbone.compute_dtype} "
                f"{variables_digest(backbone.variables)}"
            )
            frozen.append(FrozenEncoder(encode, width, digest))
        return tuple(frozen)

    def _compile(self, encode: Callable, channels: int) -> Callable:
        """Return `encode`, of images or of features, each as one graph for batches of any size."""
        images = tf.TensorSpec((None, self._side, self._side, channels), tf.uint8)
        features = tf.TensorSpec((None, None), tf.float32)
        by_rank = {
            spec.shape.rank: tf.function(encode, input_signature=[spec], autograph=False)
            for spec in (images, features)
        }
        return lambda batch: by_rank[len(batch.shape)](batch)

    def _encoded(self, encodings: tf.Tensor, classifier: tf.keras.layers.Layer) -> EncodedObjects:
        vector = self.representation(encodings)
        embedding = tf.math.l2_normalize(self.projection(vector), axis=-1)
        return EncodedObjects(vector, embedding, classifier(encodings))

    def load_pretrained(self) -> None:
        """Fill both backbones from `pretrained_weights`; UserError when they cannot be had."""
        load_published(self._hparams, [self.photo_encoder.backbone, self.sketch_encoder.backbone])
