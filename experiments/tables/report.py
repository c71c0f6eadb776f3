"""'report': every run of a folder on one page, report.html, which needs no other file.

runs and experiments of the output dir -> their commands, curves, pictures and figures -> HTML

Only files that the commands have written are read: config.json, plots/ and evaluation/ of each run,
config.json and results of each experiment.
"""

from __future__ import annotations

import base64
import glob
import logging
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jinja2
import msgspec

from core.errors import UserError
from core.evaluation import figure_files
from core.evaluation.figure_files import FigureFile
from core.evaluation.figures import Figure
from core.experiment import Experiment, ExperimentHParams, Trained
from core.files import read_json, write_atomic
from core.registry import EXPERIMENTS
from core.run_folder import RunConfig

log = logging.getLogger(__name__)

_STEP = re.compile(r"-step-(\d+)")
_MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}
CONTROLS = ("blank", "shuffled")  # sketches that say nothing
BAR_WIDTH = 120  # pixels of a value of 1
# Endings of the files of experiments that are not named as they are.
ENDINGS = {"sbir-on-features-file": "sbir", "generate-images": "images"}


@dataclass(frozen=True)
class ReportHParams(ExperimentHParams):
    """Hparams of 'report'."""


@EXPERIMENTS.register("report")
class ReportPage(Experiment):
    """Writes <results>/report.html on all runs and experiments in the output dir."""

    name = "report"
    HParams = ReportHParams

    def __init__(self, hparams: Any, own_folder: Path) -> None:
        super().__init__(hparams, own_folder)
        self.output_dir = own_folder.parent

    def run(self, trained: Trained | None) -> None:
        sections = sorted(_sections(self.output_dir, self.name), key=lambda section: section.time)
        if not sections:
            raise UserError(
                f"there is nothing to report: {self.output_dir} has no run; train one into it, or "
                "name another folder with -o"
            )
        path = self.results / "report.html"
        write_atomic(path, render(sections).encode("utf-8", "backslashreplace"))
        print(f"saved: {path}")


@dataclass(frozen=True)
class Block:
    """A part of a section. commands: (sentence above it or '', command)."""

    heading: str = ""
    commands: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    pictures: Sequence[Path] = ()


@dataclass(frozen=True)
class Section:
    """A run or an experiment. time: of its first command, for the order."""

    title: str
    time: str
    text: str
    blocks: Sequence[Block]


# ---- what is in the folder -----------------------------------------------------------------------

FileName = Annotated[str, msgspec.Meta(pattern=r"\A[^\0]*\Z")]


class _FileHParams(msgspec.Struct):
    """The hparams of experiments that say where their results are."""

    results: FileName = ""
    results_dir: FileName = ""
    featsfile: FileName = ""
    queries: FileName = ""
    gallery: FileName = ""


class _Model(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(pattern=r"\A[^/\0]*\Z")] = ""


class _ExperimentRecord(msgspec.Struct):
    """The config.json of an experiment."""

    experiment: str
    time: str
    command: tuple[str, ...]
    hparams: _FileHParams
    model: _Model = msgspec.field(default_factory=_Model)


def _sections(output_dir: Path, own_name: str) -> Iterator[Section]:
    """Yield the runs and experiments; what cannot be read is left out with a warning."""
    for path in sorted(output_dir.glob("*/config.json")):
        try:
            content = read_json(path)
            if not isinstance(content, dict):
                continue
            if {"model", "loader", "history"} <= content.keys():
                yield _run_section(path)
            elif {"experiment", "command"} <= content.keys() and content["experiment"] != own_name:
                yield _experiment_section(path, msgspec.convert(content, _ExperimentRecord))
        except (UserError, msgspec.ValidationError) as error:
            where = "" if str(path) in str(error) else f"{path}: "
            log.warning("left out: %s%s", where, error)


def _run_section(path: Path) -> Section:
    config, folder = RunConfig.read(path), path.parent
    commands = [
        (f"from step {entry['step']}, on {entry['loader']}:", _command_line(entry["command"]))
        for entry in config.history
    ]
    training = Block("Training", commands, pictures=_newest_plots(folder))
    files = filter(None, map(_read_figures, sorted((folder / "evaluation").glob("[!.]*.json"))))
    evaluations = [
        Block(
            f"Evaluation on {file.loader}, {file.split}, after step {file.step}",
            [("", _command_line(file.command))],
            figures=file.figures,
            pictures=_existing(file.pictures),
        )
        for file in files
    ]
    time = config.history[0]["time"] if config.history else ""
    goal = str(config.hparams.base.get("goal", ""))
    return Section(folder.name, time, goal, [training, *evaluations])


def _newest_plots(run: Path) -> list[Path]:
    """Return the newest picture of each kind in plots/ (those made at several steps have the step
    in their name), without those that an evaluation has made too."""
    newest: dict[str, Path] = {}
    plots = (run / "plots").glob("[!.]*.png")
    for path in sorted(plots, key=lambda path: (_step(path), path.name)):
        newest[_STEP.sub("", path.stem)] = path
    return [path for path in newest.values() if not (run / "evaluation" / path.name).exists()]


def _step(path: Path) -> int:
    found = _STEP.search(path.stem)
    return int(found[1]) if found else -1


def _experiment_section(path: Path, record: _ExperimentRecord) -> Section:
    blocks = [Block(commands=[("", _command_line(record.command))])]
    for result in _result_files(record, path.parent):
        file = _read_figures(result) if result.is_file() else None
        if file:
            notes = (file.featsfile or result.stem, *file.notes)
            first_page = sorted(result.with_suffix("").glob("[!.]*.jpg"))[:1]
            pictures = [*_existing(file.pictures), *first_page]
            blocks.append(Block(notes=notes, figures=file.figures, pictures=pictures))
    return Section(path.parent.name, record.time, "", blocks)


def _result_files(record: _ExperimentRecord, own_folder: Path) -> list[Path]:
    """Return the files of an experiment: named after its features files, or its model's run."""
    hparams = record.hparams
    ending = ENDINGS.get(record.experiment, record.experiment.replace("-", "_"))
    folder = Path(hparams.results or hparams.results_dir or own_folder)
    if hparams.featsfile:
        return [folder / f"{Path(hparams.featsfile).stem}_{ending}.json"]
    if hparams.queries and hparams.gallery:
        stems = f"{Path(hparams.queries).stem}_in_{Path(hparams.gallery).stem}"
        return [folder / f"{stems}_{ending}.json"]
    run = glob.escape(record.model.id.replace("-", "_"))
    return sorted(folder.glob(f"{run}_*_{glob.escape(ending)}.json"))


def _read_figures(path: Path) -> FigureFile | None:
    """Read a file of figures; None, with a warning, when it cannot be used."""
    try:
        return figure_files.read(path)
    except UserError as error:
        log.warning("left out: %s", error)
        return None


def _existing(pictures: Sequence[Path]) -> list[Path]:
    return [path for path in pictures if path.is_file()]


def _command_line(words: Sequence[str]) -> str:
    return f"python {shlex.join(words)}"


# ---- HTML ----------------------------------------------------------------------------------------


def render(sections: Sequence[Section]) -> str:
    """Return the whole page."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(pixels=_pixels, row_class=_row_class, data_url=_data_url)
    return environment.get_template("report.html.jinja").render(sections=sections)


def _pixels(value: float) -> str:
    """Return how far a value reaches in a bar that holds 0 to 1."""
    return f"{BAR_WIDTH * min(max(value, 0.0), 1.0):.1f}"


def _row_class(figure: Figure, previous: Any) -> str:
    """Return the CSS classes of a table's row: the first of its metric, a control."""
    is_first = not isinstance(previous, Figure) or previous.metric != figure.metric
    classes = ["first"] if is_first else []
    classes += ["control"] if figure.labels.get("sketches") in CONTROLS else []
    return " ".join(classes)


def _data_url(picture: Path) -> str:
    data = base64.b64encode(picture.read_bytes()).decode("ascii")
    return f"data:{_MEDIA_TYPES[picture.suffix]};base64,{data}"
