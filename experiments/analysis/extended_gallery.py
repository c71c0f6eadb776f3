"""'extended-gallery': how far recall falls when other photographs are added to the gallery.

features file  -> queries and their photographs -+-> ranks at the split alone, and at twice, four
features files -> photographs that distract ----/    times ... as many photographs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core import features, plots
from core.errors import UserError
from core.evaluation import retrieval
from core.evaluation.figures import Figure
from core.evaluation.query_protocols import main_protocol, standard_protocols
from core.experiment import Experiment, ExperimentHParams, Trained
from core.hparams import hp
from core.registry import EXPERIMENTS
from experiments import common
from experiments.search_features import find_file

METRICS = {"sbir-mAP": "mAP", **common.recall_metrics(1, 5, 10, 50, 100)}
PLOTTED = ("sbir-top1", "sbir-top10")
EQUAL = (
    "model",
    "run",
    "step",
    "vector",
    "weights",
)  # equal in all files


@dataclass(frozen=True)
class ExtendedGalleryHParams(ExperimentHParams):
    """Hparams of 'extended-gallery'."""

    featsfile: str = hp("", "features file of the queries: a path, or a name inside results")
    distractors: tuple[str, ...] = hp(
        (), "features files of the same run and step whose photographs are added: [a,b]"
    )


@EXPERIMENTS.register("extended-gallery")
class ExtendedGallery(Experiment):
    """Writes <results>/<features file>_extended_gallery.json, and a picture of its curves.

    Any prepared set can distract: `run-experiment.py extract-features` with its loader in
    --data-loader and its folders in --model-hparams makes a features file of it.
    """

    name = "extended-gallery"
    HParams = ExtendedGalleryHParams

    def prepare(self) -> None:
        super().prepare()
        self.path = find_file(self.hparams.featsfile, self.results)
        names = self.hparams.distractors or ("",)
        self.distractors = [find_file(name, self.results, "distractors") for name in names]
        self.features = features.read(self.path)

    def run(self, trained: Trained | None) -> None:
        file, metadata = self.features, self.features.metadata
        distractors, counts = self._read_distractors()
        order = np.random.default_rng(metadata.seed).permutation(len(distractors))
        gallery = np.concatenate([file.photo_vectors(), distractors[order]])
        sizes = doubling(file.scenes, len(gallery))
        tables = []
        for size in sizes:
            ranks = {
                protocol: retrieval.ranks(
                    file.query_vectors(protocol), gallery[:size], np.arange(file.scenes)
                )
                for protocol in standard_protocols(metadata.own_boxes)
                if protocol.sketches != "shuffled" or size == sizes[-1]
            }
            tables.append(
                retrieval.scene_figures(
                    ranks, METRICS, size, metadata.split, metadata.seed, vector=metadata.vector
                )
            )
        path = self.results / f"{self.path.stem}_extended_gallery.json"
        plot = path.with_suffix(".png")
        plots.save(plot, _curves([figure for table in tables for figure in table], metadata))
        description = (
            f"the {file.scenes} photographs of the split, then more and more of "
            f"{len(distractors)} others in random order"
        )
        notes = [
            f"{each['file']} ({each['loader']}, {each['split']}): {each['added']} photographs "
            f"added, {each['left_out']} left out because the gallery has them already"
            for each in counts
        ]
        common.save_report(
            path, metadata, description, tables, notes, [plot],
            featsfile=self.path.name, distractors=counts,
        )  # fmt: skip

    def _read_distractors(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Return scene vectors of the photographs that are added, float32 (A, D or E), and the
        counts of each file. Only one file is in memory beside them."""
        present = self.features.arrays["image_ids"]
        vectors, counts = [], []
        for path in self.distractors:
            file = features.read(path, photos_only=True)
            self._check_comparable(path, file.metadata)
            ids = file.arrays["image_ids"]
            _, first = np.unique(ids, return_index=True)
            new = np.sort(first[~np.isin(ids[first], present)])
            present = np.concatenate([present, ids[new]])
            vectors.append(file.photo_vectors()[new])
            counts.append({
                "file": path.name, "loader": file.metadata.loader, "split": file.metadata.split,
                "added": len(new), "left_out": len(ids) - len(new),
            })  # fmt: skip
        if not any(len(each) for each in vectors):
            raise UserError(
                "the distractors add nothing: the gallery has all their photographs already; name "
                "features files of other photographs"
            )
        return np.concatenate(vectors), counts

    def _check_comparable(self, path: Path, other: features.Metadata) -> None:
        """Raise UserError for vectors of another model, or of the same one at another step."""
        own = self.features.metadata
        for name in EQUAL:
            there, here = getattr(other, name), getattr(own, name)
            if there != here:
                reason = f"its {name} is {there!r}, not {here!r}"
                if name == "weights":  # two output folders may hold runs of one id
                    reason = "it has other weights, by another run of the same id"
                raise UserError(
                    f"the photographs of {path} cannot distract the queries of {self.path}: "
                    f"{reason}; write both with extract-features from the same checkpoint"
                )


def doubling(first: int, last: int) -> list[int]:
    """Return first, twice, four times ... it, and last."""
    sizes = []
    while first < last:
        sizes.append(first)
        first *= 2
    return [*sizes, last]


def _curves(figures: Sequence[Figure], metadata: features.Metadata) -> bytes:
    """Draw recall over the size of the gallery, in boxes that do not give the answer away."""
    boxes = main_protocol(metadata.own_boxes).boxes
    curves: dict[str, list[tuple[float, ...]]] = {}
    chance: dict[str, list[tuple[float, float]]] = {}
    for figure in figures:
        sketches = figure.labels["sketches"]
        if figure.metric in PLOTTED and figure.labels["boxes"] == boxes and sketches != "shuffled":
            name = f"recall@{figure.metric.removeprefix('sbir-top')}"
            point = (figure.gallery, figure.value, *figure.interval)
            curves.setdefault(f"{sketches} sketches, {name}", []).append(point)
            if sketches == "real":
                chance.setdefault(f"chance, {name}", []).append((figure.gallery, figure.chance))
    return plots.recall_curves(
        curves, chance, "photographs in the gallery", "recall", f"{metadata}: boxes={boxes}",
        logarithmic=True,
    )  # fmt: skip
