"""The benchmark's own arithmetic, and that its smallest bench runs."""

from pathlib import Path

import pytest

from tests.benchmarks import search
from tests.benchmarks.harness import Row, Setting, faster, markdown, rate, repeat, slower


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


@pytest.mark.parametrize("bench", sorted(search.BENCHES))
def test_quick_search(bench, tmp_path: Path):
    parts = search.BENCHES[bench].parts
    found = {part: run(Setting(True, tmp_path)) for part, run in parts.items()}
    assert all(row.value > 0 for row in search.BENCHES[bench].rows(found))
