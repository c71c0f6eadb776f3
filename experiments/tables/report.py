"""'report': every run of a folder on one page, report.html, which needs no other file.

runs and experiments of the output dir -> their commands, curves, pictures and figures -> HTML

Read are only files that the commands have written: config.json, plots/ and evaluation/ of each run,
config.json and results of each experiment.
"""

from __future__ import annotations

import base64
import glob
import html
import logging
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
_MEDIA = {".png": "image/png", ".jpg": "image/jpeg"}

# Keys that tell one kind of file from another.
RUN = {"model": str, "loader": str, "history": list}
EXPERIMENT = {"experiment": str, "hparams": dict, "command": list, "time": str}
# Its hparams that name files.
NAMES = ("results", "results_dir", "featsfile", "queries", "gallery")
CONTROLS = ("blank", "shuffled")  # sketches that say nothing

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1280px; margin: 2em auto;
       padding: 0 1em; }
h1, h2, h3 { line-height: 1.25; }
h2 { margin-top: 2.2em; border-bottom: 2px solid #ddd; padding-bottom: .2em; }
pre { background: #f5f5f2; padding: .7em 1em; white-space: pre-wrap; font-size: 13px; }
table { border-collapse: collapse; font-size: 14px; margin: .8em 0 1.6em; }
th, td { text-align: left; padding: .2em .8em .2em 0; border-bottom: 1px solid #eee;
         white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.beside { color: #666; font-size: 13px; white-space: normal; min-width: 250px; }
tr.first td { border-top: 1px solid #aaa; }
tr.control td { color: #888; }
figure { margin: 1em 0 2em; }
figcaption { color: #555; font-size: 13px; }
img { max-width: 100%; border: 1px solid #ddd; }
.note { background: #fff8e1; border-left: 4px solid #e0b000; padding: .5em 1em; }
"""

NOTE = """A query carries the boxes that its objects were drawn in. Under <b>boxes=shared</b> (the
paper's protocol) these are the boxes of the very photograph it looks for, which alone can identify
it; under <b>boxes=jittered</b> each is shifted and scaled at random; <b>boxes=own</b> are those of
the drawing. What counts is the row of <b>sketches=real</b> against the grey ones of
<b>sketches=blank</b> and <b>shuffled</b> (those of another scene) below it. In the bars, the line
is the 95 % interval, the red mark chance."""

# Of the files of experiments that are not named as they are.
ENDINGS = {"sbir-on-features-file": "sbir", "generate-images": "images"}


@dataclass(frozen=True)
class ReportHParams(ExperimentHParams):
    """Of 'report'."""


@EXPERIMENTS.register("report")
class Report(Experiment):
    """Writes <results>/report.html on all runs and experiments in the output dir."""

    name = "report"
    HParams = ReportHParams

    def __init__(self, hparams: Any, own_folder: Path) -> None:
        super().__init__(hparams, own_folder)
        self.output_dir = own_folder.parent

    def run(self, trained: Trained | None) -> None:
        sections = [*_runs(self.output_dir), *_experiments(self.output_dir, self.name)]
        if not sections:
            raise UserError(
                f"there is nothing to report: {self.output_dir} has no run; train one into it, or "
                "name another folder with -o"
            )
        path = self.results / "report.html"
        write_atomic(path, page(sections).encode())
        print(f"saved: {path}")


@dataclass(frozen=True)
class Section:
    """A part of the page. text: plain; body: HTML."""

    title: str
    time: str  # of its first command, for the order
    text: str
    body: str


def page(sections: Iterable[Section]) -> str:
    """The whole page."""
    ordered = sorted(sections, key=lambda section: section.time)
    contents = "".join(
        f'<li><a href="#part{i}">{html.escape(s.title)}</a></li>' for i, s in enumerate(ordered)
    )
    parts = "".join(
        f'<h2 id="part{i}">{html.escape(s.title)}</h2><p>{html.escape(s.text)}</p>{s.body}'
        for i, s in enumerate(ordered)
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Scene Designer</title>'
        f"<style>{STYLE}</style></head><body><h1>Scene Designer: what the runs learnt</h1>"
        f'<p class="note">{NOTE}</p><ol>{contents}</ol>{parts}</body></html>\n'
    )


# ---- what is in the folder -----------------------------------------------------------------------


def _runs(output_dir: Path) -> Iterable[Section]:
    for path in sorted(output_dir.glob("*/config.json")):
        if _read(path, RUN) is None:
            continue
        try:
            config, folder = RunConfig.read(path), path.parent
        except UserError as error:
            log.warning("left out: %s", error)
            continue
        commands = "".join(
            f"<p>from step {entry['step']}, on {html.escape(entry['loader'])}:</p>"
            + _command(entry["command"])
            for entry in config.history
        )
        curves = "".join(_picture(picture) for picture in _newest(folder))
        evaluations = "".join(
            _evaluation(report) for report in sorted((folder / "evaluation").glob("*.json"))
        )
        yield Section(
            folder.name,
            config.history[0]["time"] if config.history else "",
            str(config.base.get("goal", "")),
            f"<h3>Training</h3>{commands}{curves}{evaluations}",
        )


def _newest(run: Path) -> list[Path]:
    """The newest picture of each kind in plots/: those made at several steps have the step in
    their name. Without those that an evaluation has made too."""
    newest: dict[str, Path] = {}
    for path in sorted((run / "plots").glob("*.png"), key=lambda path: (_step(path), path.name)):
        newest[_STEP.sub("", path.stem)] = path
    return [path for path in newest.values() if not (run / "evaluation" / path.name).exists()]


def _step(path: Path) -> int:
    found = _STEP.search(path.stem)
    return int(found[1]) if found else -1


def _evaluation(path: Path) -> str:
    file = _figures(path)
    if file is None:
        return ""
    title = f"Evaluation on {file.loader}, {file.split}, after step {file.step}"
    return f"<h3>{html.escape(title)}</h3>{_command(file.command)}{_shown(file)}"


def _experiments(output_dir: Path, own_name: str) -> Iterable[Section]:
    for path in sorted(output_dir.glob("*/config.json")):
        record = _read(path, EXPERIMENT)
        if record is None or record["experiment"] == own_name:
            continue
        if not _is_record(record):
            log.warning("left out: %s holds values of other types than an experiment writes", path)
            continue
        body = _command(record["command"])
        body += "".join(_search(found) for found in _reports(record, path.parent))
        yield Section(path.parent.name, record["time"], "", body)


def _is_record(record: dict[str, Any]) -> bool:
    """Whether the entries that name files are text, as what the experiment wrote."""
    model = record.get("model", {})
    if not isinstance(model, dict) or not isinstance(model.get("id", ""), str):
        return False
    texts = [*record["command"], *(record["hparams"].get(name, "") for name in NAMES)]
    whole = all(isinstance(text, str) and "\0" not in text for text in texts)
    return whole and not set(model.get("id", "")) & set("/\0")


def _reports(record: dict[str, Any], own_folder: Path) -> list[Path]:
    """What the experiment has written: named after its features files, or its model's run."""
    # Whatever a config.json that was sent holds in their place.
    hparams = {
        name: str(value).replace("\0", "") for name, value in record["hparams"].items() if value
    }
    ending = ENDINGS.get(record["experiment"], record["experiment"].replace("-", "_"))
    folder = Path(hparams.get("results") or hparams.get("results_dir") or own_folder)
    if hparams.get("featsfile"):
        return [folder / f"{Path(hparams['featsfile']).stem}_{ending}.json"]
    if hparams.get("queries") and hparams.get("gallery"):
        stems = (Path(hparams[side]).stem for side in ("queries", "gallery"))
        return [folder / f"{'_in_'.join(stems)}_{ending}.json"]
    model = record.get("model")
    run = str(model.get("id", "")) if isinstance(model, dict) else ""
    run = run.replace("-", "_").replace("/", "_")
    return sorted(folder.glob(f"{glob.escape(run)}_*_{ending}.json"))


def _search(path: Path) -> str:
    """What an experiment on search has found."""
    file = _figures(path) if path.is_file() else None
    if file is None:
        return ""
    sentences = (file.featsfile or path.stem, *file.notes)
    text = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)
    return text + _shown(file, sorted(path.with_suffix("").glob("*.jpg"))[:1])


def _figures(path: Path) -> FigureFile | None:
    """The file; None, with a warning, when it cannot be used."""
    try:
        return figure_files.read(path)
    except UserError as error:
        log.warning("left out: %s", error)
        return None


def _shown(file: FigureFile, more: Sequence[Path] = ()) -> str:
    """Its figures and pictures, and more pictures."""
    pictures = (path for path in (*file.pictures, *more) if path.is_file())
    return _table(file.figures) + "".join(map(_picture, pictures))


def _read(path: Path, keys: dict[str, type]) -> dict[str, Any] | None:
    """The JSON object in `path`; None unless it has the keys, each of its type."""
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except UserError as error:
        log.warning("left out: %s", error)
        return None
    if not isinstance(content, dict):
        return None
    return content if all(isinstance(content.get(k), kind) for k, kind in keys.items()) else None


# ---- HTML ----------------------------------------------------------------------------------------


def _command(words: Sequence[str]) -> str:
    return f"<pre>python {html.escape(shlex.join(map(str, words)))}</pre>"


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    caption = html.escape(path.stem)
    return (
        f'<figure><img src="data:{_MEDIA[path.suffix]};base64,{data}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _table(figures: Sequence[Figure]) -> str:
    """Figures with their controls; all values shown lie in [0, 1]."""
    if not figures:
        return ""
    rows, before = [], None
    for figure in figures:
        classes = ["first"] if figure.metric != before else []
        classes += ["control"] if figure.labels.get("sketches") in CONTROLS else []
        before = figure.metric
        low_high = "{:.3f} to {:.3f}".format(*figure.interval) if figure.interval else ""
        gallery = f"of {figure.gallery}" if figure.gallery else ""
        cells = [
            ("", html.escape(figure.metric)),
            ("", html.escape(figure.labels_text)),
            ("number", f"{figure.value:.3f}"),
            ("", _bar(figure)),
            ("number", low_high),
            ("number", "" if figure.chance is None else f"{figure.chance:.3f}"),
            ("number", "" if figure.ceiling is None else f"{figure.ceiling:.3f}"),
            ("number", f"{figure.n} {gallery}"),
            ("beside", html.escape(figure.controls_text)),
        ]
        row = "".join(f'<td class="{kind}">{cell}</td>' for kind, cell in cells)
        rows.append(f'<tr class="{" ".join(classes)}">{row}</tr>')
    heads = ("metric", "conditions", "value", "", "95 % interval", "chance", "ceiling", "n", "")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _bar(figure: Figure) -> str:
    """A bar of 120 pixels for a value in [0, 1], with its interval and chance."""

    def x(value: float) -> str:
        return f"{120 * min(max(value, 0.0), 1.0):.1f}"

    low, high = figure.interval or (figure.value, figure.value)
    mark = ""
    if figure.chance is not None:
        at = x(figure.chance)
        mark = f'<line x1="{at}" x2="{at}" y1="0" y2="14" stroke="#c00" stroke-width="2"/>'
    return (
        '<svg width="121" height="14"><rect width="120" height="14" fill="#eee"/>'
        f'<rect width="{x(figure.value)}" y="2" height="10" fill="#7aa6d8"/>'
        f'<line x1="{x(low)}" x2="{x(high)}" y1="7" y2="7" stroke="#123" stroke-width="2"/>'
        f"{mark}</svg>"
    )
