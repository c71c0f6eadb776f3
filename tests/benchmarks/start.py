"""Seconds from a command line to its first line: what a person waits before anything is said. CPU
time is of the whole command; of a training, until it is killed then."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.benchmarks.harness import Bench, Numbers, Row, Setting, slower, stopwatch

_RUN = ("--data-loader", "coco-tfrecord", "-o", "runs", "--id", "x")
TRAINING = "a training's first line"
COMMANDS = {  # what -> (its command line, the exit code it ends with)
    **{
        f"{script} --help-hps": ((script, "--help-hps"), 0)
        for script in ("train.py", "evaluate-metrics.py", "run-experiment.py")
    },
    **{
        f"{script}, an unknown model's name": ((script, "no-such-model", *_RUN), 2)
        for script in ("train.py", "evaluate-metrics.py")
    },
    **{
        f"prep_data.{module} --help": (("-m", f"prep_data.{module}", "--help"), 0)
        for module in (
            "quickdraw_to_tfrecord",
            "index_quickdrawtf",
            "coco_to_tfrecord",
            "cococrops_to_tfrecord",
            "sketchycoco_to_tfrecord",
            "sample",
        )
    },
}
AIM = "under 6 s"


def first_line(arguments: Sequence[str]) -> tuple[float, subprocess.Popen]:
    """Seconds to the first line on stdout or stderr, and the process, still running perhaps."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    if not process.stdout.readline().strip():
        raise RuntimeError(f"{' '.join(arguments)} began with an empty line, or said nothing")
    return time.perf_counter() - start, process


def command(arguments: Sequence[str], exit_code: int, setting: Setting) -> Numbers:
    times = []
    for _ in range(setting.size(3, 1)):
        passed = stopwatch()
        seconds, process = first_line(arguments)
        rest, _ = process.communicate()
        if process.returncode != exit_code:
            raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}:\n{rest}")
        times.append([seconds, passed()[1]])
    return {"median": np.median(times, axis=0)}


def _training(setting: Setting) -> Numbers:
    """On tiny sets. Its first line comes before the first batch."""
    from tests.dataloaders import tiny_sets

    with tempfile.TemporaryDirectory() as folder:
        sets = tiny_sets.write_all(Path(folder))
        times = []
        for run in range(setting.size(3, 1)):
            passed = stopwatch()
            seconds, process = first_line(
                [
                    *("train.py", "multidomain-representation"),
                    *("--data-loader", "quickdraw-cococrops-tf", "-o", folder, "--id", str(run)),
                    *("--hparams", "pretrained_weights=none"),
                    *("--data-hparams", f"qdraw_dir={sets.quickdraw},crops_dir={sets.crops}"),
                ]
            )
            process.kill()
            process.communicate()
            times.append([seconds, passed()[1]])
    return {"median": np.median(times, axis=0)}


def _rows(found: dict[str, Numbers]) -> list[Row]:
    return [
        slower(f"first line: {what}", "s", numbers["median"], aim=AIM)
        for what, numbers in found.items()
    ]


PARTS = {what: functools.partial(command, *line) for what, line in COMMANDS.items()}
BENCHES = {"start": Bench({**PARTS, TRAINING: _training}, _rows)}
