"""'spade': photographs from layouts (Park et al. 2019).

true masks and boxes of objects and stuff -> core.label_maps -> labels, instances (N, H, W)
photographs with their layouts, in training half of them mirrored
labels, instances -> semantic maps -> generator -> pictures (N, H, W, 3)
photographs and pictures, each with the layout -> discriminators at two scales
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from core import label_maps, replicas
from core.dataset import Vocabulary
from core.errors import UserError
from core.hparams import hp
from core.model import PLAIN, LayoutModel, Numerics
from core.registry import MODELS
from models import losses
from models.backbones import read_weights
from models.encoders import scale_photos
from models.layers.discriminators import MultiScaleDiscriminator
from models.layers.perceptual import PerceptualFeatures
from models.layers.semantic import SemanticMaps, semantic_maps
from models.layers.spade import SCALE, SpadeGenerator
from models.optimizers import LateFallingRate, adam, minimise


@dataclass(frozen=True)
class SpadeHParams:
    """Hparams of the generator of photographs and of what trains it."""

    learning_rate: float = hp(
        1e-4, "of the generator (discriminator: 4 times); falls in the second half", low=0.0
    )
    flip: bool = hp(True, "mirror half of the photographs, with their layouts, in training")
    generator_width: int = hp(64, "channels of the generator's last block", low=1, high=1024)
    spade_hidden: int = hp(128, "channels between layout and modulation", low=1, high=4096)
    discriminator_width: int = hp(
        64, "channels of the discriminators' first layer", low=1, high=1024
    )
    feature_weight: float = hp(10.0, "weight of feature matching (0: ablated)", low=0.0)
    perceptual_weight: float = hp(10.0, "weight of the perceptual loss", low=0.0)
    vgg19_weights: str = hp(
        "none", "of the perceptual loss: imagenet, a path, or none (without that loss)"
    )


@MODELS.register("spade")
class Spade(LayoutModel):
    """Generator, discriminators, and one step of both, from photographs with their true layouts."""

    name = "spade"
    HParams = SpadeHParams
    batch_type = "SceneBatch"
    metrics = ("picture-error", "generated-pictures")

    def __init__(
        self,
        hparams: SpadeHParams,
        vocabulary: Vocabulary,
        iterations: int,
        mask_size: int = 64,
        numerics: Numerics = PLAIN,
    ):
        super().__init__(hparams, vocabulary, iterations, mask_size, numerics)
        if len(vocabulary.ids) != vocabulary.num_classes:
            raise UserError("spade needs the COCO-Stuff ids of all classes: these data have none")
        self._labels = label_maps.coco_labels(vocabulary.ids)
        with numerics.layers():
            self.generator = SpadeGenerator(hparams.generator_width, hparams.spade_hidden)
            self.discriminator = MultiScaleDiscriminator(hparams.discriminator_width)
        self.generator.make_variables()
        blank = tf.zeros((1, 32, 32), tf.int32)
        layout = SemanticMaps(blank, blank > 0).one_hot()
        self.discriminator(tf.zeros((1, 32, 32, 3)), layout)
        perceptual = hparams.vgg19_weights != "none" and hparams.perceptual_weight
        self.perceptual = PerceptualFeatures() if perceptual else None

        # Park et al. 2019, section 4: Adam with beta_1 0 and beta_2 0.999 (their code: 0.9), and
        # the two time-scales of Heusel et al.
        self.optimizers = {}
        for name, part, rate in (
            ("main", self.generator, 1),
            ("discriminator", self.discriminator, 4),
        ):
            schedule = LateFallingRate(rate * hparams.learning_rate, iterations)
            self.optimizers[name] = adam(schedule, 0.0, 0.999, numerics.clip_norm)
            self.optimizers[name].build(part.trainable_variables)

        self._generate = tf.function(
            lambda labels, instances: self.generator(semantic_maps(labels, instances)),
            input_signature=[tf.TensorSpec((None, None, None), tf.uint8)] * 2,
            autograph=False,
        )

    def generate(self, labels: tf.Tensor, instances: tf.Tensor) -> tf.Tensor:
        return self._generate(labels, instances)

    def load_pretrained(self) -> None:
        if self.perceptual is not None:
            weights = self.hparams.vgg19_weights
            self.perceptual.load_from(read_weights(self.perceptual, weights, 0, "vgg19_weights"))

    def warm_start_parts(self) -> dict[str, tf.Module]:
        return {}

    def layouts(self, batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
        if batch.masks is None:
            raise UserError("spade learns from layouts: these data have no masks to make them of")
        side = batch.images.shape[1]
        if side % SCALE:
            raise UserError(
                f"spade makes pictures whose side is a multiple of {SCALE}; these photographs have "
                f"{side} pixels: prepare them with another image_size"
            )
        photo, stuff = batch.photo, batch.stuff
        background = None
        if stuff is not None:
            labels = tf.gather(self._labels, stuff.classes)
            background = (stuff.masks, stuff.boxes, labels, stuff.stuff_to_img)
        return label_maps.label_maps(
            batch.masks,
            photo.boxes,
            tf.gather(self._labels, photo.classes),
            photo.obj_to_img,
            tf.shape(batch.image_ids)[0],
            side,
            background,
        )

    def loss_weights(self) -> dict[str, float]:
        """Return the weight of each loss in the generator's total; ablated ones are left out."""
        weights = {
            "g_gan_loss": 1.0,
            "g_feat_loss": self.hparams.feature_weight,
            "g_perceptual_loss": 0.0 if self.perceptual is None else self.hparams.perceptual_weight,
        }
        return {name: weight for name, weight in weights.items() if weight}

    def compute_losses(
        self, judged: list, pictures: tf.Tensor, photos: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Return the generator's unweighted losses by name. judged: scores and features of each
        discriminator, of the generated pictures and then of the photographs."""
        named, weights = {}, self.loss_weights()
        generated = [tf.split(scores, 2)[0] for scores, _ in judged]
        hinges = [losses.hinge_generator(scores) for scores in generated]
        named["g_gan_loss"] = tf.add_n(hinges) / len(hinges)
        if "g_feat_loss" in weights:
            distances = []
            for _, features in judged:
                of_generated, of_real = zip(*(tf.split(maps, 2) for maps in features))
                distances.append(losses.feature_matching(of_real, of_generated))
            named["g_feat_loss"] = tf.add_n(distances) / len(distances)
        if "g_perceptual_loss" in weights:
            # Paper: absolute differences, as pix2pixHD, deeper layers weighing more. Here: relative
            # to the photograph's features, so that all layers count alike, because Keras' VGG19
            # sees pixels of 0..255, and its maps grow with them.
            named["g_perceptual_loss"] = losses.relative_difference(
                self.perceptual(photos), self.perceptual(pictures)
            )
        return named

    @tf.autograph.experimental.do_not_convert  # no tensor decides a branch: tracing takes half
    def train_step(self, batch: Any, step: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        examples = (*self.layouts(batch), scale_photos(batch.images))
        if self.hparams.flip:
            examples = mirror_some(examples, tf.stack([tf.cast(seed, tf.int64), step]))
        maps, photos = semantic_maps(*examples[:2]), examples[2]
        layouts, weights = maps.one_hot(), self.loss_weights()
        with tf.GradientTape() as tape:
            pictures = self.generator(maps, training=True)
            # Paper (its code): the discriminators learn from pictures made anew; here: one pass
            # serves both optimizers, because that saves one of the generator and one of the
            # discriminators. This inner tape sees nothing before it.
            with tf.GradientTape() as critic_tape:
                both = tf.concat([pictures, photos], axis=0)
                judged = self.discriminator(both, layouts, training=True)
                hinges = [losses.hinge_discriminator(*tf.split(s, 2)[::-1]) for s, _ in judged]
                critic = tf.add_n(hinges) / len(hinges)
            named = self.compute_losses(judged, pictures, photos)
            total = tf.add_n([weights[name] * loss for name, loss in named.items()])
        for name, part, loss, recorded in (
            ("discriminator", self.discriminator, critic, critic_tape),
            ("main", self.generator, total, tape),
        ):
            minimise(
                self.optimizers[name],
                loss,
                recorded,
                part.trainable_variables,
                self.numerics.scales_losses,
            )
        return {**named, "d_loss": critic, "total_loss": total, **self.loss_scales()}


def mirror_some(examples: tuple[tf.Tensor, ...], seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Return tensors (N, S, S, ...) with the same examples of all of them mirrored left to right,
    each at even odds. seed: int (2,)."""
    count = replicas.count() * tf.shape(examples[0])[0]
    mirrored = replicas.replica_rows(tf.random.stateless_uniform([count], seed) < 0.5)
    return tuple(
        tf.where(tf.reshape(mirrored, [-1] + [1] * (each.shape.rank - 1)), each[:, :, ::-1], each)
        for each in examples
    )
