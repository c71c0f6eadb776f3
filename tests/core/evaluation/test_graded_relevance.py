"""nDCG of scene search against hand-worked cases, scikit-learn and simulation."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from core.evaluation import graded_relevance
from core.evaluation.graded_relevance import (
    discounted_gain,
    graded_search,
    layout_gains,
    ranked_gains,
)
from core.layout_match import LayoutObjects
from tests.core.evaluation.fakes import FakeModel, by_label, evaluate
from tests.core.test_layout_match import plain_score

CORNER, MIDDLE = (0.0, 0.0, 0.4, 0.4), (0.3, 0.3, 0.7, 0.7)


def photographs(*scenes):
    """Each scene: a list of (class, box)."""
    objects = [each for scene in scenes for each in scene]
    return SimpleNamespace(
        num_scenes=len(scenes),
        classes=np.array([label for label, _ in objects], np.int32),
        boxes=np.array([box for _, box in objects], np.float32),
        obj_to_img=np.repeat(np.arange(len(scenes)), [len(scene) for scene in scenes]),
    )


def random_photographs(count, seed=0):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.6, (count, 4, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.4, (count, 4, 2))], axis=2)
    labels = rng.integers(0, 3, (count, 4))
    sizes = rng.integers(1, 5, count)
    scenes = [list(zip(labels[n], boxes[n]))[: sizes[n]] for n in range(count)]
    photos = photographs(*scenes)
    photos.vectors = {"token": rng.standard_normal((count, 5))}
    return photos


def test_gains_worked_by_hand():
    photos = photographs(
        [(7, CORNER), (2, MIDDLE)],
        [(2, MIDDLE), (7, CORNER), (9, CORNER)],  # as the first; a class nobody asked for is free
        [(7, CORNER)],
        [(9, CORNER)],
        [(7, CORNER)] * 9,
    )
    gains = layout_gains(photos, 0)
    # The last: one object of two fits, eight of a class asked for are left over: below 0. One of
    # these stands for the missing object: a pair of score 0, but nothing is left over for it.
    assert gains.tolist() == pytest.approx([1, 1, 0.5, 0, max(0, (1 - 7 * 0.15) / 2)])
    # One object is looked for; of nine eight are left over.
    assert layout_gains(photos, 2)[[2, 1, 4]].tolist() == pytest.approx([1, 1, 0])


def test_gains_are_those_of_every_assignment_tried():
    photos = random_photographs(8)
    sides = []
    for row in range(8):
        rows = photos.obj_to_img == row
        sides.append(LayoutObjects(photos.boxes[rows], np.eye(3)[photos.classes[rows]]))
    for row in (0, 5):
        expected = [max(0, plain_score(sides[row], side)) for side in sides]
        np.testing.assert_allclose(layout_gains(photos, row), expected, atol=1e-6)


@pytest.mark.parametrize("count", [4, 40])
def test_equals_sklearn_without_ties(count):
    photos = random_photographs(count)
    queries = np.random.default_rng(9).standard_normal((count, 5))
    found = graded_search(photos, {"x": ("token", queries)})
    gains = np.stack([layout_gains(photos, row) for row in range(count)])
    apart = np.linalg.norm(queries[:, None] - photos.vectors["token"][None], axis=2)
    expected = [ndcg_score([g], [-d], k=10) for g, d in zip(gains, apart)]
    np.testing.assert_allclose(found.scores["x"], expected, atol=1e-3)
    np.testing.assert_array_equal(found.fitting, (gains > 0.5).sum(1))


def test_blocks_change_nothing(monkeypatch):
    photos = random_photographs(20)
    search = {"x": ("token", photos.vectors["token"][::-1].copy())}
    whole = graded_search(photos, search)
    monkeypatch.setattr(graded_relevance, "BLOCK_ELEMENTS", 60)
    parts = graded_search(photos, search)
    for one, other in zip((whole.scores["x"], *whole[1:]), (parts.scores["x"], *parts[1:])):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("count", [6, 30])
def test_chance_is_the_mean_of_random_orders(count):
    photos = random_photographs(count, seed=1)
    gains = np.stack([layout_gains(photos, row) for row in range(count)])
    ideal = discounted_gain(-np.sort(-gains))
    rng = np.random.default_rng(0)
    orders = [rng.permuted(gains, axis=1) for _ in range(3000)]
    simulated = np.mean([discounted_gain(order) / ideal for order in orders])
    assert graded_search(photos, {}).chance.mean() == pytest.approx(simulated, abs=0.003)


def test_ties_count_against_the_query():
    gains = np.array([[1.0, 0.2, 0.0, 0.5]])
    near = ranked_gains(gains, np.array([[1.0, 1.0, 1.0, 1.0]]), 0.0)
    assert near.tolist() == [[0, 0.2, 0.5, 1]]
    rounded = np.array([[1.0, 1.0 + 1e-7, 1.0 + 2e-7, 2.0]])
    assert ranked_gains(gains, rounded, 1e-5).tolist() == [[0, 0.2, 1, 0.5]]


def test_a_collapsed_model_is_at_or_below_chance_and_one_that_sees_above_its_control(tmp_path):
    figures = evaluate(FakeModel("collapsed"), ["sbir-ndcg@10"], tmp_path)
    assert len(figures) == 6
    assert all(figure.value <= figure.chance for figure in figures)
    real = by_label(
        evaluate(FakeModel("sees"), ["sbir-ndcg@10-test"], tmp_path),
        boxes="jittered", sketches="real", vector="projection",
    )  # fmt: skip
    assert real.split == "test" and real.value > real.chance
    assert real.controls["minus_blank_low"] > 0
    assert real.controls["photographs_that_fit"] >= 1
