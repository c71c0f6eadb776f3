"""Processes, clocks and the table. A bench is a few parts, each run in its own process and giving
numbers, and a function that makes table rows of them."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from dataloaders import throughput

# What was timed is a pair, of wall and CPU time: seconds, or items a second. Through JSON, a list.
Numbers = dict[str, float | np.ndarray | list[float]]


@dataclass(frozen=True)
class Setting:
    """quick: small sizes, only to see that a bench works. folder: where data and results lie."""

    quick: bool
    folder: Path

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full


class Row(NamedTuple):
    """value and naive are in `unit`; gain: how many times better than the naive version. The last
    three are these by CPU time, of what was timed."""

    what: str
    value: float
    unit: str
    naive: float | None = None
    gain: float | None = None
    aim: str = ""
    cpu: float | None = None
    cpu_naive: float | None = None
    cpu_gain: float | None = None


@dataclass(frozen=True)
class Bench:
    """parts: name -> function of the setting, run in this order."""

    parts: dict[str, Callable[[Setting], Numbers]]
    rows: Callable[[dict[str, Numbers]], list[Row]]


Number = float | np.ndarray | list[float] | None


def slower(what: str, unit: str, value: Number, naive: Number = None, aim: str = "") -> Row:
    """A row of something of which less is better."""
    return _row(what, unit, value, naive, aim, lambda ours, theirs: theirs / ours)


def faster(what: str, unit: str, value: Number, naive: Number = None, aim: str = "") -> Row:
    """A row of something of which more is better."""
    return _row(what, unit, value, naive, aim, lambda ours, theirs: ours / theirs)


def _row(what: str, unit: str, value: Number, naive: Number, aim: str, better: Callable) -> Row:
    (wall, cpu), (naive_wall, naive_cpu) = (
        (*np.atleast_1d(each).tolist(), None)[:2] for each in (value, naive)
    )
    gain, cpu_gain = (
        ours and theirs and better(ours, theirs)
        for ours, theirs in ((wall, naive_wall), (cpu, naive_cpu))
    )
    return Row(what, wall, unit, naive_wall, gain, aim, cpu, naive_cpu, cpu_gain)


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


def stopwatch() -> Callable[[], np.ndarray]:
    """Return a function that gives the seconds since now: of the wall, and of the processors (user
    and system) for this process and its children that have ended."""

    def clocks() -> np.ndarray:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = time.process_time() + children.ru_utime + children.ru_stime
        return np.array([time.perf_counter(), busy])

    start = clocks()
    return lambda: clocks() - start


def repeat(step: Callable[[], object], times: int, percentile: float = 50) -> Numbers:
    """Seconds of the first call (tracing included) and the median, or another percentile, of
    `times` calls after it."""
    seconds = []
    for _ in range(times + 1):
        passed = stopwatch()
        step()
        seconds.append(passed())
    name = "median" if percentile == 50 else f"p{percentile}"
    return {"first": seconds[0], name: np.percentile(seconds[1:], percentile, axis=0)}


def rate(step: Callable[[], int], warm_up: int, rounds: int, seconds: float) -> np.ndarray:
    """Median over rounds of the items a second that `step` (it returns how many) gets done."""
    for _ in range(warm_up):
        step()
    rates = []
    for _ in range(rounds):
        items, passed = 0, stopwatch()
        while passed()[0] < seconds:
            items += step()
        rates.append(items / passed())
    return np.median(rates, axis=0)


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
        (
            row.what,
            *map(_number, (row.value, row.cpu)),
            row.unit,
            *map(_number, (row.naive, row.cpu_naive, row.gain, row.cpu_gain)),
            row.aim,
        )
        for row in rows
    ]
    both = ("value", "by CPU", "unit", "naive", "by CPU", "times better", "by CPU")
    headers = ("what", *both, "aim")
    return tabulate(cells, headers, tablefmt="github", disable_numparse=True)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
