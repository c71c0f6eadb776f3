"""'mixed-queries': some objects of a query as sketches, others as pictures.

Crops and sketches share a space of object vectors, so a query may mix them: a user draws the dog
and shows a picture of the kind of tree that should stand beside it.

a share of the objects of each drawn scene -> crop of such an object in another photograph,
                                              or of the very object (an upper bound)
                                           -> scene vectors -> ranks among all photographs
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from core import plots
from core.evaluation import retrieval
from core.evaluation.embedded_split import EmbeddedPhotos, EmbeddedQueries, Evaluation
from core.evaluation.figure_files import Origin
from core.evaluation.figures import Figure
from core.evaluation.query_protocols import main_protocol
from core.registry import EXPERIMENTS
from experiments import common

SHARES = (0.0, 0.5, 1.0)  # of the objects that are shown as crops
OTHERS, LEAK = "other-photographs", "target-LEAKS"  # where crops are from
NAMES = {OTHERS: "crops of other photographs", LEAK: "crops of the target (leaks)"}
GALLERY = "the photographs of the whole split"
NOTES = (
    f"crops={OTHERS}: a share of the objects of each query is shown as the crop of an object of "
    "the same class in another photograph, which is in the gallery too; the rest as sketches.",
    f"crops={LEAK}: the crop is that of the very photograph that is looked for: an upper bound, "
    "no query of a user.",
    "sketches=blank: white paper in place of the objects that are still sketched. At share=0 it is "
    "what boxes alone do, at share=1 next to nothing is left to be blank.",
)


@EXPERIMENTS.register("mixed-queries")
class MixedQueries(common.SplitExperiment):
    """Writes <results>/<model id>_<loader>_<split>_mixed_queries.json, and a picture of its curve.

    Which objects are shown as crops, and whose, is drawn for each object by the loader's seed, the
    same under all protocols; objects shown as crops at one share are so at all larger ones.
    """

    name = "mixed-queries"
    ending = "_mixed_queries"

    def run_on(self, evaluation: Evaluation) -> None:
        fair = main_protocol(evaluation.dataset.own_boxes)
        drawn = evaluation.queries(fair)
        draws = draw_crops(drawn, evaluation.photos, evaluation.seed)
        sources = {OTHERS: draws.others, LEAK: drawn.query_to_photo}
        tables = [_figures(evaluation, "none", 0.0, np.full(len(drawn.rows), -1))]
        for name, crops in sources.items():
            for share in SHARES[1:]:
                shown = np.where(draws.threshold < share, crops, -1)
                tables.append(_figures(evaluation, name, share, shown))
        sketched = {name: int((crops < 0).sum()) for name, crops in sources.items()}
        note = (
            f"Of {len(drawn.rows)} sketched objects {sketched[OTHERS]} are of a class that no "
            f"other photograph of the split shows, and {sketched[LEAK]} depict nothing in the "
            "photograph: these keep their sketch at any share."
        )
        plot = self.path.with_suffix(".png")
        plots.save(plot, _curves([f for table in tables for f in table], fair.boxes, self.origin))
        common.save_report(
            self.path, self.origin, GALLERY, tables, (*NOTES, note), [plot],
            objects=len(drawn.rows), without_other_crop=sketched[OTHERS],
            depict_nothing=sketched[LEAK],
        )  # fmt: skip


class CropDraw(NamedTuple):
    """The random draw of crops for Q sketched objects. others: int (Q,), photo row of an object of
    the same class in another photograph, -1 where there is none. threshold: float (Q,) in [0, 1):
    the object is shown as a crop at shares above it."""

    others: np.ndarray
    threshold: np.ndarray


def draw_crops(queries: EmbeddedQueries, photos: EmbeddedPhotos, seed: int) -> CropDraw:
    """Draw which objects of a split's queries are shown as crops, and which crops."""
    threshold, choice = np.random.default_rng(seed).random((2, len(queries.classes)))
    # Photo objects in the order of class and photograph: those of a class stand together, and in
    # them those of the query's own photograph, over which the choice jumps.
    _, place = np.unique(photos.image_ids, return_inverse=True)
    own, wanted = (
        side.classes.astype(np.int64) * len(place) + place[side.obj_to_img]
        for side in (photos, queries)
    )
    order = np.argsort(own, kind="stable")
    key = own[order]
    first = np.searchsorted(key, queries.classes.astype(np.int64) * len(place))
    end = np.searchsorted(key, (queries.classes.astype(np.int64) + 1) * len(place))
    gap, gap_end = (np.searchsorted(key, wanted, side) for side in ("left", "right"))
    candidates = (end - first) - (gap_end - gap)
    row = first + (choice * candidates).astype(np.int64)
    row += np.where(row >= gap, gap_end - gap, 0)
    others = np.where(candidates > 0, order[np.minimum(row, len(order) - 1)], -1)
    return CropDraw(others, threshold)


def _figures(evaluation: Evaluation, crops: str, share: float, shown: np.ndarray) -> list[Figure]:
    """Return recall with crops in the place of sketches. shown: int (Q,), photo row of the object
    whose crop stands for the sketch, -1 = the sketch itself."""
    photos, vector = evaluation.photos, evaluation.vectors[0]
    rows, ranks = np.arange(photos.num_scenes), {}
    for protocol in common.compared_protocols(evaluation.dataset.own_boxes):
        queries = evaluation.queries(protocol)
        objects = np.where(shown[:, None] >= 0, photos.objects[shown], queries.objects)
        scenes = evaluation.scene_vectors(objects, queries.boxes, queries.obj_to_img)
        ranks[protocol] = retrieval.ranks(scenes[vector], photos.vectors[vector], rows)
    return retrieval.scene_figures(
        ranks, common.recall_metrics(*retrieval.TOP), photos.num_scenes, evaluation.split,
        evaluation.seed, vector=vector, crops=crops, share=f"{share:g}",
    )  # fmt: skip


def _curves(figures: list[Figure], boxes: str, origin: Origin) -> bytes:
    """Draw recall@1 over the share of crops, in boxes that do not give the answer away."""
    curves: dict[str, list[tuple[float, ...]]] = {}
    for figure in figures:
        labels = figure.labels
        if figure.metric != "sbir-top1" or labels["boxes"] != boxes:
            continue
        share = float(labels["share"])
        for crops in (OTHERS, LEAK) if share == 0 else (labels["crops"],):
            rest = "blank paper" if labels["sketches"] == "blank" else "sketches"
            point = (share, figure.value, *figure.interval)
            curves.setdefault(f"{rest} and {NAMES[crops]}", []).append(point)
    chance = {"chance": [(SHARES[0], figures[0].chance), (SHARES[-1], figures[0].chance)]}
    return plots.recall_curves(
        curves, chance, "share of the objects shown as crops", "recall@1",
        f"{origin}: boxes={boxes}",
    )  # fmt: skip
