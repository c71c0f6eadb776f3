"""The JSON files that figures are saved in, read back: those of `core.evaluation.report`
(evaluations of a run) and those of experiments. Without TensorFlow, so that a table of them is
there at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import UserError
from core.evaluation.figures import Figure
from core.files import read_json

EVALUATION_SCHEMA = 2  # of what core.evaluation.report writes
EXPERIMENT_SCHEMA = 1  # of what experiments write

PICTURES = (".png", ".jpg")


@dataclass(frozen=True)
class FigureFile:
    """What such a file holds.

    run: name of the run's folder; of another system's features the name of their file. loader,
    split: of the data, '' where unknown. step: the model's, None where unknown. featsfile: name of
    the features file that was searched, or ''. command: what made an evaluation; empty for an
    experiment, whose config.json has it. notes: sentences on how to read the figures. pictures:
    files beside `path`, which need not be there.
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


def read(path: Path) -> FigureFile:
    """UserError naming the file when it cannot be read, is none of these files or of another
    schema, holds values of other types than it should, or names a picture that lies elsewhere than
    beside it (a page must not show any file of the machine that somebody's figures name)."""
    content = read_json(path)
    if not isinstance(content, dict) or not {"schema", "results"} <= content.keys():
        raise UserError(
            f"{path} holds no figures: name what evaluate-metrics.py or an experiment has written"
        )
    evaluation = "command" in content
    schema, script = (
        (EVALUATION_SCHEMA, "evaluate-metrics.py")
        if evaluation
        else (EXPERIMENT_SCHEMA, "run-experiment.py")
    )
    if content["schema"] != schema:
        raise UserError(
            f"{path}: schema {content['schema']!r:.80}, but this version of the program reads "
            f"schema {schema}; make it again with {script}"
        )
    try:
        return _figure_file(path, content, evaluation)
    except ValueError as error:
        raise UserError(f"{path}: {error}; make it again with {script}") from None


def _figure_file(path: Path, content: dict[str, Any], evaluation: bool) -> FigureFile:
    figures, pictures = [], _take(content, "pictures", _list_of(TEXT), [])
    for number, result in enumerate(_take(content, "results", RESULTS)):
        try:
            if evaluation and "path" in result:
                pictures = [*pictures, _take(result, "path", TEXT)]
            else:
                figures.append(_figure(result))
        except ValueError as error:
            raise ValueError(f"result {number}: {error}") from None
    for name in pictures:
        if Path(name).name != name or Path(name).suffix not in PICTURES:
            raise ValueError(
                f"the picture {name!r:.80} is not the name of a {' or '.join(PICTURES)} beside it"
            )
    featsfile = _take(content, "featsfile", TEXT, "")
    if not evaluation and "model" not in content:  # features of another system
        run, about = _take(content, "featsfile", TEXT), {"loader": "", "split": "", "step": None}
    else:
        run = _take(content, "run", TEXT)
        about = {name: _take(content, name, kind) for name, kind in ABOUT.items()}
        if not evaluation:  # there, run is the id alone
            run = f"{_take(content, 'model', TEXT)}-{run}"
    return FigureFile(
        path=path,
        run=run,
        **about,
        featsfile=featsfile,
        command=tuple(_take(content, "command", _list_of(TEXT), [])),
        notes=tuple(_take(content, "notes", _list_of(TEXT), [])),
        figures=tuple(figures),
        pictures=tuple(path.parent / name for name in pictures),
    )


def _figure(content: dict[str, Any]) -> Figure:
    """The inverse of `Figure.to_json`."""
    for name in sorted(content.keys() ^ FIGURE.keys()):
        raise ValueError(f"the key {name!r} is {'unknown' if name in content else 'missing'}")
    values = {name: _take(content, name, kind) for name, kind in FIGURE.items()}
    return Figure(**{**values, "interval": values["interval"] and tuple(values["interval"])})


def _take(content: dict[str, Any], key: str, kind: Kind, *default: Any) -> Any:
    """The value of the key. ValueError when it is of another kind, or missing without a default."""
    if key not in content and default:
        return default[0]
    if not kind.holds(content.get(key)):
        raise ValueError(f"{key!r} must be {kind.name}, is {content.get(key)!r:.80}")
    return content[key]


class Kind(NamedTuple):
    """What a value can be: in words, and as a check."""

    name: str
    holds: Callable[[Any], bool]


def _or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.name} or null", lambda value: value is None or kind.holds(value))


def _list_of(kind: Kind) -> Kind:
    return Kind(
        f"a list, each {kind.name}",
        lambda value: isinstance(value, list) and all(map(kind.holds, value)),
    )


def _object_of(kind: Kind) -> Kind:
    return Kind(
        f"an object, each value {kind.name}",
        lambda value: isinstance(value, dict) and all(map(kind.holds, value.values())),
    )


TEXT = Kind("text", lambda value: isinstance(value, str))
COUNT = Kind("a count", lambda value: type(value) is int and 0 <= value < 2**63)
# Neither infinite nor NaN, nor an integer that NumPy does not take for a number.
NUMBER = Kind("a number", lambda value: type(value) in (int, float) and abs(value) < 2**63)
INTERVAL = Kind("two numbers", lambda value: _list_of(NUMBER).holds(value) and len(value) == 2)
RESULTS = Kind(
    "a list of objects",
    lambda value: isinstance(value, list) and all(isinstance(each, dict) for each in value),
)
ABOUT = {"loader": TEXT, "split": TEXT, "step": COUNT}
FIGURE = {
    "metric": TEXT,
    "split": TEXT,
    "value": NUMBER,
    "n": COUNT,
    "labels": _object_of(TEXT),
    "gallery": _or_null(COUNT),
    "chance": _or_null(NUMBER),
    "ceiling": _or_null(NUMBER),
    "interval": _or_null(INTERVAL),
    "controls": _object_of(NUMBER),
}
