"""Named metrics of a trained model: computed, printed as one table, saved as JSON."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from core.errors import UsageError
from core.evaluation.embedded_split import Evaluation, metrics_of, plain_name
from core.evaluation.figure_files import EVALUATION_SCHEMA
from core.evaluation.figures import Figure, Picture, Result, table
from core.files import write_json
from core.provenance import git, versions
from core.registry import METRICS

log = logging.getLogger(__name__)


def check_metrics(names: Iterable[str], model) -> list[str]:
    """The names, each checked to be registered and to fit `model` (class or instance, its
    `metrics` are the names it can compute; '-test' variants go with them). UsageError otherwise."""
    fitting = set(model.metrics)
    names = list(dict.fromkeys(names))
    for name in names:
        METRICS[plain_name(name)]  # UsageError for a name that is not registered
        if plain_name(name) not in fitting:
            raise UsageError(
                f"metric '{name}' does not fit model '{model.name}'; these do: "
                f"{', '.join(sorted(fitting))} (and each with '-test' behind, for the test split)"
            )
    return names


def message(results: Sequence[Result], step: int) -> tuple[str, list[Path]]:
    """Results as a text of one line a figure, and the pictures that go with it."""
    figures = [str(result) for result in results if isinstance(result, Figure)]
    pictures = [result.path for result in results if isinstance(result, Picture)]
    return "\n".join([f"evaluation at step {step}", *figures]), pictures


def run(
    model,
    dataset,
    folder: Path,
    names: Sequence[str] | None = None,
    step: int = 0,
    split: str = "valid",
    limit: int | None = None,
    vectors: Sequence[str] | None = None,
    command: Sequence[str] = (),
    data: Mapping[str, str | None] = {},
) -> list[Result]:
    """Compute the named metrics (None: all that fit), print them as one table and save
    them to `<folder>/<loader>-<split>-step-<step>.json`, replacing that file.

    folder is `<run>/evaluation`. To be saved too: command, what was asked for, and data, a hash for
    each folder of data (None: not known). The other arguments are as of `Evaluation`. Metrics named
    '-test' go to a file of the split test. Returns the figures and pictures. UsageError for metrics
    that do not fit, UserError for an empty split or a diverged model; an error inside a metric is
    raised, not recorded as a number.
    """
    fitting = metrics_of(model, dataset)
    names = check_metrics(fitting if names is None else names, model)
    for name in names:
        if plain_name(name) not in fitting:
            raise UsageError(
                f"metric '{name}' compares with true masks, which {dataset.name} does not have"
            )
    folder.mkdir(parents=True, exist_ok=True)
    evaluation = Evaluation(model, dataset, split, limit, folder, step, vectors)
    results: list[Result] = []
    for name in names:
        started = time.monotonic()
        results += evaluation.compute(name)
        log.info("%s: %.1f s", name, time.monotonic() - started)

    # Saved before they are printed: whoever reads our output may have gone.
    saved = []
    for part in sorted({result.split for result in results}):
        report = {
            "schema": EVALUATION_SCHEMA,
            "run": folder.parent.name,
            "command": list(command),
            "model": model.name,
            "step": step,
            "loader": dataset.name,
            "split": part,
            "limit": limit,
            "seed": evaluation.seed,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": versions(),
            "git": git(),
            "data": dict(data),
            "results": [result.to_json() for result in results if result.split == part],
        }
        path = folder / f"{dataset.name}-{part}-step-{step}.json"
        write_json(path, report)
        saved.append(path)

    figures = [r for r in results if isinstance(r, Figure)]
    if figures:
        print(table(figures))
    for picture in (r for r in results if isinstance(r, Picture)):
        print(f"{picture.metric}: {picture.path}")
    for path in saved:
        print(f"saved: {path}")
    return results
