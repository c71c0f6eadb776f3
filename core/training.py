"""The training loop: step t (from 0) takes batch t; step-N means that N steps are done.

data -> step -> losses checked -> report -> checkpoint -> evaluation reported
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import tensorflow as tf

from core.checkpoints import Checkpoints
from core.commands import handle_signals
from core.dataset import Dataset
from core.distribution import Single
from core.errors import StoppedError, UserError
from core.evaluation.embedded_split import Evaluation
from core.hparams import BaseHParams
from core.model import Model
from core.notifier import Notifier
from core.reporting import Reporter, SilentReporter, has_line
from core.run_folder import RunFolder

log = logging.getLogger(__name__)

# Of the validation split, spread over it: enough for a curve, and soon done.
EVALUATED_SCENES = 256


def is_due(step: int, period: int) -> bool:
    """Return whether what is done every `period` steps is done after `step` steps."""
    return step > 0 and step % period == 0


def train(
    model: Model,
    dataset: Dataset,
    run: RunFolder,
    base: BaseHParams,
    start: int = 0,
    slack: Notifier | None = None,
    spread: Single | None = None,
) -> None:
    """Train from `start` steps done to base.iterations, saving into the run's folder.

    Evaluating on the way does not change the training: nothing that is drawn depends on what was
    drawn before. spread: how a step is spread over devices, None: over one. Of several processes
    the chief alone writes and evaluates; meanwhile the others wait in their next step.

    Raises UserError when a loss or a variable is not finite, when the data end, and when the disk
    does not take what is written; StoppedError after SIGINT or SIGTERM, once a checkpoint is saved.
    """
    checkpoints = Checkpoints(run.checkpoints)
    # The run may have ended between a checkpoint and its evaluation.
    lacks_evaluation = is_due(start, base.notify_every) and not has_line(run.figures, start)
    if start >= base.iterations and not lacks_evaluation:
        log.info("nothing to do: the run has done %d of %d steps", start, base.iterations)
        return
    spread = spread or Single()
    data = spread.batches(dataset, start)
    batches = iter(data)
    train_step = _compile(spread.distribute_step(model.train_step), data, base)
    seed = tf.constant(base.seed, tf.int32)

    evaluation = Evaluation(model, dataset, limit=EVALUATED_SCENES, folder=run.plots)

    reporter = Reporter(run, start, base.iterations, slack) if spread.chief else SilentReporter()
    with _first_signal() as received_signal, reporter as report:
        if lacks_evaluation:
            report.evaluation(evaluation.at_step(start), received_signal)
        for step in range(start, base.iterations):
            began = time.perf_counter()
            batch = _next_batch(batches, step)
            received = time.perf_counter()
            outputs = train_step(batch, tf.constant(step, tf.int64), seed)
            losses = {name: float(value) for name, value in outputs.items()}
            done = step + 1
            report.step(time.perf_counter() - began, received - began)
            _check_finite(losses, done, checkpoints)
            _check_scales(losses, done)

            last = done == base.iterations
            signal_number = spread.agree_on_signal(received_signal())
            if is_due(done, base.log_every) or last:
                report.losses(done, losses)
            permanent = is_due(done, base.save_every) or last
            due = permanent or is_due(done, base.safety_save) or signal_number
            if due and spread.chief:
                path = checkpoints.save(model, done, permanent, dataset.sizes)
                log.info("saved %s", path)
            if is_due(done, base.notify_every) and not signal_number:
                report.evaluation(evaluation.at_step(done), received_signal)
            elif last or signal_number:
                report.curves()
            if last or signal_number:
                # No process leaves before the chief has written everything.
                spread.agree_on_signal(None)
            if signal_number and not last:
                raise StoppedError(signal_number, f"after step {done}; go on with --resume latest")


def _compile(train_step: Callable, data: tf.data.Dataset, base: BaseHParams) -> Callable:
    """Return the step as one graph, traced once for batches of all sizes."""
    if not base.autograph:
        return train_step
    scalars = (tf.TensorSpec((), tf.int64), tf.TensorSpec((), tf.int32))
    return tf.function(
        train_step, input_signature=(data.element_spec, *scalars), reduce_retracing=True
    )


def _next_batch(batches: Iterator, step: int) -> Any:
    # Only the reading of data may end with StopIteration (TensorFlow's OutOfRangeError): the same
    # exception from a writer means a full disk, and must not read as the end of a training.
    try:
        return next(batches)
    except (StopIteration, tf.errors.OutOfRangeError):
        raise UserError(
            f"the training data ended before step {step + 1}: a loader's batches are endless; "
            "check that the prepared sets have records in their train split"
        ) from None


def _check_finite(losses: dict[str, float], done: int, checkpoints: Checkpoints) -> None:
    bad = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        kept = checkpoints.latest()
        raise UserError(
            f"training stopped at step {done}: {', '.join(bad)}. "
            + (f"The last good checkpoint is {kept}. " if kept else "No checkpoint was saved yet. ")
            + "Try a lower learning_rate, or look at the data of this step"
        )


def _check_scales(losses: dict[str, float], done: int) -> None:
    """Raise UserError when a loss scale has fallen to 1, the least: range is not what it lacks."""
    if any(name.endswith("_loss_scale") and value <= 1.0 for name, value in losses.items()):
        raise UserError(
            f"training stopped at step {done}: no loss scale gives finite gradients in float16. "
            "Go on from the last checkpoint with mixed_precision=bfloat16 or none, or with a lower "
            "learning_rate"
        )


@contextmanager
def _first_signal() -> Iterator[Callable[[], int | None]]:
    """Yield a function that returns the number of the first SIGINT or SIGTERM, None before it.

    The step can so be finished and saved; a second signal ends the process at once.
    """
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for each in handlers:
            signal.signal(each, signal.SIG_DFL)
        log.info("%s: saving after this step; again to end at once", signal.Signals(number).name)

    handlers = {signal.SIGINT: receive, signal.SIGTERM: receive}
    with handle_signals(handlers):
        yield lambda: received[0] if received else None
