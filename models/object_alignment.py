"""Stage 1 on frozen encoders, 'object-alignment': residual adapters into the common space.

crops, sketches -> frozen backbone -> features (B, C) -> residual adapter of the domain -> the rest
of stage 1 (models/encoders.py). A loader of cached features skips the first arrow.

pseudo-drawings of the positives (core.pseudo_drawings) join the sketches: they show what no one has
drawn. losses: class cross entropy, triplet (both of the paper), InfoNCE of drawings and crops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from core.errors import UserError
from core.hparams import hp
from core.model import EncodedObjects
from core.registry import MODELS
from models import losses
from models.multidomain import MultidomainHParams, MultidomainRepresentation, Outputs


@dataclass(frozen=True)
class AlignmentHParams(MultidomainHParams):
    """Stage 1's, with other defaults, and those of InfoNCE and pseudo-drawings."""

    encoder_training: str = hp(
        "frozen",
        MultidomainHParams.__dataclass_fields__["encoder_training"].metadata["help"],
        choices=("all", "last", "frozen"),
    )
    adapter_size: int = hp(
        2048,
        "width of each domain's residual adapter after the backbone; 0: none",
        low=0,
        high=16384,
    )
    contrastive_loss_weight: float = hp(1.0, "weight of InfoNCE (0: ablated)", low=0.0)
    temperature: float = hp(0.07, "of InfoNCE's similarities", low=0.01)
    pseudo_loss_weight: float = hp(
        0.0, "weight of pseudo-drawings' classes; they join InfoNCE too (0: none are made)", low=0.0
    )


@MODELS.register("object-alignment")
class ObjectAlignment(MultidomainRepresentation):
    """Adapters, shared net and classifiers on encoders that keep what they know."""

    name = "object-alignment"
    HParams = AlignmentHParams

    def forward(self, batch: Any, training: bool) -> Outputs:
        """Encode every crop and drawing once; pseudo-drawings follow the sketches."""
        if self.hparams.pseudo_loss_weight:
            if batch.pseudo_sketches is None:
                raise UserError(
                    "pseudo_loss_weight needs pseudo-drawings: take the loader "
                    "quickdraw-cococrops-features with the data hparam pseudo_drawings=4"
                )
            drawings = tf.concat([batch.sketches, batch.pseudo_sketches], axis=0)
            batch = batch._replace(sketches=drawings)
        return super().forward(batch, training)

    def compute_losses(self, outputs: Outputs, batch: Any) -> dict[str, tf.Tensor]:
        count, weights = tf.shape(batch.classes)[0], self.loss_weights()
        drawn, classes = outputs.sketch, batch.classes
        outputs = outputs._replace(sketch=EncodedObjects(*(part[:count] for part in drawn)))
        named = super().compute_losses(outputs, batch)
        if "pseudo_clas_loss" in weights:
            named["pseudo_clas_loss"] = losses.cross_entropy(drawn.logits[count:], batch.classes)
            classes = tf.concat([classes, classes], axis=0)
        if "contrastive_loss" in weights:
            positive, crops = outputs.positive.embedding, outputs[1:]
            named["contrastive_loss"] = 0.5 * losses.info_nce(
                drawn.embedding,
                tf.concat([side.embedding for side in crops], axis=0),
                classes,
                tf.concat([batch.classes, batch.negative_classes], axis=0),
                self.hparams.temperature,
            ) + 0.5 * losses.info_nce(
                positive, drawn.embedding, batch.classes, classes, self.hparams.temperature
            )
        return named

    def loss_weights(self) -> dict[str, float]:
        more = {
            "contrastive_loss": self.hparams.contrastive_loss_weight,
            "pseudo_clas_loss": self.hparams.pseudo_loss_weight,
        }
        return {
            **super().loss_weights(),
            **{name: weight for name, weight in more.items() if weight},
        }
