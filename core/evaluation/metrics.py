"""The metrics that are figures, by name: recall@k and mAP of scenes and of objects, nDCG of scenes,
the accuracy of classes, the overlap of masks.

Pictures: `picture_grids` and `generated_pictures`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from core.evaluation import mask_metrics, retrieval
from core.evaluation.figures import Figure, macro_average, mean_figure
from core.evaluation.graded_relevance import graded_search
from core.evaluation.query_protocols import standard_protocols
from core.registry import METRICS

if TYPE_CHECKING:  # TensorFlow is imported when a metric is computed
    from core.evaluation.embedded_split import ComparedMasks, Evaluation


def _scene_figures(evaluation: Evaluation, name: str, kind: str) -> list[Figure]:
    """Return scene recall under the standard protocols, by each vector asked for."""
    dataset = evaluation.dataset
    protocols = standard_protocols(dataset.own_boxes, dataset.has_objects)
    gallery, split, seed = evaluation.photos.num_scenes, evaluation.split, evaluation.seed
    figures = []
    for vector in evaluation.vectors:
        ranks = {protocol: evaluation.scene_ranks(protocol, vector) for protocol in protocols}
        figures += retrieval.scene_figures(ranks, {name: kind}, gallery, split, seed, vector=vector)
    return figures


def _object_figures(evaluation: Evaluation, name: str, kind: str) -> list[Figure]:
    """Return the recall of each object's own crop among all of the split, as mean over classes."""
    rank, classes, scenes = evaluation.object_ranks()
    gallery = evaluation.photos.classes
    values = retrieval.scores(kind, rank)
    figure = mean_figure(
        name, evaluation.split, values, {"average": "macro"}, scenes, classes, evaluation.seed,
        gallery=len(gallery),
        chance=retrieval.chance(kind, len(gallery)),
        ceiling=retrieval.classifier_ceiling(kind, classes, gallery),
        controls={"classes": len(np.unique(classes)), "micro": float(values.mean())},
    )  # fmt: skip
    return [figure]


for _kind in ("mAP", *(f"top{k}" for k in retrieval.TOP)):
    METRICS.register(f"sbir-{_kind}")(functools.partial(_scene_figures, kind=_kind))
    METRICS.register(f"obj-sbir-{_kind}")(functools.partial(_object_figures, kind=_kind))


@METRICS.register("sbir-ndcg@10")
def _graded_figures(evaluation: Evaluation, name: str) -> list[Figure]:
    """Return the nDCG of scenes under the standard protocols, by each vector asked for."""
    searches, labels, controls = {}, {}, {}
    for vector in evaluation.vectors:
        for protocol in standard_protocols(evaluation.dataset.own_boxes):
            kind = (protocol, vector)
            searches[kind] = vector, evaluation.queries(protocol).vectors[vector]
            labels[kind] = {**protocol.labels, "vector": vector}
            if protocol.sketches == "real":
                controls[kind] = {"blank": (protocol.control, vector)}
    found = graded_search(evaluation.photos, searches)
    fitting = {"photographs_that_fit": float(found.fitting.mean())}
    return retrieval.score_figures(
        {name: found.scores}, {name: float(found.chance.mean())}, labels, controls,
        evaluation.split, evaluation.seed, evaluation.photos.num_scenes,
        numbers={(name, kind): fitting for kind in searches},
    )  # fmt: skip


def accuracy_figures(
    name: str,
    split: str,
    classes: np.ndarray,
    predicted: np.ndarray,
    groups: np.ndarray,
    seed: int = 0,
) -> list[Figure]:
    """Return the accuracy as the mean over classes (macro) and over objects (micro).

    classes, predicted, groups: int (n,), as of `EmbeddedObjects`. Chance is always naming the most
    frequent class: 1 / C for the mean over C classes, its share for the mean over objects."""
    right = (classes == predicted).astype(np.float64)
    counts = np.unique(classes, return_counts=True)[1]
    shared = {"groups": groups, "seed": seed, "controls": {"classes": len(counts)}}
    macro = {"classes": classes, "chance": 1 / len(counts)}
    micro = {"chance": float(counts.max() / len(classes))}
    return [
        mean_figure(name, split, right, {"average": average}, **shared, **more)
        for average, more in (("macro", macro), ("micro", micro))
    ]


def _accuracies(evaluation: Evaluation, name: str, view: str) -> list[Figure]:
    _, *objects = evaluation.embedded_objects(view)
    return accuracy_figures(name, evaluation.split, *objects, evaluation.seed)


METRICS.register("embedding-obj-accuracy")(functools.partial(_accuracies, view="photo"))
METRICS.register("embedding-skt-accuracy")(functools.partial(_accuracies, view="sketch"))


@METRICS.register("mask-iou")
def _mask_iou(evaluation: Evaluation, name: str) -> list[Figure]:
    """Return the mean IoU of the predicted masks of each view with the photograph's true masks."""
    views = ("photo", "sketch") if evaluation.dataset.has_queries else ("photo",)
    return [
        mask_iou_figure(name, evaluation, view, evaluation.compared_masks(view)) for view in views
    ]


def mask_iou_figure(name: str, evaluation: Evaluation, view: str, pairs: ComparedMasks) -> Figure:
    """Return the mean IoU of masks predicted from one view."""
    class_means, true = evaluation.class_mean_masks(), pairs.true
    values = mask_metrics.mask_iou(pairs.predicted, true)
    all_ones = mask_metrics.mask_iou(np.full((1, true.shape[1]), 255, np.uint8), true)
    class_mean = mask_metrics.mask_iou(class_means[pairs.classes], true)
    macro = macro_average(values, pairs.classes)
    overlaps = (values, all_ones, class_mean, pairs.scenes, evaluation.seed)
    return mask_metrics.iou_figure(name, evaluation.split, {"view": view}, *overlaps, macro=macro)
