"""What experiments share: the split they look at, the queries, and their report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.dataset import SPLITS
from core.errors import EmptySplitError
from core.evaluation.embedded_split import Evaluation
from core.evaluation.figure_files import EXPERIMENT_SCHEMA
from core.evaluation.figures import Figure, table
from core.evaluation.query_protocols import QueryProtocol, main_protocol
from core.experiment import ExperimentHParams, Trained
from core.files import write_json
from core.hparams import hp

log = logging.getLogger(__name__)

ABOUT = ("model", "run", "step", "loader", "split", "seed")


@dataclass(frozen=True)
class SplitHParams(ExperimentHParams):
    """Of experiments that look at one split of a model's data."""

    split: str | None = hp(
        None, "split to look at; none: test, or valid where test is empty", choices=SPLITS
    )


def evaluation_on(trained: Trained, split: str | None) -> Evaluation:
    """The evaluation of a `SplitHParams.split`, its objects encoded. EmptySplitError when it has
    no scenes."""
    evaluation = Evaluation(trained.model, trained.dataset, split or "test", step=trained.step)
    try:
        evaluation.embed()
    except EmptySplitError as error:
        if split:
            raise
        log.warning("looking at the split valid, because %s", error)
        return evaluation_on(trained, "valid")
    return evaluation


def fair_and_shared(own_boxes: bool) -> tuple[QueryProtocol, ...]:
    """The queries of experiments that show few: the paper's boxes, and those that do not give the
    answer away, each with real and blank sketches. own_boxes: of the set."""
    both = QueryProtocol(), main_protocol(own_boxes)
    return tuple(each for real in both for each in (real, real.control))


def scores(*kinds: str | int) -> dict[str, str]:
    """Metric name -> kind, as `retrieval.scene_figures` takes them. kinds: 'mAP', or k
    of recall at k."""
    named = (f"top{kind}" if isinstance(kind, int) else kind for kind in kinds)
    return {f"sbir-{kind}": kind for kind in named}


def about(trained: Trained, evaluation: Evaluation) -> dict[str, Any]:
    """What a file says about where its figures or features come from."""
    return {
        "model": trained.model.name,
        "run": trained.run_id,
        "step": trained.step,
        "loader": trained.dataset.name,
        "split": evaluation.split,
        "seed": evaluation.seed,
        "vector": evaluation.vectors[0],
    }


def subject(metadata: Mapping[str, Any]) -> str:
    """The same as the title of a picture."""
    return "{model} {run}, step {step}, {loader} {split}".format(**metadata)


def file_name(trained: Trained, split: str, ending: str) -> str:
    """<model id>_<loader>_<split><ending>, each '-' as '_'."""
    return f"{trained.run_id}_{trained.dataset.name}_{split}{ending}".replace("-", "_")


def report(
    path: Path,
    metadata: Mapping[str, Any],
    gallery: str | None,
    parts: Sequence[Sequence[Figure]],
    notes: Sequence[str] = (),
    pictures: Sequence[Path] = (),
    **more: Any,
) -> None:
    """Print what was found, a table a part, and save it as JSON.

    metadata: as `about`, as far as it is known. gallery: what queries were searched in, None: in
    nothing. notes: sentences on how to read the figures. pictures: files saved already. more:
    further entries of the JSON file."""
    content = {
        "schema": EXPERIMENT_SCHEMA,
        **more,
        **{key: metadata[key] for key in ABOUT if key in metadata},
        "gallery": gallery,
        "notes": list(notes),
        "pictures": [picture.name for picture in pictures],
        "results": [figure.to_json() for part in parts for figure in part],
    }
    write_json(path, content)
    for line in (*([f"gallery: {gallery}"] if gallery else []), *notes):
        print(line)
    for part in parts:
        print(f"\n{table(part)}")
    print()
    for saved in (*pictures, path):
        print(f"saved: {saved}")
