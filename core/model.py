"""The base class of every model. A model knows tensors, optimizers and the step: no folder, no
checkpoint, no report."""

from __future__ import annotations

import abc
import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from core import replicas
from core.dataset import Vocabulary


class Numerics(NamedTuple):
    """How a step computes, the same for all models; see the base hparams of these names."""

    mixed_precision: str = "none"
    clip_norm: float = 0.0

    @contextlib.contextmanager
    def layers(self) -> Iterator[None]:
        """What is made within it computes in this precision from float32 variables, if it does not
        say otherwise itself (dtype="float32")."""
        before = tf.keras.mixed_precision.global_policy()
        named = "float32" if self.mixed_precision == "none" else f"mixed_{self.mixed_precision}"
        tf.keras.mixed_precision.set_global_policy(named)
        try:
            yield
        finally:
            tf.keras.mixed_precision.set_global_policy(before)

    @property
    def scales_losses(self) -> bool:
        """Whether gradients need a loss scale: float16 has no small numbers."""
        return self.mixed_precision == "float16"


PLAIN = Numerics()


class Model(tf.Module, abc.ABC):
    """What the training loop, the checkpoints and the metrics may ask of a model.

    Building one does no I/O. All variables, those of the optimizers too, exist afterwards, so that
    a checkpoint can be restored at once and completely.
    """

    HParams: type  # frozen dataclass
    batch_type: str  # name of the class in dataloaders.batches it trains on
    # Names of the metrics it can be asked for. All of them are computed during training, but they
    # are slow: every notify_every steps.
    metrics: tuple[str, ...] = ()
    # Whether it encodes crops and sketches: what most experiments ask of a model.
    encodes: bool = True
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

    def weights_digest(self) -> str:
        """SHA-256 of all variables, in hex: equal for the same checkpoint alone."""
        found = hashlib.sha256()
        for variable in self.variables:
            found.update(variable.numpy().tobytes())
        return found.hexdigest()

    def load_pretrained(self) -> None:
        """Reads the weights files that hparams name, at the start of a fresh run. UserError when
        they cannot be had."""

    @abc.abstractmethod
    def train_step(self, batch: Any, step: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """One optimizer step. Returns the named losses, float32 scalars.

        batch: of `batch_type`. step: int64 (), the number of steps done before this one. seed:
        int32 (). Everything random is drawn from (seed, step) alone. To be wrapped in tf.function.
        """

    def loss_scales(self) -> dict[str, tf.Tensor]:
        """What a step reports beside its losses in float16: the loss scale of each optimizer, of
        which a replica reports its part, as of losses."""
        if not self.numerics.scales_losses:
            return {}
        return {
            f"{name}_loss_scale": optimizer.loss_scale.value / replicas.count()
            for name, optimizer in self.optimizers.items()
        }

    @classmethod
    def warm_start_from(cls, hparams: Any) -> tuple[str, str] | None:
        """(model name, run id) of the run whose newest checkpoint gives a fresh run its
        `warm_start_parts`; None: from scratch. UserError when hparams should name it and do not.
        """
        return None

    @abc.abstractmethod
    def warm_start_parts(self) -> dict[str, tf.Module]:
        """The parts, by name, that another stage takes over; equal names have equal variables."""
