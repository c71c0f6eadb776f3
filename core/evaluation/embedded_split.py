"""A split embedded once by a trained model, for all metrics and experiments.

    batches -> model.embed_photos, embed_sketches -> encoded objects of the whole split
    a query protocol (`core.evaluation.query_protocols`): which objects, whose sketch, which boxes
    encoded objects -> model.contextualise -> scene vectors of photographs, of queries

Every crop and sketch is encoded once (some 4 kB an object); a query protocol rearranges the encoded
sketches. A `WholeSceneModel` embeds every photograph once, and keeps the sketches (9 kB each) to
draw them anew for each protocol. In a set without objects each photograph and each drawing is one
object of its own that fills the page. Letters as in `models/__init__.py`; N, O are of the whole
split.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from core import geometry
from core.dataset import Dataset
from core.drawings import compose_drawings, resize_pictures, scene_drawings
from core.errors import EmptySplitError, UsageError, UserError
from core.evaluation import mask_metrics, retrieval
from core.evaluation.figures import Result
from core.evaluation.query_protocols import DrawnScenes, QueryProtocol
from core.model import Attention, EncodedObjects, Model, ObjectScenes, SceneModel, WholeSceneModel
from core.progress import progress
from core.registry import METRICS

log = logging.getLogger(__name__)

CONTEXT_SCENES = 256  # that the model sees at a time
MASK_SCENES = 32  # at a time with masks or whole drawings, which are large
# Train scenes behind the class-mean mask: means over more change nothing that can be seen.
MEAN_MASK_SCENES = 2000
COLOURED_SCENES = 500  # train scenes behind the mean colours of labels
ENCODED = ("objects", "embedding", "predicted", "probabilities")  # fields of EmbeddedScenes


@dataclass(frozen=True)
class EmbeddedScenes:
    """One side (photographs or queries) of all N scenes of a split, with its O objects."""

    image_ids: np.ndarray  # int64 (N,)
    vectors: dict[str, np.ndarray]  # scene vectors by the names of the model: float32 (N, D)
    classes: np.ndarray  # int32 (O,), vocabulary index
    boxes: np.ndarray  # float32 (O, 4)
    obj_to_img: np.ndarray  # int32 (O,), ascending: object o is in scene row obj_to_img[o]
    # What the model encodes each object as; None of a WholeSceneModel.
    objects: np.ndarray | None  # float32 (O, D), the vectors that scenes are made of
    embedding: np.ndarray | None  # float32 (O, E), common to crops and sketches
    predicted: np.ndarray | None  # int32 (O,), class
    probabilities: np.ndarray | None  # float16 (O, K), of each class

    @property
    def num_scenes(self) -> int:
        """N."""
        return len(self.image_ids)


@dataclass(frozen=True)
class EmbeddedPhotos(EmbeddedScenes):
    """The photographs of a split."""

    masks: np.ndarray | None  # true masks, packed uint8 (O, M * M / 8); None: the set has none


@dataclass(frozen=True)
class EmbeddedQueries(EmbeddedScenes):
    """The queries of a split under a protocol. Encoded is the sketch shown; the rest is of the
    object it stands for."""

    query_to_photo: np.ndarray  # int32 (O,), photo row of the object depicted, -1 = none
    rows: np.ndarray  # int32 (O,), which of the sketched objects of the set each is


class EmbeddedObjects(NamedTuple):
    """n objects of one view (crops or sketches), out of context."""

    embedding: np.ndarray  # float32 (n, E)
    classes: np.ndarray  # int32 (n,)
    predicted: np.ndarray  # int32 (n,), class that the model names
    groups: np.ndarray  # int (n,), scene: objects of one scene are not independent


class PredictedObjects(NamedTuple):
    """Masks and boxes that the model predicts for the n objects of some scenes."""

    masks: np.ndarray  # float32 (n, M, M), probabilities within the box
    boxes: np.ndarray  # float32 (n, 4)
    rows: slice  # of the split's objects
    scenes: slice  # of the split's scenes


@dataclass(frozen=True)
class ComparedMasks:
    """Predicted and true masks of n objects seen in one view."""

    predicted: np.ndarray  # packed uint8 (n, M * M / 8), see `mask_metrics.pack`
    true: np.ndarray  # as predicted
    classes: np.ndarray  # int32 (n,)
    scenes: np.ndarray  # int32 (n,)
    objects: np.ndarray  # int32 (n,), photo row of the object


class Evaluation:
    """One model on one split; everything is computed when first asked for, and kept."""

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        split: str = "valid",
        limit: int | None = None,
        folder: Path | None = None,
        step: int = 0,
        vectors: Sequence[str] | None = None,
        mirrored: bool = False,
    ):
        """limit: at most so many scenes (or triplets) of the split. folder: for pictures; without
        one, none are made. step: of the checkpoint. vectors: names of the scene vectors that rank
        photographs, by default the model's first. mirrored: photographs and queries turned left to
        right, each query as a whole, after all that is drawn for it. The loader's seed also draws
        the bootstrap and chooses what is pictured."""
        self.model, self.dataset, self.split, self.limit = model, dataset, split, limit
        self.folder, self.step, self.seed, self.mirrored = folder, step, dataset.seed, mirrored
        names = model.vector_names if isinstance(model, SceneModel) else ()
        self.vectors = tuple(vectors or names[:1])
        for name in self.vectors:
            if name not in names:
                raise UsageError(
                    f"{model.name} has no scene vector {name!r} to rank by: choose of "
                    f"{', '.join(names) or 'none'}"
                )
        self._computed: dict[Any, Any] = {}
        self._of_data: dict[str, np.ndarray] = {}  # does not depend on the model
        self._splits: dict[str, Evaluation] = {split: self}

    def at_step(self, step: int) -> Evaluation:
        """Return a new evaluation of the model as it is now, after `step` steps."""
        return self._copy(step=step)

    def mirror(self) -> Evaluation:
        """Return a new evaluation with all turned left to right."""
        return self._copy(mirrored=True)

    def for_split(self, split: str) -> Evaluation:
        """Return the evaluation of another split, which is kept too."""
        if split not in self._splits:
            other = self._copy(split=split)
            other._splits = self._splits
            self._splits[split] = other
        return self._splits[split]

    def _copy(self, **changes: Any) -> Evaluation:
        names = ("split", "limit", "folder", "step", "vectors", "mirrored")
        options = {name: getattr(self, name) for name in names}
        other = Evaluation(self.model, self.dataset, **{**options, **changes})
        other._of_data = self._of_data
        return other

    def compute(self, name: str) -> list[Result]:
        """Return the figures and pictures of a metric; of '<metric>-test' on the test split."""
        metric = METRICS[plain_name(name)]
        return metric(self if name == plain_name(name) else self.for_split("test"), name)

    def batches(self, what: str, limit: int | None = None) -> Iterator[Any]:
        """Yield the split's batches in order, with a progress bar; EmptySplitError without any."""
        data = self.dataset.eval_batches(self.split, limit or self.limit)
        empty = True
        for batch in progress(data, f"{self.split}: {what}", unit="batches"):
            empty = False
            yield batch
        if empty:
            raise EmptySplitError(
                f"the {self.split} split of {self.dataset.name} is empty: there is nothing to "
                "evaluate; prepare the sets with a larger split or choose another"
            )

    # ------------------------------------------------------------ scenes

    @property
    def photos(self) -> EmbeddedPhotos:
        """The photographs; UsageError for a set without any."""
        return self.photos_with_directions("canonical")

    def photos_with_directions(self, directions: str) -> EmbeddedPhotos:
        """Return the photographs with 'canonical' or 'random' directions of the graph's pairs."""
        if not self.dataset.has_photos:
            raise UsageError(f"{self.dataset.name} has no photographs to search in")
        return self._once(("photos", directions), lambda: self._embed_photos(directions))

    def queries(self, protocol: QueryProtocol) -> EmbeddedQueries:
        """Return the queries under a protocol, scene rows as in `photos`. UsageError for a set
        without queries."""
        if not self.dataset.has_queries:
            raise UsageError(f"{self.dataset.name} has no sketched scenes to search with")
        return self._once(protocol, lambda: self._embed_queries(protocol))

    def scene_vectors(
        self,
        objects: np.ndarray,
        boxes: np.ndarray,
        obj_to_img: np.ndarray,
        directions: str = "canonical",
        side: str = "query",
    ) -> dict[str, np.ndarray]:
        """Return the scene vectors of scenes of any encoded objects, as `EmbeddedScenes.vectors`.

        objects: float32 (Q, D) of crops or sketches. boxes: float32 (Q, 4). obj_to_img: int32
        (Q,), ascending, rows of the split's scenes, each at least once. directions, side: as of
        `SceneDataset.relations`."""
        rows = defaultdict(list)
        scenes = (objects, boxes, obj_to_img, directions, side)
        for block, _, _ in self._blocks(*scenes, CONTEXT_SCENES):
            vectors = self.model.contextualise(block, with_masks=False).vectors
            for name in self.model.vector_names:
                rows[name].append(self._finite(vectors[name], f"{name} vectors"))
        return {name: np.concatenate(parts) for name, parts in rows.items()}

    def scene_ranks(self, protocol: QueryProtocol, vector: str) -> np.ndarray:
        """Return the rank of the right photograph of every query among those of the split: int64
        (N,), 1 = nearest."""

        queries = self.queries(protocol).vectors[vector]
        photos = self.photos_with_directions(protocol.directions).vectors[vector]
        rows = np.arange(len(queries))
        return self._once((protocol, vector), lambda: retrieval.ranks(queries, photos, rows))

    def attention(self, side: EmbeddedScenes) -> Attention:
        """Return the scene tokens' attention to all O objects of a side. UsageError for a model
        without attention."""
        blocks = self._blocks(*_graph(side), CONTEXT_SCENES)
        parts = [self.model.attention(block) for block, _, _ in blocks]
        return Attention(*(self._finite(np.concatenate(c), "attention") for c in zip(*parts)))

    def predict_masks(self, side: EmbeddedScenes) -> Iterator[PredictedObjects]:
        """Yield the masks and boxes that the model predicts for a side, some scenes at a time."""
        for block, rows, scenes in self._blocks(*_graph(side), MASK_SCENES):
            outputs = self.model.contextualise(block)
            masks = self._finite(outputs.masks, "masks")
            yield PredictedObjects(masks, self._finite(outputs.boxes, "boxes"), rows, scenes)

    def masks_of(self, side: EmbeddedScenes, rows: np.ndarray) -> np.ndarray:
        """Return the masks predicted for a few objects of a side, packed as in `ComparedMasks`. The
        model sees their scenes alone, all at once. rows: int (n,), of the side's objects."""
        objects, boxes, obj_to_img, *directions = _graph(side)
        scenes = np.unique(obj_to_img[rows])
        seen = np.flatnonzero(np.isin(obj_to_img, scenes))
        local = (boxes[seen], np.searchsorted(scenes, obj_to_img[seen]).astype(np.int32))
        triples = self.dataset.relations(*local, side.image_ids[scenes], *directions)
        block = ObjectScenes(objects[seen], *local, triples, len(scenes))
        masks = self._finite(self.model.contextualise(block).masks, "masks")
        return mask_metrics.pack(masks[np.searchsorted(seen, rows)])

    # ------------------------------------------------------------ objects

    def object_ranks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (rank int64, class int32, scene int32), each (n,), of every sketch that depicts a
        photographed object: the rank of its crop among all crops of the split."""

        queries, gallery = self.queries(QueryProtocol()), self.photos.embedding
        rows = np.flatnonzero(queries.query_to_photo >= 0)
        sketches, crops = queries.embedding[rows], queries.query_to_photo[rows]
        ranks = self._once("object ranks", lambda: retrieval.ranks(sketches, gallery, crops))
        return ranks, queries.classes[rows], queries.obj_to_img[rows]

    def embedded_objects(self, view: str) -> EmbeddedObjects:
        """Return the objects of the 'photo' or 'sketch' view, of scenes or of triplets: there row n
        of both views is of triplet n."""
        if isinstance(self.model, SceneModel):
            side = self.photos if view == "photo" else self.queries(QueryProtocol())
            return EmbeddedObjects(side.embedding, side.classes, side.predicted, side.obj_to_img)
        return self._once("triplets", self._embed_triplets)[view]

    def _embed_triplets(self) -> dict[str, EmbeddedObjects]:
        columns = defaultdict(list)
        for batch in self.batches("triplets"):
            columns["classes"].append(batch.classes.numpy())
            for view, encoded in (
                ("photo", self.model.embed_photos(batch.positives)),
                ("sketch", self.model.embed_sketches(batch.sketches)),
            ):
                embedding = self._finite(encoded.embedding, "embedding vectors")
                columns[f"{view} embedding"].append(embedding)
                columns[f"{view} predicted"].append(_argmax(encoded.logits))
        found = {name: np.concatenate(parts) for name, parts in columns.items()}
        classes, views = found["classes"], {}
        for view in ("photo", "sketch"):
            embedding, predicted = found[f"{view} embedding"], found[f"{view} predicted"]
            views[view] = EmbeddedObjects(embedding, classes, predicted, np.arange(len(classes)))
        return views

    def compared_masks(self, view: str) -> ComparedMasks:
        """Return the masks predicted from the 'photo' or 'sketch' view, with the true ones; queries
        have the photograph's boxes. UsageError for a set without masks."""
        if not self.dataset.has_masks:
            raise UsageError(f"the objects of {self.dataset.name} have no masks to compare with")

        def compare() -> ComparedMasks:
            side = self.photos if view == "photo" else self.queries(QueryProtocol())
            parts = [mask_metrics.pack(part.masks) for part in self.predict_masks(side)]
            return compare_masks(self.photos, side, np.concatenate(parts))

        return self._once(("masks", view), compare)

    # ------------------------------------------------------------ controls, from the train split

    def class_mean_masks(self) -> np.ndarray:
        """Return the binarised mean mask of every class: packed uint8 (K, M * M / 8)."""
        if "class means" not in self._of_data:
            count, side = self.dataset.vocabulary.num_classes, self.dataset.sizes.mask
            sums, counts = np.zeros((count, side, side)), np.zeros(count)
            # Not `self.limit`: a baseline should not weaken when fewer scenes are looked at.
            for batch in self.for_split("train").batches("class-mean masks", MEAN_MASK_SCENES):
                np.add.at(sums, batch.photo.classes.numpy(), batch.masks.numpy())
                np.add.at(counts, batch.photo.classes.numpy(), 1)
            self._of_data["class means"] = mask_metrics.pack(class_means(sums, counts))
        return self._of_data["class means"]

    def label_colours(self) -> np.ndarray:
        """Return the mean colour of each label of layouts in photographs: float32 (256, 3) in
        [0, 1]; of a label never seen, the mean of all pixels."""
        if "label colours" not in self._of_data:
            sums, counts = np.zeros((256, 3)), np.zeros(256)
            for batch in self.for_split("train").batches("colours of labels", COLOURED_SCENES):
                labels = self.model.layouts(batch)[0].numpy().ravel()
                pixels = batch.images.numpy().reshape(-1, 3)
                counts += np.bincount(labels, minlength=256)
                for channel in range(3):
                    sums[:, channel] += np.bincount(labels, pixels[:, channel], 256)
            means = class_means(sums, counts)
            self._of_data["label colours"] = (means / 255).astype(np.float32)
        return self._of_data["label colours"]

    # ------------------------------------------------------------ embedding

    def embed(self, on_batch: Callable[[Any], None] | None = None) -> None:
        """Go through the split and encode all it shows, unless that is done.

        on_batch: called with every batch."""
        if "image_ids" in self._computed:
            return
        image_ids, photos, queries = [], defaultdict(list), defaultdict(list)
        scenes = objects = 0  # of the batches before
        for batch in self.batches("objects"):
            if on_batch:
                on_batch(batch)
            image_ids.append(batch.image_ids.numpy())
            pages = range(scenes, scenes + len(image_ids[-1]))
            if self.dataset.has_photos:
                self._add_graph(photos, batch.photo, pages)
                self._add_photos(photos, batch)
            if self.dataset.has_queries:
                self._add_graph(queries, batch.query, pages)
                self._add_queries(queries, batch, objects)
            scenes += len(image_ids[-1])
            objects += len(photos["classes"][-1]) if self.dataset.has_photos else 0
        if queries:  # the last row, which -1 names, is white paper
            sketches = self._sketches(batch)
            paper = tf.fill((1, *sketches.shape[1:]), tf.constant(255, tf.uint8))
            self._add_sketches(queries, paper)
        for name, columns in (("photos", photos), ("queries", queries)):
            self._computed[name] = {key: np.concatenate(rows) for key, rows in columns.items()}
        self._computed["image_ids"] = np.concatenate(image_ids)

    def _add_graph(self, columns: dict[str, list], graph: Any, scenes: range) -> None:
        """graph: None of a set without objects. scenes: rows of the batch's scenes."""
        if graph is None:
            boxes = np.tile(np.float32([0, 0, 1, 1]), (len(scenes), 1))
            classes, obj_to_img = np.zeros(len(scenes), np.int32), np.array(scenes, np.int32)
        else:
            boxes, classes = graph.boxes.numpy(), graph.classes.numpy()
            obj_to_img = graph.obj_to_img.numpy() + scenes.start
        columns["boxes"].append(boxes)  # turned once the protocol has moved them
        columns["classes"].append(classes)
        columns["obj_to_img"].append(obj_to_img)

    def _add_photos(self, columns: dict[str, list], batch: Any) -> None:
        if batch.masks is not None:
            columns["masks"].append(mask_metrics.pack(self._turned(batch.masks)))
        if not isinstance(self.model, WholeSceneModel):
            self._add_encoded(columns, self.model.embed_photos(self._turned(batch.crops)))
            return
        images = resize_pictures(batch.images, self.model.scene_size)
        self._add_vectors(columns, self.model.embed_photographs(self._turned(images)))

    def _add_vectors(self, columns: dict[str, list], found: dict[str, tf.Tensor]) -> None:
        for name, vectors in found.items():
            columns[f"{name} vectors"].append(self._finite(vectors, f"{name} vectors"))

    def _add_queries(self, columns: dict[str, list], batch: Any, objects: int) -> None:
        sketches = self._sketches(batch)
        depicted = np.full(len(sketches), -1, np.int32)
        if batch.query_to_photo is not None:
            depicted = batch.query_to_photo.numpy()
        columns["query_to_photo"].append(np.where(depicted < 0, -1, depicted + objects))
        self._add_sketches(columns, self._turned(sketches))

    def _sketches(self, batch: Any) -> tf.Tensor:
        """Return the sketches of a batch's queries: of each object, or whole drawings."""
        if self.dataset.has_objects:
            return batch.sketches
        return scene_drawings(batch, self.model.scene_size)

    def _add_sketches(self, columns: dict[str, list], sketches: tf.Tensor) -> None:
        if not self.dataset.has_objects:
            self._add_vectors(columns, self.model.embed_drawings(sketches))
        elif isinstance(self.model, WholeSceneModel):
            columns["sketches"].append(sketches.numpy())
        else:
            self._add_encoded(columns, self.model.embed_sketches(sketches))

    def _add_encoded(self, columns: dict[str, list], encoded: EncodedObjects) -> None:
        columns["objects"].append(self._finite(encoded.vector, "object vectors"))
        columns["embedding"].append(self._finite(encoded.embedding, "embedding vectors"))
        columns["predicted"].append(_argmax(encoded.logits))
        columns["probabilities"].append(tf.nn.softmax(encoded.logits).numpy().astype(np.float16))

    def _embed_photos(self, directions: str) -> EmbeddedPhotos:
        self.embed()
        columns = self._computed["photos"]
        boxes = self._turned_boxes(columns["boxes"])
        if isinstance(self.model, WholeSceneModel):
            vectors = {name: columns[f"{name} vectors"] for name in self.model.vector_names}
        else:
            scenes = (columns["objects"], boxes, columns["obj_to_img"])
            vectors = self.scene_vectors(*scenes, directions, "photo")
        return EmbeddedPhotos(
            image_ids=self._computed["image_ids"],
            vectors=vectors,
            boxes=boxes,
            **{name: columns.get(name) for name in ("classes", "obj_to_img", "masks", *ENCODED)},
        )

    def _embed_queries(self, protocol: QueryProtocol) -> EmbeddedQueries:
        self.embed()
        image_ids, drawn = self._computed["image_ids"], self._computed["queries"]
        # Without photographs nothing is depicted, and every object keeps the box of the drawing.
        photo_boxes = self._computed["photos"].get("boxes", drawn["boxes"])
        columns = (drawn[name] for name in ("obj_to_img", "boxes", "query_to_photo"))
        shown = self.dataset.queries(protocol, DrawnScenes(image_ids, *columns, photo_boxes))
        boxes, obj_to_img = self._turned_boxes(shown.boxes), drawn["obj_to_img"][shown.rows]
        if not self.dataset.has_objects:
            encoded = dict.fromkeys(ENCODED)
            vectors = {n: drawn[f"{n} vectors"][shown.sketches] for n in self.model.vector_names}
        elif isinstance(self.model, WholeSceneModel):
            encoded = dict.fromkeys(ENCODED)
            vectors = self._drawing_vectors(drawn["sketches"], shown.sketches, boxes, obj_to_img)
        else:
            encoded = {name: drawn[name][shown.sketches] for name in ENCODED}
            scenes = (encoded["objects"], boxes, obj_to_img)
            vectors = self.scene_vectors(*scenes, protocol.directions, "query")
        return EmbeddedQueries(
            image_ids=image_ids,
            vectors=vectors,
            boxes=boxes,
            obj_to_img=obj_to_img,
            classes=drawn["classes"][shown.rows],
            query_to_photo=drawn["query_to_photo"][shown.rows],
            rows=shown.rows,
            **encoded,
        )

    def _drawing_vectors(
        self, sketches: np.ndarray, shown: np.ndarray, boxes: np.ndarray, obj_to_img: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return the scene vectors of whole drawings. shown: int32 (O,), the sketch of each
        object."""
        found, side = defaultdict(list), self.model.scene_size
        for rows, scenes in self._scene_blocks(obj_to_img, MASK_SCENES):
            local, count = obj_to_img[rows] - scenes.start, scenes.stop - scenes.start
            drawings = compose_drawings(sketches[shown[rows]], boxes[rows], local, count, side)
            for name, vectors in self.model.embed_drawings(drawings).items():
                found[name].append(self._finite(vectors, f"{name} vectors"))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _blocks(
        self,
        objects: np.ndarray,
        boxes: np.ndarray,
        obj_to_img: np.ndarray,
        directions: str,
        side: str,
        size: int,
    ) -> Iterator[tuple[ObjectScenes, slice, slice]]:
        """Yield `size` scenes at a time, and the slices of their objects and scenes."""
        for rows, scenes in self._scene_blocks(obj_to_img, size):
            ids = self._computed["image_ids"][scenes]
            local = (boxes[rows], obj_to_img[rows] - np.int32(scenes.start))
            triples = self.dataset.relations(*local, ids, directions, side)
            yield ObjectScenes(objects[rows], *local, triples, len(ids)), rows, scenes

    def _scene_blocks(self, obj_to_img: np.ndarray, size: int) -> Iterator[tuple[slice, slice]]:
        """Yield the slices of objects and scenes of `size` scenes at a time."""
        count = len(self._computed["image_ids"])
        for first in range(0, count, size):
            scenes = slice(first, min(first + size, count))
            rows = np.searchsorted(obj_to_img, [scenes.start, scenes.stop])
            yield slice(*rows.tolist()), scenes

    def _turned(self, images: tf.Tensor) -> tf.Tensor:
        return tf.reverse(images, [2]) if self.mirrored else images

    def _turned_boxes(self, boxes: np.ndarray) -> np.ndarray:
        return geometry.mirrored(boxes) if self.mirrored else boxes

    def _once(self, key: Any, compute: Callable[[], Any]) -> Any:
        if key not in self._computed:
            self._computed[key] = compute()
        return self._computed[key]

    def _finite(self, values: Any, name: str) -> np.ndarray:
        values = np.asarray(values)
        if not np.isfinite(values).all():
            raise UserError(
                f"the model's {name} at step {self.step} are not finite: the run had "
                "diverged by then; evaluate an earlier checkpoint with --resume PATH"
            )
        return values


def _graph(side: EmbeddedScenes) -> tuple[np.ndarray, np.ndarray, np.ndarray, str, str]:
    """Return the arguments of `Evaluation._blocks` for a side with canonical directions."""
    name = "photo" if isinstance(side, EmbeddedPhotos) else "query"
    return side.objects, side.boxes, side.obj_to_img, "canonical", name


def compare_masks(
    photos: EmbeddedPhotos, side: EmbeddedScenes, predicted: np.ndarray
) -> ComparedMasks:
    """Return the objects of a side that are in the photograph, with their true masks. predicted:
    packed masks of all objects of the side."""
    is_query = isinstance(side, EmbeddedQueries)
    objects = side.query_to_photo if is_query else np.arange(len(side.classes))
    shown = objects >= 0
    columns = (side.classes[shown], side.obj_to_img[shown], objects[shown])
    return ComparedMasks(predicted[shown], photos.masks[objects[shown]], *columns)


def class_means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return sums (K, ...) of each class by its count (K,), of one never seen the mean of all."""
    means = sums / np.maximum(counts, 1).reshape(-1, *[1] * (sums.ndim - 1))
    means[counts == 0] = sums.sum(0) / counts.sum()
    return means


def _argmax(logits: Any) -> np.ndarray:
    """float (O, K) -> int32 (O,)."""
    return np.argmax(np.asarray(logits), axis=1).astype(np.int32)


def plain_name(name: str) -> str:
    """Return the registered name of a metric: '<metric>-test' is the same on the test split."""
    return name.removesuffix("-test")
