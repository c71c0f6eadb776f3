"""Exact search against subtraction of every pair in float64."""

import numpy as np
import pytest

from core.evaluation import ranking

TOLERANCE = 1e-5


def slow(queries, gallery, owners, rows, tolerance=TOLERANCE):
    """(counts, distances) by the definition, pairs by query and distance."""
    longest = max(np.linalg.norm(v) for v in [*queries.astype(float), *gallery.astype(float)])
    counts, distances = [], []
    for query in range(len(queries)):
        apart = np.sqrt(((queries[query].astype(float) - gallery.astype(float)) ** 2).sum(1))
        for right in np.sort(apart[rows[owners == query]]):
            counts.append(np.count_nonzero(apart <= right + tolerance * longest))
            distances.append(right)
    return np.array(counts), np.array(distances)


def several(rng, queries, gallery, most=4):
    """Pairs of each query with one to `most` different rows."""
    rows = [rng.choice(gallery, rng.integers(1, most + 1), replace=False) for _ in range(queries)]
    return np.repeat(np.arange(queries), [len(each) for each in rows]), np.concatenate(rows)


def normal(rng, n, width=24):
    return rng.standard_normal((n, width))


HARD = {
    "plain": lambda rng, x: x,
    "tiny": lambda rng, x: 1e-22 * x,  # float32 squares vanish
    "huge": lambda rng, x: 1e25 * x,  # float32 squares overflow
    "far off": lambda rng, x: 1e4 + x,
    "rows of all lengths": lambda rng, x: x * 10 ** rng.uniform(-6, 3, (len(x), 1)),
    "columns of all sizes": lambda rng, x: x * 10 ** np.linspace(-4, 4, x.shape[1]),
    "a giant": lambda rng, x: x * np.where(np.arange(len(x)) == 7, 1e5, 1)[:, None],
    "few points": lambda rng, x: np.round(x[:, :2] / 2),
    "two clusters": lambda rng, x: np.sign(x[:, :1]) + 1e-4 * x,
    "one cluster": lambda rng, x: 1 + 1e-5 * x,
    "zeros": lambda rng, x: 0 * x,
}


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, TOLERANCE), (np.float64, 0.0)])
def test_equals_the_definition(kind, dtype, tolerance):
    rng = np.random.default_rng(0)
    both = HARD[kind](rng, normal(rng, 260)).astype(dtype)
    queries, gallery = both[:60], both[60:]
    pairs = {"one": (np.arange(60), rng.integers(0, 200, 60)), "several": several(rng, 60, 200)}
    for owners, rows in pairs.values():
        counts, distances, _ = ranking.count_not_farther(queries, gallery, owners, rows, tolerance)
        expected, apart = slow(queries, gallery, owners, rows, tolerance)
        np.testing.assert_array_equal(counts, expected)
        np.testing.assert_allclose(distances, apart, rtol=1e-12)
        for blocks in ((5, 9), (60, 200), (999, 999)):
            found = ranking.count_not_farther(queries, gallery, owners, rows, tolerance, *blocks)[0]
            np.testing.assert_array_equal(found, counts)


@pytest.mark.parametrize("length", [1.0, 30.0])
def test_rows_on_either_side_of_the_limit(length):
    """Closer to it than float32 can tell, down to a billionth of the tolerance."""
    rng = np.random.default_rng(1)
    queries = normal(rng, 20)
    queries *= length / np.linalg.norm(queries, axis=1, keepdims=True)
    longest = 8 * length  # of the last row
    gallery, inside = [], []
    for query in queries:
        away = normal(rng, 41)
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        gaps = np.concatenate([-np.logspace(-5, -14, 20), np.logspace(-14, -5, 20)])
        limit = 0.5 * length + TOLERANCE * longest
        gallery += [query + 0.5 * length * away[0], *(query + (limit + gaps * longest)[:, None] *
                                                      away[1:])]  # fmt: skip
        inside.append(21)  # the right row and those below the limit
    gallery = np.array([*gallery, np.eye(24)[0] * longest])
    owners = np.arange(20)
    # Of the row's own query; how many rows of other queries lie within, the definition says.
    counts = ranking.count_not_farther(queries, gallery, owners, 41 * owners, TOLERANCE)[0]
    np.testing.assert_array_equal(counts, slow(queries, gallery, owners, 41 * owners)[0])
    alone = [
        ranking.count_not_farther(
            queries[q : q + 1], gallery[[*range(41 * q, 41 * q + 41), -1]], owners[:1], owners[:1],
            TOLERANCE,
        )[0][0]
        for q in range(20)
    ]  # fmt: skip
    assert alone == inside


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.parametrize("width", [1, 7, 256, 3000])
def test_the_bound_holds_the_rounding(precision, width):
    """Of products of vectors with one sign, whose rounding does not cancel."""
    rng = np.random.default_rng(2)
    queries, gallery = rng.random((2, 40, width)).astype(np.float32)
    exact = queries.astype(np.longdouble) @ gallery.astype(np.longdouble).T
    wrong = np.abs(queries.astype(precision) @ gallery.astype(precision).T - exact)
    lengths = np.linalg.norm(queries, axis=1) + np.linalg.norm(gallery, axis=1).max()
    assert np.all(wrong.max(axis=1) <= ranking._rounding(precision, width) * lengths**2)


def test_half_precision():
    rng = np.random.default_rng(3)
    queries, gallery = normal(rng, 10).astype(np.float16), normal(rng, 90).astype(np.float16)
    pairs = several(rng, 10, 90)
    np.testing.assert_array_equal(
        ranking.count_not_farther(queries, gallery, *pairs, TOLERANCE)[0],
        slow(queries, gallery, *pairs)[0],
    )


def test_many_pairs_of_a_query_are_cut(monkeypatch):
    rng = np.random.default_rng(4)
    queries, gallery = normal(rng, 5), normal(rng, 50)
    pairs = several(rng, 5, 50, most=40)
    whole = ranking.count_not_farther(queries, gallery, *pairs, TOLERANCE)[0]
    monkeypatch.setattr(ranking, "MAX_PAIRS", 3)
    np.testing.assert_array_equal(
        ranking.count_not_farther(queries, gallery, *pairs, TOLERANCE)[0], whole
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_refused(bad):
    good = np.ones((5, 3), np.float32)
    broken = good.copy()
    broken[4, 2] = bad
    one = np.arange(5)
    with pytest.raises(ValueError, match="queries is not finite"):
        ranking.count_not_farther(broken, good, one, one, TOLERANCE)
    with pytest.raises(ValueError, match="gallery is not finite"):
        ranking.count_not_farther(good, broken, one, one, TOLERANCE)
