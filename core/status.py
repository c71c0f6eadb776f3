"""`python -m core.status OUT`: the runs in an output folder, a line each.

Reads only what the runs have written, changes nothing, and needs no TensorFlow: a line is there at
once. A run is alive when a process holds its lock.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from core import commands
from core.errors import UserError
from core.hparams import MOST_STEPS
from core.run_folder import RunConfig, RunFolder, checkpoint_steps, metrics_line

COLUMNS = ("run", "state", "step", "steps/s", "left", "checkpoint", "logged", "losses")
_RIGHT = ("step", "steps/s", "left", "checkpoint", "logged")
_TAIL = 1 << 16  # bytes of metrics.jsonl that are read: some hundred lines
_LOSSES = 2  # shown
_NONE = "-"


def main(argv: Sequence[str]) -> None:
    """Print the table. UserError when the folder cannot be read or has no run."""
    parser = commands.Parser(prog="python -m core.status", description="List the runs of a folder.")
    parser.add_argument("output_dir", metavar="OUT", type=Path, help="folder of all runs")
    output_dir = parser.parse_args(list(argv)).output_dir
    try:
        folders = sorted(path for path in output_dir.iterdir() if path.is_dir())
    except OSError as error:
        raise UserError(f"cannot read {output_dir}: {error.strerror}") from None
    rows = [row for row in map(_row, folders) if row]
    if not rows:
        raise UserError(f"there is no run in {output_dir}; name the folder that -o names")
    print("\n".join(table(rows)))


def table(rows: Iterable[dict[str, str]]) -> list[str]:
    """Aligned lines under a head. rows: of `COLUMNS`, those that are not there being empty; a row
    with 'problem' shows that in place of all but the run."""
    rows = [{name: name for name in COLUMNS}, *rows]
    widths = {name: max(len(row.get(name, "")) for row in rows) for name in COLUMNS}
    lines = []
    for row in rows:
        cells = [row["run"].ljust(widths["run"])]
        if "problem" in row:
            cells.append(row["problem"])
        else:
            for name in COLUMNS[1:]:
                align = str.rjust if name in _RIGHT else str.ljust
                cells.append(align(row.get(name, ""), widths[name]))
        lines.append("  ".join(cells).rstrip())
    return lines


def _row(folder: Path) -> dict[str, str] | None:
    """None for a folder that is no run's."""
    model, dash, run_id = folder.name.rpartition("-")
    if not (dash and model and run_id):
        return None
    run = RunFolder(
        folder.parent, model, run_id
    )  # wherever the name is cut: the folder is the same
    try:
        if not _is_run(run):
            return None
        return {"run": _plain(folder.name), **_cells(run)}
    except OSError as error:
        problem = f"cannot be read: {error.filename or folder}: {error.strerror}"
    except UserError as error:
        problem = f"cannot be read: {error}"
    return {"run": _plain(folder.name), "problem": _plain(problem)}


def _is_run(run: RunFolder) -> bool:
    """An experiment's folder has a config.json too, a prepared set's a lock."""
    begun = run.locked_by.exists() and not (run.root / "prep.json").exists()
    return begun or run.checkpoints.exists() or run.metrics.exists()


def _cells(run: RunFolder) -> dict[str, str]:
    writer = run.writer()
    steps = checkpoint_steps(run.checkpoints)
    saved = _NONE
    if steps:
        state = run.checkpoints / f"step-{steps[-1]:08d}" / "state.json"
        saved = f"{steps[-1]}" if state.is_file() else f"{steps[-1]} (damaged)"
    if not run.config.is_file():
        return {
            "state": f"starting (pid {writer})" if writer else "failed at its start",
            **dict.fromkeys(("step", "steps/s", "left", "losses", "logged"), _NONE),
            "checkpoint": saved,
        }
    config = RunConfig.read(run.config)
    last = config.base.get("iterations")
    if type(last) is not int or not 0 < last <= MOST_STEPS:
        raise UserError(f"{run.config}: hparams.base.iterations is no number of steps")
    lines = _tail(run.metrics)
    step = lines[-1]["step"] if lines else 0
    if writer:
        state = f"training (pid {writer})"
    elif steps and steps[-1] >= last:
        state = "finished"
    else:
        state = f"stopped at {steps[-1]}" if steps else "stopped, nothing saved"
    # Lines after the last start: between others lies the time that nobody trained.
    start = config.history[-1]["step"] if config.history else 0
    speed = _speed([line for line in lines if line["step"] > start])
    return {
        "state": state,
        "step": f"{max(step, *steps[-1:], 0)}/{last}",
        "steps/s": f"{speed:.3g}" if writer and speed else _NONE,
        "left": commands.duration_text((last - step) / speed) if writer and speed else _NONE,
        "checkpoint": saved,
        "losses": _losses(lines[-1].get("losses")) if lines else _NONE,
        "logged": _ago(lines[-1].get("wall")) if lines else _NONE,
    }


def _tail(path: Path) -> list[dict[str, Any]]:
    """The last records of metrics.jsonl. One that is being written is left out."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        texts = file.read(_TAIL).decode("utf-8", "replace").splitlines()
    lines = map(metrics_line, texts[size > _TAIL :])
    return [line for line in lines if line and 0 <= line["step"] <= MOST_STEPS]


def _speed(lines: Sequence[dict[str, Any]]) -> float | None:
    """Steps a second with all that lies between (evaluations, checkpoints), else those of the last
    line alone."""
    if not lines:
        return None
    times = [_number(line.get("wall")) for line in (lines[0], lines[-1])]
    steps = lines[-1]["step"] - lines[0]["step"]
    if None not in times and times[1] > times[0] and steps > 0:
        return steps / (times[1] - times[0])
    seconds = _number(lines[-1].get("time"))
    return 1 / seconds if seconds and seconds > 0 else None


def _losses(losses: Any) -> str:
    """The total first, then others in their order, as many as fit."""
    if not isinstance(losses, dict):
        return _NONE
    names = sorted(losses, key=lambda name: name != "total_loss")[:_LOSSES]
    values = ((name, _number(losses[name])) for name in names)
    return "  ".join(f"{_plain(name)} {value:.4g}" for name, value in values if value is not None)


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and abs(value) < 1e15 else None


def _ago(wall: Any) -> str:
    then = _number(wall)
    return _NONE if then is None else f"{commands.duration_text(max(time.time() - then, 0))} ago"


def _plain(text: str) -> str:
    """One line, whatever stands in a name: the rest as escapes, for the terminal would obey it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


if __name__ == "__main__":
    sys.exit(commands.run(main, sys.argv[1:]))
