"""'extended-gallery': how far does recall fall when other photographs are added to the gallery?

features file  -> queries and their photographs -+-> ranks at the split alone, and at twice, four
features files -> photographs that distract ----/    times ... as many photographs
"""

from __future__ import annotations

import logging
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

log = logging.getLogger(__name__)

SCORES = common.scores("mAP", 1, 5, 10, 50, 100)
SHOWN = ("sbir-top1", "sbir-top10")  # in the picture
SAME = ("model", "run", "step", "vector")  # of all files


@dataclass(frozen=True)
class ExtendedGalleryHParams(ExperimentHParams):
    """Of 'extended-gallery'."""

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
        added, counts = self._added()
        own = file.photos()
        order = np.random.default_rng(metadata["seed"]).permutation(len(added))
        added = added[order]
        sizes = doubling(len(own), len(own) + len(added))
        ranks = {
            protocol: growing_ranks(file.queries(protocol), own, added, sizes)
            for protocol in standard_protocols(metadata["own_boxes"])
        }
        parts = []
        for number, size in enumerate(sizes):
            parts.append(
                retrieval.scene_figures(
                    {
                        protocol: each[number]
                        for protocol, each in ranks.items()
                        if protocol.sketches != "shuffled" or size == sizes[-1]
                    },
                    SCORES, size, metadata["split"], metadata["seed"], vector=metadata["vector"],
                )
            )  # fmt: skip
        path = self.results / f"{self.path.stem}_extended_gallery.json"
        plot = path.with_suffix(".png")
        plots.save(plot, _curves([figure for part in parts for figure in part], metadata))
        gallery = (
            f"the {len(own)} photographs of the split, then more and more of {len(added)} others "
            "in random order"
        )
        notes = [
            f"{each['file']} ({each['loader']}, {each['split']}): {each['added']} photographs "
            f"added, {each['left_out']} left out because the gallery has them already"
            for each in counts
        ]
        common.report(
            path, metadata, gallery, parts, notes, [plot],
            featsfile=self.path.name, distractors=counts,
        )  # fmt: skip

    def _added(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Scene vectors of the photographs added, float32 (A, D or E), and what came of each file.
        Only one file is in memory beside them."""
        there = self.features.arrays["image_ids"]
        vectors, counts = [], []
        for path in self.distractors:
            file = features.read(path, photos_only=True)
            self._check_same(path, file.metadata)
            ids = file.arrays["image_ids"]
            _, first = np.unique(ids, return_index=True)
            new = np.sort(first[~np.isin(ids[first], there)])
            there = np.concatenate([there, ids[new]])
            vectors.append(file.photos()[new])
            about = {key: file.metadata[key] for key in ("loader", "split")}
            counts.append(
                {"file": path.name, **about, "added": len(new), "left_out": len(ids) - len(new)}
            )
        if not any(len(each) for each in vectors):
            raise UserError(
                "the distractors add nothing: the gallery has all their photographs already; name "
                "features files of other photographs"
            )
        return np.concatenate(vectors), counts

    def _check_same(self, path: Path, other: dict[str, Any]) -> None:
        """Vectors of two models, or of a model at two steps, cannot be compared."""
        mine = self.features.metadata
        for key in SAME:
            if other[key] != mine[key]:
                raise UserError(
                    f"the photographs of {path} cannot distract the queries of {self.path}: its "
                    f"{key} is {other[key]!r}, not {mine[key]!r}; write both with extract-features "
                    "from the same checkpoint"
                )
        if other["weights"] != mine["weights"]:  # two output folders may hold runs of one id
            raise UserError(
                f"the photographs of {path} cannot distract the queries of {self.path}: they were "
                "encoded with other weights, by another run of the same id; write both with "
                "extract-features from the same checkpoint"
            )


def doubling(first: int, last: int) -> list[int]:
    """first, twice, four times ... it, and last."""
    sizes = []
    while first < last:
        sizes.append(first)
        first *= 2
    return [*sizes, last]


def growing_ranks(
    queries: np.ndarray, own: np.ndarray, added: np.ndarray, sizes: Sequence[int]
) -> np.ndarray:
    """`core.evaluation.retrieval.ranks` in galleries that grow: int64 (len(sizes), Q).

    queries, own: float (Q, D), own[q] right for query q. added: float (A, D). sizes: ascending,
    Q to Q + A: the gallery is own and the first of added. Every row of added is looked at once.
    What counts as a tie is the same for all sizes: what does at the last. So ranks never fall.
    """
    answers = np.arange(len(own))
    longest = _longest(queries, own, added)

    def within(gallery: np.ndarray) -> np.ndarray:
        # `ranks` measures ties by the longest vector it sees.
        tolerance = retrieval.TOLERANCE * longest / max(_longest(queries, gallery), 1e-300)
        return retrieval.ranks(queries, gallery, answers, tolerance=tolerance)

    alone = within(own)
    ranks, before = [alone], 0
    for end in (size - len(own) for size in sizes):
        if end > before:
            more = within(np.concatenate([own, added[before:end]])) - alone
            ranks.append(ranks[-1] + more)
            before = end
    return np.stack(ranks)


def _longest(*vectors: np.ndarray) -> float:
    """The length of the longest of all."""
    squares = (np.einsum("ij,ij->i", each, each, dtype=np.float64) for each in vectors)
    return float(np.sqrt(max(each.max(initial=0.0) for each in squares)))


def _curves(figures: list[Figure], metadata: dict[str, Any]) -> bytes:
    """Recall over the size of the gallery, under the boxes that do not give the answer away."""
    boxes = main_protocol(metadata["own_boxes"]).boxes
    curves: dict[str, list[tuple[float, ...]]] = {}
    chance: dict[str, list[tuple[float, float]]] = {}
    for figure in figures:
        sketches = figure.labels["sketches"]
        if figure.metric not in SHOWN or figure.labels["boxes"] != boxes or sketches == "shuffled":
            continue
        name = f"recall@{figure.metric.removeprefix('sbir-top')}"
        point = (figure.gallery, figure.value, *figure.interval)
        curves.setdefault(f"{sketches} sketches, {name}", []).append(point)
        if sketches == "real":
            chance.setdefault(f"chance, {name}", []).append((figure.gallery, figure.chance))
    return plots.recall_curves(
        curves, chance, "photographs in the gallery", "recall",
        f"{common.subject(metadata)}: boxes={boxes}", logarithmic=True,
    )  # fmt: skip
