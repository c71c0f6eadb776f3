"""'flipped-sketches': whether a model knows left from right.

drawn scenes, as drawn and mirrored -+-> ranks among all photographs and their mirror images
                                     +-> ranks among the photographs alone
                                     +-> which comes first, the photograph or its mirror image
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from core.evaluation import retrieval
from core.evaluation.embedded_split import Evaluation
from core.evaluation.query_protocols import QueryProtocol
from core.model import SceneModel
from core.registry import EXPERIMENTS
from experiments import common

NOTES = (
    "How to read it: a model that knows left from right ranks the unflipped photograph before its "
    "mirror image for a drawing as it was drawn (unflipped-first near 1), and behind it for the "
    "mirrored drawing (unflipped-first near 0, mirror-first near 1).",
    "Both near 0.5 is what guessing gives; what the two lack to 1 together are ties. Rows of blank "
    "sketches show how much of it the boxes do alone.",
)


@EXPERIMENTS.register("flipped-sketches")
class FlippedSketches(common.SplitExperiment):
    """Writes <results>/<model id>_<loader>_<split>_flipped_sketches.json.

    A mirrored query is the mirror image of the query as drawn: of every sketch and every box, its
    jitter included. So the two differ in nothing but their orientation.
    """

    name = "flipped-sketches"
    model_type = SceneModel
    ending = "_flipped_sketches"

    def run_on(self, drawn: Evaluation) -> None:
        split, seed, vector = drawn.split, drawn.seed, drawn.vectors[0]
        mirrored = drawn.mirror()
        photos, mirror = (each.photos.vectors[vector] for each in (drawn, mirrored))
        both, rows = np.concatenate([photos, mirror]), np.arange(len(photos))
        protocols = common.compared_protocols(drawn.dataset.own_boxes)
        recall, tables = common.recall_metrics(*retrieval.TOP), []
        for kind, evaluation, right in (
            ("as-drawn", drawn, rows), ("mirrored", mirrored, rows + len(photos)),
        ):  # fmt: skip
            queries = {each: evaluation.queries(each).vectors[vector] for each in protocols}
            figures = functools.partial(
                retrieval.scene_figures, split=split, seed=seed, vector=vector, query=kind
            )
            first = _rank_all(queries, rank_of_two, photos, mirror)
            behind = _rank_all(queries, rank_of_two, mirror, photos)
            among_both = _rank_all(queries, retrieval.ranks, both, right)
            alone = _rank_all(queries, retrieval.ranks, photos, rows)
            tables += [
                figures(first, {"unflipped-first": "top1"}, 2)
                + figures(behind, {"mirror-first": "top1"}, 2),
                figures(among_both, recall, len(both), photographs="unflipped+mirrored"),
                figures(alone, recall, len(photos), photographs="unflipped"),
            ]
        common.save_report(
            self.path,
            self.origin,
            f"{len(photos)} photographs and their mirror images (photographs=unflipped+mirrored; "
            "right is the one of the query's orientation), or the photographs alone "
            "(photographs=unflipped; right is the photograph, whatever the query's orientation)",
            tables,
            NOTES,
        )


def _rank_all(
    queries: Mapping[QueryProtocol, np.ndarray],
    rank: Callable[..., np.ndarray],
    *candidates: np.ndarray,
) -> dict[QueryProtocol, np.ndarray]:
    """Return rank(vectors, *candidates) under each protocol."""
    return {protocol: rank(vectors, *candidates) for protocol, vectors in queries.items()}


def rank_of_two(queries: np.ndarray, right: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the rank of right[n] among right[n] and other[n] for query n, 1 or 2: int64 (N,). All
    are float (N, D). As in `core.evaluation.retrieval.ranks`, ties count against the right one."""
    queries, right, other = (each.astype(np.float64) for each in (queries, right, other))
    longest = max(np.linalg.norm(each, axis=1).max() for each in (queries, right, other))
    near, far = (np.linalg.norm(queries - each, axis=1) for each in (right, other))
    return 1 + (far <= near + retrieval.TOLERANCE * longest).astype(np.int64)
