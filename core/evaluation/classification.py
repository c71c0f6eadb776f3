"""How well the object encodings are classified, on the photograph's side and on the sketch's."""

from __future__ import annotations

import functools

import numpy as np

from core.evaluation.figures import Figure, bootstrap_interval, macro_average
from core.registry import METRICS


def accuracy(classes: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """1.0 where predicted int (n,) equals classes int (n,), else 0.0: float64 (n,)."""
    classes, predicted = np.asarray(classes), np.asarray(predicted)
    if classes.shape != predicted.shape:
        raise ValueError(f"{classes.shape} classes, but {predicted.shape} predictions")
    return (classes == predicted).astype(np.float64)


def majority_share(classes: np.ndarray) -> float:
    """Share of the most frequent class: the accuracy of always naming it."""
    return float(np.unique(classes, return_counts=True)[1].max() / len(classes))


def accuracy_figures(
    name: str,
    split: str,
    classes: np.ndarray,
    predicted: np.ndarray,
    groups: np.ndarray,
    seed: int = 0,
) -> list[Figure]:
    """Macro and micro accuracy. The chance of each is that of always naming the majority class:
    1 / C for the mean over C classes, the majority's share for the plain mean."""
    right = accuracy(classes, predicted)
    present = len(np.unique(classes))
    return [
        Figure(
            metric=name,
            split=split,
            value=macro_average(right, classes),
            n=len(right),
            labels={"average": "macro"},
            chance=1 / present,
            interval=bootstrap_interval(right, groups, classes, seed=seed),
            controls={"classes": present},
        ),
        Figure(
            metric=name,
            split=split,
            value=float(right.mean()),
            n=len(right),
            labels={"average": "micro"},
            chance=majority_share(classes),
            interval=bootstrap_interval(right, groups, seed=seed),
            controls={"classes": present},
        ),
    ]


def _accuracies(evaluation, name: str, side: str) -> list[Figure]:
    _, classes, predicted, groups = evaluation.embedded_objects(side)
    split, seed = evaluation.split, evaluation.seed
    return accuracy_figures(name, split, classes, predicted, groups, seed)


METRICS.register("embedding-obj-accuracy")(functools.partial(_accuracies, side="photo"))
METRICS.register("embedding-skt-accuracy")(functools.partial(_accuracies, side="sketch"))
