"""Exact search, and the bootstrap of what it finds."""

from __future__ import annotations

import numpy as np
import psutil

from tests.benchmarks.harness import Bench, Numbers, Setting, compared, peak_megabytes, repeat


def _vectors(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    n = setting.size(5000, 300)
    return np.random.default_rng(0).standard_normal((2, n, 256)).astype(np.float32)


def _ours(setting: Setting) -> Numbers:
    from core.evaluation.retrieval import ranks

    imported = psutil.Process().memory_info().rss / (1 << 20)
    queries, gallery = _vectors(setting)
    numbers = repeat(lambda: ranks(queries, gallery, np.arange(len(queries))), 3)
    # The vectors are counted too.
    return {**numbers, "above_import": peak_megabytes()["peak"] - imported}


def _naive(setting: Setting) -> Numbers:
    """Query by query: all distances, then a sort."""
    queries, gallery = _vectors(setting)

    def step() -> None:
        for right, query in enumerate(queries):
            order = np.argsort(np.linalg.norm(gallery - query, axis=1))
            int(np.flatnonzero(order == right)[0])

    return repeat(step, 1)


def _gallery(setting: Setting) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """200 queries, the gallery, and the right rows; a query lies nearer to its own than to most."""
    n = setting.size(1_000_000, 2000)
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((n, 256), dtype=np.float32)
    answers = np.linspace(0, n - 1, 200).astype(int)
    return gallery[answers] + 3 * rng.standard_normal((200, 256), np.float32), gallery, answers


def _million(setting: Setting) -> Numbers:
    from core.evaluation.retrieval import ranks

    imported = psutil.Process().memory_info().rss / (1 << 20)
    vectors = _gallery(setting)
    numbers = repeat(lambda: ranks(*vectors), 3)
    return {**numbers, "above_import": peak_megabytes()["peak"] - imported}


def _million_naive(setting: Setting) -> Numbers:
    """Query by query, of which five stand for all."""
    queries, gallery, answers = _gallery(setting)

    def step() -> None:
        for query, right in zip(queries[:5], answers):
            distances = np.linalg.norm(gallery - query, axis=1)
            int(np.count_nonzero(distances <= distances[right]))

    return {"median": repeat(step, 1)["median"] * len(queries) / 5}


def _scored(setting: Setting) -> np.ndarray:
    """Scores of queries, a column a figure."""
    return np.random.default_rng(0).random((setting.size(5000, 100), 20))


def _bootstrap(setting: Setting) -> Numbers:
    from core.evaluation.figures import bootstrap_intervals

    values = _scored(setting)
    return repeat(lambda: bootstrap_intervals(values), 3)


def _bootstrap_naive(setting: Setting) -> Numbers:
    """Resample by resample, figure by figure."""
    values = _scored(setting)

    def step() -> None:
        rng = np.random.default_rng(0)
        for column in values.T:
            means = [column[rng.integers(0, len(column), len(column))].mean() for _ in range(1000)]
            np.percentile(means, [2.5, 97.5])

    return repeat(step, 1)


SEARCH_ROWS = compared(
    ("ranks of 5,000 queries in 5,000 x 256", "median", "under 0.5 s"),
    ("memory above import of the same", "above_import", "under 200 MB"),
)
MILLION_ROWS = compared(
    ("ranks of 200 queries in 1,000,000 x 256", "median", "under 1.5 s"),
    ("memory above import of the same", "above_import", "under 1,177 MB: the gallery and 200"),
)
BOOTSTRAP_ROWS = compared(("intervals of 20 figures of 5,000 queries", "median", "under 1 s"))
BENCHES = {
    "search": Bench({"ours": _ours, "naive": _naive}, SEARCH_ROWS),
    "million": Bench({"ours": _million, "naive": _million_naive}, MILLION_ROWS),
    "bootstrap": Bench({"ours": _bootstrap, "naive": _bootstrap_naive}, BOOTSTRAP_ROWS),
}
