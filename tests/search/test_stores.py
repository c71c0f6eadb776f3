"""The contract of the stores: what each finds, keeps and refuses."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from core.errors import UsageError, UserError
from search.stores import STORES, SavedStore, StoreUnavailableError, store_class

ROOT = Path(__file__).resolve().parents[2]
DIMENSIONS = 16
RECALL = {"exact": 1.0, "faiss": 0.99, "faiss codes": 0.95, "milvus file": 0.99, "milvus": 0.95}
BUILD = """
import os, signal, sys
from pathlib import Path
import numpy as np
from search.stores import store_class
name, vectors, folder, uri, keep = sys.argv[1:]
class Killing(np.ndarray):
    asked = 0
    def __getitem__(self, rows):
        Killing.asked += 1
        if Killing.asked > 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.asarray(self)[rows]
vectors, store = np.load(vectors).view(Killing), store_class(name)
sys.modules[store.__module__].BLOCK = 500
store.build(vectors, Path(folder), uri or None, keep)
os.kill(os.getpid(), signal.SIGKILL)
"""
ASK = """
import json, sys
from pathlib import Path
import numpy as np
from search.stores import SavedStore, store_class
folder, name, uri, key = sys.argv[1:]
vectors = np.load(Path(folder) / "learned.npy", mmap_mode="r")
store = store_class(name).open(vectors, Path(folder), SavedStore(name, uri or None, key))
assert "tensorflow" not in sys.modules
print(json.dumps([store.nearest(vectors[row], 5)[0].tolist() for row in range(20)]))
"""


@pytest.fixture(scope="module")  # idle, it still takes time
def milvus_server(tmp_path_factory):
    """The URI of a real Milvus server."""
    pytest.importorskip(
        "milvus", reason="no Milvus server: pip install -r tests/search/requirements.txt"
    )
    from milvus import MilvusServer

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = MilvusServer(wait_for_started=True)
    server.set_base_dir(str(tmp_path_factory.mktemp("milvus")))
    server.listen_port = port
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


class Place(NamedTuple):
    """A store that can be built: where, and how well it is to do."""

    name: str
    home: Path
    uri: str | None
    recall: float

    def build(self, vectors, keep=""):
        """Build the store of an index; return how that names it."""
        folder = self.home / "photos"
        folder.mkdir(exist_ok=True, parents=True)
        np.save(folder / "learned.npy", vectors)
        key = store_class(self.name).build(vectors, folder, self.uri, keep)
        return SavedStore(self.name, self.uri, key)

    def open(self, saved):
        folder = self.home / "photos"
        vectors = np.load(folder / "learned.npy", mmap_mode="r")
        return store_class(self.name).open(vectors, folder, saved)

    def release(self):
        """Let other processes open a file of Milvus Lite, which takes one at a time; return whether
        it is one."""
        single = self.name == "milvus" and "://" not in self.uri
        if single:
            from milvus_lite.server_manager import server_manager_instance
            from pymilvus import connections

            for alias, _ in connections.list_connections():
                connections.disconnect(alias)
            server_manager_instance.release_server(self.uri)
        return single


@pytest.fixture(params=RECALL)
def place(request, tmp_path, monkeypatch):
    name = request.param.partition(" ")[0]
    package = {"faiss": "faiss", "milvus": "pymilvus"}.get(name)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"pip install -r search/stores/requirements-{name}.txt")
    uri = None
    if request.param == "milvus":
        uri = request.getfixturevalue("milvus_server")
    elif request.param == "milvus file":
        uri = str(tmp_path / "milvus.db")
    elif name == "faiss":
        from search.stores import faiss

        monkeypatch.setattr(faiss, "THREADS", 1)  # other tests keep the processors busy
        if request.param == "faiss codes":
            monkeypatch.setattr(faiss, "MOST_HNSW", 0)
    return Place(name, tmp_path / "index", uri, RECALL[request.param])


def clustered(count, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((count // 40, DIMENSIONS))
    vectors = centres[rng.integers(0, len(centres), count)]
    return (vectors + 0.5 * rng.standard_normal(vectors.shape)).astype(np.float32)


def brute_force(vector, vectors, k):
    away = np.sqrt(((vectors.astype(np.float64) - vector) ** 2).sum(axis=1))
    order = np.argsort(away, kind="stable")[:k]
    return order, away[order]


def test_finds_the_nearest_with_their_distances(place):
    vectors = clustered(4000)
    store = place.open(place.build(vectors))
    queries = clustered(4000, seed=1)[:20]
    hits = []
    for query in queries:
        rows, away = store.nearest(query, 10)
        right, right_away = brute_force(query, vectors, 10)
        exact = np.linalg.norm(vectors[rows].astype(np.float64) - query, axis=1)
        np.testing.assert_allclose(away, exact, rtol=1e-5)
        assert (np.diff(away) >= 0).all() and len(set(rows.tolist())) == 10
        hits.append(np.isin(right, rows).mean())
        if store.exhaustive:
            np.testing.assert_array_equal(rows, right)
            np.testing.assert_allclose(away, right_away, rtol=1e-5)
    assert np.mean(hits) >= place.recall
    rows, _ = store.nearest(queries[0], 2000)  # as many as an index asks for
    assert len(rows) == 2000 and np.isin(brute_force(queries[0], vectors, 10)[0], rows).all()


def test_no_more_than_there_are(place):
    vectors = clustered(400)[:300]
    vectors[7] = vectors[3]  # equal ones come in the order of the rows
    store = place.open(place.build(vectors))
    rows, away = store.nearest(vectors[3], 2000)
    assert rows[:2].tolist() == [3, 7] and away[:2].tolist() == [0, 0]
    assert len(rows) > 0.9 * 300


def test_an_update_finds_what_is_there_now(place):
    vectors = clustered(2000)
    saved = place.build(vectors)
    # The first gone, one changed, one new at the end.
    updated = np.concatenate([vectors[1:], vectors[:1] + 9])
    updated[5] = -9
    store = place.open(place.build(updated, saved.key))
    for row in (0, 5, 700, 1999):
        assert store.nearest(updated[row], 1)[0].tolist() == [row]
    np.testing.assert_array_equal(
        store.nearest(vectors[0], 1)[0], brute_force(vectors[0], updated, 1)[0]
    )


def test_a_kill_while_building_leaves_the_store_of_before(place):
    vectors = clustered(3000)
    saved = place.build(vectors[:1000])
    store = place.open(saved)
    before = store.nearest(vectors[1], 5)[0].tolist()
    place.release()
    other = place.home / "vectors.npy"
    np.save(other, vectors)
    partial = place.home / ".photos.partial"
    partial.mkdir()
    arguments = [place.name, other, partial, place.uri or "", saved.key]
    code = subprocess.run([sys.executable, "-c", BUILD, *map(str, arguments)], cwd=ROOT).returncode
    assert code == -signal.SIGKILL
    assert place.open(saved).nearest(vectors[1], 5)[0].tolist() == before
    again = place.build(vectors[:1001], saved.key)
    assert place.open(again).nearest(vectors[1000], 1)[0].tolist() == [1000]


def test_processes_read_one_store(place):
    vectors = clustered(2000)
    saved = place.build(vectors)
    words = [place.home / "photos", place.name, place.uri or "", saved.key]
    command = [sys.executable, "-c", ASK, *map(str, words)]
    right = [brute_force(vectors[row], vectors, 5)[0].tolist() for row in range(20)]
    single = place.release()
    asked = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(1 if single else 3)
    ]
    for each in asked:
        found = json.loads(each.communicate(timeout=120)[0])
        assert np.mean([len({*a} & {*b}) / 5 for a, b in zip(found, right)]) >= place.recall


def test_another_index_s_store_is_refused(place):
    if place.name == "exact":
        pytest.skip("it has nothing but the vectors")
    first = place.build(clustered(1000))
    other = place._replace(home=place.home.with_name("other"))
    other.build(clustered(1000, seed=1))
    for name in (place.home / "photos").glob("faiss-*"):
        (other.home / "photos" / name.name).write_bytes(name.read_bytes())
    with pytest.raises(UserError, match="was built of other photographs"):
        other.open(first)
    with pytest.raises(UserError, match="is not there as it was built"):
        place.open(SavedStore(place.name, place.uri, "photographs_0"))


def test_what_is_wrong_is_told_in_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="no store 'fais': exact, faiss, milvus"):
        store_class("fais")
    for name in STORES[1:]:
        monkeypatch.setitem(sys.modules, "faiss", None)
        monkeypatch.setitem(sys.modules, "pymilvus", None)
        monkeypatch.delitem(sys.modules, f"search.stores.{name}", raising=False)
        with pytest.raises(UserError) as raised:
            store_class(name)
        (needed,) = re.findall(r": pip install -r (\S+)", str(raised.value))
        assert Path(needed).is_file()
    with pytest.raises(UsageError, match="--uri is of the store milvus"):
        store_class("exact").check_uri("http://localhost:1")


def test_a_damaged_file_of_faiss(tmp_path):
    pytest.importorskip("faiss", reason="pip install -r search/stores/requirements-faiss.txt")
    place = Place("faiss", tmp_path, None, 1)
    saved = place.build(clustered(1000))
    os.truncate(tmp_path / "photos" / saved.key, 1000)
    with pytest.raises(UserError, match="is damaged"):
        place.open(saved)


def test_milvus_is_asked_for_without_secrets_and_may_be_gone(tmp_path):
    pytest.importorskip("pymilvus", reason="pip install -r search/stores/requirements-milvus.txt")
    for uri in (None, "http://root:Milvus@localhost:19530"):
        with pytest.raises(UsageError, match="keeps no secrets"):
            store_class("milvus").check_uri(uri)
    with pytest.raises(StoreUnavailableError, match="the Milvus store at http://127"):
        Place("milvus", tmp_path, "http://127.0.0.1:1", 1).build(clustered(400))


def test_milvus_drops_the_collections_that_nothing_uses(tmp_path, milvus_server):
    from pymilvus import MilvusClient

    place = Place("milvus", tmp_path / "a", milvus_server, 1)
    another = Place("milvus", tmp_path / "b", milvus_server, 1).build(clustered(400))
    keys = [""]
    for seed in range(3):
        keys.append(place.build(clustered(400, seed), keys[-1]).key)
    left = set(MilvusClient(milvus_server).list_collections())
    assert left & {*keys, another.key} == {*keys[-2:], another.key}
