"""'scene-tsne': the photographs of a split as a map, scenes with similar vectors side by side.

features file -> t-SNE of the photographs' scene vectors -> each to a cell of a square grid
    -> a page of photographs, a page of the queries of the photographs in the same cells
    -> how far neighbours on the map, and on the grid, are neighbours by their vectors
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core import features
from core.errors import UserError
from core.evaluation import picture_grids
from core.evaluation.figures import Figure
from core.experiment import Experiment, ExperimentHParams, Trained
from core.hparams import hp
from core.registry import EXPERIMENTS
from experiments import common
from experiments.search_features import find_file, read_thumbnail

log = logging.getLogger(__name__)

MAX_SCENES = 1600  # scenes: more make neither the t-SNE nor the page any clearer
PAGE = 2400  # pixels, at most, of a side of the grid
NEIGHBOURS = 5  # that the figures look at
HEAD, GAP = 34, 3  # pixels of the title, between pictures


NOTE = (
    "trustworthiness (Venna and Kaski 2001): 1 when all neighbours there are neighbours by their "
    "vectors; chance: the same pictures in cells at random"
)


@dataclass(frozen=True)
class SceneTsneHParams(ExperimentHParams):
    """Hparams of 'scene-tsne'."""

    featsfile: str = hp("", "features file with thumbnails: a path, or a name inside results")


@EXPERIMENTS.register("scene-tsne")
class SceneTsne(Experiment):
    """Writes <results>/<features file>_scene_tsne.json, and pages _photos.jpg and _queries.jpg."""

    name = "scene-tsne"
    HParams = SceneTsneHParams

    def prepare(self) -> None:
        super().prepare()
        self.path = find_file(self.hparams.featsfile, self.results)
        self.features = features.read(self.path, photos_only=True)
        if self.features.scenes < 2:
            raise UserError(f"{self.path} has a single scene: there is nothing to map")

    def run(self, trained: Trained | None) -> None:
        file, metadata = self.features, self.features.metadata
        rows = np.arange(file.scenes)
        if file.scenes > MAX_SCENES:
            rows = np.sort(picture_grids.random_rows(file.scenes, MAX_SCENES, metadata.seed))
            log.info("%d of %d scenes, drawn by the seed", MAX_SCENES, file.scenes)
        ids = file.arrays["image_ids"][rows].tolist()
        vectors = file.photo_vectors()[rows]
        points = picture_grids.tsne(vectors, metadata.seed)
        cells = assign_cells(points)

        stem = f"{self.path.stem}_scene_tsne"
        count = f"{len(rows)} of {file.scenes}" if len(rows) < file.scenes else file.scenes
        title = (
            f"{metadata}: t-SNE of {count} photographs by {metadata.vector}, each in a cell of its "
            "own"
        )
        pages = []
        for side, name, more in (
            ("photo", "photos", ""),
            ("sketch", "queries", "; shown are their queries"),
        ):
            pages.append(self.results / f"{stem}_{name}.jpg")
            pictures = (read_thumbnail(self.path, image_id, side) for image_id in ids)
            common.save_jpeg(pages[-1], mosaic(pictures, cells, title + more))
        common.save_report(
            self.results / f"{stem}.json", metadata, None,
            [_figures(vectors, points, cells, metadata)], [NOTE], pages,
            featsfile=self.path.name, cells=cells.tolist(), image_ids=ids,
        )  # fmt: skip


def assign_cells(points: np.ndarray) -> np.ndarray:
    """Assign each point float (n, 2) a cell (column, row) of the smallest square grid that has one
    for each: int64 (n, 2), with the least sum of squared distances when the points are stretched to
    fill the grid."""
    from scipy.optimize import linear_sum_assignment  # as matplotlib in core.plots: not for --help

    side = math.isqrt(len(points) - 1) + 1
    low, spread = points.min(axis=0), np.ptp(points, axis=0)
    stretched = (points - low) / np.where(spread > 0, spread, 1) * (side - 1)
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
    cost = ((stretched[:, None] - cells) ** 2).sum(-1)
    return cells[linear_sum_assignment(cost)[1]]


def mosaic(pictures: Iterable[Image.Image], cells: np.ndarray, title: str) -> Image.Image:
    """Draw a page with each picture in its cell (column, row)."""
    side = int(cells.max()) + 1
    step = min(picture_grids.TILE + GAP, PAGE // side)
    font = ImageFont.load_default(size=15)
    width = max(side * step, round(font.getlength(title)) + picture_grids.GAP) + GAP
    page = Image.new("RGB", (width, HEAD + side * step), "white")
    ImageDraw.Draw(page).text((GAP, GAP), title, picture_grids.INK, font)
    for picture, (column, row) in zip(pictures, cells.tolist()):
        size = (step - GAP, step - GAP)
        tile = picture_grids.frame(
            picture.resize(size, Image.Resampling.LANCZOS), picture_grids.GREY, 1
        )
        page.paste(tile, (GAP + column * step, HEAD + row * step))
    return page


def _figures(
    vectors: np.ndarray, points: np.ndarray, cells: np.ndarray, metadata: features.Metadata
) -> list[Figure]:
    """Return how far the map and the grid can be trusted; nothing for fewer than four scenes."""
    from sklearn.manifold import trustworthiness

    count = len(vectors)
    neighbours = min(NEIGHBOURS, (count - 1) // 2)
    if count < 4:
        return []

    def trust(positions: np.ndarray) -> float:
        return float(trustworthiness(vectors, positions, n_neighbors=neighbours))

    anywhere = cells[np.random.default_rng(metadata.seed).permutation(count)]
    return [
        Figure(
            "tsne-trustworthiness", metadata.split, trust(positions), count,
            {"vector": metadata.vector, "of": of, "neighbours": str(neighbours)},
            chance=trust(anywhere),
        )
        for of, positions in (("map", points), ("grid", cells))
    ]  # fmt: skip
