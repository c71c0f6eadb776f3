"""Read the JSON files that figures are saved in: evaluations of a run, written by
`core.evaluation.report`, and results of experiments, written by `experiments.common.save_report`.

Needs no TensorFlow, so that a table of such files is there at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from core.errors import UserError
from core.evaluation.figures import Figure
from core.files import read_json

EVALUATION_SCHEMA = 2
EXPERIMENT_SCHEMA = 1

Count = Annotated[int, msgspec.Meta(ge=0)]
# A picture beside the file: a page must not show any file of the machine that a file from somebody
# else names.
PictureName = Annotated[str, msgspec.Meta(pattern=r"\A[^/\\\0]+\.(png|jpg)\Z")]


class Origin(msgspec.Struct, frozen=True):
    """The run, step and data that figures, features or pictures come from."""

    model: str
    run: str  # its id
    step: Count
    loader: str
    split: str
    seed: Count

    def __str__(self) -> str:
        """Return the beginning of a picture's title."""
        return f"{self.model} {self.run}, step {self.step}, {self.loader} {self.split}"


@dataclass(frozen=True)
class FigureFile:
    """The content of a file of figures.

    run: name of the run's folder, or of the file with another system's features. loader, split: of
    the data, '' where unknown. step: of the model, None where unknown. featsfile: name of the
    features file that was searched, or ''. command: of an evaluation; empty for an experiment.
    notes: sentences on how to read the figures. pictures: paths, which may be missing.
    """

    path: Path
    run: str
    loader: str
    split: str
    step: int | None
    featsfile: str
    command: tuple[str, ...]
    notes: tuple[str, ...]
    figures: tuple[Figure, ...]
    pictures: tuple[Path, ...]


class _Content(msgspec.Struct):
    """The keys that are read back. Evaluations have a command, and among their results pictures;
    experiments have what follows it. Only features of another system have no model."""

    results: list[dict[str, Any]]
    model: str = ""
    run: str = ""
    loader: str = ""
    split: str = ""
    step: Count | None = None
    command: tuple[str, ...] = ()
    featsfile: str = ""
    notes: tuple[str, ...] = ()
    pictures: tuple[PictureName, ...] = ()


def read(path: Path) -> FigureFile:
    """Read a file of figures.

    UserError naming the file and the place in it when it cannot be read, has another schema, or
    holds values of other types.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not {"schema", "results"} <= content.keys():
        raise UserError(
            f"{path} holds no figures: name what evaluate-metrics.py or an experiment has written"
        )
    is_evaluation = "command" in content
    schema, script = (
        (EVALUATION_SCHEMA, "evaluate-metrics.py")
        if is_evaluation
        else (EXPERIMENT_SCHEMA, "run-experiment.py")
    )
    if content["schema"] != schema:
        raise UserError(
            f"{path}: schema {content['schema']!r:.80}, but this version of the program reads "
            f"schema {schema}; make it again with {script}"
        )
    try:
        parsed = msgspec.convert(content, _Content)
        results = [_result(number, result) for number, result in enumerate(parsed.results)]
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}; make it again with {script}") from None
    # An evaluation names the run's folder, an experiment the id alone.
    run = parsed.run if is_evaluation or not parsed.model else f"{parsed.model}-{parsed.run}"
    pictures = [*parsed.pictures, *(result for result in results if isinstance(result, str))]
    return FigureFile(
        path=path,
        run=run or parsed.featsfile,
        loader=parsed.loader,
        split=parsed.split,
        step=parsed.step,
        featsfile=parsed.featsfile,
        command=parsed.command,
        notes=parsed.notes,
        figures=tuple(result for result in results if isinstance(result, Figure)),
        pictures=tuple(path.parent / name for name in pictures),
    )


def _result(number: int, content: dict[str, Any]) -> Figure | str:
    """Convert one of the results: to a figure, or to the name of a picture."""
    try:
        if "path" in content:
            return msgspec.convert(content["path"], PictureName)
        return msgspec.convert(content, Figure)
    except msgspec.ValidationError as error:
        raise msgspec.ValidationError(f"results[{number}]: {error}") from None
