"""Exact search, and the bootstrap of what it finds."""

from __future__ import annotations

import functools
import importlib.util
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
from scipy import stats
from scipy.optimize import linear_sum_assignment

from core.errors import UserError
from tests.benchmarks.harness import (
    Bench,
    Numbers,
    Row,
    Setting,
    compared,
    peak_megabytes,
    repeat,
    slower,
    stopwatch,
)
from tests.benchmarks.models import random_model


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


def _one_product(queries: np.ndarray, gallery: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Ranks from the squared distances of every query to every row, by one product of matrices:
    no tolerance, float32, memory that grows with queries times gallery."""
    away = (gallery**2).sum(1) - 2 * queries @ gallery.T  # but for the queries' own squares
    return (away <= away[np.arange(len(queries)), answers][:, None]).sum(1)


def _naive(setting: Setting) -> Numbers:
    imported = psutil.Process().memory_info().rss / (1 << 20)
    queries, gallery = _vectors(setting)
    numbers = repeat(lambda: _one_product(queries, gallery, np.arange(len(queries))), 3)
    return {**numbers, "above_import": peak_megabytes()["peak"] - imported}


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
    imported = psutil.Process().memory_info().rss / (1 << 20)
    vectors = _gallery(setting)
    numbers = repeat(lambda: _one_product(*vectors), 3)
    return {**numbers, "above_import": peak_megabytes()["peak"] - imported}


def _scored(setting: Setting) -> np.ndarray:
    """Scores of queries, a column a figure."""
    return np.random.default_rng(0).random((setting.size(5000, 100), 20))


def _bootstrap(setting: Setting) -> Numbers:
    from core.evaluation.figures import bootstrap_intervals

    values = _scored(setting)
    return repeat(lambda: bootstrap_intervals(values), 3)


def _bootstrap_naive(setting: Setting) -> Numbers:
    """Resample by resample, all figures at once."""
    values = _scored(setting)
    count = len(values)

    def step() -> None:
        rng = np.random.default_rng(0)
        means = [values[rng.integers(0, count, count)].mean(0) for _ in range(1000)]
        np.percentile(means, [2.5, 97.5], axis=0)

    return repeat(step, 1)


PER_PHOTOGRAPH = 5  # objects


def _photographs(setting: Setting):
    """An index of photographs whose objects have one likely class each, and a drawing of four."""
    from core.dataset import STANDARD_SIZES
    from core.layout_match import to_steps
    from core.run import Run
    from search import PhotoIndex, Scene, SceneObject
    from search.index_folder import SCHEMA, File, IndexPart, SavedIndex

    model = random_model("graph-attention", setting)
    run = Run(model, SimpleNamespace(model=model.hparams), STANDARD_SIZES, 0)
    n, classes = setting.size(100_000, 200), model.vocabulary.num_classes
    rng = np.random.default_rng(0)
    loop = rng.random((4, 20, 2)).cumsum(axis=1)
    scene = Scene([SceneObject([stroke]) for stroke in loop], 20, 20)
    (encoded,) = run.encode_sketched_scenes([list(scene.sketches(96))], [scene.boxes], fit=False)
    objects = n * PER_PHOTOGRAPH
    low = rng.random((objects, 2), np.float32) * 0.6
    sizes = rng.random((objects, 2), np.float32) * 0.35 + 0.05
    probabilities = np.full((classes, objects), to_steps(np.float32(0.3 / classes)))
    probabilities[rng.integers(0, classes, objects), np.arange(objects)] = to_steps(np.float32(0.7))
    arrays = {
        "counts": np.full(n, PER_PHOTOGRAPH),
        "sizes": np.full((n, 2), 640),
        "learned": rng.standard_normal((n, run.ranking_vectors([encoded]).shape[1]), np.float32),
        "whole": np.zeros((n, 0), np.float32),
        "boxes": np.concatenate([low, low + sizes], axis=1),
        "labels": np.zeros(objects, np.int16),
        "probabilities": probabilities.T,
    }
    files = [File(f"{i}.jpg", 0, 0) for i in range(n)]
    names = list(model.vocabulary.names)
    saved = SavedIndex(SCHEMA, "", "", "", "", names, files)
    return PhotoIndex(run, None, IndexPart(saved, arrays), Path()), scene


def _query(setting: Setting) -> Numbers:
    index, scene = _photographs(setting)
    return repeat(lambda: index.search(scene, 24), setting.size(40, 2), 95)


def _query_naive(setting: Setting) -> Numbers:
    """Learned distances by one product, the scores of all pairs of objects at once, then SciPy's
    best assignment photograph by photograph; the drawing is encoded already."""
    from core import layout_match

    index, scene = _photographs(setting)
    own, drawn, _ = index.query(scene)
    squares = (index.learned**2).sum(1)

    def step() -> None:
        scores, likely = layout_match.pair_scores(drawn, index.objects)
        gains = scores + layout_match.SURPLUS * likely  # of a pair: none of it is left over
        fits = []
        for gain in np.split(gains, len(index), axis=1):
            fits.append(gain[linear_sum_assignment(gain, maximize=True)].sum())
        away = np.sqrt(np.maximum(squares - 2 * index.learned @ own + own @ own, 0))
        np.argsort(stats.zscore(away) - stats.zscore(fits))

    return repeat(step, 3, 95)


def _clusters(count: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vectors in clusters of about 50, in a file as those of an index, and 20 queries that lie
    beside some."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((count // 50, 256), np.float32)
    path = folder / "vectors.npy"
    vectors = np.lib.format.open_memmap(path, "w+", np.float32, (count, 256))
    for start in range(0, count, 100_000):
        rows = vectors[start : start + 100_000]
        rows[:] = centres[rng.integers(0, len(centres), len(rows))]
        rows += 0.5 * rng.standard_normal(rows.shape, np.float32)
    queries = vectors[:: count // 20] + 0.3 * rng.standard_normal((20, 256), np.float32)
    return vectors, queries


def _store(
    setting: Setting, name: str, uri: str | None = None, vectors_of: int = 100_000
) -> Numbers:
    """Build a store, ask it for the candidates of an index, and see if the ten nearest are there;
    nothing where its packages are missing."""
    from search import stores
    from search.index import CANDIDATES

    try:
        kind = stores.store_class(name)
    except UserError:
        return {}
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        vectors, queries = _clusters(setting.size(vectors_of, 1000), Path(folder))
        passed = stopwatch()
        key = kind.build(vectors, Path(folder), uri)
        built = passed()
        store = kind.open(vectors, Path(folder), stores.SavedStore(name, uri, key))
        found = [store.nearest(query, CANDIDATES)[0] for query in queries]
        right = [np.argsort(stores.distances(query, vectors))[:10] for query in queries]
        recall = np.mean([np.isin(a, b) for a, b in zip(right, found)])
        asked = iter([*queries] * 3)
        seconds = repeat(lambda: store.nearest(next(asked), CANDIDATES), len(queries))
    return {**seconds, "recall": float(recall), "build": built}


def _faiss_codes(setting: Setting) -> Numbers:
    if importlib.util.find_spec("faiss") is None:
        return {}
    from search.stores import faiss

    if not setting.quick:  # its training alone takes long
        faiss.MOST_HNSW = 0
    return _store(setting, "faiss")


def _milvus(setting: Setting) -> Numbers:
    """A server, which the bench starts."""
    if setting.quick or importlib.util.find_spec("milvus") is None:
        return {}
    from milvus import MilvusServer

    server = MilvusServer(wait_for_started=True)
    with tempfile.TemporaryDirectory(dir=setting.folder, ignore_cleanup_errors=True) as folder:
        server.set_base_dir(folder)
        server.start()
        try:
            return _store(setting, "milvus", f"http://127.0.0.1:{server.listen_port}")
        finally:
            server.stop()


def _store_naive(setting: Setting) -> Numbers:
    """Squared distances by one product of matrices, the nearest apart, in order."""
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        vectors, queries = _clusters(setting.size(100_000, 1000), Path(folder))
        squares, k = (vectors**2).sum(1), setting.size(2000, 500)

        def step() -> None:
            away = squares - 2 * vectors @ queries[0]
            rows = np.argpartition(away, k)[:k]
            rows[np.argsort(away[rows])]

        return repeat(step, 20)


def _store_rows(found: dict[str, Numbers], count: str = "100,000") -> list[Row]:
    rows = []
    for name, numbers in found.items():
        if name != "naive" and "recall" in numbers:
            what = f"of {count} x 256, store {name}"
            naive = found.get("naive", {}).get("median")
            rows.append(slower(f"2,000 candidates {what}", "s", numbers["median"], naive))
            rows.append(Row(f"recall@10 {what}", numbers["recall"], "", aim="over 0.95"))
            rows.append(slower(f"build {what}", "s", numbers["build"]))
    return rows


SEARCH_ROWS = compared(
    ("ranks of 5,000 queries in 5,000 x 256", "median", "under 0.5 s"),
    ("memory above import of the same", "above_import", "under 200 MB"),
)
MILLION_ROWS = compared(
    ("ranks of 200 queries in 1,000,000 x 256", "median", "under 1.5 s"),
    ("memory above import of the same", "above_import", "under 1,177 MB: the gallery and 200"),
)
BOOTSTRAP_ROWS = compared(("intervals of 20 figures of 5,000 queries", "median", "under 1 s"))
QUERY_ROWS = compared(
    ("a drawing of 4 objects in 100,000 photographs of 5, p95", "p95", "under 0.3 s")
)
ON_REQUEST = ("stores-million",)  # a graph of a million vectors takes long to build
BENCHES = {
    "query": Bench({"ours": _query, "naive": _query_naive}, QUERY_ROWS),
    "stores": Bench(
        {
            "naive": _store_naive,
            "exact": lambda setting: _store(setting, "exact"),
            "faiss, graph": lambda setting: _store(setting, "faiss"),
            "faiss, codes": _faiss_codes,
            "milvus, server": _milvus,
        },
        _store_rows,
    ),
    "stores-million": Bench(
        {
            name: functools.partial(_store, name=name, vectors_of=1_000_000)
            for name in ("exact", "faiss")
        },
        functools.partial(_store_rows, count="1,000,000"),
    ),
    "search": Bench({"ours": _ours, "naive": _naive}, SEARCH_ROWS),
    "million": Bench({"ours": _million, "naive": _million_naive}, MILLION_ROWS),
    "bootstrap": Bench({"ours": _bootstrap, "naive": _bootstrap_naive}, BOOTSTRAP_ROWS),
}
