"""Exact search."""

from __future__ import annotations

import numpy as np
import psutil

from tests.benchmarks.harness import Bench, Numbers, Row, Setting, peak_megabytes, repeat, slower


def _vectors(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    n = setting.size(5000, 300)
    return np.random.default_rng(0).standard_normal((2, n, 256)).astype(np.float32)


def _ours(setting: Setting) -> Numbers:
    from core.metrics.retrieval import ranks

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


def _rows(found: dict[str, Numbers]) -> list[Row]:
    ours, naive = found["ours"], found["naive"]
    what = "ranks of 5,000 queries in 5,000 x 256"
    return [
        slower(what, "s", ours["median"], naive["median"], "under 0.5 s"),
        Row("memory above import of the same", ours["above_import"], "MB", aim="under 200 MB"),
    ]


BENCHES = {"search": Bench({"ours": _ours, "naive": _naive}, _rows)}
