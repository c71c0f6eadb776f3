"""Stage 1, 'multidomain-representation': objects of photographs and sketches in one space.

positives, negatives uint8 (B, H, W, 3) each -> one photo encoder call on (2B, H, W, 3)
sketches uint8 (B, H, W, 1) ----------------> sketch encoder
both: encoding (., 256) -> logits (., K);  shared net -> embedding (., 128)
losses: cross entropy of each, triplet of (sketch, positive, negative)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from core.dataset import Vocabulary
from core.hparams import hp
from core.model import PLAIN, EncodedObjects, FrozenEncoder, Numerics, ObjectEncoder
from core.registry import MODELS
from models import losses
from models.encoders import EncoderHParams, ObjectRepresentation
from models.optimizers import FallingRate, adam, minimise, trainable_variables_without


@dataclass(frozen=True)
class MultidomainHParams(EncoderHParams):
    """Hparams of stage 1."""

    learning_rate: float = hp(2e-4, "at the start; falls to 0.2 of it along a line", low=0.0)
    triplet_loss_weight: float = hp(1.0, "weight of the triplet loss (0: ablated)", low=0.0)
    use_focal_loss: bool = hp(False, "focal cross entropy for classes, gamma 2")


class Outputs(NamedTuple):
    """The three sides of a triplet batch, each of B rows."""

    sketch: EncodedObjects
    positive: EncodedObjects
    negative: EncodedObjects


@MODELS.register("multidomain-representation")
class MultidomainRepresentation(ObjectEncoder):
    """Encoders, shared net and classifiers, trained on triplets (paper section 3.1)."""

    name = "multidomain-representation"
    HParams = MultidomainHParams
    batch_type = "TripletBatch"
    metrics = ("embedding-obj-accuracy", "embedding-skt-accuracy", "common-embedding-tsne")

    def __init__(
        self,
        hparams: MultidomainHParams,
        vocabulary: Vocabulary,
        iterations: int,
        mask_size: int = 64,
        numerics: Numerics = PLAIN,
    ):
        super().__init__(hparams, vocabulary, iterations, mask_size, numerics)
        with numerics.layers():
            self.objects = ObjectRepresentation(hparams, vocabulary.num_classes)
        rate = FallingRate(hparams.learning_rate, iterations)
        self.optimizers = {"main": adam(rate, 0.5, 0.999, numerics.clip_norm)}
        self.optimizers["main"].build(self.main_variables())

    @classmethod
    def crop_size(cls, hparams: MultidomainHParams) -> int:
        return hparams.image_size

    def embed_photos(self, crops: tf.Tensor) -> EncodedObjects:
        return self.objects.embed_photos(crops)

    def embed_sketches(self, sketches: tf.Tensor) -> EncodedObjects:
        return self.objects.embed_sketches(sketches)

    def frozen_encoders(self) -> tuple[FrozenEncoder, FrozenEncoder]:
        if self.hparams.encoder_training != "frozen":
            return super().frozen_encoders()
        return self.objects.frozen_encoders()

    def load_pretrained(self) -> None:
        self.objects.load_pretrained()

    def warm_start_parts(self) -> dict[str, tf.Module]:
        return {"objects": self.objects}

    def forward(self, batch: Any, training: bool) -> Outputs:
        """Encode every crop and every sketch once."""
        crops = tf.concat([batch.positives, batch.negatives], axis=0)  # (2B, H, W, 3)
        positive, negative = zip(
            *(tf.split(part, 2) for part in self.objects.photos(crops, training))
        )
        sketch = self.objects.sketches(batch.sketches, training)
        return Outputs(sketch, EncodedObjects(*positive), EncodedObjects(*negative))

    def compute_losses(self, outputs: Outputs, batch: Any) -> dict[str, tf.Tensor]:
        """Return the unweighted losses by name."""
        sketch, positive, negative = outputs
        focal = self.hparams.use_focal_loss
        classify = losses.focal_cross_entropy if focal else losses.cross_entropy
        named = {
            "enc_obj_clas_loss": 0.5 * classify(positive.logits, batch.classes)
            + 0.5 * classify(negative.logits, batch.negative_classes),
            "enc_sketch_clas_loss": classify(sketch.logits, batch.classes),
        }
        if "triplet_loss" in self.loss_weights():
            named["triplet_loss"] = losses.triplet(
                sketch.embedding, positive.embedding, negative.embedding
            )
        return named

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of each loss in the total; one of weight 0 is left out."""
        weights = {
            "enc_obj_clas_loss": 1.0,
            "enc_sketch_clas_loss": 1.0,
            "triplet_loss": self.hparams.triplet_loss_weight,
        }
        return {name: weight for name, weight in weights.items() if weight}

    @tf.autograph.experimental.do_not_convert  # no tensor decides a branch: tracing takes half
    def train_step(self, batch: Any, step: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            named = self.compute_losses(self.forward(batch, training=True), batch)
            total = tf.add_n([weight * named[name] for name, weight in self.loss_weights().items()])
        minimise(
            self.optimizers["main"],
            total,
            tape,
            self.main_variables(),
            self.numerics.scales_losses,
        )
        return {**named, "total_loss": total, **self.loss_scales()}

    def main_variables(self) -> tuple[tf.Variable, ...]:
        """Return what the losses train: class losses alone do not train the shared net."""
        shared = [self.objects.representation, self.objects.projection]
        of_classes = {name for name in self.loss_weights() if "clas" in name}
        untrained = [] if self.loss_weights().keys() - of_classes else shared
        return trainable_variables_without(self, untrained)
