"""The search server before many clients at once: what they wait for, and what it keeps."""

from __future__ import annotations

import http.client
import itertools
import json
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from tests.benchmarks.data import sample
from tests.benchmarks.harness import Bench, Numbers, Row, Setting

CLIENTS = 50
SHOWN = 3  # thumbnails that a client looks at of an answer


class _Heard(NamedTuple):
    """The answers that one client got."""

    searches: list[float]  # seconds of those that were answered
    told_to_wait: int  # 503 with Retry-After
    others: Counter[str]  # what should not have come


def _body(rng: np.random.Generator) -> bytes:
    """A search for one to four drawn objects."""
    strokes = ([10, 10] + rng.random((rng.integers(1, 5), 30, 2)) * [370, 270]).tolist()
    objects = [{"strokes": [stroke]} for stroke in strokes]
    head = {"format": "scene-designer scene", "version": 1, "canvas": [400, 300]}
    return json.dumps({"scene": {**head, "objects": objects}}).encode()


def _client(port: int, number: int, end: float) -> _Heard:
    """Search and look at what was found until the end; wait when told to, as the page does."""
    heard = _Heard([], 0, Counter())
    rng = np.random.default_rng(number)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    waits = 0
    while time.monotonic() < end:
        start = time.perf_counter()
        try:
            connection.request("POST", "/api/search", _body(rng))
            answer = connection.getresponse()
            content = answer.read()
            if answer.status == 503 and answer.getheader("Retry-After"):
                waits += 1
                time.sleep(min(int(answer.getheader("Retry-After")), end - time.monotonic() + 0.1))
                continue
            if answer.status != 200:
                heard.others[f"status {answer.status}"] += 1
                continue
            heard.searches.append(time.perf_counter() - start)
            for hit in json.loads(content)["hits"][:SHOWN]:
                connection.request("GET", f"/api/photographs/{hit['id']}?size=thumbnail")
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    heard.others[f"a thumbnail, status {answer.status}"] += 1
        except (OSError, http.client.HTTPException) as error:
            heard.others[type(error).__name__] += 1
            connection.close()
    connection.close()
    return heard._replace(told_to_wait=waits)


def _load(setting: Setting) -> Numbers:
    from tests.search.sample_site import Server, write_index

    seconds = setting.size(60, 2)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(write_index(Path(folder), sample(setting)))
        process = psutil.Process(server.process.pid)
        port = int(server.url.rpartition(":")[2])
        try:
            _client(port, 0, time.monotonic() + seconds / 12)
            before, cpu = process.memory_info().rss, sum(process.cpu_times()[:2])
            end = time.monotonic() + seconds
            with ThreadPoolExecutor(CLIENTS) as pool:
                heard = list(pool.map(lambda n: _client(port, n, end), range(CLIENTS)))
            after, cpu = process.memory_info().rss, sum(process.cpu_times()[:2]) - cpu
        finally:
            server.kill()
    others = sum((each.others for each in heard), Counter())
    if others:
        raise RuntimeError(f"not answered as they should: {dict(others)}")
    times = list(itertools.chain(*(each.searches for each in heard)))
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    return {
        "p50": p50, "p95": p95, "p99": p99, "answered": len(times),
        "told_to_wait": sum(each.told_to_wait for each in heard),
        "start": before / 2**20, "grown": (after - before) / 2**20,
        "cpu_each": cpu / len(times),
    }  # fmt: skip


def _rows(found: dict[str, Numbers]) -> list[Row]:
    numbers = found["server"]
    what = f"{CLIENTS} clients at once"
    return [
        *(Row(f"{what}: a search, {p}", numbers[p], "s") for p in ("p50", "p95", "p99")),
        Row(f"{what}: searches answered", numbers["answered"], ""),
        Row(f"{what}: answers 503 with Retry-After", numbers["told_to_wait"], ""),
        Row(f"{what}: CPU a search, thumbnails too", numbers["cpu_each"], "s"),
        Row("memory of the server before", numbers["start"], "MB"),
        Row("memory of the server, grown by", numbers["grown"], "MB", aim="flat"),
    ]


BENCHES = {"serve-load": Bench({"server": _load}, _rows)}
