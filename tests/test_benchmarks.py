"""The benchmark's own arithmetic, and that its quick benches run."""

import contextlib
import time
from pathlib import Path

import pytest

from tests.benchmarks import scale, search, serving, start
from tests.benchmarks.harness import (
    Row,
    Setting,
    faster,
    markdown,
    peak_megabytes,
    rate,
    repeat,
    slower,
)


def test_gains_are_how_many_times_better():
    assert slower("step", "s", 2.0, 6.0).gain == 3
    assert faster("loader", "samples/s", 300.0, 100.0).gain == 3
    assert slower("step", "s", 2.0, None).gain is None


def test_repeat_keeps_the_first_call_apart():
    calls = []
    numbers = repeat(lambda: calls.append(0), 4)
    assert len(calls) == 5
    assert set(numbers) == {"first", "median"}


def test_rate_counts_items():
    assert rate(lambda: 10, warm_up=1, rounds=3, seconds=0.01) > 10


def test_table():
    lines = markdown([Row("a", 1234.5, "MB", 2.0, 0.5, "less")]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "1,234" in lines[2]


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


def test_open_files_are_counted(tmp_path: Path):
    with scale.open_files() as counts:
        time.sleep(0.1)
        before = max(counts)
        with contextlib.ExitStack() as stack:
            for number in range(20):
                stack.enter_context((tmp_path / str(number)).open("w"))
            time.sleep(0.1)
    assert abs(max(counts) - before - 20) <= 2  # what other tests left may come and go


def test_first_line(tmp_path: Path):
    """Of a program that waits, speaks, and then goes on for a while."""
    program = "import time; time.sleep(0.2); print('x', flush=True); time.sleep(0.3)"
    begun = time.perf_counter()
    seconds, process = start.first_line(["-c", program])
    assert process.wait() == 0
    assert 0.2 < seconds < time.perf_counter() - begun - 0.2


def test_a_command_that_fails_is_no_figure(tmp_path: Path):
    with pytest.raises(RuntimeError, match="ended with 3"):
        start.command(["-c", "print('x'); raise SystemExit(3)"], 0, Setting(True, tmp_path))
    with pytest.raises(RuntimeError, match="said nothing"):
        start.command(["-c", ""], 0, Setting(True, tmp_path))
