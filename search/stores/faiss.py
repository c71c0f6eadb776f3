"""A store of Faiss on one machine: a graph (HNSW), or beyond some million vectors short codes.

HNSW: Malkov & Yashunin, 2016. IVF-PQ: Jegou, Douze & Schmid, 2011.
"""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np

from core.errors import UserError, first_line
from search.stores import SavedStore, Store, check, fingerprint

MOST_HNSW = 2_000_000  # vectors: the graph holds them all in memory, 1.3 kB each of 256
LINKS, BUILD_DEPTH, SEARCH_DEPTH = 32, 80, 1000  # of HNSW: M, efConstruction, efSearch
CODED = 2  # dimensions in a code of IVF-PQ, or a few more: 4 bits, as 8 train 8 times as long
SCANNED = 64  # lists of IVF-PQ that a query looks at
BLOCK = 65536  # vectors added at a time
THREADS = faiss.omp_get_max_threads()


class FaissStore(Store):
    """Each process reads the file into memory of its own."""

    def __init__(self, vectors: np.ndarray, index: faiss.Index) -> None:
        super().__init__(vectors)
        self._index = index

    @classmethod
    def build(
        cls, vectors: np.ndarray, folder: Path, uri: str | None = None, keep: str = ""
    ) -> str:
        faiss.omp_set_num_threads(THREADS)
        count, dimensions = vectors.shape
        if count <= MOST_HNSW:
            index = faiss.IndexHNSWFlat(dimensions, LINKS)
            index.hnsw.efConstruction, index.hnsw.efSearch = BUILD_DEPTH, SEARCH_DEPTH
        else:
            lists = int(2 * count**0.5)
            codes = next(n for n in range(dimensions // CODED, 0, -1) if dimensions % n == 0)
            index = faiss.index_factory(dimensions, f"IVF{lists},PQ{codes}x4")
            index.pq.cp.niter = 10  # of 25: exact distances make up for it
            index.nprobe = SCANNED
            index.train(np.ascontiguousarray(vectors[:: max(1, count // (lists * 64))]))
        for start in range(0, count, BLOCK):
            index.add(np.ascontiguousarray(vectors[start : start + BLOCK]))
        key = f"faiss-{fingerprint(vectors)}"
        faiss.write_index(index, str(folder / key))
        return key

    @classmethod
    def open(cls, vectors: np.ndarray, folder: Path, saved: SavedStore) -> FaissStore:
        path = folder / saved.key
        check(vectors, saved, path.is_file())
        faiss.omp_set_num_threads(1)  # one query wakes no others: on a busy machine they take long
        try:
            return cls(vectors, faiss.read_index(str(path)))
        except RuntimeError as error:
            raise UserError(
                f"{path} is damaged ({first_line(error)}): build the index again"
            ) from None

    def candidates(self, vector: np.ndarray, k: int) -> np.ndarray:
        rows = self._index.search(np.asarray(vector, np.float32)[None], k)[1][0]
        return rows[rows >= 0]  # it fills up with -1


STORE = FaissStore
