"""'sbir-on-features-file': sketch-based image retrieval on a file of 'extract-features'.

features file -> exact ranks under its query protocols -> figures of all queries, of those with two
or more objects, and of each number of objects; a curve over the jitter of boxes; the gallery is
always the whole split
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from core import features, plots
from core.errors import UsageError, UserError
from core.evaluation import picture_grids, retrieval
from core.evaluation.figures import Figure
from core.evaluation.query_protocols import main_protocol, standard_protocols
from core.experiment import Experiment, ExperimentHParams, Trained
from core.files import make_folder
from core.hparams import hp
from core.progress import progress
from core.registry import EXPERIMENTS
from experiments import common

log = logging.getLogger(__name__)

METRICS = {"sbir-mAP": "mAP", **common.recall_metrics(*retrieval.TOP)}


@dataclass(frozen=True)
class SearchFeaturesHParams(ExperimentHParams):
    """Hparams of 'sbir-on-features-file'."""

    featsfile: str = hp("", "features file: a path, or a name inside results")
    vector: str = hp("", "scene vector to rank by; empty: the model's")
    save_images: bool = hp(False, "pictures of what was found, from the thumbnails")
    save_images_two_plus: bool = hp(True, "of queries with two or more objects")
    save_images_single: bool = hp(False, "of queries with a single object")
    save_separate: bool = hp(False, "a picture a query instead of pages of them")


@EXPERIMENTS.register("sbir-on-features-file")
class SearchFeatures(Experiment):
    """Writes <results>/<features file>_sbir.json, pictures into <results>/<features file>_sbir."""

    name = "sbir-on-features-file"
    HParams = SearchFeaturesHParams

    def prepare(self) -> None:
        super().prepare()
        self.path = find_file(self.hparams.featsfile, self.results)
        self.features = features.read(self.path).ranked_by(self.hparams.vector)
        self.pictured = main_protocol(self.features.metadata.own_boxes)

    def run(self, trained: Trained | None) -> None:
        file, metadata = self.features, self.features.metadata
        answers = np.arange(file.scenes)
        ranks = {
            protocol: retrieval.ranks(
                file.query_vectors(protocol), file.photo_vectors(protocol.directions), answers
            )
            for protocol in metadata.protocols
        }
        standard = standard_protocols(metadata.own_boxes)
        without_shuffled = [each for each in standard if each.sketches != "shuffled"]
        tables = []
        for name, rows in query_groups(file.objects_per_query()).items():
            protocols = metadata.protocols if name == "all" else without_shuffled
            tables.append(
                retrieval.scene_figures(
                    {protocol: ranks[protocol][rows] for protocol in protocols},
                    METRICS, file.scenes, metadata.split, metadata.seed,
                    vector=metadata.vector, objects=name,
                )
            )  # fmt: skip
        curve = self.results / f"{self.path.stem}_jitter.png"
        plots.save(curve, _jitter_curve(tables[0], str(metadata)))
        common.save_report(
            self.results / f"{self.path.stem}_sbir.json", metadata,
            f"the whole split, whichever queries are looked at ({file.scenes} photographs)",
            tables, pictures=[curve], featsfile=self.path.name,
        )  # fmt: skip
        if self.hparams.save_images:
            self._save_pictures(ranks[self.pictured])

    # ---- pictures

    def _save_pictures(self, ranks: np.ndarray) -> None:
        """Save pictures of the queries asked for; a warning where thumbnails are missing."""
        if not self._has_thumbnails():
            log.warning(
                "no pictures: %s has not the thumbnails of all scenes; run extract-features with "
                "--exp-hparams save_images=True", features.thumbnail_folder(self.path),
            )  # fmt: skip
            return
        folder = self.results / f"{self.path.stem}_sbir"
        make_folder(folder, "the folder of pictures", "choose another results")
        groups, objects = {}, self.features.objects_per_query()
        if self.hparams.save_images_two_plus:
            groups["two_plus"] = np.flatnonzero(objects >= 2)
        if self.hparams.save_images_single:
            groups["single"] = np.flatnonzero(objects == 1)
        ids, count = self.features.arrays["image_ids"], 0
        for group, scenes in groups.items():
            size = 1 if self.hparams.save_separate else picture_grids.ROWS
            starts = range(0, len(scenes), size)
            for number, start in enumerate(progress(starts, group, unit="pages"), start=1):
                name = ids[scenes[start]] if self.hparams.save_separate else f"{number:05d}"
                page = self._page(scenes[start : start + size], ranks)
                common.save_jpeg(folder / f"{group}_{name}.jpg", page)
            count += len(starts)
        if count:
            print(f"saved: {count} pictures in {folder}")

    def _has_thumbnails(self) -> bool:
        return all(
            features.thumbnail_path(self.path, image_id, side).is_file()
            for image_id in self.features.arrays["image_ids"].tolist()
            for side in ("photo", "sketch")
        )

    def _page(self, scenes: np.ndarray, ranks: np.ndarray) -> Image.Image:
        """Draw a row for each query: its drawing, the right photograph, and those found."""
        metadata, arrays = self.features.metadata, self.features.arrays
        ids, queries = arrays["image_ids"], self.features.query_vectors(self.pictured)[scenes]
        found, distances = retrieval.nearest(
            queries, self.features.photo_vectors(), scenes, picture_grids.TOP
        )
        photos = {
            row: read_thumbnail(self.path, ids[row], "photo")
            for row in {*scenes.tolist(), *found.ravel().tolist()}
        }
        drawings, captions, owners = {}, {}, arrays["query_obj_to_img"]
        for scene in scenes.tolist():
            drawings[scene] = read_thumbnail(self.path, ids[scene], "sketch")
            classes = arrays["query_classes"][owners == scene]
            captions[scene] = ", ".join(metadata.vocabulary[c] for c in classes)
        return picture_grids.search_page(
            f"{metadata}: {self.pictured}, by {metadata.vector}", scenes, ranks[scenes], found,
            distances, len(ids), captions, drawings, photos,
        )  # fmt: skip


def read_thumbnail(features_path: Path, image_id: int, side: str) -> Image.Image:
    """Read a scene's thumbnail, 'photo' or 'sketch'. UserError when it is missing or damaged."""
    path = features.thumbnail_path(features_path, image_id, side)
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            if image.size != (picture_grids.TILE, picture_grids.TILE):
                raise ValueError(f"it has {image.width} x {image.height} pixels")
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"the thumbnail {path} cannot be read ({error}); run extract-features with "
            "--exp-hparams save_images=True again"
        ) from None


def find_file(name: str, results: Path, hparam: str = "featsfile") -> Path:
    """Return the path of a features file, given as a path or as a name inside `results`.

    UsageError when none is named, UserError when it is missing; both list the files in `results`.
    hparam: that names the file, for the message."""
    if name:
        for path in (Path(name), results / name):
            if path.is_file():
                return path
    there = sorted(path.name for path in results.glob(f"*{features.SUFFIX}"))
    listed = f"features files in {results}: {', '.join(there) or 'none'}"
    if not name:
        raise UsageError(f"--exp-hparams {hparam} is missing: name a features file; {listed}")
    raise UserError(f"{hparam}={name} is neither a file nor the name of one in results; {listed}")


def query_groups(objects: np.ndarray) -> dict[str, np.ndarray]:
    """Return query rows int (n,) by the number of objects they show: 'all', '2+', '1', '2', ...;
    groups without a query are left out. objects: int (N,), the number of each query."""
    rows = {"all": np.arange(len(objects)), "2+": np.flatnonzero(objects >= 2)}
    rows.update((str(k), np.flatnonzero(objects == k)) for k in np.unique(objects).tolist())
    return {name: found for name, found in rows.items() if len(found)}


def _jitter_curve(figures: Sequence[Figure], title: str) -> bytes:
    """Draw recall@1 over the jitter of boxes, for real and blank sketches."""
    curves: dict[str, list[tuple[float, ...]]] = {}
    for figure in figures:
        labels = figure.labels
        plain = not {"dropped", "directions"} & set(labels) and labels["boxes"] != "own"
        if figure.metric == "sbir-top1" and plain and labels["sketches"] != "shuffled":
            point = (float(labels.get("jitter", 0)), figure.value, *figure.interval)
            curves.setdefault(f"{labels['sketches']} sketches", []).append(point)
            chance = figure.chance
    return plots.recall_curves(
        {name: sorted(points) for name, points in curves.items()},
        {"chance": [(0, chance), (max(features.JITTERS), chance)]},
        "jitter of the query's boxes, share of a box (0: the photograph's own)", "recall@1", title,
    )  # fmt: skip
