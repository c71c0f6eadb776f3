"""Commands that are struck by faults, and what must hold of what they leave behind."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from core import checkpoints, features
from core.dataset import SPLITS
from core.errors import UserError
from core.run_folder import RunConfig, RunFolder, read_metrics
from dataloaders import prepared_sets
from tests.dataloaders import tiny_sets
from tests.faults.child import ROOT, Fault

STAGE1, STAGE2 = "multidomain-representation", "graph-attention"
LOADER = {STAGE1: "quickdraw-cococrops-tf", STAGE2: "coco-tfrecord"}
ENCODERS = "pretrained_e_model=shallow,image_size=32,pretrained_weights=none"
HPARAMS = {
    STAGE1: ENCODERS,
    STAGE2: f"{ENCODERS},pt_mdomain_id=01,mask_width=8,layout_d_arch=verysmall,"
    "gconv_num_layers=2,g_enc_n_layers=1,gconv_hidden_dim=64",
}
SAFETY = 2  # steps between the checkpoints of a struck run


class Ended(NamedTuple):
    code: int  # -9 of a process that was killed
    stderr: str

    @property
    def last(self) -> str:
        """The last line, which says why."""
        return (self.stderr.strip().splitlines() or [""])[-1]


class Processes:
    """Starts commands as processes, forked from one that has imported what they need. A context."""

    def __init__(self, folder: Path) -> None:
        """folder: for what they say."""
        self._folder, self._count = folder, 0
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Processes:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.child", "--serve"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
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
        self,
        script: str,
        argv: Sequence[str],
        fault: Fault | None = None,
        slack: str = "",
        user: int | None = None,
    ) -> tuple[int, Path]:
        """(process id, file of its stderr). script: 'train.py', or a module. user: to run as."""
        self._count += 1
        stderr = self._folder / f"{self._count:04d}.stderr"
        stderr.touch()
        struck = fault and dataclasses.asdict(fault)
        request = [struck, slack or None, script, [str(each) for each in argv]]
        return self._ask({"start": request, "stderr": str(stderr), "user": user}), stderr

    def wait(self, process: tuple[int, Path]) -> Ended:
        """How it ended, by itself or by a fault."""
        pid, stderr = process
        code = self._ask({"wait": pid})
        return Ended(code, stderr.read_text("utf-8", errors="replace"))

    def run(self, script: str, argv: Sequence[str], *how: Any, **more: Any) -> Ended:
        """Starts and waits."""
        return self.wait(self.start(script, argv, *how, **more))

    def lines(self, script: str, argv: Sequence[str], function: str, call: int = 1) -> int:
        """How many lines of ours that call of a function executes."""
        ended = self.run(script, argv, Fault("count", function, 0, call))
        (line,) = [x for x in ended.stderr.splitlines() if x.startswith("lines: ")]
        return int(line.split()[1])


# ---- trainings -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Training:
    """A training of one of the models, on sets that `data` names."""

    out: Path
    run_id: str
    data: str
    steps: int
    model: str = STAGE1
    more: str = ""  # of --base-hparams

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.out, self.model, self.run_id)

    @property
    def argv(self) -> list[str]:
        """The same for the first start and all others."""
        base = (
            f"batch_size=4,log_every=1,notify_every=1000,save_every=1000,safety_save={SAFETY},"
            f"iterations={self.steps},deterministic=true"
        )
        slack = "" if "slack_config" in self.more else ",slack_config="
        return [
            self.model, "--data-loader", LOADER[self.model], "-o", str(self.out),
            "--id", self.run_id, "--resume", "latest", "--hparams", HPARAMS[self.model],
            "--data-hparams", self.data, "--base-hparams", f"{base}{slack}{self.more}",
        ]  # fmt: skip

    def losses(self) -> dict[int, dict[str, float]]:
        return {line["step"]: line["losses"] for line in read_metrics(self.run.metrics)}

    def variables(self) -> dict[str, np.ndarray]:
        """Everything the newest checkpoint holds."""
        newest = checkpoints.Checkpoints(self.run.checkpoints).latest()
        reader = tf.train.load_checkpoint(str(newest / "ckpt"))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}

    def check_left(self, interval: int = SAFETY) -> int:
        """AssertionError unless what is left is sound: every checkpoint that reads as complete is,
        config.json is whole, and at most one interval is lost. The steps lost."""
        own = checkpoints.Checkpoints(self.run.checkpoints)
        for step in own.steps():
            checkpoints.verify(own.path(step))  # DamagedError
        if self.run.config.exists():
            RunConfig.read(self.run.config)
        done = max(self.losses(), default=0)
        lost = done - max(own.steps(), default=0)
        assert lost <= interval, f"{lost} steps lost"
        return max(lost, 0)

    def check_same(self, undisturbed: Training) -> None:
        """AssertionError unless all losses and the last checkpoint are equal bit for bit."""
        mine, other = self.losses(), undisturbed.losses()
        assert mine == other, _first_difference(mine, other)
        mine, other = self.variables(), undisturbed.variables()
        assert mine.keys() == other.keys()
        for name, value in other.items():
            same = np.asarray(mine[name]).tobytes() == np.asarray(value).tobytes()
            assert same or name == "_CHECKPOINTABLE_OBJECT_GRAPH", f"{name} differs"


def _first_difference(mine: dict, other: dict) -> str:
    for step in sorted({*mine, *other}):
        if mine.get(step) != other.get(step):
            return f"step {step}: {mine.get(step)} instead of {other.get(step)}"
    return "none"


# ---- what is left behind ---------------------------------------------------------------------


def file_of_size(folder: Path, pattern: str, size: int) -> str | None:
    """The name of an unfinished file that ends where a fault at a byte struck."""
    for path in sorted(folder.glob(pattern)):
        if path.is_file() and path.stat().st_size == size:
            return path.name
    return None


def partials(folder: Path) -> frozenset[str]:
    """Names of the files that processes were writing."""
    return frozenset(path.name for path in folder.glob(".*.partial"))


class Before(NamedTuple):
    """What there was of a run before a fault struck."""

    step: int  # of its newest checkpoint
    starts: int  # in the history of its config.json
    left: frozenset[str]  # of config.json, by earlier faults

    @classmethod
    def of(cls, run: RunFolder) -> Before:
        starts = len(RunConfig.read(run.config).history) if run.config.exists() else 0
        steps = checkpoints.Checkpoints(run.checkpoints).steps()
        return cls(max(steps, default=0), starts, partials(run.root))


def checkpoint_evidence(run: RunFolder, fault: Fault, before: Before) -> str | None:
    """Where within the writing of a checkpoint the process ended; None: nothing tells."""
    folder = run.checkpoints
    if not folder.is_dir():
        return None
    unfinished = list(folder.glob(".step-*.partial"))
    if fault.kind in ("bytes", "full"):
        for path in unfinished:
            for file in path.rglob("*"):
                if file.is_file() and file.stat().st_size == fault.at:
                    return "its data" if ".data-" in file.name else "its index or state.json"
        return None
    for path in unfinished:
        names = {file.name for file in path.iterdir()}
        if ".old." in path.name:
            return "while an older one is removed"
        if "state.json" in names:
            return "before the rename"
        return "before state.json" if "ckpt.index" in names else "before its index"
    steps = checkpoints.Checkpoints(folder).steps()
    done = max((line["step"] for line in read_metrics(run.metrics)), default=0)
    if steps and steps[-1] == done:
        return "after the rename"
    return "before its folder" if done % SAFETY == 0 else None


def step_evidence(run: RunFolder, fault: Fault, before: Before) -> str | None:
    """Whether the process ended in that very step: no checkpoint is unfinished, and the losses of
    the steps up to it, or with it, are written."""
    if list(run.checkpoints.glob(".step-*.partial")):
        return None
    done = max((line["step"] for line in read_metrics(run.metrics)), default=0)
    places = {fault.call - 1: "while it computes", fault.call: "after its losses were written"}
    return places.get(done - before.step)


def config_evidence(run: RunFolder, fault: Fault, before: Before) -> str | None:
    """What is left of config.json."""
    if fault.kind in ("bytes", "full"):
        return "its bytes" if file_of_size(run.root, ".config.json.*", int(fault.at)) else None
    if partials(run.root) - before.left:
        return "before the rename"
    return "before its file" if Before.of(run).starts == before.starts else "after the rename"


def set_evidence(folder: Path, fault: Fault) -> str | None:
    """Which file of a set was being written."""
    if fault.kind in ("bytes", "full"):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.stat().st_size == fault.at:
                if ".partial" in path.name:
                    return "a shard" if ".tfrecord" in path.name else "index or notes"
                if ".spool" in path.parts:
                    return "the spool"
        return None
    return "within a shard" if list(folder.rglob("*.partial")) else "between shards"


def check_set(folder: Path, kind: str) -> bool:
    """Whether the set reads as complete; AssertionError if it does and is not."""
    try:
        prepared_sets.read_meta(folder, kind)
    except UserError:
        return False
    for split in SPLITS:
        tiny_sets.read_split(folder, split)
    return True


def contents(folder: Path) -> dict[str, bytes]:
    """The files in a folder, but for locks, remembered hashes and the like."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def check_features(folder: Path) -> int:
    """How many features files there are; UserError when one reads badly."""
    found = sorted(folder.glob("*_feats.npz"))
    for path in found:
        features.read(path)
    return len(found)


def one_sentence(ended: Ended, code: int) -> None:
    """AssertionError unless the process ended with one clear sentence."""
    assert ended.code == code, f"exit code {ended.code}: {ended.stderr[-800:]}"
    assert "Traceback" not in ended.stderr, ended.stderr[-2000:]
    if code < 128:
        assert ended.last.startswith("error: "), ended.stderr[-800:]


KILLED = -signal.SIGKILL
