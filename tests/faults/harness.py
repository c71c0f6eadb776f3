"""Run commands of this project as processes, and look at how they end."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.dataloaders import tiny_sets
from tests.faults.child import ROOT, Fault

STAGE1, STAGE2 = "multidomain-representation", "graph-attention"
LOADER = {STAGE1: "quickdraw-cococrops-tf", STAGE2: "coco-tfrecord"}
ENCODERS = "pretrained_e_model=shallow,image_size=32,pretrained_weights=none"
HPARAMS = {
    STAGE1: ENCODERS,
    STAGE2: f"{ENCODERS},pt_mdomain_id=01,mask_width=8,layout_d_arch=verysmall,"
    "gconv_num_layers=1,g_enc_n_layers=1,gconv_hidden_dim=64",
}
PATIENCE = 120  # seconds


class Ended(NamedTuple):
    """The end of a process. code: -9 of one that was killed."""

    code: int
    stderr: str

    @property
    def last_line(self) -> str:
        return (self.stderr.strip().splitlines() or [""])[-1]

    def check_sentence(self, code: int) -> None:
        """AssertionError unless the process ended with that exit code and one clear sentence."""
        assert self.code == code, f"exit code {self.code}: {self.stderr[-800:]}"
        assert "Traceback" not in self.stderr, self.stderr[-2000:]
        assert code > 128 or self.last_line.startswith("error: "), self.stderr[-800:]


class Outcome(NamedTuple):
    """The outcome of a fault.

    part: of the page. window: what the command was doing. left: what was found unfinished.
    struck: whether the fault struck. lost: steps of a training. error: '' when everything held.
    """

    part: str
    window: str
    fault: str
    struck: bool = True
    left: str = ""
    lost: int = 0
    error: str = ""


class Processes:
    """Starts commands, forked from a process that has imported what they need. A context."""

    def __init__(self, folder: Path) -> None:
        """folder: for their stderr."""
        self._folder, self._count = folder, 0
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Processes:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.child", "--serve"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stdin.close()
        self._server.wait()

    def _ask(self, request: dict[str, Any]) -> int:
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def start(
        self, script: str, argv: Sequence[str], fault: Fault | None = None, slack: str | None = None
    ) -> tuple[int, Path]:
        """Start 'train.py', or a module; return the process id and the file of its stderr."""
        self._count += 1
        stderr = self._folder / f"{self._count:04d}.stderr"
        stderr.touch()
        armed = fault and dataclasses.asdict(fault)
        request = [armed, slack, script, [str(each) for each in argv]]
        return self._ask({"start": request, "stderr": str(stderr)}), stderr

    def wait(self, process: tuple[int, Path]) -> Ended:
        """Wait until a process has ended, by itself or by a fault."""
        code = self._ask({"wait": process[0]})
        return Ended(code, process[1].read_text("utf-8", errors="replace"))

    def run(
        self, script: str, argv: Sequence[str], fault: Fault | None = None, slack: str | None = None
    ) -> Ended:
        """Start a process and wait for it."""
        return self.wait(self.start(script, argv, fault, slack))

    def count_lines(self, script: str, argv: Sequence[str], function: str, call: int = 1) -> int:
        """Return how many lines of this project's code that call of a function executes."""
        ended = self.run(script, argv, Fault("count", function, 0, call))
        (line,) = [x for x in ended.stderr.splitlines() if x.startswith("lines: ")]
        return int(line.split()[1])


class World:
    """A folder with what is made once: sets and undisturbed results."""

    def __init__(self, folder: Path, processes: Processes, seed: int) -> None:
        self.folder, self.processes, self.rng = folder, processes, random.Random(seed)

    def made_once(self, name: str, make: Callable[[Path], object]) -> Path:
        """Return a folder that `make` has filled, now or in an earlier start."""
        folder = self.folder / name
        if not (self.folder / f"{name}.done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            (self.folder / f"{name}.done").touch()
        return folder

    def free_path(self, name: str) -> Path:
        """Return a path where nothing is."""
        path = self.folder / "work" / name
        shutil.rmtree(path, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def sets(self) -> tiny_sets.TinySets:
        folder = self.made_once("sets", tiny_sets.write_all)
        return tiny_sets.TinySets(*(str(folder / name) for name in tiny_sets.TinySets._fields))


def error_of(check: Callable[[], object]) -> str:
    """Return the message of the error that `check` raises, '' when it raises none."""
    try:
        check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:600]
    return ""


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when `condition` is true; AssertionError when it takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come so far"
        time.sleep(0.02)


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of the files in a folder, but for hidden ones, by their paths."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
