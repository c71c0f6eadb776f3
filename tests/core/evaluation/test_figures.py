"""Averages, the bootstrap interval and the table."""

import numpy as np
import pytest

from core.evaluation import figures


def test_macro_average_worked_by_hand():
    # class 4: (1 + 0) / 2, class 9: (1 + 1 + 0.5) / 3
    values, classes = np.array([1, 1, 0, 1, 0.5]), np.array([4, 9, 4, 9, 9])
    assert figures.macro_average(values, classes) == pytest.approx((1 / 2 + 2.5 / 3) / 2)


def test_interval_is_seeded_and_holds_the_mean():
    values = np.random.default_rng(0).random(200)
    low, high = figures.bootstrap_interval(values, seed=3)
    assert (low, high) == figures.bootstrap_interval(values, seed=3)
    assert (low, high) != figures.bootstrap_interval(values, seed=4)
    assert low < values.mean() < high


def test_interval_of_a_share_is_near_the_normal_one():
    values = np.repeat([0.0, 1.0], [300, 100])  # p = 0.25, standard error sqrt(p q / n) = 0.02165
    low, high = figures.bootstrap_interval(values, resamples=4000)
    assert low == pytest.approx(0.25 - 1.96 * 0.02165, abs=0.004)
    assert high == pytest.approx(0.25 + 1.96 * 0.02165, abs=0.004)


def test_values_that_repeat_within_scenes_widen_the_interval():
    scenes = np.random.default_rng(0).random(50)
    values, groups = np.repeat(scenes, 8), np.repeat(np.arange(50), 8)
    alone = np.subtract(*figures.bootstrap_interval(values))
    together = np.subtract(*figures.bootstrap_interval(values, groups))
    single = np.subtract(*figures.bootstrap_interval(scenes))
    assert together == pytest.approx(single, rel=0.1)  # eight copies tell nothing new
    assert together / alone == pytest.approx(np.sqrt(8), rel=0.15)


def test_macro_interval_equals_a_slow_bootstrap():
    rng = np.random.default_rng(1)
    values, classes, groups = rng.random(60), rng.integers(0, 4, 60), np.arange(60) // 3
    means = []
    for _ in range(3000):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in rng.integers(0, 20, 20)])
        means.append(np.mean([values[rows][classes[rows] == c].mean() for c in set(classes[rows])]))
    expected = np.percentile(means, [2.5, 97.5])
    own = figures.bootstrap_interval(values, groups, classes, resamples=3000)
    np.testing.assert_allclose(own, expected, atol=0.01)


def test_intervals_of_columns_equal_those_of_each():
    values = np.random.default_rng(2).random((70, 3)) * (1, 2, 0)
    together = figures.bootstrap_intervals(values, resamples=300, seed=5)
    each = [figures.bootstrap_interval(column, resamples=300, seed=5) for column in values.T]
    np.testing.assert_allclose(together, each, rtol=1e-12)
    groups = np.random.default_rng(3).integers(0, 20, 70)
    together = figures.bootstrap_intervals(values, groups, resamples=300, seed=5)
    each = [
        figures.bootstrap_interval(column, groups, resamples=300, seed=5) for column in values.T
    ]
    np.testing.assert_allclose(together, each, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 3, 700])
def test_every_resample_draws_as_many_as_there_are(n):
    blocks = list(figures._resample_counts(n, 2000, seed=1))
    weights = np.concatenate(blocks)
    assert weights.shape == (2000, n)
    assert np.all(weights.sum(axis=1) == n)
    # How often a unit is drawn has variance n (1/n) (1 - 1/n); the mean over 2000 n draws is 1.
    assert weights.var() == pytest.approx(1 - 1 / n, abs=0.05)
    assert np.abs(weights.mean(axis=0) - 1).max() < 5 / np.sqrt(2000)


def test_table_is_aligned_and_complete():
    shown = [
        figures.Figure(
            "sbir-mAP", "valid", 0.5, 10, {"boxes": "shared"}, 10, 0.29, None, (0.4, 0.6)
        ),
        figures.Figure("mask-iou", "valid", 0.71234, 1234, controls={"all_ones": 0.53}),
    ]
    lines = figures.table(shown).splitlines()
    assert len(lines) == 4
    assert "boxes=shared" in lines[2]
    assert "0.400 - 0.600" in lines[2]
    assert "all_ones=0.53" in lines[3]
    assert lines[2].index("0.500") == lines[3].index("0.712")


def test_the_summary_has_what_counts():
    """Searches with real sketches in own boxes, their control and difference; masks with theirs."""
    searches = [
        figures.Figure(
            "sbir-top1-test", "test", value, 9, {"boxes": boxes, "sketches": kind, "vector": "v"},
            8, 0.125, controls=figures.difference("blank", 0.25, (-0.125, 0.5)),
        )
        for value, boxes, kind in (
            (0.75, "own", "real"), (0.5, "own", "blank"), (1.0, "shared", "real"),
        )
    ]  # fmt: skip
    masks = figures.Figure(
        "mask-iou", "test", 0.5, 9, {"view": "photo"},
        controls={"all_ones": 0.1, **figures.difference("class_mean", -0.125, (-0.5, 0.25))},
    )  # fmt: skip
    plain = figures.Figure("accuracy", "test", 0.5, 9, chance=0.25)
    lines = figures.summary([*searches, masks, plain]).splitlines()
    assert [" ".join(line.split()) for line in lines if not line.startswith("--")] == [
        "Search for scenes, own boxes, 9 queries in 8 photographs:",
        "metric real blank difference [95 %] chance",
        "sbir-top1-test (v) 0.750 0.500 0.250 [-0.125, 0.500] 0.125",
        "",
        "metric value control difference [95 %] chance",
        "mask-iou (photo) 0.500 0.625 class mean -0.125 [-0.500, 0.250] -",
        "accuracy 0.500 - - 0.250",
    ]


def test_a_figure_is_a_number():
    with pytest.raises(ValueError, match="finite"):
        figures.Figure("sbir-mAP", "valid", float("nan"), 3)
