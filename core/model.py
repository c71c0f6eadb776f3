"""The contracts of models. A model knows tensors, optimizers and the step: no folder, no
checkpoint, no report.

    Model               what the training loop and the checkpoints ask of every model
    ObjectEncoder       encodes crops and sketches of single objects (stage 1)
    SceneModel          gives vectors that rank scenes; one of its two kinds:
      SceneGraphModel     from encoded objects, their boxes and relations (stages 2 and 3)
      WholeSceneModel     from whole photographs and whole drawings
    LayoutModel         makes photographs of layouts (spade)

Letters: see the shape legend in `models/__init__.py`.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from core import replicas
from core.dataset import Vocabulary
from core.errors import UsageError


class Numerics(NamedTuple):
    """Precision and clipping of a training step; see the base hparams of these names."""

    mixed_precision: str = "none"
    clip_norm: float = 0.0

    @contextlib.contextmanager
    def layers(self) -> Iterator[None]:
        """Give layers built in the block this precision, with float32 variables, unless a layer
        names a dtype itself. The global Keras policy is restored afterwards."""
        before = tf.keras.mixed_precision.global_policy()
        named = "float32" if self.mixed_precision == "none" else f"mixed_{self.mixed_precision}"
        tf.keras.mixed_precision.set_global_policy(named)
        try:
            yield
        finally:
            tf.keras.mixed_precision.set_global_policy(before)

    @property
    def scales_losses(self) -> bool:
        """True when gradients need a loss scale: float16 has no small numbers."""
        return self.mixed_precision == "float16"


PLAIN = Numerics()


def variables_digest(variables: Iterable[tf.Variable]) -> str:
    """Return one SHA-256 of the values of variables, in hex."""
    found = hashlib.sha256()
    for variable in variables:
        found.update(variable.numpy().tobytes())
    return found.hexdigest()


class Model(tf.Module, abc.ABC):
    """A model that can be trained and saved.

    Building one reads no file, but for an encoder that lies in one (`models.encoder_files`), and
    makes all variables, those of the optimizers too, so that a checkpoint can be restored at once
    and completely.
    """

    HParams: type  # frozen dataclass
    batch_type: str  # name of the class in dataloaders.batches it trains on
    # Names of its metrics. All are computed during training, every notify_every steps.
    metrics: tuple[str, ...] = ()
    needs_objects: bool = True  # whether it sees the objects of scenes, with their classes
    optimizers: dict[str, tf.keras.optimizers.Optimizer]
    # Hparams that may differ between this model and the one it is warm started from; all others
    # that both have must be equal.
    warm_start_may_differ: tuple[str, ...] = ("learning_rate",)

    def __init__(
        self,
        hparams: Any,
        vocabulary: Vocabulary,
        iterations: int,
        mask_size: int = 64,
        numerics: Numerics = PLAIN,
    ):
        """hparams: an instance of HParams. iterations: last step of the run, for schedules.
        mask_size: M, side of the loader's masks in pixels."""
        super().__init__()
        self.hparams = hparams
        self.vocabulary = vocabulary
        self.iterations = iterations
        self.mask_size = mask_size
        self.numerics = numerics

    @classmethod
    def crop_size(cls, hparams: Any) -> int:
        """Return the side in pixels that a loader gives crops and sketches for this model."""
        return 32  # of a model that looks at neither: small ones cost least

    def weights_digest(self) -> str:
        """Return the SHA-256 of all variables, in hex."""
        return variables_digest(self.variables)

    def load_pretrained(self) -> None:
        """Load the weights that hparams name, at the start of a new run. UserError when they cannot
        be had."""

    @abc.abstractmethod
    def train_step(self, batch: Any, step: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Take one optimizer step and return the named losses, float32 scalars.

        batch: of `batch_type`. step: int64 (), the number of steps done before this one. seed:
        int32 (). Everything random is drawn from (seed, step) alone. To be wrapped in tf.function.
        """

    def loss_scales(self) -> dict[str, tf.Tensor]:
        """Return the loss scale of each optimizer, which a step in float16 reports beside its
        losses. Replicas report parts, as of losses: the first one all of it."""
        if not self.numerics.scales_losses:
            return {}
        part = 1.0 if replicas.index() == 0 else 0.0
        return {
            f"{name}_loss_scale": part * optimizer.loss_scale
            for name, optimizer in self.optimizers.items()
        }

    @classmethod
    def warm_start_from(cls, hparams: Any) -> tuple[str, str] | None:
        """Return (model name, run id) of the run whose newest checkpoint gives a new run its
        `warm_start_parts`, None to start from scratch. UserError when hparams should name it and do
        not."""
        return None

    @abc.abstractmethod
    def warm_start_parts(self) -> dict[str, tf.Module]:
        """Return the parts that another stage takes over, by name; parts of equal name have equal
        variables."""


class EncodedObjects(NamedTuple):
    """Encodings of B crops or sketches, each out of its context."""

    vector: tf.Tensor  # float32 (B, D): a scene is made of these
    embedding: tf.Tensor  # float32 (B, E), L2 norm 1: the space common to crops and sketches
    logits: tf.Tensor  # float32 (B, K): classes, by the classifier of the domain


class ObjectScenes(NamedTuple):
    """N scenes made of O encoded objects: one side, photographs or queries."""

    vectors: tf.Tensor  # float32 (O, D): `EncodedObjects.vector` of crops and sketches
    boxes: tf.Tensor  # float32 (O, 4)
    obj_to_img: tf.Tensor  # int32 (O,), ascending
    triples: tf.Tensor  # int32 (T, 3)
    num_scenes: tf.Tensor  # int32 (): N


class SceneOutputs(NamedTuple):
    """Inference on one side (photographs or queries) of N scenes with O objects; all float32."""

    vectors: dict[str, tf.Tensor]  # scene vectors (N, D), by the names in `vector_names`
    objects: tf.Tensor  # (O, D): contextual object vectors
    logits: tf.Tensor | None  # (O, K): classes of the contextual objects; None without classifier
    boxes: tf.Tensor  # (O, 4): predicted boxes
    mask_logits: tf.Tensor | None  # (O, M, M) within the box; None when not asked for or trained

    @property
    def masks(self) -> tf.Tensor | None:
        """Mask probabilities within the box: float32 (O, M, M)."""
        return None if self.mask_logits is None else tf.nn.sigmoid(self.mask_logits)


class Attention(NamedTuple):
    """Attention of each scene's token to its objects, float32 (O,) in [0, 1]; the rest to 1 of a
    scene is the token's attention to itself."""

    last: tf.Tensor  # of the last layer, mean over the heads
    rollout: tf.Tensor  # through all layers (Abnar and Zuidema 2020, section 3)


class FrozenEncoder(NamedTuple):
    """The part of an encoder that no training changes, so that what it gives can be kept."""

    encode: Callable[[tf.Tensor], tf.Tensor]  # uint8 (B, H, W, c) -> float32 (B, C)
    width: int  # C
    digest: str  # of its weights and of all else that its features depend on


class ObjectEncoder(Model):
    """A model that encodes crops and sketches of single objects.

    With frozen encoders it takes their features, float32 (B, C), in place of images.
    """

    def frozen_encoders(self) -> tuple[FrozenEncoder, FrozenEncoder]:
        """Return those of crops and of sketches. UsageError for a model that trains them."""
        raise UsageError(
            f"{self.name} trains its encoders, so their features cannot be kept: take a loader of "
            "images, or encoder_training=frozen"
        )

    @abc.abstractmethod
    def embed_photos(self, crops: tf.Tensor) -> EncodedObjects:
        """Encode crops: uint8 (B, H, W, 3), H = W = `crop_size`."""

    @abc.abstractmethod
    def embed_sketches(self, sketches: tf.Tensor) -> EncodedObjects:
        """Encode sketches: uint8 (B, H, W, 1), 255 = white paper, H = W = `crop_size`."""


class SceneModel(Model):
    """A model whose scene vectors rank photographs for a sketched query."""

    @property
    @abc.abstractmethod
    def vector_names(self) -> tuple[str, ...]:
        """Names of its scene vectors; photographs are ranked by the first unless told otherwise."""


class SceneGraphModel(ObjectEncoder, SceneModel):
    """A model of scenes made of encoded objects: each is encoded once, whatever scenes it is in."""

    @abc.abstractmethod
    def contextualise(self, scenes: ObjectScenes, with_masks: bool = True) -> SceneOutputs:
        """Return scene vectors, contextual objects, boxes and masks of N scenes.

        with_masks=False leaves out the masks, the costliest part."""

    @abc.abstractmethod
    def attention(self, scenes: ObjectScenes) -> Attention:
        """Return the scene tokens' attention. UsageError for a model without attention."""


class WholeSceneModel(SceneModel):
    """A model that sees a whole photograph and a whole drawing; it needs no boxes or classes."""

    needs_objects = False
    scene_size: int  # side in pixels of the pictures it sees

    @abc.abstractmethod
    def embed_photographs(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the scene vectors of whole photographs, by the names in `vector_names`: each
        float32 (N, D). images: uint8 (N, S, S, 3), S = `scene_size`."""

    @abc.abstractmethod
    def embed_drawings(self, drawings: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the scene vectors of whole drawings, as `embed_photographs`. drawings: uint8
        (N, S, S, 1), 255 = white paper, as of `core.drawings.scene_drawings`."""


class LayoutModel(Model):
    """A model that makes photographs of layouts."""

    @abc.abstractmethod
    def layouts(self, batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Return labels and instances, uint8 (N, S, S), of the photographs of a `SceneBatch`.
        UserError for sets without masks."""

    @abc.abstractmethod
    def generate(self, labels: tf.Tensor, instances: tf.Tensor) -> tf.Tensor:
        """Return pictures float32 (N, S, S, 3) in [-1, 1] of layouts uint8 (N, S, S)."""
