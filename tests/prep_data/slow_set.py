"""A preparation that takes its time, run by tests as a process: slow_set.py FOLDER [SECONDS]."""

import multiprocessing
import os
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from dataloaders.images import Problem
from prep_data.flags import run_script
from prep_data.report import Report
from prep_data.set_writer import SPLITS, Part, SetWriter, TaskResult, Totals

PER_PART, PARTS = 6, 4


def work(task: int, seconds: float) -> TaskResult:
    """One record a task in a class that depends on it; every fifth is skipped."""
    in_worker = multiprocessing.parent_process() is not None
    assert not (in_worker and "tensorflow" in sys.modules), "a worker has imported TensorFlow"
    time.sleep(seconds)
    if task % 5 == 0:
        return TaskResult([], [Problem("divisible by five", str(task))])
    name = "hot dog" if task % 2 else "cat"
    record = {"image": b"x" * task, "coco_class": task % 3, "sketch_class": task}
    return TaskResult([(name, record)], [], {"seen": 1})


def die(task: int, seconds: float) -> TaskResult:
    """A worker that is killed, as by lack of memory."""
    os._exit(1)


def make_meta(totals: Totals) -> dict:
    return {"coco_classes": [], "records": totals.records, "seen": totals.counts["test"]["seen"]}


def prepare(
    folder: Path,
    seconds: float = 0.0,
    workers: int = 0,
    settings: int = 1,
    work=work,
    make_meta=make_meta,
):
    """The whole set into `folder`."""
    report = Report()
    with SetWriter(folder, "quickdraw-indexed", {"settings": settings}) as out:
        if out.complete:
            return
        parts = [
            Part(split, i, PARTS, partial(range, i * PER_PART, (i + 1) * PER_PART), PER_PART)
            for split in SPLITS
            for i in range(PARTS)
        ]
        out.write(
            parts,
            partial(work, seconds=seconds),
            make_meta,
            workers=workers,
            report=report,
            unit="task",
        )


if __name__ == "__main__":
    run_script(lambda _: prepare(Path(sys.argv[1]), float(sys.argv[2]), workers=2))
