"""'sbir-on-features-file': sketch-based image retrieval on a file of 'extract-features'.

features file -> exact ranks under its query protocols -> figures of all queries, of those with two
or more objects, and of each number of objects; a curve over the jitter of boxes; the gallery is
always the whole split
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from core import features, plots
from core.errors import UsageError, UserError
from core.evaluation import picture_grids, retrieval
from core.evaluation.figures import Figure
from core.evaluation.query_protocols import QueryProtocol, main_protocol
from core.evaluation.query_protocols import standard_protocols as shown
from core.experiment import Experiment, ExperimentHParams, Trained
from core.files import make_folder, write_atomic
from core.hparams import hp
from core.registry import EXPERIMENTS
from experiments import common

log = logging.getLogger(__name__)

GALLERY = "the whole split, whichever queries are looked at"


@dataclass(frozen=True)
class RetrievalHParams(ExperimentHParams):
    """Of 'sbir-on-features-file'."""

    featsfile: str = hp("", "features file: a path, or a name inside results")
    vector: str = hp(
        "", "scene vector to rank by; empty: the model's", choices=("", *features.VECTORS)
    )
    save_images: bool = hp(False, "pictures of what was found, from the thumbnails")
    save_images_two_plus: bool = hp(True, "of queries with two or more objects")
    save_images_single: bool = hp(False, "of queries with a single object")
    save_separate: bool = hp(False, "a picture a query instead of pages of them")


@EXPERIMENTS.register("sbir-on-features-file")
class Retrieval(Experiment):
    """Writes <results>/<features file>_sbir.json, pictures into <results>/<features file>_sbir."""

    name = "sbir-on-features-file"
    HParams = RetrievalHParams

    def prepare(self) -> None:
        super().prepare()
        self.path = find_file(self.hparams.featsfile, self.results)
        self.features = features.read(self.path).ranked_by(self.hparams.vector)

    def run(self, trained: Trained | None) -> None:
        file, metadata = self.features, self.features.metadata
        answers = np.arange(file.scenes)
        ranks = {
            protocol: retrieval.ranks(
                file.queries(protocol), file.photos(protocol.directions), answers
            )
            for protocol in file.protocols
        }
        without_shuffled = [
            protocol for protocol in shown(metadata["own_boxes"]) if protocol.sketches != "shuffled"
        ]
        parts = []
        for name, rows in subsets(file.sketched()).items():
            looked_at = file.protocols if name == "all" else without_shuffled
            parts.append(
                retrieval.scene_figures(
                    {protocol: ranks[protocol][rows] for protocol in looked_at},
                    common.scores("mAP", *retrieval.TOP), file.scenes, metadata["split"],
                    metadata["seed"], vector=metadata["vector"], objects=name,
                )
            )  # fmt: skip
        curve = self.results / f"{self.path.stem}_jitter.png"
        plots.save(curve, plots.jitter_curve(*_jitter_curve(parts[0]), common.subject(metadata)))
        common.report(
            self.results / f"{self.path.stem}_sbir.json", metadata,
            f"{GALLERY} ({file.scenes} photographs)", parts,
            pictures=[curve], featsfile=self.path.name,
        )  # fmt: skip
        count = self._save_pictures(ranks[self._pictured]) if self.hparams.save_images else 0
        if count:
            print(f"saved: {count} pictures in {self._folder}")

    @property
    def _pictured(self) -> QueryProtocol:
        return main_protocol(self.features.metadata["own_boxes"])

    # ---- pictures

    @property
    def _folder(self) -> Path:
        return self.results / f"{self.path.stem}_sbir"

    def _save_pictures(self, rank: np.ndarray) -> int:
        """How many were saved; none, with a notice, where thumbnails are missing."""
        ids = self.features.arrays["image_ids"].tolist()
        if not all(
            features.thumbnail(self.path, each, side).is_file()
            for each in ids
            for side in ("photo", "sketch")
        ):
            log.warning(
                "no pictures: %s has not the thumbnails of all scenes; run extract-features with "
                "--exp-hparams save_images=True", features.thumbnails(self.path),
            )  # fmt: skip
            return 0
        make_folder(self._folder, "the folder of pictures", "choose another results")
        sketched = self.features.sketched()
        chosen = {}
        if self.hparams.save_images_two_plus:
            chosen["two_plus"] = np.flatnonzero(sketched >= 2)
        if self.hparams.save_images_single:
            chosen["single"] = np.flatnonzero(sketched == 1)
        count = 0
        for group, scenes in chosen.items():
            found, distances = self._nearest(scenes)
            size = 1 if self.hparams.save_separate else picture_grids.ROWS
            pages = range(0, len(scenes), size)
            for number, start in enumerate(tqdm(pages, group, leave=False, disable=None), start=1):
                page = slice(start, start + size)
                first = scenes[start]
                name = f"{ids[first]}" if self.hparams.save_separate else f"{number:05d}"
                path = self._folder / f"{group}_{name}.jpg"
                self._save_page(path, scenes[page], rank, found[page], distances[page])
            count += len(pages)
        return count

    def _nearest(self, scenes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and distances (n, k) of the photographs nearest to these queries, in blocks: each
        takes some copies of (block, N) float64."""
        queries, photos = self.features.queries(self._pictured), self.features.photos()
        blocks = [
            retrieval.nearest(queries[block], photos, block, picture_grids.TOP)
            for block in (scenes[i : i + 64] for i in range(0, len(scenes), 64))
        ]
        found, distances = zip(*blocks) if blocks else ([scenes], [scenes])
        return np.concatenate(found), np.concatenate(distances)

    def _save_page(
        self,
        path: Path,
        scenes: np.ndarray,
        rank: np.ndarray,
        found: np.ndarray,
        distances: np.ndarray,
    ) -> None:
        file, metadata = self.features, self.features.metadata
        shown = set(scenes.tolist()) | set(found.ravel().tolist())
        ids = self.features.arrays["image_ids"]
        images = {row: read_thumbnail(self.path, ids[row], "photo") for row in shown}
        names, classes = metadata["vocabulary"], file.arrays["query_classes"]
        rows = []
        for scene, order, near in zip(scenes.tolist(), found.tolist(), distances):
            objects = classes[file.arrays["query_obj_to_img"] == scene]
            caption = ", ".join(names[c] for c in objects)
            place = f"rank {rank[scene]} of {file.scenes}"
            drawing = read_thumbnail(self.path, ids[scene], "sketch")
            rows.append(
                picture_grids.search_row(drawing, caption, scene, place, order, near, images)
            )
        title = (
            f"{common.subject(metadata)}: {self._pictured}, by {metadata['vector']}; the right "
            "one has a green frame"
        )
        data = io.BytesIO()
        page = picture_grids.grid(rows, picture_grids.search_heads(found.shape[1]), title)
        page.save(data, "JPEG", quality=90)
        write_atomic(path, data.getvalue())


def read_thumbnail(path: Path, image_id: int, side: str) -> Image.Image:
    """The thumbnail of a scene of the features file, 'photo' or 'sketch'. UserError when it is not
    there or is none."""
    path = features.thumbnail(path, image_id, side)
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            if image.size != (picture_grids.TILE, picture_grids.TILE):
                raise ValueError(f"it has {image.width} x {image.height} pixels")
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"the thumbnail {path} cannot be read ({reason}); run extract-features with "
            "--exp-hparams save_images=True again"
        ) from None


def find_file(name: str, results: Path, hparam: str = "featsfile") -> Path:
    """The features file: an existing path, or a name inside `results`. UsageError when none is
    named, UserError when it is not there; both list the features files in `results`. hparam: that
    names it."""
    if name:
        for path in (Path(name), results / name):
            if path.is_file():
                return path
    there = sorted(path.name for path in results.glob(f"*{features.SUFFIX}"))
    listed = f"features files in {results}: {', '.join(there) or 'none'}"
    if not name:
        raise UsageError(f"--exp-hparams {hparam} is missing: name a features file; {listed}")
    raise UserError(f"{hparam}={name} is neither a file nor the name of one in results; {listed}")


def _jitter_curve(figures: list[Figure]) -> tuple[dict[str, list[tuple[float, ...]]], float]:
    """Points of recall@1 over the amount of jitter, for real and blank sketches; chance."""
    curves: dict[str, list[tuple[float, ...]]] = {"real": [], "blank": []}
    for figure in figures:
        labels = figure.labels
        plain = not {"dropped", "directions"} & set(labels) and labels["boxes"] != "own"
        if figure.metric == "sbir-top1" and plain and labels["sketches"] in curves:
            point = (float(labels.get("jitter", 0)), figure.value, *figure.interval)
            curves[labels["sketches"]].append(point)
            chance = figure.chance
    return {name: sorted(points) for name, points in curves.items()}, chance


def subsets(sketched: np.ndarray) -> dict[str, np.ndarray]:
    """Query rows int (n,) by the number of objects they show: 'all', '2+', '1', '2', ...; those
    without any query are left out. sketched: int (N,)."""
    rows = {"all": np.arange(len(sketched)), "2+": np.flatnonzero(sketched >= 2)}
    rows.update((str(k), np.flatnonzero(sketched == k)) for k in np.unique(sketched).tolist())
    return {name: found for name, found in rows.items() if len(found)}
