"""'whole-scene': whole photographs and whole drawings in one space, by a contrast over a batch.

photographs uint8 (N, S, S, 3), drawings uint8 (N, S, S, 1)
    -> backbone -> maps -> their means over 4 x 4 cells (N, 4, 4, C), the mean of those (N, C)
    both with their domain's statistics taken out (batch norm)
    cells -> Dense 32 each -> (N, 512), with the mean -> Dense 256 -> L2 norm (N, 256)
    (an encoder that gives vectors has no cells)

No boxes, no classes. A pair's drawing is the one in the batch, or the sketches in their boxes, or
made of the photograph's own edges (core.pseudo_drawings).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from core import replicas
from core.dataset import Vocabulary
from core.drawings import resize_pictures, scene_drawings
from core.hparams import hp
from core.model import PLAIN, Numerics, WholeSceneModel
from core.pseudo_drawings import pseudo_drawings
from core.registry import MODELS
from models import losses
from models.encoders import (
    SAVED_MODEL,
    BackboneHParams,
    load_published,
    make_backbone,
    scale_photos,
    scale_unit,
)
from models.layers.normalization import MOMENTUM, BatchNorm
from models.optimizers import adam, minimise
from models.spade import mirror_some

CELLS, CELL_WIDTH = 4, 32


@dataclass(frozen=True)
class WholeSceneHParams(BackboneHParams):
    """Hparams of the whole-scene model."""

    image_size: int = hp(160, "side of photographs and drawings, pixels", low=16, high=1024)
    siamese: bool = hp(True, "photographs and drawings share all weights")
    scene_dim: int = hp(256, "width of scene vectors", low=1, high=4096)
    learning_rate: float = hp(1e-4, "constant", low=0.0)
    weight_decay: float = hp(1e-5, "of AdamW", low=0.0)
    loss: str = hp("icon", "icon: InfoNCE with a smoothed target", choices=("icon", "infonce"))
    smoothing: float = hp(0.2, "of icon's target", low=0.0, high=0.9)
    temperature: float = hp(0.07, "of the similarities", low=0.01)
    pseudo_share: float = hp(
        0.3, "share of the drawings made of the photograph's edges", low=0.0, high=1.0
    )
    flip: bool = hp(True, "mirror half of the pairs in training")


def cell_means(maps: tf.Tensor, cells: int) -> tf.Tensor:
    """Return the means of maps (N, h, w, C) over a grid: (N, cells, cells, C). A row or column that
    two cells share counts in each by the part that lies there."""

    def shares(size: int) -> tf.Tensor:
        ends, cuts = np.arange(size + 1) / size, np.arange(cells + 1)[:, None] / cells
        common = np.minimum(ends[1:], cuts[1:]) - np.maximum(ends[:-1], cuts[:-1])
        return tf.constant(cells * np.maximum(common, 0.0), tf.float32)  # (cells, size)

    rows, columns = shares(maps.shape[1]), shares(maps.shape[2])
    return tf.einsum("ih,nhwc,jw->nijc", rows, maps, columns)


class SceneEncoder(tf.keras.layers.Layer):
    """Float pictures (N, S, S, 3) of one domain -> vectors float32 (N, D), L2 norm 1."""

    def __init__(
        self,
        backbone: tf.keras.layers.Layer,
        cells: tf.keras.layers.Layer,
        head: tf.keras.layers.Layer,
        **kwargs: Any,
    ):
        """All layers may be shared with the encoder of the other domain."""
        super().__init__(**kwargs)
        self.backbone, self.cells, self.head = backbone, cells, head
        # Features of drawings lie far from those of photographs: each domain has statistics of its
        # own, and without any, all vectors are nearly parallel at first.
        self.norm = BatchNorm(momentum=MOMENTUM, center=False, scale=False, dtype="float32")

    def call(self, pictures: tf.Tensor, training: bool = False) -> tf.Tensor:
        features = tf.cast(self.backbone(pictures, training=training), tf.float32)
        has_maps = features.shape.rank == 4
        means = cell_means(features, CELLS) if has_maps else features[:, None, None]
        means = self.norm(means, training=training)
        vectors = tf.reduce_mean(means, axis=[1, 2])
        if has_maps:
            flat = tf.reshape(self.cells(means), [-1, CELLS * CELLS * CELL_WIDTH])
            vectors = tf.concat([vectors, flat], axis=1)
        return tf.math.l2_normalize(self.head(vectors), axis=-1)


@MODELS.register("whole-scene")
class WholeScene(WholeSceneModel):
    """Draw each photograph and its drawing together, and apart from the others of the batch."""

    name = "whole-scene"
    HParams = WholeSceneHParams
    batch_type = "SceneBatch"
    metrics = (
        "sbir-mAP", "sbir-top1", "sbir-top5", "sbir-top10", "sbir-ndcg@10", "sbir-on-valid",
    )  # fmt: skip
    vector_names = ("scene",)

    def __init__(
        self,
        hparams: WholeSceneHParams,
        vocabulary: Vocabulary,
        iterations: int,
        mask_size: int = 64,
        numerics: Numerics = PLAIN,
    ):
        super().__init__(hparams, vocabulary, iterations, mask_size, numerics)
        self.scene_size = hparams.image_size
        self._scale = scale_unit if hparams.pretrained_e_model == SAVED_MODEL else scale_photos
        with numerics.layers():
            layers = self._layers()
            self.photo_encoder = SceneEncoder(*layers)
            self.drawing_encoder = SceneEncoder(*(layers if hparams.siamese else self._layers()))
        side = self.scene_size
        self._embed_photographs, self._embed_drawings = (
            tf.function(
                lambda pictures, encode=encode: {"scene": encode(pictures)},
                input_signature=[tf.TensorSpec((None, side, side, channels), tf.uint8)],
                autograph=False,
            )
            for encode, channels in ((self.photographs, 3), (self.drawings, 1))
        )
        blank = tf.zeros((1, side, side, 3), tf.uint8)
        self.photographs(blank)  # builds the variables
        self.drawings(blank[..., :1])
        rate, decay = hparams.learning_rate, hparams.weight_decay
        self.optimizers = {"main": adam(rate, clip_norm=numerics.clip_norm, weight_decay=decay)}
        self.optimizers["main"].build(self.trainable_variables)

    def _layers(self) -> list[tf.keras.layers.Layer]:
        widths = (CELL_WIDTH, self.hparams.scene_dim)
        dense = [tf.keras.layers.Dense(width, dtype="float32") for width in widths]
        return [make_backbone(self.hparams), *dense]

    @classmethod
    def crop_size(cls, hparams: WholeSceneHParams) -> int:
        return 96  # of the sketches that drawings are composed of

    def load_pretrained(self) -> None:
        encoders = (self.photo_encoder, self.drawing_encoder)
        load_published(self.hparams, [each.backbone for each in encoders])

    def warm_start_parts(self) -> dict[str, tf.Module]:
        return {}

    def photographs(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return unit vectors float32 (N, D) of photographs uint8 (N, S, S, 3)."""
        return self.photo_encoder(self._scale(images), training=training)

    def drawings(self, drawings: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return unit vectors float32 (N, D) of drawings uint8 (N, S, S, 1)."""
        # Scaled as photographs, and with three equal channels: the backbone may be the same.
        pictures = tf.image.grayscale_to_rgb(self._scale(drawings))
        return self.drawing_encoder(pictures, training=training)

    def embed_photographs(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._embed_photographs(images)

    def embed_drawings(self, drawings: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._embed_drawings(drawings)

    def pairs(self, batch: Any, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return photographs uint8 (N, S, S, 3) and their drawings uint8 (N, S, S, 1) to learn
        from. seed: int (2,)."""
        chosen, thresholds, mirrored = tf.unstack(tf.random.experimental.stateless_split(seed, 3))
        photos = resize_pictures(batch.images, self.scene_size)
        drawings = scene_drawings(batch, self.scene_size)
        if self.hparams.pseudo_share:
            count = replicas.count() * tf.shape(photos)[0]  # drawn for the global batch
            luck = replicas.replica_rows(tf.random.stateless_uniform([count], chosen))
            pseudo = (luck < self.hparams.pseudo_share)[:, None, None, None]
            drawings = tf.where(pseudo, pseudo_drawings(photos, thresholds), drawings)
        return (
            mirror_some((photos, drawings), mirrored) if self.hparams.flip else (photos, drawings)
        )

    @tf.autograph.experimental.do_not_convert  # no tensor decides a branch: tracing takes half
    def train_step(self, batch: Any, step: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        photos, drawings = self.pairs(batch, tf.stack([tf.cast(seed, tf.int64), step]))
        smoothing = self.hparams.smoothing if self.hparams.loss == "icon" else 0.0
        with tf.GradientTape() as tape:
            vectors = (
                self.drawings(drawings, training=True),
                self.photographs(photos, training=True),
            )
            loss = losses.icon(*vectors, self.hparams.temperature, smoothing)
        minimise(
            self.optimizers["main"],
            loss,
            tape,
            self.trainable_variables,
            self.numerics.scales_losses,
        )
        return {"contrastive_loss": loss, "total_loss": loss, **self.loss_scales()}
