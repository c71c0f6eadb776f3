"""The quick benches run."""

from pathlib import Path

import pytest

from tests.benchmarks import scale, search, serving
from tests.benchmarks.harness import Setting, peak_megabytes


@pytest.mark.parametrize("bench", [*search.BENCHES.values(), *scale.BENCHES.values()])
def test_quick(bench, tmp_path: Path):
    setting = Setting(True, tmp_path)
    found = {part: {**peak_megabytes(), **run(setting)} for part, run in bench.parts.items()}
    assert all(row.value > 0 for row in bench.rows(found))
    assert not list(tmp_path.iterdir())


def test_a_server_under_load(tmp_path: Path):
    bench = serving.BENCHES["serve-load"]
    rows = bench.rows({"server": bench.parts["server"](Setting(True, tmp_path))})
    found = {row.what.rpartition(": ")[2]: row.value for row in rows}
    assert 0 < found["a search, p50"] <= found["a search, p95"] <= found["a search, p99"] < 60
    assert found["searches answered"] > 0
