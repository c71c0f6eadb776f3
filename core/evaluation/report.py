"""Named metrics of a trained model: computed, printed as a table, saved as JSON."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from core.dataset import Dataset, SceneDataset
from core.errors import UsageError, UserError
from core.evaluation.embedded_split import Evaluation, plain_name
from core.evaluation.figure_files import EVALUATION_SCHEMA
from core.evaluation.figures import Figure, Picture, Result, summary, table
from core.files import make_folder, write_json
from core.model import Model
from core.provenance import git, versions
from core.registry import METRICS

log = logging.getLogger(__name__)

# Metrics by the beginning of their name, and what they need of a set of scenes.
NEED_QUERIES = ("sbir-", "obj-sbir-", "embedding-skt-", "common-", "generated-masks")
NEED_PHOTOS = ("sbir-", "obj-sbir-", "embedding-obj-", "common-", "mask-", "picture-", "generated-")
NEED_OBJECTS = ("sbir-ndcg",)
NEED_MASKS = ("mask-", "picture-", "generated-")


def metrics_of(model: Model | type[Model], dataset: Dataset) -> tuple[str, ...]:
    """Return the names of a model's metrics that the data allow."""
    return tuple(name for name in model.metrics if not _missing(name, dataset))


def check_metrics(
    names: Iterable[str], model: Model | type[Model], dataset: Dataset | None = None
) -> list[str]:
    """Return the names, each once. UsageError for one that is not registered, or does not fit the
    model or the data; '<metric>-test' fits with its metric."""
    names = list(dict.fromkeys(names))
    for name in names:
        METRICS[plain_name(name)]
        if plain_name(name) not in model.metrics:
            raise UsageError(
                f"metric '{name}' does not fit model '{model.name}'; these do: "
                f"{', '.join(sorted(model.metrics))} (and each with '-test' behind, for the test "
                "split)"
            )
        missing = dataset and _missing(name, dataset)
        if missing:
            raise UsageError(f"metric '{name}' needs {missing}, which {dataset.name} has not")
    return names


def _missing(name: str, dataset: Dataset) -> str:
    """Return what a metric needs and the data do not have, or ''."""
    if not isinstance(dataset, SceneDataset):
        return ""
    needs = (
        (NEED_QUERIES, dataset.has_queries, "sketched scenes to search with"),
        (NEED_PHOTOS, dataset.has_photos, "photographs"),
        (NEED_OBJECTS, dataset.has_objects, "objects"),
        (NEED_MASKS, dataset.has_masks, "true masks"),
    )
    return next((what for names, has, what in needs if name.startswith(names) and not has), "")


def message(results: Sequence[Result], step: int) -> tuple[str, list[Path]]:
    """Return the results as text, a line a figure, and the paths of the pictures."""
    figures = [str(result) for result in results if isinstance(result, Figure)]
    pictures = [result.path for result in results if isinstance(result, Picture)]
    return "\n".join([f"evaluation at step {step}", *figures]), pictures


def run(
    model: Model,
    dataset: Dataset,
    folder: Path,
    names: Sequence[str] | None = None,
    step: int = 0,
    split: str = "valid",
    limit: int | None = None,
    vectors: Sequence[str] | None = None,
    command: Sequence[str] = (),
    data: Mapping[str, str] = {},
    whole_table: bool = False,
) -> list[Result]:
    """Compute metrics, save them to `<folder>/<loader>-<split>-step-<step>.json` (replacing that
    file) and print them. Return the figures and pictures.

    folder: `<run>/evaluation`; where it cannot be written, all figures are printed and no pictures
    made, with a warning. names: None: all metrics that fit. command, data: to be saved too,
    what was asked for and a digest of each folder of data. whole_table: print every
    figure with all its controls, not only those that count. The other arguments are as of
    `Evaluation`. '<metric>-test' goes to a file of the split test.

    UsageError for metrics that do not fit, UserError for an empty split or a diverged model.
    """
    names = check_metrics(metrics_of(model, dataset) if names is None else names, model, dataset)
    try:
        make_folder(folder, "the folder of evaluations", "")
        pictures = folder
    except UserError as error:  # a run of someone else
        log.warning("%s; the figures are printed, not saved, and no pictures made", error)
        pictures = None
    evaluation = Evaluation(model, dataset, split, limit, pictures, step, vectors)
    results: list[Result] = []
    for name in names:
        started = time.monotonic()
        results += evaluation.compute(name)
        log.info("%s: %.1f s", name, time.monotonic() - started)
    # Saved before they are printed: whoever reads the output may have gone.
    saved = []
    try:
        for part in sorted({result.split for result in results}) if pictures else ():
            path = folder / f"{dataset.name}-{part}-step-{step}.json"
            content = {
                "schema": EVALUATION_SCHEMA,
                "model": model.name,
                "loader": dataset.name,
                "split": part,
                "seed": evaluation.seed,
                "run": folder.parent.name,
                "command": list(command),
                "step": step,
                "limit": limit,
                "data": dict(data),
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "versions": versions(),
                "git": git(),
                "results": [result.to_json() for result in results if result.split == part],
            }
            write_json(path, content)
            saved.append(path)
    finally:
        _print(results, saved, whole_table or not saved)
    return results


def _print(results: Sequence[Result], saved: Sequence[Path], whole_table: bool) -> None:
    figures = [result for result in results if isinstance(result, Figure)]
    if figures:
        print(table(figures) if whole_table else summary(figures))
    if len(figures) > 1 and not whole_table:
        print("\nAll query protocols and controls: in the JSON, or with --all.")
    for picture in (result for result in results if isinstance(result, Picture)):
        print(f"{picture.metric}: {picture.path}")
    for path in saved:
        print(f"saved: {path}")
