"""`python -m core.status OUT`: list the runs in an output folder, a line each.

Reads only what the runs have written, changes nothing and needs no TensorFlow, so that it answers
at once. A run is alive when a process holds its lock.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from core import commands
from core.commands import duration_text
from core.errors import UserError
from core.hparams import MOST_STEPS
from core.run_folder import RunConfig, RunFolder, checkpoint_steps, metrics_line

# Columns of the table and how they are aligned.
COLUMNS = {
    "run": "left", "state": "left", "step": "right", "steps/s": "right", "left": "right",
    "checkpoint": "right", "logged": "right", "losses": "left",
}  # fmt: skip
_TAIL_BYTES = 1 << 16  # of metrics.jsonl that are read: some hundred lines
_SHOWN_LOSSES = 2


def main(argv: Sequence[str]) -> None:
    """Print the table. UserError when the folder cannot be read or has no run."""
    parser = commands.Parser(prog="python -m core.status", description="List the runs of a folder.")
    parser.add_argument("output_dir", metavar="OUT", type=Path, help="folder of all runs")
    output_dir = parser.parse_args(list(argv)).output_dir
    rows, problems = [], []
    try:
        folders = sorted(path for path in output_dir.iterdir() if path.is_dir())
    except OSError as error:
        raise UserError(f"cannot read {output_dir}: {error.strerror}") from None
    for folder in folders:
        try:
            rows += run_rows(folder)
        except OSError as error:
            problems.append(f"{folder.name}  cannot be read: {error.filename}: {error.strerror}")
        except UserError as error:
            problems.append(f"{folder.name}  cannot be read: {error}")
    if not rows and not problems:
        raise UserError(f"there is no run in {output_dir}; name the folder that -o names")
    if rows:
        table = [[row.get(name, "-") for name in COLUMNS] for row in rows]
        print(
            tabulate(
                table, list(COLUMNS), "plain", disable_numparse=True, colalign=COLUMNS.values()
            )
        )
    print("".join(f"{problem}\n" for problem in problems), end="")


def run_rows(folder: Path) -> list[dict[str, str]]:
    """Return the row of a run's folder, by the names of COLUMNS; none of another folder."""
    model, _, run_id = folder.name.rpartition("-")
    if not model or not run_id:
        return []
    run = RunFolder(folder.parent, model, run_id)
    # An experiment's folder has a config.json too, a prepared set's a lock.
    started = run.lock_file.exists() and not (run.root / "prep.json").exists()
    if not (started or run.checkpoints.exists() or run.metrics.exists()):
        return []
    return [{"run": folder.name, **_cells(run)}]


def _cells(run: RunFolder) -> dict[str, str]:
    writer, saved = run.training_process(), checkpoint_steps(run.checkpoints)[-1:]
    if not run.config.is_file():
        return {"state": f"starting (pid {writer})" if writer else "failed at its start"}
    config = RunConfig.read(run.config)
    last = config.hparams.base.get("iterations")
    if type(last) is not int or not 0 < last <= MOST_STEPS:
        raise UserError(f"{run.config}: hparams.base.iterations is no number of steps")
    lines = _last_lines(run.metrics)
    step = lines[-1]["step"] if lines else 0
    cells = {"state": _state(writer, saved, last), "step": f"{max(step, *saved, 0)}/{last}"}
    if saved:
        state = run.checkpoints / f"step-{saved[0]:08d}" / "state.json"
        cells["checkpoint"] = f"{saved[0]}" if state.is_file() else f"{saved[0]} (damaged)"
    if lines:
        cells["losses"] = _losses_text(lines[-1]["losses"])
        cells["logged"] = f"{duration_text(max(time.time() - lines[-1]['wall'], 0))} ago"
    # Lines after the last start: between others lies the time that nobody trained.
    start = config.history[-1]["step"] if config.history else 0
    speed = _steps_per_second([line for line in lines if line["step"] > start])
    if writer and speed:
        cells |= {"steps/s": f"{speed:.3g}", "left": duration_text((last - step) / speed)}
    return cells


def _state(writer: str | None, saved: Sequence[int], last: int) -> str:
    if writer:
        return f"training (pid {writer})"
    if not saved:
        return "stopped, nothing saved"
    return "finished" if saved[-1] >= last else f"stopped at {saved[-1]}"


def _last_lines(path: Path) -> list[dict[str, Any]]:
    """Return the last records of metrics.jsonl, without one that is being written."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        texts = file.read(_TAIL_BYTES).decode("utf-8", "replace").splitlines()
    return [line for line in map(metrics_line, texts[size > _TAIL_BYTES :]) if line]


def _steps_per_second(lines: Sequence[dict[str, Any]]) -> float | None:
    """Return the speed over `lines`, evaluations and checkpoints included."""
    if not lines:
        return None
    seconds = lines[-1]["wall"] - lines[0]["wall"]
    steps = lines[-1]["step"] - lines[0]["step"]
    if seconds > 0 and steps > 0:
        return steps / seconds
    return 1 / lines[-1]["time"] if lines[-1]["time"] else None


def _losses_text(losses: dict[str, float]) -> str:
    """Return the total, then as many of the others in their order as fit."""
    names = sorted(losses, key=lambda name: name != "total_loss")[:_SHOWN_LOSSES]
    return "  ".join(f"{name} {losses[name]:.4g}" for name in names)


if __name__ == "__main__":
    sys.exit(commands.run(main, sys.argv[1:]))
