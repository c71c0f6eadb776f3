"""The base class of every loader, and what it shares with models and metrics."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

    from core.evaluation.query_protocols import DrawnScenes, QueryObjects, QueryProtocol
    from core.model import Model

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
    """The parts wanted of every batch, when it is split into `count` equal ones."""

    wanted: range  # from 0
    count: int


class SampleSource(Protocol):
    """The source of one split's samples; `dataloaders.samples` has it for prepared sets and for
    data in memory."""

    def training(self, start_step: int) -> tf.data.Dataset:
        """Return endless elements, one for each step from `start_step` on, that `draw` takes."""

    def draw(self, step: Any) -> Any:
        """Return the samples of one step, which have `part(index, count)`."""

    def evaluation(self, limit: int | None) -> tf.data.Dataset:
        """Return the samples of the whole split in order, `batch_size` at a time."""


class Dataset(abc.ABC):
    """A named source of batches. Batch t is a function of (seed, t) alone.

    Reading the folders' meta.json and index happens in the constructor, so that a missing or
    ill-fitting folder stops the program before a model is built.

    The order of the pipeline is fixed here, for all loaders:

    read      whole blocks of serialized records, a window of steps at a time, ahead of their use
    draw      which records a step takes, by stateless draws: nothing depends on threads
    stages    parse, decode, assemble, in one parallel map with `draw`: between two maps tf.data
              would queue batches, and a batch of images is the largest thing there is
    prefetch  last, so that the model never waits for a batch that could have been ready

    No shuffle, no repeat, no interleave: each would have a state that a resumed run has to replay.
    """

    name: str = ""
    HParams: type  # frozen dataclass of folders
    batch_type: type  # one of dataloaders.batches
    sizes: DataSizes
    vocabulary: Vocabulary  # the classes that labels of batches index; set by the constructor
    has_objects: bool = True  # False: whole photographs and drawings, for a `WholeSceneModel`
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

    def prepare_for(self, model: Model) -> None:  # noqa: B027 (most need nothing)
        """Make what batches for this model need besides the sets. It is called once, when the
        model has its weights and before the first batch is asked for."""

    def train_batches(self, start_step: int = 0, parts: Parts | None = None) -> tf.data.Dataset:
        """Return endless `batch_type` elements; the first is the batch of step `start_step`
        (0-based). Step t gives the same batch wherever the reading starts.

        parts: then an element is a tuple of these parts of the batch, each a `batch_type` of some
        of its samples; the other samples are drawn but not read. What is drawn for a sample does
        not depend on those beside it, so the parts are those of the whole batch. UsageError when
        the batch size is no multiple of their number.
        """
        if parts is None:
            return self.truncated(start_step=start_step)
        if self.batch_size % parts.count:
            raise UsageError(
                f"batch_size={self.batch_size} cannot be split evenly over {parts.count} devices: "
                "choose a multiple"
            )
        source = self.source("train")

        def draw_parts(step: Any) -> tuple[Any, ...]:
            return tuple(source.draw(step).part(i, parts.count) for i in parts.wanted)

        def for_each(stage: Callable[[Any], Any]) -> Callable[[Any], Any]:
            return lambda elements: tuple(stage(element) for element in elements)

        stages = self.stages("train", training=True)
        functions = [draw_parts, *(for_each(stage) for _, stage in stages)]
        return self._pipeline(source.training(start_step), functions)

    def eval_batches(self, split: str, limit: int | None = None) -> tf.data.Dataset:
        """Return `batch_type` elements over the split in its order, once; the last is smaller.

        Which sketch or negative an object meets depends on the seed and on its scene's place in the
        split: not on the batch size, nor on `limit`, nor on the run. limit: at most so many
        samples, spread evenly over the split.
        """
        if split not in SPLITS:
            raise UsageError(f"there is no split {split!r}; choose from {', '.join(SPLITS)}")
        if limit is not None and limit < 1:
            raise UsageError(f"limit is at least 1, not {limit}")
        functions = [stage for _, stage in self.stages(split, training=False)]
        return self._pipeline(self.source(split).evaluation(limit), functions)

    def stage_names(self) -> tuple[str, ...]:
        """Return the names of the training pipeline's stages after 'read', in order."""
        return ("draw", *(name for name, _ in self.stages("train", training=True)))

    def truncated(self, stages: int | None = None, start_step: int = 0) -> tf.data.Dataset:
        """Return the training pipeline, cut after its first `stages` stages to time them."""
        source = self.source("train")
        functions = [source.draw, *(stage for _, stage in self.stages("train", training=True))]
        return self._pipeline(source.training(start_step), functions[:stages])

    # ---- what a loader defines, besides `vocabulary` -----------------------------------------

    @abc.abstractmethod
    def source(self, split: str) -> SampleSource:
        """Return where the samples of a split come from (`dataloaders.samples`)."""

    @abc.abstractmethod
    def stages(self, split: str, training: bool) -> tuple[Stage, ...]:
        """Return the named functions that make a batch of samples, the last giving `batch_type`."""

    def _pipeline(
        self, elements: tf.data.Dataset, functions: Sequence[Callable[[Any], Any]]
    ) -> tf.data.Dataset:
        import tensorflow as tf  # here, so that names and protocols can be had without it

        @tf.autograph.experimental.do_not_convert  # nothing to convert; halves the tracing
        def run(*element: Any) -> Any:
            result = element[0] if len(element) == 1 else element
            for function in functions:
                result = function(result)
            return result

        options = tf.data.Options()
        options.deterministic = True
        if functions:
            calls = self.parallel_calls or tf.data.AUTOTUNE
            elements = elements.map(run, num_parallel_calls=calls)
        return elements.prefetch(self.prefetch).with_options(options)


class SceneDataset(Dataset):
    """A source of `SceneBatch`: photographs with objects, and queries (sketched scenes).

    A set may have one side alone: a gallery has no queries, a set of drawings no photographs; then
    the fields of the other side are None in every batch.
    """

    has_photos: bool = True
    has_queries: bool = True
    own_boxes: bool = False  # whether drawings have boxes of their own
    has_masks: bool = True  # whether photographed objects have masks

    def queries(self, protocol: QueryProtocol, drawn: DrawnScenes) -> QueryObjects:
        """Return the objects that the queries of a split show under a protocol.

        Draws depend on the seed, the photograph's id and the object's place in its scene alone, so
        two protocols differ in nothing but what they name. UsageError for boxes the set has not.
        `dataloaders.queries.query_objects` is this for sets that have queries."""
        raise UsageError(f"{self.name} has no queries: it can only be a gallery")

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
        'canonical', or 'random', drawn for each `side` ('photo' or 'query') apart.
        `dataloaders.scene_graph.relations` is this for the predicates of the paper."""
