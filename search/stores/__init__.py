"""Stores: they find the photographs whose scene vectors lie nearest to a query's.

    vectors of an index -> Store.build, into its folder -> Store.open -> nearest(vector, k)

A store only names candidates; their distances are those of the index's own vectors. Packages that a
store needs are imported when it is asked for.
"""

from __future__ import annotations

import abc
import hashlib
import importlib
from pathlib import Path

import msgspec
import numpy as np

from core.errors import UsageError, UserError

STORES = ("exact", "faiss", "milvus")
LEAST = 1000  # candidates whose distances are computed, however few rows are wanted
SAMPLED = 1000  # rows that a fingerprint is made of


class StoreUnavailableError(UserError):
    """A store's database does not answer, or not as it should: it may later."""


class SavedStore(msgspec.Struct, frozen=True):
    """A store, as an index names it. Another index's fingerprint ends with other letters."""

    name: str = "exact"
    uri: str | None = None  # of a database: an address, or a file
    key: str = ""  # file or collection; it ends with the fingerprint of the vectors


class Store(abc.ABC):
    """Vectors of an index, float32 (N, D), and what finds the nearest of them."""

    exhaustive = False  # every vector is compared with a query's

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    @classmethod
    def check_uri(cls, uri: str | None) -> None:
        """UsageError for a URI that the store cannot have."""
        if uri is not None:
            raise UsageError("--uri is of the store milvus: the others are files of the index")

    @classmethod
    @abc.abstractmethod
    def build(
        cls, vectors: np.ndarray, folder: Path, uri: str | None = None, keep: str = ""
    ) -> str:
        """Build a store of vectors; return its key.

        folder: of files; it lies in the index and gets its name when all is done. keep: key of the
        store that the index has meanwhile."""

    @classmethod
    @abc.abstractmethod
    def open(cls, vectors: np.ndarray, folder: Path, saved: SavedStore) -> Store:
        """Open the store that was built of vectors. UserError for another or a damaged one."""

    @abc.abstractmethod
    def candidates(self, vector: np.ndarray, k: int) -> np.ndarray:
        """Return some k rows that are likely nearest to a vector, (D,): int64, k or fewer."""

    def nearest(self, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest rows, the nearest first, and their Euclidean distances: int64 (k,),
        float32 (k,). All rows, where they are fewer."""
        rows = self.candidates(vector, min(max(k, LEAST), len(self.vectors)))
        away = distances(vector, self.vectors[rows])
        order = np.lexsort((rows, away))[:k]
        return rows[order], away[order]


def store_class(name: str) -> type[Store]:
    """Return the class of a store. UserError for none, and for a package that it misses."""
    if name not in STORES:
        raise UsageError(f"there is no store {name!r}: {', '.join(STORES)}")
    try:
        return importlib.import_module(f"search.stores.{name}").STORE
    except ImportError as error:
        needed = Path(__file__).with_name(f"requirements-{name}.txt")
        raise UserError(
            f"the store {name} needs {error.name or error}: pip install -r {needed}"
        ) from None


def fingerprint(vectors: np.ndarray) -> str:
    """Return letters that tell these vectors from those of another index."""
    some = vectors[np.linspace(0, len(vectors) - 1, SAMPLED).astype(int)]
    return hashlib.sha256(f"{vectors.shape}".encode() + some.tobytes()).hexdigest()[:16]


def check(vectors: np.ndarray, saved: SavedStore, found: bool = True) -> None:
    """UserError for a store of other vectors, or one that was not found."""
    if not found or not saved.key.endswith(fingerprint(vectors)):
        why = "was built of other photographs" if found else "is not there as it was built"
        raise UserError(f"the {saved.name} store {saved.key} {why}: build the index again")


def distances(vector: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the Euclidean distance of a vector, (D,), from each of others, (N, D): float32 (N,).

    Block by block, so that the differences stay in the processor's cache."""
    found = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), 1024):
        away = vectors[start : start + 1024] - vector
        found[start : start + 1024] = np.einsum("nd,nd->n", away, away)
    return np.sqrt(found)
