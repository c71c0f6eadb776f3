"""Accuracy and what guessing would score."""

import numpy as np
import pytest

from core.evaluation import metrics


def test_accuracy_worked_by_hand():
    classes = np.array([3, 3, 3, 3, 8, 8])
    predicted = np.array([3, 3, 3, 0, 8, 3])
    macro, micro = metrics.accuracy_figures(
        "embedding-obj-accuracy", "valid", classes, predicted, np.arange(6)
    )
    assert macro.value == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert macro.chance == 1 / 2  # always "3": 1 for class 3, 0 for class 8
    assert micro.value == pytest.approx(4 / 6)
    assert micro.chance == pytest.approx(4 / 6)
    assert macro.interval[0] <= macro.value <= macro.interval[1]


def test_always_naming_the_majority_scores_chance():
    classes = np.random.default_rng(0).integers(0, 5, 100)
    guess = np.full(100, np.bincount(classes).argmax())
    for figure in metrics.accuracy_figures("x", "valid", classes, guess, np.arange(100)):
        assert figure.value == pytest.approx(figure.chance)
