"""What a run tells: a console line and a line of metrics.jsonl every `log_every` steps, a progress
bar where there is a terminal, and the learning curves as a picture every `notify_every` steps.

A line of metrics.jsonl is one JSON object:
    step       steps done
    losses     name -> value at that step
    time       seconds a step, mean over the steps since the last line, waiting for data included
               (without the first step of a process, which traces the graph, if there are others)
    data_time  seconds of it spent waiting for data
    wall       seconds since the epoch when the line was written
"""

import contextlib
import io
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from core.errors import UserError
from core.files import write_atomic
from core.run_dir import RunDir

log = logging.getLogger(__name__)


class Reporter:
    """Reports the steps of one training. Use as a context manager."""

    def __init__(self, run: RunDir, start: int, iterations: int) -> None:
        """start: steps done before. Lines of metrics.jsonl after that step (of a run that was
        killed after its last checkpoint) are dropped, for they will come again."""
        self.run = run
        self.iterations = iterations
        self._times: list[tuple[float, float]] = []
        self._stack = contextlib.ExitStack()
        self._first = True
        self._traced = (0.0, 0.0)
        truncate_metrics(run.metrics, start)
        self._bar = tqdm(total=iterations, initial=start, unit="step", disable=None)

    def __enter__(self) -> "Reporter":
        if not self._bar.disable:
            self._stack.enter_context(logging_redirect_tqdm())
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close()
        self._stack.close()

    def step(self, seconds: float, data_seconds: float) -> None:
        """Count one step that took so long, and of it so long for its data."""
        if self._first:
            log.info("first step, with tracing: %.1f s", seconds)
            self._first = False
            self._traced = (seconds, data_seconds)
        else:
            self._times.append((seconds, data_seconds))
        self._bar.update(1)

    def losses(self, step: int, losses: "Mapping[str, float]") -> None:
        """Write the line of `step`; UserError when metrics.jsonl does not take it."""
        seconds, data_seconds = np.mean(self._times or [self._traced], axis=0)
        self._times.clear()
        line = {
            "step": step,
            "losses": dict(losses),
            "time": round(float(seconds), 6),
            "data_time": round(float(data_seconds), 6),
            "wall": round(time.time(), 3),
        }
        try:
            with self.run.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write {self.run.metrics}: {error.strerror}; free some space and go on "
                "with --resume latest"
            ) from None
        values = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
        left = _clock((self.iterations - step) * seconds)
        log.info(
            "step %d/%d  %s  %.3f s/step (data %.3f)  left %s",
            step, self.iterations, values, seconds, data_seconds, left,
        )  # fmt: skip

    def plots(self) -> None:
        """Draw the learning curves. A failure is logged, and leaves the old picture."""
        try:
            learning_curves(read_metrics(self.run.metrics), self.run.plots / "losses.png")
        except (OSError, UserError) as error:
            log.warning("the learning curves could not be drawn: %s", error)
        except Exception:  # a picture must not end a training of days
            log.exception("the learning curves could not be drawn")


def read_metrics(path: Path) -> "list[dict[str, Any]]":
    """The lines of metrics.jsonl; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line = json.loads(text)
            lines.append({"step": int(line["step"]), **line})
        except (ValueError, KeyError, TypeError):
            log.warning("%s line %d is not a complete record: left out", path, number)
    return lines


def truncate_metrics(path: Path, step: int) -> None:
    """Keep only the lines up to `step`."""
    if not path.is_file():
        return
    lines = [line for line in read_metrics(path) if line["step"] <= step]
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def learning_curves(lines: "list[dict[str, Any]]", path: Path) -> None:
    """A panel for every loss over steps: the values, and their running mean when there are many.

    lines: as `read_metrics` gives them; nothing is drawn without any.
    """
    names = list(dict.fromkeys(name for line in lines for name in line["losses"]))
    if not names:
        return
    # Imported here: matplotlib costs a second that a wrong command line should not wait for.
    # Figure without pyplot: no global state, and no display needed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4.6 * columns, 2.9 * rows), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, name in zip(axes, names):
        points = [(line["step"], line["losses"][name]) for line in lines if name in line["losses"]]
        steps, values = np.array(points, dtype=np.float64).T
        mean = running_mean(values, max(1, len(values) // 20))
        many = mean is not None
        axis.plot(steps, values, color="tab:blue", alpha=0.35 if many else 1.0,
                  linewidth=0.8 if many else 1.4, marker="." if len(values) < 20 else None,
                  label="logged")  # fmt: skip
        if many:
            axis.plot(steps, mean, color="tab:blue", linewidth=1.6, label="running mean")
            axis.legend(loc="best", fontsize=8, frameon=False)
        axis.set_title(name, fontsize=11)
        axis.set_xlabel("step", fontsize=9)
        axis.set_ylabel("loss", fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    canvas.print_figure(drawn, format="png", dpi=110)
    write_atomic(path, drawn.getvalue())


def running_mean(values: np.ndarray, width: int) -> Optional[np.ndarray]:
    """Mean of each value and up to `width` before it, float64 (n,); None when width is 1."""
    if width < 2:
        return None
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (sums[ends] - sums[starts]) / (ends - starts)


@contextlib.contextmanager
def console() -> "Iterator[None]":
    """INFO lines of this program on stderr, other libraries' from WARNING on."""
    root = logging.getLogger()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(
        lambda record: record.levelno >= logging.WARNING or record.name.split(".")[0] in _OURS
    )
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


_OURS = ("core", "models", "dataloaders", "experiments", "__main__")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
