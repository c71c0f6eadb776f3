"""The base class of every loader, and what it shares with models and metrics."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

    from core.evaluation.query_protocols import DrawnScenes, QueryObjects, QueryProtocol

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


@dataclass(frozen=True)
class DataSizes:
    """Sides in pixels of what the records of a set hold; defaults as preparation makes them."""

    photo: int = 256
    crop: int = 96
    sketch: int = 96
    mask: int = 64  # M


STANDARD_SIZES = DataSizes()


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
    sizes: DataSizes
    parallel_calls: int | None = None  # batches made at the same time; None: tf.data decides
    prefetch: int = 2  # finished batches that wait for the model

    def __init__(self, hparams: Any, base: Any, image_size: int, seed: int) -> None:
        """hparams: an instance of HParams. base: has batch_size (int). image_size: side of crops
        and sketches in pixels. seed: of every draw. Raises UserError for unusable folders."""
        self.hparams = hparams
        self.batch_size = int(base.batch_size)
        self.image_size = int(image_size)
        self.seed = int(seed)
        self.sizes = STANDARD_SIZES  # a loader that knows better sets its own
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


class SceneDataset(Dataset):
    """A source of `SceneBatch`: photographs with objects, and queries (sketched scenes).

    A set may have one side alone: a gallery has no queries, a set of drawings no photographs; then
    the fields of the other side are None in every batch.
    """

    has_photos: bool = True
    has_queries: bool = True
    own_boxes: bool = False  # whether drawings have boxes of their own
    has_masks: bool = True  # whether photographed objects have masks

    @abc.abstractmethod
    def queries(self, protocol: QueryProtocol, drawn: DrawnScenes) -> QueryObjects:
        """Return the objects that the queries of a split show under a protocol.

        Draws depend on the seed, the photograph's id and the object's place in its scene alone, so
        two protocols differ in nothing but what they name. UsageError for boxes the set has not."""

    @abc.abstractmethod
    def relations(
        self,
        boxes: np.ndarray,
        obj_to_img: np.ndarray,
        image_ids: np.ndarray,
        directions: str,
        side: str,
    ) -> tf.Tensor:
        """Return the triples of some scenes: int32 (T, 3), from boxes alone.

        boxes: float32 (O, 4). obj_to_img: int32 (O,), ascending. image_ids: int64 (N,). directions:
        'canonical', or 'random', drawn for each `side` ('photo' or 'query') apart."""
