"""Report a training: losses, figures and pictures.

Every `log_every` steps a line on the console and in metrics.jsonl; every `notify_every` steps the
figures and pictures of an evaluation, a line of figures.jsonl and the curves. TensorBoard and Slack
get the same. A progress bar shows where there is a terminal.
docs/data_formats.md describes the lines of both files.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from core import plots
from core.commands import duration_text
from core.errors import EmptySplitError, UserError, file_error
from core.evaluation.embedded_split import Evaluation
from core.evaluation.figures import Figure, Picture
from core.evaluation.report import metrics_of
from core.files import write_atomic
from core.notifier import Notifier
from core.run_folder import RunFolder, read_metrics
from core.tensorboard import EventFiles

log = logging.getLogger(__name__)


class Reporter:
    """Reports the steps of one training. Use as a context manager."""

    def __init__(
        self, run: RunFolder, start: int, iterations: int, slack: Notifier | None = None
    ) -> None:
        """start: steps done before. Lines of metrics.jsonl and figures.jsonl after that step (of a
        run that was killed after its last checkpoint) are dropped, for they will come again."""
        self.run = run
        self.iterations = iterations
        self._slack = slack
        self._times: list[tuple[float, float]] = []
        self._tracing_steps = 1  # at the start of these times: they take longer
        self._last_line = ""
        self._stack = contextlib.ExitStack()
        for path in (run.metrics, run.figures):
            truncate_metrics(path, start)
        self._events = EventFiles(run.tensorboard, start)
        self._bar = tqdm(total=iterations, initial=start, unit="step", disable=None)
        self._post(f"training from step {start} to {iterations}")

    def __enter__(self) -> Reporter:
        if not self._bar.disable:
            self._stack.enter_context(logging_redirect_tqdm())
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self._bar.close()
        self._stack.close()
        self._events.close()
        if error is None:
            self._post(f"done\n{self._last_line}", self.run.plots / "losses.png")
        else:  # only an error of the user has a message for others
            self._post(str(error) if isinstance(error, UserError) else f"ended by {kind.__name__}")

    def step(self, seconds: float, data_seconds: float) -> None:
        """Count a step that took `seconds`, of them `data_seconds` waiting for its data."""
        if self._tracing_steps and not self._times:
            log.info("first step, with tracing: %.1f s", seconds)
        self._times.append((seconds, data_seconds))
        self._bar.update(1)

    def losses(self, step: int, losses: Mapping[str, float]) -> None:
        """Write the line of `step`; UserError when metrics.jsonl cannot be written."""
        times = self._times[self._tracing_steps :] or self._times or [(0.0, 0.0)]
        seconds, data_seconds = np.mean(times, axis=0)
        self._times, self._tracing_steps = [], 0
        line = {
            "step": step,
            "losses": dict(losses),
            "time": round(float(seconds), 6),
            "data_time": round(float(data_seconds), 6),
            "wall": round(time.time(), 3),
        }
        _append(self.run.metrics, line)
        scalars = {f"losses/{name}": value for name, value in losses.items()}
        scalars |= {f"seconds a step/{name}": line[name] for name in ("time", "data_time")}
        self._events.write(step, scalars)
        values = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
        left = duration_text((self.iterations - step) * seconds)
        self._last_line = (
            f"step {step}/{self.iterations}  {values}  "
            f"{seconds:.3f} s/step (data {data_seconds:.3f})  left {left}"
        )
        log.info("%s", self._last_line)

    def evaluation(self, evaluation: Evaluation, is_stopped: Callable[[], Any]) -> None:
        """Compute the model's metrics; write, draw and send their figures and pictures.

        A metric that fails is logged, and leaves a missing point. Nothing is reported when the
        training is stopped meanwhile. UserError when figures.jsonl cannot be written.
        """
        began, step = time.perf_counter(), evaluation.step
        computed = _compute_metrics(evaluation, is_stopped)
        if computed is None:
            self.curves()
            return
        results, failed = computed
        figures = [result for result in results if isinstance(result, Figure)]
        pictures = {result.metric: result.path for result in results if isinstance(result, Picture)}
        line = {
            "step": step,
            "loader": evaluation.dataset.name,
            "figures": [figure.to_json() for figure in figures],
            "failed": failed,
            "time": round(time.perf_counter() - began, 3),
            "wall": round(time.time(), 3),
        }
        _append(self.run.figures, line)
        self.curves()
        self._events.write(step, _scalars(figures), pictures)
        for figure in figures:
            log.info("%s", figure)
        log.info("step %d evaluated in %.1f s: %s", step, line["time"], self.run.plots)
        curves = (self.run.plots / name for name in ("losses.png", "figures.png"))
        self._post("\n".join([self._last_line, *map(str, figures)]), *curves, *pictures.values())

    def curves(self) -> None:
        """Draw the curves of losses and figures. A failure is logged, and leaves the old ones."""
        try:
            plots.learning_curves(read_metrics(self.run.metrics), self.run.plots / "losses.png")
            plots.figure_curves(read_metrics(self.run.figures), self.run.plots / "figures.png")
        except (OSError, UserError) as error:
            log.warning("the curves could not be drawn: %s", error)
        except Exception:  # a picture must not end a training of days
            log.exception("the curves could not be drawn")

    def _post(self, text: str, *pictures: Path) -> None:
        if self._slack is not None:
            self._slack.post(text, [path for path in pictures if path.is_file()])


class SilentReporter:
    """Takes the place of a Reporter where another process reports."""

    def __enter__(self) -> SilentReporter:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


def _compute_metrics(
    evaluation: Evaluation, is_stopped: Callable[[], Any]
) -> tuple[list[Figure | Picture], list[str]] | None:
    """Return the results of the model's metrics, and the names of those that failed.

    None when the training is stopped meanwhile, or the split is empty.
    """
    results, failed = [], []
    for name in metrics_of(evaluation.model, evaluation.dataset):
        if is_stopped():
            return None
        try:
            results += evaluation.compute(name)
        except EmptySplitError as error:
            log.warning("no evaluation at step %d: %s", evaluation.step, error)
            return None
        except UserError as error:
            log.warning("%s is missing at step %d: %s", name, evaluation.step, error)
            failed.append(name)
        except Exception:  # a figure must not end a training of days
            log.exception("%s failed at step %d and is missing there", name, evaluation.step)
            failed.append(name)
    return results, failed


def _scalars(figures: Iterable[Figure]) -> dict[str, float]:
    scalars = {}
    for figure in figures:
        labels = "-".join(figure.labels.values()) or "value"
        scalars[f"{figure.metric}/{labels}"] = figure.value
        if figure.chance is not None:
            scalars[f"{figure.metric}/chance"] = figure.chance
    return scalars


def _append(path: Path, line: dict[str, Any]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {file_error(error)}; go on with --resume latest"
        ) from None


def truncate_metrics(path: Path, step: int) -> None:
    """Drop the lines of metrics.jsonl or figures.jsonl after `step`."""
    if not path.is_file():
        return
    lines = [line for line in read_metrics(path) if line["step"] <= step]
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def has_line(path: Path, step: int) -> bool:
    """Return whether metrics.jsonl or figures.jsonl has a line of `step`."""
    return any(line["step"] == step for line in read_metrics(path))


@contextlib.contextmanager
def console() -> Iterator[None]:
    """Within the block, log to stderr: INFO of this program, WARNING of other libraries."""
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


_OURS = ("core", "models", "dataloaders", "experiments", "SPADE", "__main__")
