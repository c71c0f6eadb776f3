"""The folder of a run, and `config.json`: everything needed to rebuild the run's model and data.

<output dir>/<model>-<id>/
    config.json     RunConfig: model, loader, hparam groups, history
    metrics.jsonl   losses, one line a log; figures.jsonl: figures, one line an evaluation
    checkpoints/    one folder a checkpoint (core.checkpoints)
    plots/          pictures made during training;  evaluation/: by evaluate-metrics.py
    tensorboard/    event files;  slack.json: the run's thread
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from core import locks
from core.errors import UsageError
from core.files import make_folder, read_versioned_json, write_json

log = logging.getLogger(__name__)

SCHEMA = 1
CHECKPOINT = re.compile(r"step-(\d{8,})$")  # the name of its folder


class RunFolder:
    """Paths of one run. Making an instance touches no file."""

    def __init__(self, output_dir: str | Path, model_name: str, run_id: str) -> None:
        """Name the paths; UsageError for an id that cannot be part of a folder's name."""
        if not run_id or "/" in run_id or "\0" in run_id:
            raise UsageError(
                f"the id {run_id!r} cannot name a run: use letters, digits, '-', '_' and '.'"
            )
        self.model_name = model_name
        self.run_id = run_id
        self.output_dir = Path(output_dir)
        self.root = self.output_dir / f"{model_name}-{run_id}"
        self.config = self.root / "config.json"
        self.metrics = self.root / "metrics.jsonl"
        self.figures = self.root / "figures.jsonl"
        self.checkpoints = self.root / "checkpoints"
        self.plots = self.root / "plots"
        self.evaluation = self.root / "evaluation"
        self.tensorboard = self.root / "tensorboard"
        self.slack = self.root / "slack.json"
        self.lock_file = self.root / ".lock"

    def create(self) -> None:
        """Make the folder. UserError when that or writing into it is impossible."""
        make_folder(self.root, "the run folder", "choose another folder with -o")

    @contextlib.contextmanager
    def created(self) -> Iterator[None]:
        """Make the folder for a block, and remove it when the block fails and it is still empty."""
        new = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        self.create()
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):  # something lies in it
                for folder in new:
                    folder.rmdir()
            raise

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the run for one training; UserError naming the other process when there is one."""
        return locks.hold(
            self.lock_file,
            f"the run {self.root} is being written",
            "wait for it, stop it, or train under another --id",
        )

    def training_process(self) -> str | None:
        """Return the id of the process that trains the run now, as `locks.holder`."""
        return locks.holder(self.lock_file)


def checkpoint_steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a run's folder of them, ascending."""
    if not folder.is_dir():
        return []
    matches = (CHECKPOINT.match(entry.name) for entry in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match)


class HistoryEntry(TypedDict):
    """One start of a training, as config.json records it.

    step: steps done before. data: data hparam that names a folder -> digest of what lies in it.
    changes: 'group.name' -> [before, now] of what differs from the start before.
    """

    step: int
    loader: str
    command: list[str]
    versions: dict[str, str]
    git: dict[str, Any] | None
    time: str
    seed: int
    data: dict[str, str]
    changes: dict[str, list[Any]]


class HParamGroups(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hparams as plain values, which `core.hparams.from_dict` checks against their classes.

    base, model: name -> value. data: loader name -> {name -> value}, for every loader the run was
    trained with.
    """

    base: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, dict[str, Any]]


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of config.json.

    model, loader: registered names; loader is the one of the last training. history: one entry a
    training start. contents: loader name -> {data hparam that names a folder -> {file -> digest}},
    as the last training with that loader found them.
    """

    model: str
    loader: str
    hparams: HParamGroups
    history: tuple[HistoryEntry, ...] = ()
    contents: dict[str, dict[str, dict[str, str]]] = {}
    schema: int = SCHEMA

    def write(self, path: Path) -> None:
        """Write the file atomically, with a fixed order of keys."""
        write_json(path, msgspec.to_builtins(self))

    @classmethod
    def read(cls, path: Path) -> RunConfig:
        """Read a config.json; UserError naming file and place when it is not of this layout."""
        return read_versioned_json(path, cls, SCHEMA)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl or figures.jsonl, without one cut short by a kill."""
    if not path.is_file():
        return []
    lines = []
    for number, text in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1):
        line = metrics_line(text)
        if line is None:
            log.warning("%s line %d is not a complete record: left out", path, number)
        else:
            lines.append(line)
    return lines


def metrics_line(text: str) -> dict[str, Any] | None:
    """Return the record in a line of these files, None when it is not complete."""
    try:
        line = json.loads(text)
        return {**line, "step": int(line["step"])}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
