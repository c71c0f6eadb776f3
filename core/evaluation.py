"""Evaluation of a trained model on a split: gather features once, compute named metrics, report.

    batches -> model.encode_* -> Photos / Queries (numpy, whole split) -> metrics -> table and JSON

The photographs are encoded once, the queries once for each protocol; every metric reads the same
arrays. Memory is the features (some 3 kB an object), never the images.

Letters as in `models/__init__.py`: here N, O and Q count over the whole split.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from core.dataset import QueryProtocol
from core.errors import UsageError, UserError
from core.metrics import base, layout, retrieval
from core.registry import METRICS

log = logging.getLogger(__name__)

SCHEMA = 1
VECTORS = ("projection", "token")
# Train scenes behind the class-mean mask: means over more change nothing that can be seen.
MEAN_MASK_SCENES = 2000


@dataclass(frozen=True)
class Side:
    """One side (photographs or queries) of a split.

    vectors: {'projection': float32 (N, 256), 'token': float32 (N, D)}, a row for every scene.
    embedding float32 (O, 128); classes, predicted int32 (O,) vocabulary indices; boxes float32
    (O, 4); obj_to_img int32 (O,): object o is in scene row obj_to_img[o]; masks: predicted masks,
    packed uint8 (O, M * M / 8) (`core.metrics.layout.pack`), or None.
    """

    image_ids: np.ndarray
    vectors: dict[str, np.ndarray]
    embedding: np.ndarray
    classes: np.ndarray
    predicted: np.ndarray
    boxes: np.ndarray
    obj_to_img: np.ndarray
    masks: Optional[np.ndarray]

    @property
    def scenes(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True)
class Photos(Side):
    """true_masks: packed uint8 (O, M * M / 8)."""

    true_masks: np.ndarray


@dataclass(frozen=True)
class Queries(Side):
    """query_to_photo: int32 (Q,), the row in `Photos` of the object depicted, -1 = none."""

    query_to_photo: np.ndarray


@dataclass(frozen=True)
class Triplets:
    """Stage 1: classes, predicted classes of crop and sketch, int32 (B,); embeddings (B, 128)."""

    classes: np.ndarray
    photo_predicted: np.ndarray
    sketch_predicted: np.ndarray
    photo_embedding: np.ndarray
    sketch_embedding: np.ndarray


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
        seed: int = 0,
        vectors: Optional[Sequence[str]] = None,
    ):
        """model: a `core.model.Model`; dataset: a `core.dataset.Dataset`; limit: at most so many
        scenes (or triples) of the split; folder: where pictures go; seed: of the bootstrap and of
        the choice of pictures; vectors: which scene vectors rank photographs, 'projection',
        'token' or both (default: the model's `retrieval_vector`)."""
        self.model, self.dataset = model, dataset
        self.split, self.limit, self.folder = split, limit, folder
        self.step, self.seed = step, seed
        default = getattr(model.hparams, "retrieval_vector", VECTORS[0])
        self.vectors = tuple(vectors) if vectors else (default,)
        for name in self.vectors:
            if name not in VECTORS:
                raise UsageError(f"unknown scene vector '{name}': choose of {', '.join(VECTORS)}")
        self._cache: dict = {}
        self._siblings: dict[str, Evaluation] = {split: self}

    # ------------------------------------------------------------ what metrics read

    def on(self, split: str) -> Evaluation:
        """The same evaluation on another split; its features too are gathered only once."""
        if split not in self._siblings:
            other = Evaluation(
                self.model, self.dataset, split, self.limit, self.folder, self.step, self.seed,
                self.vectors,
            )  # fmt: skip
            other._siblings = self._siblings
            self._siblings[split] = other
        return self._siblings[split]

    @property
    def photos(self) -> Photos:
        """The photographs' side; the same under every protocol."""
        if "photos" not in self._cache:
            self._gather(QueryProtocol())
        return self._cache["photos"]

    def queries(self, protocol: QueryProtocol) -> Queries:
        """The queries' side under `protocol`, scene rows as in `photos`."""
        if protocol not in self._cache:
            self._gather(protocol)
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

    def classified(self, side: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(class, predicted class, group), each int (n,), of the 'photo' or 'sketch' side; values
        of one group (scene) are not independent."""
        if self._has_scenes:
            objects = self.photos if side == "photo" else self.queries(QueryProtocol())
            return objects.classes, objects.predicted, objects.obj_to_img
        triplets = self.triplets()
        predicted = triplets.photo_predicted if side == "photo" else triplets.sketch_predicted
        return triplets.classes, predicted, np.arange(len(predicted))

    def masks(self, view: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(predicted masks, true masks, class, scene) of the 'photo' or 'sketch' view, for objects
        that have a true mask; masks packed uint8 (n, M * M / 8)."""
        photos = self.photos
        if view == "photo":
            return photos.masks, photos.true_masks, photos.classes, photos.obj_to_img
        queries = self.queries(QueryProtocol())
        rows = np.flatnonzero(queries.query_to_photo >= 0)
        true = photos.true_masks[queries.query_to_photo[rows]]
        return queries.masks[rows], true, queries.classes[rows], queries.obj_to_img[rows]

    def class_mean_masks(self) -> np.ndarray:
        """Binarised mean mask of every class over train objects: packed uint8 (K, M * M / 8)."""
        train = self.on("train")
        if "class means" not in train._cache:
            means = None
            limit = min(MEAN_MASK_SCENES, self.limit or MEAN_MASK_SCENES)
            for batch in train.batches(QueryProtocol(), "class-mean masks", limit):
                masks = batch.masks.numpy()
                if means is None:
                    means = layout.MeanMasks(self.dataset.vocabulary.num_classes, masks.shape[1])
                means.add(batch.photo.classes.numpy(), masks)
            train._cache["class means"] = means.result()
        return train._cache["class means"]

    def triplets(self) -> Triplets:
        """Stage 1's features of the split."""
        if "triplets" not in self._cache:
            rows = defaultdict(list)
            for batch in self.batches(QueryProtocol(), "triplets"):
                photo, photo_logits = self.model.embed_photos(batch.positives)
                sketch, sketch_logits = self.model.embed_sketches(batch.sketches)
                rows["classes"].append(batch.classes.numpy())
                rows["photo_predicted"].append(_argmax(photo_logits))
                rows["sketch_predicted"].append(_argmax(sketch_logits))
                rows["photo_embedding"].append(self._finite(photo, "embedding"))
                rows["sketch_embedding"].append(self._finite(sketch, "embedding"))
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
            raise UserError(
                f"the {self.split} split of {self.dataset.name} is empty: there is nothing to "
                "evaluate; prepare the sets with a larger split or choose another"
            )

    # ------------------------------------------------------------ gathering

    @property
    def _has_scenes(self) -> bool:
        return "query" in self.model.batch_type._fields

    def _gather(self, protocol: QueryProtocol) -> None:
        """One pass over the split: the queries under `protocol`, the photographs if still due."""
        photos = _Rows() if "photos" not in self._cache else None
        queries = _Rows()
        scenes = objects = 0  # of the batches before
        for batch in self.batches(protocol, str(protocol)):
            if photos is not None:
                outputs = self.model.encode_photo(batch.crops, batch.photo)
                photos.add(batch.image_ids, batch.photo, outputs, scenes)
                photos.columns["true_masks"].append(layout.pack(batch.masks.numpy()))
            outputs = self.model.encode_query(batch.sketches, batch.query)
            queries.add(batch.image_ids, batch.query, outputs, scenes)
            own = batch.query_to_photo.numpy()
            queries.columns["query_to_photo"].append(np.where(own < 0, -1, own + objects))
            scenes += len(batch.image_ids)
            objects += len(batch.photo.classes)
        if photos is not None:
            self._cache["photos"] = self._checked(photos.side(Photos))
        side = self._checked(queries.side(Queries))
        if not np.array_equal(side.image_ids, self._cache["photos"].image_ids):
            raise RuntimeError("the loader gave other scenes under another query protocol")
        self._cache[protocol] = side

    def _checked(self, side: Side) -> Side:
        for name, vectors in (*side.vectors.items(), ("embedding", side.embedding)):
            self._finite(vectors, name)
        return side

    def _finite(self, vectors, name: str) -> np.ndarray:
        vectors = np.asarray(vectors)
        if not np.isfinite(vectors).all():
            raise UserError(
                f"the model's {name} vectors at step {self.step} are not finite: the run had "
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
        if outputs.masks is not None:
            new["masks"] = layout.pack(np.asarray(outputs.masks))
        for name, rows in new.items():
            self.columns[name].append(np.asarray(rows))

    def side(self, kind: type) -> Side:
        columns = {name: np.concatenate(rows) for name, rows in self.columns.items()}
        vectors = {name: columns.pop(name) for name in VECTORS}
        return kind(vectors=vectors, masks=columns.pop("masks", None), **columns)


def _argmax(logits) -> np.ndarray:
    """float (O, K) -> int32 (O,)."""
    return np.argmax(np.asarray(logits), axis=1).astype(np.int32)


# ---------------------------------------------------------------- running and reporting


def check_metrics(names: Iterable[str], model) -> list[str]:
    """The names, each checked to be registered and to fit `model` (class or instance, its
    `metrics` are the names it can compute; '-test' variants go with them). UsageError otherwise."""
    fitting = set(model.metrics)
    names = list(dict.fromkeys(names))
    for name in names:
        METRICS[name]  # UsageError for a name that is not registered
        if name.removesuffix("-test") not in fitting:
            raise UsageError(
                f"metric '{name}' does not fit model '{model.name}'; these do: "
                f"{', '.join(sorted(fitting))} (and all but pictures with '-test' behind)"
            )
    return names


def run(
    model,
    dataset,
    names: Optional[Sequence[str]],
    folder: Path,
    model_id: str,
    step: int,
    split: str = "valid",
    limit: Optional[int] = None,
    seed: int = 0,
    vectors: Optional[Sequence[str]] = None,
) -> list[base.Result]:
    """Compute the named metrics (None: all that fit the model), print them as one table and save
    them to `<folder>/<split>-step-<step>.json`, replacing that file.

    Metrics named '-test' go to a file of the split test. Arguments as of `Evaluation`; folder is
    `<run>/evaluation`, model_id names the run in the file. Returns the figures and pictures.
    UsageError for metrics that do not fit, UserError for an empty split or a diverged model; an
    error inside a metric is raised, not recorded as a number.
    """
    names = check_metrics(model.metrics if names is None else names, model)
    folder.mkdir(parents=True, exist_ok=True)
    evaluation = Evaluation(model, dataset, split, limit, folder, step, seed, vectors)
    results: list[base.Result] = []
    for name in names:
        started = time.monotonic()
        results += METRICS[name](evaluation)
        log.info("%s: %.1f s", name, time.monotonic() - started)

    figures = [r for r in results if isinstance(r, base.Figure)]
    if figures:
        print(base.table(figures))
    for picture in (r for r in results if isinstance(r, base.Picture)):
        print(f"{picture.metric}: {picture.path}")
    for part in sorted({result.split for result in results}):
        report = {
            "schema": SCHEMA,
            "model": model.name,
            "id": model_id,
            "step": step,
            "loader": dataset.name,
            "split": part,
            "limit": limit,
            "seed": seed,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": {
                "python": platform.python_version(),
                "tensorflow": tf.__version__,
                "numpy": np.__version__,
            },
            "results": [result.to_json() for result in results if result.split == part],
        }
        path = folder / f"{part}-step-{step}.json"
        text = json.dumps(report, indent=1, allow_nan=False) + "\n"
        base.write_atomic(path, text.encode())
        print(f"saved: {path}")
    return results
