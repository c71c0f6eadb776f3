"""A store in Milvus: a file (Milvus Lite), a server or a cluster, by its URI.

Each build fills a collection of its own. The one that the index has meanwhile stays until the next
build, for processes that have it open; older ones, and those of killed builds, are dropped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pymilvus import DataType, MilvusClient, MilvusException

from core.errors import UsageError, first_line
from search.stores import SavedStore, Store, StoreUnavailableError, check, fingerprint

BLOCK = 4096  # vectors sent at a time
METRIC = "L2"
TIMEOUT = 10  # seconds until a search is given up: pymilvus would try for minutes


class MilvusStore(Store):
    """A collection. Servers are read by many processes at once, a file by one."""

    def __init__(self, vectors: np.ndarray, client: MilvusClient, saved: SavedStore) -> None:
        super().__init__(vectors)
        self._client, self._saved = client, saved

    @classmethod
    def check_uri(cls, uri: str | None) -> None:
        if not uri or "@" in uri:
            raise UsageError(
                "the store milvus needs --uri FILE or http://HOST:PORT, without a password: an "
                "index keeps no secrets; MILVUS_TOKEN may hold user:password"
            )

    @classmethod
    def build(
        cls, vectors: np.ndarray, folder: Path, uri: str | None = None, keep: str = ""
    ) -> str:
        place = f"{platform.node()}:{folder.parent.resolve()}"
        owner = f"photographs_{hashlib.sha256(place.encode()).hexdigest()[:16]}_"
        name = f"{owner}{time.time_ns()}_{fingerprint(vectors)}"
        with _client(uri) as client:
            for each in client.list_collections():
                if each.startswith(owner) and each != keep:
                    client.drop_collection(each)
            schema = client.create_schema(auto_id=False)
            schema.add_field("row", DataType.INT64, is_primary=True)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
            client.create_collection(name, schema=schema)
            for start in range(0, len(vectors), BLOCK):
                block = enumerate(vectors[start : start + BLOCK], start)
                client.insert(name, [{"row": row, "vector": vector} for row, vector in block])
            client.flush(name)
            parameters = client.prepare_index_params()
            parameters.add_index("vector", index_type="AUTOINDEX", metric_type=METRIC)
            client.create_index(name, parameters)
            client.load_collection(name)
        return name

    @classmethod
    def open(cls, vectors: np.ndarray, folder: Path, saved: SavedStore) -> MilvusStore:
        with _client(saved.uri) as client:
            found = client.has_collection(saved.key)
            rows = client.get_collection_stats(saved.key)["row_count"] if found else 0
        check(vectors, saved, rows == len(vectors))
        return cls(vectors, client, saved)

    def candidates(self, vector: np.ndarray, k: int) -> np.ndarray:
        with _client(self._saved.uri, self._client) as client:
            (hits,) = client.search(
                self._saved.key, [vector.tolist()], limit=k, search_params={"metric_type": METRIC},
                consistency_level="Eventually",  # nothing is written any more
                timeout=TIMEOUT,
            )  # fmt: skip
        return np.array([hit["id"] for hit in hits], np.int64)


@contextlib.contextmanager
def _client(uri: str, client: MilvusClient | None = None) -> Iterator[MilvusClient]:
    """Yield a client, a new one by default. StoreUnavailableError for what goes wrong in the
    block."""
    try:
        yield client or MilvusClient(uri, token=os.environ.get("MILVUS_TOKEN", ""), timeout=TIMEOUT)
    except MilvusException as error:
        raise StoreUnavailableError(
            f"the Milvus store at {uri}: {first_line(error)}; is it up, and, if it is a file, open "
            "in no other process?"
        ) from None


STORE = MilvusStore
