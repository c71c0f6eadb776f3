"""Layout match against a plain search through all assignments."""

import itertools

import numpy as np
import pytest

from core import layout_match
from core.layout_match import LayoutObjects


def objects(rng, count, classes=5, soft=True):
    low = rng.uniform(0, 0.6, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.4, (count, 2))], axis=1)
    logits = (
        rng.normal(0, 2, (count, classes))
        if soft
        else 50.0 * np.eye(classes)[rng.integers(classes, size=count)]
    )
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return LayoutObjects(boxes.astype(np.float32), odds / odds.sum(1, keepdims=True))


def plain_score(drawn, photographed):
    """Try every assignment of drawn objects to photographed ones or to nothing."""
    pairs = np.zeros((len(drawn.boxes), len(photographed.boxes)))
    likely = np.zeros(len(photographed.boxes))
    for q, (box, odds) in enumerate(zip(*drawn)):
        for o, (other, other_odds) in enumerate(zip(*photographed)):
            same = float(odds @ other_odds) + 1 - odds.sum()
            gap = np.hypot(*((box[:2] + box[2:] - other[:2] - other[2:]) / 2))
            sizes = np.log((box[2:] - box[:2]) / (other[2:] - other[:2]))
            spread = gap**2 / (2 * 0.15**2) + sizes @ sizes / (2 * 0.7**2)
            pairs[q, o] = same * (0.2 + 0.8 * np.exp(-spread))
            likely[o] = max(likely[o], same)
    places = [*range(len(photographed.boxes)), *[None] * len(drawn.boxes)]
    best = -np.inf
    for chosen in set(itertools.permutations(places, len(drawn.boxes))):
        value = sum(pairs[q, o] for q, o in enumerate(chosen) if o is not None)
        value -= 0.15 * sum(likely[o] for o in range(len(likely)) if o not in chosen)
        best = max(best, value)
    return best / len(drawn.boxes)


def gallery(rng, counts):
    parts = [objects(rng, count) for count in counts]
    together = LayoutObjects(*(np.concatenate(column) for column in zip(*parts)))
    return parts, together, np.cumsum(counts)


@pytest.mark.parametrize("drawn_count", [1, 2, 3])
def test_scores_equal_those_of_every_assignment_tried(drawn_count, monkeypatch):
    monkeypatch.setattr(layout_match, "LEAST_CHANCE", 0)  # every class is looked at
    rng = np.random.default_rng(drawn_count)
    drawn = objects(rng, drawn_count)
    sure = rng.uniform(0.5, 1, (drawn_count, 1))
    drawn = drawn._replace(probabilities=drawn.probabilities * sure)
    parts, together, ends = gallery(rng, [0, 1, 2, 4, 0, 3, 4, 0])
    scores = layout_match.layout_scores(drawn, together, ends)
    expected = [plain_score(drawn, each) for each in parts]
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_the_best_by_the_bound_are_exact_and_stand_before_the_rest():
    rng = np.random.default_rng(3)
    drawn = objects(rng, 3)
    _, together, ends = gallery(rng, rng.integers(0, 9, 200))
    exact = layout_match.layout_scores(drawn, together, ends)
    some = layout_match.layout_scores(drawn, together, ends, states=20 << 3)
    kept = np.flatnonzero(np.isclose(some, exact, atol=1e-7))
    assert len(kept) >= 20
    assert some[np.argsort(-some)[:20]].min() >= np.delete(some, np.argsort(-some)[:20]).max()
    assert some.argmax() == exact.argmax()


def test_a_mirrored_drawing_finds_the_mirror_image():
    drawn = objects(np.random.default_rng(4), 3, soft=False)
    flipped = drawn._replace(boxes=(drawn.boxes * [-1, 1, -1, 1] + [1, 0, 1, 0])[:, [2, 1, 0, 3]])
    together = LayoutObjects(*(np.concatenate(both) for both in zip(drawn, flipped)))
    ends = np.array([3, 6])
    assert layout_match.layout_scores(drawn, together, ends).argmax() == 0
    assert layout_match.layout_scores(flipped, together, ends).argmax() == 1
    assert layout_match.layout_scores(drawn, together, ends)[0] == pytest.approx(1, abs=1e-5)


def test_each_photographed_object_stands_for_one_drawn_object():
    two_dogs = LayoutObjects(np.array([[0, 0, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9]]), np.eye(2)[[0, 0]])
    one_dog = LayoutObjects(two_dogs.boxes[:1], np.eye(2)[[0]])
    ((q, o, score),) = layout_match.match(two_dogs, one_dog)
    assert (q, o, score) == (0, 0, pytest.approx(1))
    assert layout_match.layout_scores(two_dogs, one_dog, np.array([1]))[0] == pytest.approx(0.5)
    assert layout_match.layout_scores(one_dog, two_dogs, np.array([2]))[0] == pytest.approx(0.85)


def test_a_gallery_without_objects_scores_nothing():
    nothing = LayoutObjects(np.zeros((0, 4)), np.zeros((0, 5)))
    scores = layout_match.layout_scores(
        objects(np.random.default_rng(5), 2), nothing, np.zeros(3, int)
    )
    assert scores.tolist() == [0, 0, 0]
