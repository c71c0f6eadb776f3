"""'fused-ranking': photographs ranked by scene vectors, by the layout of objects, and by both.

a run of graph-attention -> scene vectors            -> 'learned' -+
                         -> classes of objects, boxes -> 'layout' -+-> z-scores, weighted -> 'fused'
a run of whole-scene     -> vectors of whole pictures -> 'whole' --+

Weights are chosen on the validation split. A split is never ranked with weights chosen on the same
queries: of the validation split, each half takes those that the other half chose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.distance import cdist

from core import layout_match
from core.errors import EmptySplitError, UsageError, UserError
from core.evaluation import fusion, retrieval
from core.evaluation.embedded_split import EmbeddedScenes, Evaluation
from core.evaluation.query_protocols import SKETCHES, main_protocol
from core.hparams import hp
from core.layout_match import LayoutObjects
from core.model import WholeSceneModel
from core.progress import progress
from core.registry import EXPERIMENTS
from experiments import common

METRICS = {"sbir-mAP": "mAP", **common.recall_metrics(*retrieval.TOP)}
KINDS = (*((sketches, "guessed") for sketches in SKETCHES), ("real", "given"), ("real", "none"))
NOTES = (
    "ranking=learned: by the scene vector; layout: by classes and boxes of the objects, as the "
    "search in one's own photographs does; whole: by the vectors of another run that sees whole "
    "pictures; fused: the weighted sum of their z-scores over the gallery.",
    "labels=guessed: the model names the class of each drawn object and each crop; given: drawn "
    "objects are labelled, and photographs annotated; none: all objects are alike, so boxes alone "
    "are left. Other controls have guessed labels, which blank paper gets as well.",
)


@dataclass(frozen=True)
class FusedRankingHParams(common.SplitHParams):
    """Hparams of 'fused-ranking'."""

    whole: str = hp("", "folder of a run that sees whole pictures: a third ranking", folder=True)
    weights: tuple[float, ...] = hp(
        (), "of learned, layout and whole, as [0.5,0.5]; none: chosen on the validation split"
    )


@EXPERIMENTS.register("fused-ranking")
class FusedRanking(common.SplitExperiment):
    """Writes <results>/<model id>_<loader>_<split>_fused_ranking.json."""

    name = "fused-ranking"
    ending = "_fused_ranking"
    HParams = FusedRankingHParams

    def prepare(self) -> None:
        from core.run import Run  # it reads sketches: experiments on files need no loader

        super().prepare()
        self.whole = Run.open(self.hparams.whole) if self.hparams.whole else None
        if self.whole and not isinstance(self.whole.model, WholeSceneModel):
            raise UserError(f"the run {self.hparams.whole} does not see whole pictures")
        self.rankings = ("learned", "layout", *(["whole"] if self.whole else []))
        self.grid = fusion.weight_grid(len(self.rankings))
        if self.hparams.weights:
            weights = np.array(self.hparams.weights)
            if weights.shape != self.grid.shape[1:] or (weights < 0).any() or not weights.any():
                raise UsageError(f"weights: give one from 0 on for each of {self.rankings}")
            self.grid = np.concatenate([[weights / weights.sum()], self.grid])

    def run_on(self, evaluation: Evaluation) -> None:
        whole = self.whole and Evaluation(self.whole.model, evaluation.dataset, evaluation.split)
        scenes = np.arange(evaluation.photos.num_scenes)
        ranks, chosen, notes = {}, {}, list(NOTES)
        for sketches, labels in KINDS:
            found = self._ranks(evaluation, whole, sketches, labels)
            if sketches == "real" and labels != "none":
                choices = self._choose(evaluation, whole, labels, found)
                chosen[labels] = dict(zip(self.rankings, self.grid[choices[-1]].tolist()))
                notes.append(f"labels={labels}: {self._told(choices)}")
            for column, name in enumerate(self.rankings):
                if labels == "guessed" or name == "layout":  # the others know no labels
                    (alone,) = np.flatnonzero(self.grid[:, column] == 1)[-1:]
                    ranks[name, sketches, labels] = found[:, alone]
            if labels != "none":
                ranks["fused", sketches, labels] = found[scenes, np.array(choices)[scenes % 2]]
        protocol = main_protocol(evaluation.dataset.own_boxes)
        controls = {
            (name, sketches, labels): {
                control: (name, control, "guessed") for control in SKETCHES if control != "real"
            } | ({"learned": ("learned", "real", "guessed")} if name == "fused" else {})
            | {"boxes": ("layout", "real", "none")}
            for name, sketches, labels in ranks
            if sketches == "real" and labels != "none"
        }  # fmt: skip
        shown = {
            (name, sketches, labels): {
                "ranking": name, "labels": labels, **replace(protocol, sketches=sketches).labels
            }
            for name, sketches, labels in ranks
        }  # fmt: skip
        figures = retrieval.rank_figures(
            ranks, shown, controls, METRICS, len(scenes), evaluation.split, evaluation.seed
        )
        common.save_report(
            self.path, self.origin, "the photographs of the whole split", [figures], notes,
            whole=self.hparams.whole, weights=chosen,
        )  # fmt: skip

    def _choose(
        self, evaluation: Evaluation, whole: Evaluation | None, labels: str, ranks: np.ndarray
    ) -> tuple[int, int, int]:
        """Return the weights, as rows of the grid, for even and odd queries, and those to use with
        others. ranks: int (N, G), of this split with real sketches."""
        if self.hparams.weights:
            return 0, 0, 0
        if evaluation.split == "valid":
            return tuple(map(fusion.best_weights, (ranks[1::2], ranks[::2], ranks)))
        valid, whole = (each and each.for_split("valid") for each in (evaluation, whole))
        try:
            valid.embed()
        except EmptySplitError as error:
            raise UserError(f"{error}; or name weights that another set has chosen") from None
        return (fusion.best_weights(self._ranks(valid, whole, "real", labels)),) * 3

    def _told(self, choices: tuple[int, int, int]) -> str:
        even, odd, best = (
            ", ".join(f"{name} {w:g}" for name, w in zip(self.rankings, self.grid[choice]))
            for choice in choices
        )
        if self.hparams.weights:
            return f"weights as given: {best}"
        text = f"weights of the highest mAP on the validation split: {best}"
        same = even == odd == best
        return text if same else f"{text}; its even queries are ranked with {even}, odd with {odd}"

    def _ranks(
        self, evaluation: Evaluation, whole: Evaluation | None, sketches: str, labels: str
    ) -> np.ndarray:
        """Return the rank of each query's photograph with all weights of the grid: int (N, G)."""
        every = _scores(evaluation, whole, sketches, labels)
        rows = progress(every, f"rankings, {sketches}, {labels}", unit="queries")
        found = [fusion.ranks_by_weights(each, self.grid, row) for row, each in enumerate(rows)]
        return np.array(found)


def _scores(
    evaluation: Evaluation, whole: Evaluation | None, sketches: str, labels: str
) -> Iterator[np.ndarray]:
    """Yield the scores of all photographs for each query, by learned, layout (and whole) ranking:
    float64 (R, N), the more the better."""
    protocol = replace(main_protocol(evaluation.dataset.own_boxes), sketches=sketches)
    photos, queries = evaluation.photos, evaluation.queries(protocol)
    by_vectors = [
        (each.queries(protocol).vectors[name], each.photos.vectors[name])
        for each in (evaluation, whole)
        if each
        for name in each.vectors[:1]
    ]
    classes = evaluation.dataset.vocabulary.num_classes
    there, drawn = (_layout_objects(side, labels, classes) for side in (photos, queries))
    if labels != "given":
        weight = layout_match.GUESS_WEIGHT if labels == "guessed" else 0
        drawn = drawn._replace(probabilities=drawn.probabilities * np.float32(weight))
    scenes = np.arange(photos.num_scenes)
    ends = np.searchsorted(photos.obj_to_img, scenes, "right")
    query_ends = np.searchsorted(queries.obj_to_img, scenes, "right")
    for row, own in enumerate(map(slice, [0, *query_ends[:-1]], query_ends)):
        layout = layout_match.layout_scores(
            LayoutObjects(*(column[own] for column in drawn)), there, ends
        )
        learned, *others = (-cdist(a[row, None], b)[0] for a, b in by_vectors)
        yield np.stack([learned, layout, *others])


def _layout_objects(side: EmbeddedScenes, labels: str, classes: int) -> LayoutObjects:
    named = side.classes[:, None] == np.arange(classes)
    probabilities = named.astype(np.float32) if labels == "given" else side.probabilities
    return LayoutObjects(side.boxes, np.asfortranarray(probabilities))
