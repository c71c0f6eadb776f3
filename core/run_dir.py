"""The folder of a run, and `config.json`: everything needed to rebuild the run's model and data.

<output dir>/<model>-<id>/
    config.json     RunConfig: model, loader, hparam groups, history
    metrics.jsonl   losses, one line a log; figures.jsonl: figures, one line an evaluation
    checkpoints/    one folder a checkpoint (core.checkpoints)
    plots/          pictures made during training;  evaluation/: by evaluate-metrics.py
    tensorboard/    event files;  slack.json: the run's thread
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import UsageError, UserError
from core.files import make_folder, read_json, write_json

log = logging.getLogger(__name__)

SCHEMA = 1


class RunDir:
    """Paths of one run. Making an instance touches no file."""

    def __init__(self, output_dir: "str | Path", model_name: str, run_id: str) -> None:
        """UsageError for an id that cannot be part of a folder's name."""
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

    def create(self) -> None:
        """Make the folder; UserError when that or writing into it is impossible."""
        make_folder(self.root, "the run folder", "choose another folder with -o")

    @contextlib.contextmanager
    def lock(self) -> "Iterator[None]":
        """Hold the run for one writer; UserError naming the other process when there is one.

        The operating system drops the lock when the process ends, however it ends.
        """
        path = self.root / ".lock"
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    # Some network file systems have no locks: going on beats not training.
                    log.warning("no lock on %s (%s): do not start a second run", self.root, error)
                else:
                    file.seek(0)
                    pid = file.read().strip() or "unknown"
                    raise UserError(
                        f"the run {self.root} is being written by process {pid}; wait for it, "
                        "stop it, or train under another --id"
                    ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What config.json holds. Hparam groups are plain dicts here: `core.hparams.from_dict` checks
    them against the classes, which this module does not know.

    model, loader: registered names; loader is the one of the last training. base, model_hparams:
    name -> value. data: loader name -> {name -> value}, for every loader the run has met.
    history: one entry a training start: {step, loader, command, versions, time, changes}.
    """

    model: str
    loader: str
    base: "dict[str, Any]"
    model_hparams: "dict[str, Any]"
    data: "dict[str, dict[str, Any]]"
    history: "tuple[dict[str, Any], ...]" = ()

    def write(self, path: Path) -> None:
        """Atomically, as JSON with a fixed order of keys."""
        content = {
            "schema": SCHEMA,
            "model": self.model,
            "loader": self.loader,
            "hparams": {"base": self.base, "model": self.model_hparams, "data": self.data},
            "history": list(self.history),
        }
        write_json(path, content)

    @classmethod
    def read(cls, path: Path) -> "RunConfig":
        """UserError for a file that is missing, no JSON, or has unknown, missing or ill-typed
        keys."""
        content = read_json(path)
        check_keys(content, {"schema": int, "model": str, "loader": str, "hparams": dict,
                        "history": list}, str(path))  # fmt: skip
        if content["schema"] != SCHEMA:
            raise UserError(
                f"{path}: schema {content['schema']}, but this version of the program reads "
                f"schema {SCHEMA}; use the version that wrote it, or train again"
            )
        groups = content["hparams"]
        check_keys(groups, {"base": dict, "model": dict, "data": dict}, f"{path}: hparams")
        for loader, values in groups["data"].items():
            if not isinstance(values, dict):
                raise UserError(f"{path}: hparams.data.{loader} must be an object")
        for entry in content["history"]:
            check_keys(entry, {"step": int, "loader": str, "command": list, "versions": dict,
                          "time": str, "changes": dict}, f"{path}: history")  # fmt: skip
        return cls(
            model=content["model"],
            loader=content["loader"],
            base=groups["base"],
            model_hparams=groups["model"],
            data=groups["data"],
            history=tuple(content["history"]),
        )


def read_metrics(path: Path) -> "list[dict[str, Any]]":
    """The lines of metrics.jsonl or figures.jsonl; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    lines = []
    for number, text in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1):
        try:
            line = json.loads(text)
            lines.append({**line, "step": int(line["step"])})
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            log.warning("%s line %d is not a complete record: left out", path, number)
    return lines


def check_keys(content: Any, expected: "dict[str, type]", where: str) -> None:
    """UserError naming `where` unless `content` has exactly the `expected` keys and types."""
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected an object, found {content!r}")
    for name in content:
        if name not in expected:
            raise UserError(f"{where}: unknown key {name!r}; valid: {', '.join(expected)}")
    for name, kind in expected.items():
        if name not in content:
            raise UserError(f"{where}: the key {name!r} is missing")
        if type(content[name]) is not kind:
            raise UserError(f"{where}: {name!r} must be {kind.__name__}, is {content[name]!r}")
