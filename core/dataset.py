"""The base class of every loader, and what it shares with models and metrics."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from core.errors import UsageError

if TYPE_CHECKING:
    import tensorflow as tf

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Vocabulary:
    """The K classes that labels index, and what a scene graph's predicates mean."""

    names: tuple[str, ...]  # (K,), `__image__` last
    predicates: tuple[str, ...] = ()  # names of predicate 0, 1, ...
    objects: tuple[int, ...] = ()  # ascending indices of the classes that can be objects

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.names)


@dataclass(frozen=True)
class QueryProtocol:
    """How the query side of an evaluation is made from the photo side.

    boxes='shared' is the paper's: the query carries the photo's own boxes, which alone identify
    the scene. 'jittered' shifts and scales each of them. sketches='blank' shows what boxes alone
    can do. See docs/architecture.md.
    """

    boxes: str = "shared"  # shared | jittered
    sketches: str = "real"  # real | blank
    jitter: float = 0.2  # shift and scale of jittered boxes, as a share of a box's size

    def __post_init__(self) -> None:
        if self.boxes not in ("shared", "jittered"):
            raise UsageError(f"query boxes are 'shared' or 'jittered', not {self.boxes!r}")
        if self.sketches not in ("real", "blank"):
            raise UsageError(f"query sketches are 'real' or 'blank', not {self.sketches!r}")
        if not 0.0 <= self.jitter < 1.0:
            raise UsageError(f"jitter is a share of a box in [0, 1), not {self.jitter}")

    def __str__(self) -> str:
        return f"boxes={self.boxes} sketches={self.sketches}"


class Dataset(abc.ABC):
    """A named source of batches. Batch t is a function of (seed, t) alone.

    Reading the folders' meta.json and index happens in the constructor, so that a missing or
    ill-fitting folder stops the program before a model is built.
    """

    name: str = ""
    HParams: type  # frozen dataclass of folders
    batch_type: type  # one of dataloaders.batches

    def __init__(self, hparams: Any, base: Any, image_size: int, seed: int) -> None:
        """hparams: an instance of HParams. base: has batch_size (int). image_size: side of crops
        and sketches in pixels. seed: of every draw. Raises UserError for unusable folders."""
        self.hparams = hparams
        self.batch_size = int(base.batch_size)
        self.image_size = int(image_size)
        self.seed = int(seed)
        if self.batch_size < 1:
            raise UsageError(f"batch_size is at least 1, not {self.batch_size}")

    @property
    @abc.abstractmethod
    def vocabulary(self) -> Vocabulary:
        """The classes that labels of this loader's batches index."""

    @property
    def num_classes(self) -> int:
        """K, the number of classes of the vocabulary."""
        return self.vocabulary.num_classes

    @abc.abstractmethod
    def train_batches(self, start_step: int = 0) -> tf.data.Dataset:
        """Endless `batch_type` elements; the first is the batch of step `start_step` (0-based).
        The same element comes at the same step wherever the reading starts."""

    @abc.abstractmethod
    def eval_batches(
        self,
        split: str,
        protocol: QueryProtocol = QueryProtocol(),  # noqa: B008 (frozen)
        limit: Optional[int] = None,
    ) -> tf.data.Dataset:
        """`batch_type` elements over the split in its canonical order, once; the last is smaller.
        Which sketch, negative or jitter an item meets depends on the seed and the item's place in
        the split: not on the batch size, nor on `limit`, nor on the run. limit: items at most."""

    @abc.abstractmethod
    def folders(self) -> tuple[str, ...]:
        """The prepared sets this loader reads, for messages about broken records."""
