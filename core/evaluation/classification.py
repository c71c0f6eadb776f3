"""Accuracy of the classes that the model predicts for crops and for sketches."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from core.evaluation.figures import Figure, mean_figure
from core.registry import METRICS

if TYPE_CHECKING:
    from core.evaluation.embedded_split import Evaluation


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
