"""Evaluation of a trained model on a split: features gathered once, for all metrics.

    batches -> model.embed_* -> objects of the whole split -+-> model.contextualise -> photographs
                                  under a query protocol ---+-> model.contextualise -> queries

Every crop and sketch is encoded once; a query protocol (`dataloaders.queries`) rearranges encoded
sketches, so that only the small part of the model that sees whole scenes runs for each. Memory is
the features (some 4 kB an object), never the images.
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
from tqdm import tqdm

from core import geometry
from core.errors import EmptySplitError, UsageError, UserError
from core.evaluation import mask_metrics, retrieval
from core.evaluation.figures import Result
from core.evaluation.query_protocols import DrawnScenes, QueryProtocol
from core.features import VECTORS
from core.registry import METRICS

log = logging.getLogger(__name__)

NEED_MASKS = ("mask-iou", "generated-masks", "picture-error", "generated-pictures")
CONTEXT_SCENES = 256  # that the model sees at a time; with masks, its largest output, MASK_SCENES
MASK_SCENES = 32
# Train scenes behind the class-mean mask: means over more change nothing that can be seen.
MEAN_MASK_SCENES = 2000
COLOURED_SCENES = 500  # train scenes behind the mean colours of labels


@dataclass(frozen=True)
class EmbeddedScenes:
    """One side (photographs or queries) of all N scenes of a split, with its O objects."""

    image_ids: np.ndarray  # int64 (N,)
    # scene vectors by name: float32 (N, D); no 'projection' of a model that was trained without it
    vectors: dict[str, np.ndarray]
    objects: np.ndarray  # float32 (O, D), the object vectors that scenes are made of
    embedding: np.ndarray  # float32 (O, E), common to crops and sketches
    classes: np.ndarray  # int32 (O,), vocabulary index
    predicted: np.ndarray  # int32 (O,), class that the model names
    boxes: np.ndarray  # float32 (O, 4)
    obj_to_img: np.ndarray  # int32 (O,), ascending: object o is in scene row obj_to_img[o]

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
    """The queries of a split under a protocol. `objects`, `embedding` and `predicted` are of the
    sketch shown, the rest of the object it stands for."""

    query_to_photo: np.ndarray  # int32 (O,), photo row of the object depicted, -1 = none
    rows: np.ndarray  # int32 (O,), which of the sketched objects of the set each is


@dataclass(frozen=True)
class EmbeddedTriplets:
    """The crops and sketches of B triplets of stage 1."""

    classes: np.ndarray  # int32 (B,)
    photo_predicted: np.ndarray  # int32 (B,), class that the model names
    sketch_predicted: np.ndarray
    photo_embedding: np.ndarray  # float32 (B, E)
    sketch_embedding: np.ndarray


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
    """Features of one model on one split, gathered when first asked for and kept."""

    def __init__(
        self,
        model,
        dataset,
        split: str = "valid",
        limit: int | None = None,
        folder: Path | None = None,
        step: int = 0,
        vectors: Sequence[str] | None = None,
        mirrored: bool = False,
    ):
        """model: a `core.model.Model`; dataset: a `core.dataset.Dataset`; limit: at most so many
        scenes (or triples) of the split; folder: where pictures go; step: of the checkpoint;
        vectors: which scene vectors rank photographs, 'projection', 'token' or both (default: the
        model's `retrieval_vector`); mirrored: photographs and drawings turned left to right, the
        queries of a protocol as wholes, so that each is the mirror image of the one as drawn, with
        its jitter and its dropped objects. The loader's seed also draws the bootstrap and chooses
        what is pictured."""
        self.model, self.dataset = model, dataset
        self.split, self.limit, self.folder = split, limit, folder
        self.step, self.seed, self.mirrored = step, dataset.seed, mirrored
        default = getattr(model.hparams, "retrieval_vector", VECTORS[0])
        self.vectors = tuple(vectors) if vectors else (default,)
        for name in self.vectors:
            if name not in VECTORS:
                raise UsageError(f"unknown scene vector '{name}': choose of {', '.join(VECTORS)}")
        self._cache: dict = {}
        self._constants: dict = {}  # what does not depend on the model
        self._siblings: dict[str, Evaluation] = {split: self}

    def _copy(self, split: str, step: int) -> Evaluation:
        other = Evaluation(
            self.model, self.dataset, split, self.limit, self.folder, step, self.vectors,
            self.mirrored,
        )  # fmt: skip
        other._constants = self._constants
        return other

    def at_step(self, step: int) -> Evaluation:
        """The same evaluation of the model as it is now, after `step` steps."""
        return self._copy(self.split, step)

    def compute(self, name: str) -> list[Result]:
        """What the metric `name` finds on the split; with '-test' behind it, on the split test."""
        metric = METRICS[plain_name(name)]
        return metric(self if name == plain_name(name) else self.for_split("test"), name)

    # ------------------------------------------------------------ what metrics read

    def for_split(self, split: str) -> Evaluation:
        """The same evaluation on another split; its features too are gathered only once."""
        if split not in self._siblings:
            other = self._copy(split, self.step)
            other._siblings = self._siblings
            self._siblings[split] = other
        return self._siblings[split]

    @property
    def photos(self) -> EmbeddedPhotos:
        """The photographs' side; the same under every protocol but for random directions."""
        return self.photos_with_directions("canonical")

    def queries(self, protocol: QueryProtocol) -> EmbeddedQueries:
        """The queries' side under `protocol`, scene rows as in `photos`."""
        if protocol not in self._cache:
            self.embed()
            photos, drawn = self._cache["objects of photos"], self._cache["objects of queries"]
            names = ("obj_to_img", "boxes", "query_to_photo")
            scenes = DrawnScenes(
                photos["image_ids"], *(drawn[name] for name in names), photos["boxes"]
            )
            shown = self.dataset.queries(protocol, scenes)
            # The last row, which -1 names, is that of white paper.
            of_sketch = {
                name: drawn[name][shown.sketches] for name in ("objects", "embedding", "predicted")
            }
            of_object = {
                name: drawn[name][shown.rows]
                for name in ("classes", "obj_to_img", "query_to_photo")
            }
            columns = {**of_sketch, **of_object, "boxes": shown.boxes, "rows": shown.rows}
            self._cache[protocol] = self._side(
                EmbeddedQueries, columns, protocol.directions, "query"
            )
        return self._cache[protocol]

    def scene_vectors(
        self,
        objects: np.ndarray,
        boxes: np.ndarray,
        obj_to_img: np.ndarray,
        directions: str = "canonical",
        side: str = "query",
    ) -> dict[str, np.ndarray]:
        """Scene vectors of scenes of any encoded objects, by name as `EmbeddedScenes.vectors`.

        objects: float32 (Q, D) of crops or sketches. boxes: float32 (Q, 4). obj_to_img: int32
        (Q,), ascending, rows of the split's scenes, each at least once. directions, side: as of
        `Dataset.relations`."""
        columns = defaultdict(list)
        scenes = (objects, boxes, obj_to_img, directions, side)
        for arguments, _, _ in self._parts(*scenes, CONTEXT_SCENES):
            outputs = self.model.contextualise(*arguments, False)
            columns["projection"].append(outputs.scene_vector)
            columns["token"].append(outputs.scene_token)
        vectors = {
            name: np.concatenate(rows) for name, rows in columns.items() if rows[0] is not None
        }
        for name in self.vectors:
            if name not in vectors:
                raise UsageError(
                    f"this model has no {name} to rank scenes by (it was trained with "
                    f"no_global_contrastive): take {', '.join(vectors)}"
                )
        return {name: self._finite(vectors[name], f"{name} vectors") for name in vectors}

    def scene_ranks(self, protocol: QueryProtocol, vector: str) -> np.ndarray:
        """Rank int64 (N,) of the right photograph of every scene, among those of the split."""
        key = (protocol, vector)
        if key not in self._cache:
            queries = self.queries(protocol)
            right = np.arange(queries.num_scenes)
            photos = self.photos_with_directions(protocol.directions)
            self._cache[key] = retrieval.ranks(
                queries.vectors[vector], photos.vectors[vector], right
            )
        return self._cache[key]

    def object_ranks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rank int64, class int32, scene int32), each (n,): the rank of the own crop among all
        crops of the split, for every sketch that depicts one."""
        if "objects" not in self._cache:
            queries = self.queries(QueryProtocol())
            rows = np.flatnonzero(queries.query_to_photo >= 0)
            rank = retrieval.ranks(
                queries.embedding[rows], self.photos.embedding, queries.query_to_photo[rows]
            )
            self._cache["objects"] = (rank, queries.classes[rows], queries.obj_to_img[rows])
        return self._cache["objects"]

    def embedded_objects(self, side: str) -> EmbeddedObjects:
        """The objects of the 'photo' or 'sketch' side, of scenes or of triplets."""
        if self._has_scenes:
            own = self.photos if side == "photo" else self.queries(QueryProtocol())
            return EmbeddedObjects(own.embedding, own.classes, own.predicted, own.obj_to_img)
        triplets = self.triplets()
        embedding, predicted = (
            (triplets.photo_embedding, triplets.photo_predicted)
            if side == "photo"
            else (triplets.sketch_embedding, triplets.sketch_predicted)
        )
        return EmbeddedObjects(embedding, triplets.classes, predicted, np.arange(len(predicted)))

    def compared_masks(self, view: str) -> ComparedMasks:
        """Masks predicted from the 'photo' or 'sketch' view beside the true ones; queries with the
        photograph's boxes. UsageError for a set without masks."""
        if not self.dataset.has_masks:
            raise UsageError(f"the objects of {self.dataset.name} have no masks to compare with")
        key = f"masks of {view}"
        if key not in self._cache:
            photos, queries = self.photos, self.queries(QueryProtocol())
            side, own = (
                (photos, np.arange(len(photos.classes)))
                if view == "photo"
                else (queries, queries.query_to_photo)
            )
            depicts = own >= 0
            predicted = np.concatenate(
                [
                    mask_metrics.pack(part.masks[depicts[part.rows]])
                    for part in self.predict_masks(side)
                ]
            )
            self._cache[key] = ComparedMasks(
                predicted=predicted,
                true=photos.masks[own[depicts]],
                classes=side.classes[depicts],
                scenes=side.obj_to_img[depicts],
                objects=own[depicts],
            )
        return self._cache[key]

    def predict_masks(self, side: EmbeddedScenes) -> Iterator[PredictedObjects]:
        """Masks and boxes that the model makes of a side's objects, some scenes at a time."""
        for arguments, rows, scenes in self._parts(*_scenes_of(side), MASK_SCENES):
            outputs = self.model.contextualise(*arguments, True)
            masks = self._finite(outputs.masks, "masks")
            yield PredictedObjects(masks, self._finite(outputs.boxes, "boxes"), rows, scenes)

    def attention(self, side: EmbeddedScenes) -> Any:
        """What the scene tokens look at: what `model.attention` gives, with all O objects of a side
        in its arrays. UsageError for a model without."""
        parts = [
            self.model.attention(*arguments)
            for arguments, _, _ in self._parts(*_scenes_of(side), CONTEXT_SCENES)
        ]
        return type(parts[0])(*(self._finite(np.concatenate(c), "attention") for c in zip(*parts)))

    def class_mean_masks(self) -> np.ndarray:
        """Binarised mean mask of every class over train objects: packed uint8 (K, M * M / 8)."""
        if "class means" not in self._constants:
            means = None
            # Not `self.limit`: a baseline should not weaken when fewer scenes are looked at.
            for batch in self.for_split("train").batches("class-mean masks", MEAN_MASK_SCENES):
                masks = batch.masks.numpy()
                if means is None:
                    means = mask_metrics.MeanMasks(
                        self.dataset.vocabulary.num_classes, masks.shape[1]
                    )
                means.add(batch.photo.classes.numpy(), masks)
            self._constants["class means"] = means.result()
        return self._constants["class means"]

    def label_colours(self) -> np.ndarray:
        """Mean colour of the train photographs' pixels of every label of layouts: float32 (256, 3),
        0..1; of a label never seen, of all pixels."""
        if "label colours" not in self._constants:
            sums, counts = np.zeros((256, 3)), np.zeros(256)
            for batch in self.for_split("train").batches("colours of labels", COLOURED_SCENES):
                labels = self.model.layouts(batch)[0].numpy().ravel()
                pixels = batch.images.numpy().reshape(-1, 3)
                counts += np.bincount(labels, minlength=256)
                for channel in range(3):
                    sums[:, channel] += np.bincount(labels, pixels[:, channel], 256)
            means = sums / np.maximum(counts, 1)[:, None]
            means[counts == 0] = sums.sum(0) / counts.sum()
            self._constants["label colours"] = (means / 255).astype(np.float32)
        return self._constants["label colours"]

    def triplets(self) -> EmbeddedTriplets:
        """Stage 1's features of the split."""
        if "triplets" not in self._cache:
            rows = defaultdict(list)
            for batch in self.batches("triplets"):
                photo = self.model.embed_photos(batch.positives)
                sketch = self.model.embed_sketches(batch.sketches)
                rows["classes"].append(batch.classes.numpy())
                rows["photo_predicted"].append(_argmax(photo.logits))
                rows["sketch_predicted"].append(_argmax(sketch.logits))
                rows["photo_embedding"].append(self._finite(photo.embedding, "embeddings"))
                rows["sketch_embedding"].append(self._finite(sketch.embedding, "embeddings"))
            self._cache["triplets"] = EmbeddedTriplets(
                **{k: np.concatenate(v) for k, v in rows.items()}
            )
        return self._cache["triplets"]

    def batches(self, what: str, limit: int | None = None) -> Iterator:
        """The split's batches in order, with a progress bar; UserError when there are none."""
        data = self.dataset.eval_batches(self.split, limit or self.limit)
        empty = True
        for batch in tqdm(
            data, f"{self.split}: {what}", unit=" batches", leave=False, disable=None
        ):
            empty = False
            yield batch
        if empty:
            raise EmptySplitError(
                f"the {self.split} split of {self.dataset.name} is empty: there is nothing to "
                "evaluate; prepare the sets with a larger split or choose another"
            )

    # ------------------------------------------------------------ gathering

    @property
    def _has_scenes(self) -> bool:
        return self.model.batch_type == "SceneBatch"

    def embed(self, visit: Callable[[Any], None] | None = None) -> None:
        """The one pass over the split that encodes all objects, unless it is done. visit: is shown
        every batch as it passes."""
        if "objects of photos" in self._cache:
            return
        photos, queries = defaultdict(list), defaultdict(list)
        scenes = objects = 0  # of the batches before
        for batch in self.batches("objects"):
            if visit:
                visit(batch)
            photos["image_ids"].append(batch.image_ids.numpy())
            if batch.masks is not None:
                masks = batch.masks.numpy()[:, :, :: -1 if self.mirrored else 1]
                photos["masks"].append(mask_metrics.pack(masks))
            own = batch.query_to_photo.numpy()
            queries["query_to_photo"].append(np.where(own < 0, -1, own + objects))
            for columns, embed, images, graph in (
                (photos, self.model.embed_photos, batch.crops, batch.photo),
                (queries, self.model.embed_sketches, batch.sketches, batch.query),
            ):
                self._add(columns, embed(tf.reverse(images, [2]) if self.mirrored else images))
                columns["boxes"].append(graph.boxes.numpy())  # turned when a side is made of them
                columns["classes"].append(graph.classes.numpy())
                columns["obj_to_img"].append(graph.obj_to_img.numpy() + scenes)
            scenes += len(batch.image_ids)
            objects += len(batch.photo.classes)
        paper = tf.fill((1, *batch.sketches.shape[1:]), tf.constant(255, tf.uint8))
        self._add(queries, self.model.embed_sketches(paper))
        for name, columns in (("photos", photos), ("queries", queries)):
            self._cache[f"objects of {name}"] = {
                column: np.concatenate(rows) for column, rows in columns.items()
            }

    def _add(self, columns: dict[str, list], encoded: Any) -> None:
        columns["objects"].append(self._finite(encoded.vector, "object vectors"))
        columns["embedding"].append(self._finite(encoded.embedding, "embedding vectors"))
        columns["predicted"].append(_argmax(encoded.logits))

    def photos_with_directions(self, directions: str) -> EmbeddedPhotos:
        """The photographs' side with 'canonical' or 'random' directions of its pairs."""
        key = f"photos, {directions} directions"
        if key not in self._cache:
            self.embed()
            columns = {"masks": None, **self._cache["objects of photos"]}
            self._cache[key] = self._side(EmbeddedPhotos, columns, directions, "photo")
        return self._cache[key]

    def _side(
        self, kind: type, columns: dict[str, Any], directions: str, side: str
    ) -> EmbeddedScenes:
        if self.mirrored:
            columns["boxes"] = geometry.mirrored(columns["boxes"])
        parts = (columns[name] for name in ("objects", "boxes", "obj_to_img"))
        columns["image_ids"] = self._cache["objects of photos"]["image_ids"]
        return kind(vectors=self.scene_vectors(*parts, directions, side), **columns)

    def _parts(
        self,
        objects: np.ndarray,
        boxes: np.ndarray,
        obj_to_img: np.ndarray,
        directions: str,
        side: str,
        size: int,
    ) -> Iterator[tuple[tuple, slice, slice]]:
        """`size` scenes at a time: arguments of `model.contextualise`, and the slices of their
        objects and scenes."""
        image_ids = self._cache["objects of photos"]["image_ids"]
        for first in range(0, len(image_ids), size):
            ids = image_ids[first : first + size]
            ends = np.searchsorted(obj_to_img, [first, first + len(ids)])
            rows = slice(*ends.tolist())
            local = (boxes[rows], obj_to_img[rows] - np.int32(first))
            triples = self.dataset.relations(*local, ids, directions, side)
            arguments = (objects[rows], *local, triples, len(ids))
            yield arguments, rows, slice(first, first + len(ids))

    def _finite(self, vectors, name: str) -> np.ndarray:
        vectors = np.asarray(vectors)
        if not np.isfinite(vectors).all():
            raise UserError(
                f"the model's {name} at step {self.step} are not finite: the run had "
                "diverged by then; evaluate an earlier checkpoint with --resume PATH"
            )
        return vectors


def _scenes_of(side: EmbeddedScenes) -> tuple:
    """What says of a side which scenes it has, with the canonical directions of their pairs."""
    name = "photo" if isinstance(side, EmbeddedPhotos) else "query"
    return side.objects, side.boxes, side.obj_to_img, "canonical", name


def _argmax(logits) -> np.ndarray:
    """float (O, K) -> int32 (O,)."""
    return np.argmax(np.asarray(logits), axis=1).astype(np.int32)


def metrics_of(model: Any, dataset: Any) -> tuple[str, ...]:
    """The names of all metrics that fit the model (its class will do) and the data."""
    return tuple(name for name in model.metrics if dataset.has_masks or name not in NEED_MASKS)


def plain_name(name: str) -> str:
    """The registered name of a metric, of which '<name>-test' is its variant on the test split."""
    return name.removesuffix("-test")
