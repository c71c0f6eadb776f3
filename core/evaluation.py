"""Evaluation of a trained model on a split: features gathered once, for all metrics.

    batches -> model.encode_* -> sides of the whole split (numpy) -> metrics

The photographs are encoded once, the queries once for each protocol; every metric reads the same
arrays. Memory is the features (some 3 kB an object), never the images.

Letters as in `models/__init__.py`: here N, O and Q count over the whole split.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
from tqdm import tqdm

from core.dataset import QueryProtocol
from core.errors import EmptySplitError, UsageError, UserError
from core.features import VECTORS
from core.metrics import base, layout, retrieval
from core.registry import METRICS

log = logging.getLogger(__name__)

# Train scenes behind the class-mean mask: means over more change nothing that can be seen.
MEAN_MASK_SCENES = 2000


@dataclass(frozen=True)
class Side:
    """One side (photographs or queries) of a split.

    vectors: {'projection': float32 (N, 256), 'token': float32 (N, D)}, a row for every scene; no
    projection when the model was trained without one.
    embedding float32 (O, 128); classes, predicted int32 (O,) vocabulary indices; boxes float32
    (O, 4); obj_to_img int32 (O,): object o is in scene row obj_to_img[o].
    """

    image_ids: np.ndarray
    vectors: dict[str, np.ndarray]
    embedding: np.ndarray
    classes: np.ndarray
    predicted: np.ndarray
    boxes: np.ndarray
    obj_to_img: np.ndarray

    @property
    def scenes(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True)
class Photos(Side):
    """masks: the true ones, packed uint8 (O, M * M / 8) (`core.metrics.layout.pack`)."""

    masks: np.ndarray


@dataclass(frozen=True)
class Queries(Side):
    """query_to_photo: int32 (Q,), the photo row of the object depicted, -1 = none."""

    query_to_photo: np.ndarray


@dataclass(frozen=True)
class MaskPairs:
    """Objects of one view that have a true mask. predicted, true: packed uint8 (n, M * M / 8)
    (`core.metrics.layout.pack`); classes, scenes: int32 (n,); objects: int32 (n,), the photo row
    of the object."""

    predicted: np.ndarray
    true: np.ndarray
    classes: np.ndarray
    scenes: np.ndarray
    objects: np.ndarray


@dataclass(frozen=True)
class Triplets:
    """Stage 1: classes, predicted classes of crop and sketch, int32 (B,); embeddings (B, 128)."""

    classes: np.ndarray
    photo_predicted: np.ndarray
    sketch_predicted: np.ndarray
    photo_embedding: np.ndarray
    sketch_embedding: np.ndarray


class Objects(NamedTuple):
    """The objects of one side, out of context. embedding float32 (n, 128); classes, predicted
    int32 (n,); groups int (n,): values of one group (scene) are not independent."""

    embedding: np.ndarray
    classes: np.ndarray
    predicted: np.ndarray
    groups: np.ndarray


class Evaluation:
    """Features of one model on one split, gathered when first asked for and kept."""

    def __init__(
        self,
        model,
        dataset,
        split: str = "valid",
        limit: Optional[int] = None,
        folder: Optional[Path] = None,
        step: int = 0,
        vectors: Optional[Sequence[str]] = None,
    ):
        """model: a `core.model.Model`; dataset: a `core.dataset.Dataset`; limit: at most so many
        scenes (or triples) of the split; folder: where pictures go; step: of the checkpoint;
        vectors: which scene vectors rank photographs, 'projection', 'token' or both (default: the
        model's `retrieval_vector`). The loader's seed also draws the bootstrap and chooses what
        is pictured."""
        self.model, self.dataset = model, dataset
        self.split, self.limit, self.folder = split, limit, folder
        self.step, self.seed = step, dataset.seed
        default = getattr(model.hparams, "retrieval_vector", VECTORS[0])
        self.vectors = tuple(vectors) if vectors else (default,)
        for name in self.vectors:
            if name not in VECTORS:
                raise UsageError(f"unknown scene vector '{name}': choose of {', '.join(VECTORS)}")
        self._cache: dict = {}
        self._constants: dict = {}  # what does not depend on the model
        self._siblings: dict[str, Evaluation] = {split: self}

    def _like(self, split: str, step: int) -> Evaluation:
        other = Evaluation(
            self.model, self.dataset, split, self.limit, self.folder, step, self.vectors
        )
        other._constants = self._constants
        return other

    def again(self, step: int) -> Evaluation:
        """The same evaluation of the model as it is now, after `step` steps."""
        return self._like(self.split, step)

    def compute(self, name: str) -> list[base.Result]:
        """What the metric `name` finds on the split; with '-test' behind it, on the split test."""
        metric = METRICS[plain_name(name)]
        return metric(self if name == plain_name(name) else self.on("test"), name)

    # ------------------------------------------------------------ what metrics read

    def on(self, split: str) -> Evaluation:
        """The same evaluation on another split; its features too are gathered only once."""
        if split not in self._siblings:
            other = self._like(split, self.step)
            other._siblings = self._siblings
            self._siblings[split] = other
        return self._siblings[split]

    @property
    def photos(self) -> Photos:
        """The photographs' side; the same under every protocol."""
        if "photos" not in self._cache:
            self.gather(QueryProtocol())
        return self._cache["photos"]

    def queries(self, protocol: QueryProtocol) -> Queries:
        """The queries' side under `protocol`, scene rows as in `photos`."""
        if protocol not in self._cache:
            self.gather(protocol)
        return self._cache[protocol]

    def scene_ranks(self, protocol: QueryProtocol, vector: str) -> np.ndarray:
        """Rank int64 (N,) of the right photograph of every scene, among those of the split."""
        key = (protocol, vector)
        if key not in self._cache:
            queries = self.queries(protocol)
            right = np.arange(queries.scenes)
            self._cache[key] = retrieval.ranks(
                queries.vectors[vector], self.photos.vectors[vector], right
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

    def objects(self, side: str) -> Objects:
        """The objects of the 'photo' or 'sketch' side, of scenes or of triplets."""
        if self._has_scenes:
            own = self.photos if side == "photo" else self.queries(QueryProtocol())
            return Objects(own.embedding, own.classes, own.predicted, own.obj_to_img)
        triplets = self.triplets()
        embedding, predicted = (
            (triplets.photo_embedding, triplets.photo_predicted)
            if side == "photo"
            else (triplets.sketch_embedding, triplets.sketch_predicted)
        )
        return Objects(embedding, triplets.classes, predicted, np.arange(len(predicted)))

    def masks(self, view: str) -> MaskPairs:
        """Masks predicted from the 'photo' or 'sketch' view beside the true ones."""
        if "masks" not in self._cache:
            self._gather_masks()
        return self._cache["masks"][view]

    def class_mean_masks(self) -> np.ndarray:
        """Binarised mean mask of every class over train objects: packed uint8 (K, M * M / 8)."""
        if "class means" not in self._constants:
            means = None
            # Not `self.limit`: a baseline should not weaken when fewer scenes are looked at.
            batches = self.on("train").batches(
                QueryProtocol(), "class-mean masks", MEAN_MASK_SCENES
            )
            for batch in batches:
                masks = batch.masks.numpy()
                if means is None:
                    means = layout.MeanMasks(self.dataset.vocabulary.num_classes, masks.shape[1])
                means.add(batch.photo.classes.numpy(), masks)
            self._constants["class means"] = means.result()
        return self._constants["class means"]

    def triplets(self) -> Triplets:
        """Stage 1's features of the split."""
        if "triplets" not in self._cache:
            rows = defaultdict(list)
            for batch in self.batches(QueryProtocol(), "triplets"):
                photo = self.model.embed_photos(batch.positives)
                sketch = self.model.embed_sketches(batch.sketches)
                rows["classes"].append(batch.classes.numpy())
                rows["photo_predicted"].append(_argmax(photo.logits))
                rows["sketch_predicted"].append(_argmax(sketch.logits))
                rows["photo_embedding"].append(self._finite(photo.embedding, "embeddings"))
                rows["sketch_embedding"].append(self._finite(sketch.embedding, "embeddings"))
            self._cache["triplets"] = Triplets(**{k: np.concatenate(v) for k, v in rows.items()})
        return self._cache["triplets"]

    def batches(self, protocol: QueryProtocol, what: str, limit: Optional[int] = None) -> Iterator:
        """The split's batches in order, with a progress bar; UserError when there are none."""
        data = self.dataset.eval_batches(self.split, protocol, limit or self.limit)
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

    def gather(
        self, protocol: QueryProtocol, visit: Optional[Callable[[Any], None]] = None
    ) -> None:
        """One pass over the split: the queries under `protocol`, the photographs if still due.
        visit: is shown every batch as it passes."""
        photos = _Rows() if "photos" not in self._cache else None
        queries = _Rows()
        scenes = objects = 0  # of the batches before
        for batch in self.batches(protocol, str(protocol)):
            if visit:
                visit(batch)
            count = len(batch.image_ids)
            # Without masks, by far the costliest part; they have a pass of their own.
            if photos is not None:
                outputs = self.model.encode_photo(batch.crops, batch.photo, count, with_masks=False)
                photos.add(batch.image_ids, batch.photo, outputs, scenes)
                photos.columns["masks"].append(layout.pack(batch.masks.numpy()))
            outputs = self.model.encode_query(batch.sketches, batch.query, count, with_masks=False)
            queries.add(batch.image_ids, batch.query, outputs, scenes)
            own = batch.query_to_photo.numpy()
            queries.columns["query_to_photo"].append(np.where(own < 0, -1, own + objects))
            scenes += count
            objects += len(batch.photo.classes)
        if photos is not None:
            self._cache["photos"] = self._checked(photos.side(Photos))
        side = self._checked(queries.side(Queries))
        if not np.array_equal(side.image_ids, self._cache["photos"].image_ids):
            raise RuntimeError("the loader gave other scenes under another query protocol")
        self._cache[protocol] = side

    def _gather_masks(self) -> None:
        """One pass over the split with masks, queries with the photograph's boxes and sketches."""
        rows = {view: defaultdict(list) for view in ("photo", "sketch")}
        scenes = objects = 0  # of the batches before
        for batch in self.batches(QueryProtocol(), "masks"):
            count = len(batch.image_ids)
            true = layout.pack(batch.masks.numpy())
            photo = self.model.encode_photo(batch.crops, batch.photo, count)
            query = self.model.encode_query(batch.sketches, batch.query, count)
            depicts = np.flatnonzero(batch.query_to_photo.numpy() >= 0)
            own = batch.query_to_photo.numpy()[depicts]
            everything = np.arange(len(true))
            for view, outputs, graph, kept, shown in (
                ("photo", photo, batch.photo, everything, everything),
                ("sketch", query, batch.query, depicts, own),
            ):
                columns = rows[view]
                columns["predicted"].append(layout.pack(self._finite(outputs.masks, "masks")[kept]))
                columns["true"].append(true[shown])
                columns["classes"].append(graph.classes.numpy()[kept])
                columns["scenes"].append(graph.obj_to_img.numpy()[kept] + scenes)
                columns["objects"].append(shown + objects)
            scenes += count
            objects += len(true)
        self._cache["masks"] = {
            view: MaskPairs(**{name: np.concatenate(parts) for name, parts in columns.items()})
            for view, columns in rows.items()
        }

    def _checked(self, side: Side) -> Side:
        for name in self.vectors:
            if name not in side.vectors:
                raise UsageError(
                    f"this model has no {name} to rank scenes by (it was trained with "
                    f"no_global_contrastive): take {', '.join(side.vectors)}"
                )
        for name, vectors in (*side.vectors.items(), ("embedding", side.embedding)):
            self._finite(vectors, f"{name} vectors")
        return side

    def _finite(self, vectors, name: str) -> np.ndarray:
        vectors = np.asarray(vectors)
        if not np.isfinite(vectors).all():
            raise UserError(
                f"the model's {name} at step {self.step} are not finite: the run had "
                "diverged by then; evaluate an earlier checkpoint with --resume PATH"
            )
        return vectors


class _Rows:
    """Columns of one side, growing batch by batch, joined at the end."""

    def __init__(self):
        self.columns = defaultdict(list)

    def add(self, image_ids, graph, outputs, scenes_before: int) -> None:
        new = {
            "image_ids": image_ids,
            "projection": outputs.scene_vector,
            "token": outputs.scene_token,
            "embedding": outputs.embedding,
            "classes": graph.classes,
            "predicted": _argmax(outputs.logits),
            "boxes": graph.boxes,
            "obj_to_img": graph.obj_to_img.numpy() + scenes_before,
        }
        for name, rows in new.items():
            if rows is not None:
                self.columns[name].append(np.asarray(rows))

    def side(self, kind: type) -> Side:
        columns = {name: np.concatenate(rows) for name, rows in self.columns.items()}
        vectors = {name: columns.pop(name) for name in VECTORS if name in columns}
        return kind(vectors=vectors, **columns)


def _argmax(logits) -> np.ndarray:
    """float (O, K) -> int32 (O,)."""
    return np.argmax(np.asarray(logits), axis=1).astype(np.int32)


def plain_name(name: str) -> str:
    """The registered name of a metric, of which '<name>-test' is its variant on the test split."""
    return name.removesuffix("-test")
