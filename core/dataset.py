"""The base class of every loader, and what it shares with models and metrics."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from core.errors import UsageError

if TYPE_CHECKING:
    import tensorflow as tf

SPLITS = ("train", "valid", "test")
Stage = tuple[str, Callable[[Any], Any]]  # its name, and from element to element


@dataclass(frozen=True)
class Vocabulary:
    """The K classes that labels index, and what a scene graph's predicates mean."""

    names: tuple[str, ...]  # (K,), `__image__` last
    predicates: tuple[str, ...] = ()  # names of predicate 0, 1, ...
    objects: tuple[int, ...] = ()  # ascending indices of the classes that can be objects
    ids: tuple[int, ...] = ()  # (K,): COCO-Stuff category ids, 0 of `__image__`

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.names)


BOXES = ("shared", "jittered", "own")
SKETCHES = ("real", "blank", "shuffled")
DIRECTIONS = ("canonical", "random")


@dataclass(frozen=True)
class QueryProtocol:
    """How the queries of an evaluation are made from the sketched scenes of a set.

    boxes: 'shared' is the paper's: each object has the box it has in the very photograph that is
    looked for, and boxes alone identify a scene. 'jittered' shifts and scales each of them.
    'own' are the boxes of the drawing, where the set has them.
    sketches: 'blank' shows white paper in their place: what boxes alone can do. 'shuffled' shows
    the sketches of another scene: what sketches that say nothing about the photograph can do.

    `dataloaders.queries` carries it out; docs/architecture.md says why.
    """

    boxes: str = "shared"  # of BOXES
    sketches: str = "real"  # of SKETCHES
    jitter: float = 0.2  # shift and scale of jittered boxes, as a share of a box's size
    dropped: float = 0.0  # each object is left out with this probability; one of a scene stays
    directions: str = "canonical"  # of the pairs of both graphs; of DIRECTIONS

    def __post_init__(self) -> None:
        for name, choices in (
            ("boxes", BOXES), ("sketches", SKETCHES), ("directions", DIRECTIONS),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"query {name} are {', '.join(choices[:-1])} or {choices[-1]}, not "
                    f"{getattr(self, name)!r}"
                )
        for name in ("jitter", "dropped"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                raise UsageError(f"{name} is a share in [0, 1), not {value}")

    @property
    def labels(self) -> dict[str, str]:
        """What stands beside a figure: boxes and sketches, the rest where it matters."""
        labels = {"boxes": self.boxes, "sketches": self.sketches}
        if self.boxes == "jittered":
            labels["jitter"] = f"{self.jitter:g}"
        if self.dropped:
            labels["dropped"] = f"{self.dropped:g}"
        if self.directions != "canonical":
            labels["directions"] = self.directions
        return labels

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.labels.items())

    @property
    def control(self) -> QueryProtocol:
        """The same with blank sketches."""
        return dataclasses.replace(self, sketches="blank")


def protocols(own_boxes: bool) -> tuple[QueryProtocol, ...]:
    """Those that every figure of scene retrieval is shown under. own_boxes: of a set that has
    them."""
    return tuple(
        QueryProtocol(boxes, sketches) for boxes in BOXES[: 2 + own_boxes] for sketches in SKETCHES
    )


def pictured(own_boxes: bool) -> QueryProtocol:
    """The queries that pictures show: positions alone do not answer them."""
    return QueryProtocol("own" if own_boxes else "jittered")


class Parts(NamedTuple):
    """Which parts of every batch are wanted, when it is split into equal ones."""

    wanted: range  # from 0
    count: int


class Dataset(abc.ABC):
    """A named source of batches. Batch t is a function of (seed, t) alone.

    Reading the folders' meta.json and index happens in the constructor, so that a missing or
    ill-fitting folder stops the program before a model is built.

    The order of the pipeline is fixed here, for all loaders:

    read      whole blocks of serialized records, a window of steps at a time, ahead of their use
    draw      which records a step takes, by stateless draws: nothing depends on threads
    stages    parse, decode, assemble, in ONE parallel map: between two maps tf.data would queue
              batches, and a batch of images is the largest thing there is
    prefetch  last, so that the model never waits for a batch that could have been ready

    No shuffle, no repeat, no interleave: each would have a state that a resumed run has to replay.
    """

    name: str = ""
    HParams: type  # frozen dataclass of folders
    batch_type: type  # one of dataloaders.batches
    own_boxes: bool = False  # whether drawings have boxes of their own
    has_masks: bool = True  # whether objects have segmentations
    parallel_calls: int | None = None  # batches made at the same time; None: tf.data decides
    prefetch: int = 2  # finished batches that wait for the model

    def __init__(self, hparams: Any, base: Any, image_size: int, seed: int) -> None:
        """hparams: an instance of HParams. base: has batch_size (int), and on_corrupt
        ('stop' or 'skip') where records can be damaged. image_size: side of crops
        and sketches in pixels. seed: of every draw. Raises UserError for unusable folders."""
        self.hparams = hparams
        self.batch_size = int(base.batch_size)
        self.on_corrupt = getattr(base, "on_corrupt", "stop")
        self.image_size = int(image_size)
        self.seed = int(seed)
        if self.batch_size < 1:
            raise UsageError(f"batch_size is at least 1, not {self.batch_size}")

    # ---- what models, loops and metrics use --------------------------------------------------

    @property
    @abc.abstractmethod
    def vocabulary(self) -> Vocabulary:
        """The classes that labels of this loader's batches index."""

    def train_batches(self, start_step: int = 0, parts: Parts | None = None) -> tf.data.Dataset:
        """Endless `batch_type` elements; the first is the batch of step `start_step` (0-based).
        The same element comes at the same step wherever the reading starts.

        parts: then an element is a tuple of these parts of the batch, each a `batch_type` of some
        of its samples; samples of other parts are not read further than to be chosen. The parts of
        a batch hold what it holds, because nothing that is drawn for a sample depends on those
        beside it. UsageError when the batch size is no multiple of their number.
        """
        stages = self._stages("train", training=True)
        if parts is None:
            return self.truncated(len(stages), start_step)
        if self.batch_size % parts.count:
            raise UsageError(
                f"batch_size={self.batch_size} cannot be split evenly over {parts.count} devices: "
                "choose a multiple"
            )
        (name, draw), *rest = stages

        def cut(element: Any) -> Any:
            return tuple(draw(element).part(i, parts.count) for i in parts.wanted)

        def each(stage: Callable[[Any], Any]) -> Callable[[Any], Any]:
            return lambda items: tuple(stage(one) for one in items)

        split = ((name, cut), *((name, each(stage)) for name, stage in rest))
        return self._pipeline(self._training_items(start_step), split)

    def eval_batches(self, split: str, limit: int | None = None) -> tf.data.Dataset:
        """`batch_type` elements over the split in its canonical order, once; the last is smaller.

        Which sketch or negative an item meets depends on the seed and the item's place in the
        split: not on the batch size, nor on `limit`, nor on the run. limit: items at most, spread
        evenly over the split.
        """
        if split not in SPLITS:
            raise UsageError(f"there is no split {split!r}; choose from {', '.join(SPLITS)}")
        if limit is not None and limit < 1:
            raise UsageError(f"limit is at least 1, not {limit}")
        items = self._evaluation_items(split, limit)
        return self._pipeline(items, self._stages(split, training=False))

    def stage_names(self) -> tuple[str, ...]:
        """Stages of the training pipeline after 'read', in order."""
        return tuple(name for name, _ in self._stages("train", training=True))

    def truncated(self, stages: int, start_step: int = 0) -> tf.data.Dataset:
        """The training pipeline cut after its first `stages` stages, to time them."""
        items = self._training_items(start_step)
        return self._pipeline(items, self._stages("train", training=True)[:stages])

    # ---- what a loader defines ---------------------------------------------------------------

    @abc.abstractmethod
    def _training_items(self, start_step: int) -> tf.data.Dataset:
        """Reading: endless elements, one a step, that the first training stage takes."""

    @abc.abstractmethod
    def _evaluation_items(self, split: str, limit: int | None) -> tf.data.Dataset:
        """Reading: elements of at most batch_size items that the first evaluation stage takes."""

    @abc.abstractmethod
    def _stages(self, split: str, training: bool) -> tuple[Stage, ...]:
        """Named functions from element to element, the last giving `batch_type`. In training the
        first one gives what can be split: it has `part(index, count)`."""

    def _pipeline(self, items: tf.data.Dataset, stages: tuple[Stage, ...]) -> tf.data.Dataset:
        import tensorflow as tf  # here, so that names and protocols can be had without it

        @tf.autograph.experimental.do_not_convert  # nothing to convert; halves the tracing
        def run(*element: Any) -> Any:
            result = element[0] if len(element) == 1 else element
            for _, stage in stages:
                result = stage(result)
            return result

        calls = self.parallel_calls or tf.data.AUTOTUNE
        options = tf.data.Options()
        options.deterministic = True
        dataset = items.map(run, num_parallel_calls=calls) if stages else items
        return dataset.prefetch(self.prefetch).with_options(options)
