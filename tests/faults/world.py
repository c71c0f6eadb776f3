"""The sets and undisturbed runs that faults are measured against, and what comes of a fault."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from prep_data.sample.__main__ import main as make_sample
from tests.dataloaders import tiny_sets
from tests.faults.child import Fault
from tests.faults.harness import STAGE2, Processes, Training

STEPS = 40
NEXT = "core.training:_next"


class Outcome(NamedTuple):
    """window: what the command was doing. where: as what was left behind shows; '' for a fault that
    did not strike. error: '' when everything held."""

    part: str
    window: str
    fault: str
    where: str = ""
    lost: int = 0
    error: str = ""
    note: str = ""


class World:
    """Sets and undisturbed runs, made once in a folder."""

    def __init__(self, folder: Path, processes: Processes, seed: int) -> None:
        self.folder, self.processes, self.rng = folder, processes, random.Random(seed)
        self._made: dict[str, object] = {}

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """A folder that `make` has filled, now or in an earlier start."""
        place = self.folder / name
        if not (self.folder / f"{name}.done").exists():
            shutil.rmtree(place, ignore_errors=True)
            make(place)
            (self.folder / f"{name}.done").touch()
        return place

    def fresh(self, name: str) -> Path:
        """A path that is free."""
        place = self.folder / "work" / name
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    @property
    def sets(self) -> tiny_sets.TinySets:
        place = self.once("sets", tiny_sets.write_all)
        return tiny_sets.TinySets(*(str(place / name) for name in tiny_sets.TinySets._fields))

    @property
    def data(self) -> str:
        return f"qdraw_dir={self.sets.quickdraw},crops_dir={self.sets.crops}"

    def _train(self, training: Training) -> None:
        ended = self.processes.run("train.py", training.argv)
        assert ended.code == 0, ended.stderr

    @property
    def undisturbed(self) -> Training:
        """Of stage 1, id 01."""
        training = Training(self.folder / "runs", "01", self.data, STEPS)
        self.once("runs", lambda place: self._train(training))
        return training

    @property
    def scenes(self) -> Training:
        """Of stage 2, two steps."""
        data = f"coco_dir={self.sets.scenes},qdraw_dir={self.sets.indexed}"
        data += f",crops_dir={self.sets.crops}"
        training = Training(self.undisturbed.out, "S", data, 2, STAGE2)
        self.once("scenes", lambda place: self._train(training))
        return training

    @property
    def drawings(self) -> Path:
        """A few drawn classes, as the official files."""
        sizes = "--train-images 2 --val-images 2 --drawings 12 --eval-drawings 6 --workers 0"
        sizes += " --sl-train-pairs 1 --sl-test-pairs 1"
        place = self.once(
            "sample", lambda place: make_sample(["--target-dir", str(place), *sizes.split()])
        )
        return place / "quickdraw"

    def count(self, script: str, argv: list[str], function: str, call: int = 1) -> int:
        """Lines that a call of a function executes."""
        key = f"{script} {function} {call}"
        if key not in self._made:
            self._made[key] = self.processes.lines(script, argv, function, call)
        return self._made[key]


def described(fault: Fault) -> str:
    where = {"bytes": "at byte", "lines": "before line", "time": "after", "full": "at byte"}
    name = "disk full" if fault.kind == "full" else signal.Signals(fault.signal).name
    at = f"{1000 * fault.at:.0f} ms" if fault.kind == "time" else int(fault.at)
    return f"{name} {where[fault.kind]} {at}, call {fault.call}"


def failure(check: Callable[[], object]) -> str:
    try:
        check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:600]
    return ""


def same(mine: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert mine.keys() == expected.keys(), sorted(mine.keys() ^ expected.keys())
    differing = [name for name in expected if mine[name] != expected[name]]
    assert not differing, differing
