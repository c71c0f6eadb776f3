"""Processes, clocks and the table. A bench is a few parts, each run in its own process and giving
numbers, and a function that makes table rows of them."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from dataloaders import throughput

Numbers = dict[str, float]


@dataclass(frozen=True)
class Setting:
    """quick: small sizes, only to see that a bench works. folder: where data and results lie."""

    quick: bool
    folder: Path

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full


class Row(NamedTuple):
    """value and naive are in `unit`; gain: how many times better than the naive version."""

    what: str
    value: float
    unit: str
    naive: float | None = None
    gain: float | None = None
    aim: str = ""


@dataclass(frozen=True)
class Bench:
    """parts: name -> function of the setting, run in this order."""

    parts: dict[str, Callable[[Setting], Numbers]]
    rows: Callable[[dict[str, Numbers]], list[Row]]


def slower(what: str, unit: str, value: float, naive: float | None, aim: str = "") -> Row:
    """A row of something of which less is better."""
    return Row(what, value, unit, naive, naive and naive / value, aim)


def faster(what: str, unit: str, value: float, naive: float | None, aim: str = "") -> Row:
    """A row of something of which more is better."""
    return Row(what, value, unit, naive, naive and value / naive, aim)


def compared(
    *rows: tuple[str, str, str], ours: str = "ours", naive: str = "naive"
) -> Callable[[dict[str, Numbers]], list[Row]]:
    """Return the function of a bench that sets the part `ours` beside `naive`.

    rows: what, the number's name, the aim. Megabytes ("peak", "above_import") or seconds.
    """

    def make(found: dict[str, Numbers]) -> list[Row]:
        return [
            slower(
                what,
                "MB" if key in ("peak", "above_import") else "s",
                found[ours][key],
                found[naive].get(key),
                aim,
            )
            for what, key, aim in rows
        ]

    return make


def repeat(step: Callable[[], object], times: int) -> Numbers:
    """Seconds of the first call (tracing included) and the median of `times` calls after it."""
    seconds = []
    for _ in range(times + 1):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {"first": seconds[0], "median": statistics.median(seconds[1:])}


def rate(step: Callable[[], int], warm_up: int, rounds: int, seconds: float) -> float:
    """Median over rounds of the items a second that `step` (it returns how many) gets done."""
    for _ in range(warm_up):
        step()
    rates = []
    for _ in range(rounds):
        items, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            items += step()
        rates.append(items / (time.perf_counter() - start))
    return statistics.median(rates)


def peak_megabytes() -> Numbers:
    """Peak memory of this process, and with it the largest of its children."""
    own, children = (
        throughput.peak_megabytes(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {"peak": own, "largest_child": children}


def run_part(bench: str, part: str, setting: Setting) -> Numbers:
    """Run one part in a process of its own. RuntimeError with its last words when it fails."""
    command = [sys.executable, "-m", "tests.benchmarks", "--part", f"{bench}/{part}"]
    command += ["--folder", str(setting.folder)] + (["--quick"] if setting.quick else [])
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        words = "\n".join(done.stderr.strip().splitlines()[-12:])
        raise RuntimeError(f"{bench}/{part} ended with {done.returncode}:\n{words}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def markdown(rows: list[Row]) -> str:
    """One Markdown table, aligned."""
    cells = [
        (row.what, _number(row.value), row.unit, _number(row.naive), _number(row.gain), row.aim)
        for row in rows
    ]
    headers = ("what", "value", "unit", "naive", "times better", "aim")
    return tabulate(cells, headers, tablefmt="github", disable_numparse=True)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
