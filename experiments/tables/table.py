"""Print a Markdown table over runs: `python -m experiments.tables.table RUN... [--where a=1,b=2]`.

RUN is a run's folder, of which the newest evaluation of each loader and split is shown, or a JSON
file of figures: one in a run's `evaluation`, or one that an experiment has written. Rows of one
protocol stand together, run by run, real sketches next to their controls.
"""

from __future__ import annotations

import math
import re
import shlex
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from core.commands import Parser, run
from core.errors import UsageError, UserError
from core.evaluation import figure_files
from core.evaluation.figure_files import FigureFile
from core.evaluation.figures import Figure
from core.evaluation.query_protocols import SKETCHES
from core.registry import closest
from core.run_folder import RunConfig, read_metrics

TITLES = {"sbir": "Scenes found by sketches", "obj-sbir": "Objects found by their sketches"}
_RETRIEVAL_METRIC = re.compile(r"(?P<family>.*sbir)-(?P<score>mAP|top\d+)(-test)?")


@dataclass(frozen=True)
class Source:
    """A file of figures, the name of its run in the table, and the seconds a training step took
    (None: unknown)."""

    name: str
    file: FigureFile
    seconds: float | None = None


def main(argv: Sequence[str]) -> None:
    """Print the table. UserError for what a user can mend."""
    parser = Parser(prog="python -m experiments.tables.table", description=__doc__.split(":")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or a JSON file")
    parser.add_argument("--where", default="", metavar="a=1,b=2",
                        help="only figures with these labels, loader or split")  # fmt: skip
    args = parser.parse_args(list(argv))
    print(markdown(read_sources(args.runs), _parse_where(args.where)))


# ---- reading -------------------------------------------------------------------------------------


def read_sources(paths: Iterable[str]) -> list[Source]:
    """Read runs and files. Runs of one name in different folders are called by their paths.

    UserError naming what cannot be used."""
    given = {Path(path).resolve(): Path(path) for path in paths}
    files = [(file, path) for real, path in given.items() for file in _read_files(real, path)]
    # Files of one run share a name and a folder; a name that two folders have says nothing.
    folders = {(file.run, _run_folder(file)) for file, _ in files}
    count = Counter(name for name, _ in folders)
    return [
        Source(
            file.run if count[file.run] == 1 else str(path),
            file,
            seconds_per_step(_run_folder(file), file.step),
        )
        for file, path in files
    ]


def _read_files(real: Path, path: Path) -> list[FigureFile]:
    """Read a file, or the newest evaluation of each loader and split in a run's folder.

    real: the resolved path; messages name the path as given."""
    if not real.is_dir():
        return [figure_files.read(path)]
    newest: dict[tuple[str, str], FigureFile] = {}
    for each in sorted((path / "evaluation").glob("[!.]*.json")):
        file = figure_files.read(each)
        key = file.loader, file.split
        if key not in newest or (file.step or 0) > (newest[key].step or 0):
            newest[key] = file
    if not newest:
        model = RunConfig.read(path / "config.json").model  # UserError when it is no run
        run_id = real.name[len(model) + 1 :]
        command = shlex.join(["evaluate-metrics.py", model, "-o", str(path.parent), "--id", run_id])
        raise UserError(f"the run {path} has no evaluation; make one with: python {command}")
    return [newest[key] for key in sorted(newest)]


def _run_folder(file: FigureFile) -> Path:
    folder = file.path.resolve().parent
    return folder.parent if folder.name == "evaluation" else folder


def seconds_per_step(run_folder: Path, step: int | None) -> float | None:
    """Return the median seconds of a step up to `step`; None where no metrics.jsonl tells."""
    lines = read_metrics(run_folder / "metrics.jsonl") if step is not None else []
    times = [line.get("time") for line in lines if line["step"] <= step]
    times = [time for time in times if isinstance(time, float) and math.isfinite(time)]
    return statistics.median(times) if times else None


# ---- which figures -------------------------------------------------------------------------------


class Cell(NamedTuple):
    """A figure, the source it is from (and that one's place), the table and column it goes to."""

    number: int
    source: Source
    figure: Figure
    table: str
    column: str


def _parse_where(text: str) -> dict[str, str]:
    clauses = [clause.partition("=") for clause in text.split(",") if clause.strip()]
    for clause in clauses:
        if not all(part.strip() for part in clause):
            raise UsageError(f"--where: {''.join(clause)!r} is not like boxes=jittered")
    return {name.strip(): value.strip() for name, _, value in clauses}


def _select(sources: Sequence[Source], where: Mapping[str, str]) -> Iterator[Cell]:
    """Yield the figures that have what `where` asks for, in the order of the sources."""
    known: dict[str, set[str]] = defaultdict(set)
    found = False
    for number, source in enumerate(sources):
        for figure in source.file.figures:
            labels = {"loader": source.file.loader, "split": source.file.split, **figure.labels}
            for name, value in labels.items():
                known[name].add(value)
            if where.items() <= labels.items():
                found = True
                match = _RETRIEVAL_METRIC.fullmatch(figure.metric)
                table = match["family"] if match else ""
                column = match["score"].replace("top", "recall@") if match else "value"
                yield Cell(number, source, figure, table, column)
    for name, value in where.items():
        if name not in known:
            raise UsageError(
                f"--where: no figure has {name!r}.{closest(name, list(known))} They have: "
                f"{', '.join(known)}"
            )
        if value not in known[name]:
            raise UsageError(
                f"--where: no figure has {name}={value}, only {', '.join(sorted(known[name]))}"
            )
    if not found:
        files = ", ".join(str(source.file.path) for source in sources)
        raise UserError(
            "--where: no figure has all of that together" if where else f"no figures in {files}"
        )


# ---- the tables ----------------------------------------------------------------------------------


def markdown(
    sources: Sequence[Source], where: Mapping[str, str] | None = None, head: str = "run"
) -> str:
    """Return all tables: of search for scenes, of search for objects, and of all other figures.

    where: label, 'loader' or 'split' -> the value that figures must have. head: of the column of
    the sources' names. UserError when no figure is left."""
    tables: dict[str, list[Cell]] = defaultdict(list)
    for cell in _select(sources, where or {}):
        tables[cell.table].append(cell)
    others_last = sorted(tables, key=lambda name: name == "")
    return "\n\n".join(_format_table(name, tables[name], head) for name in others_last)


def _format_table(family: str, cells: Sequence[Cell], head: str) -> str:
    """Format a table with a row for each source and protocol, and a caption."""
    columns = sorted({cell.column for cell in cells}, key=lambda c: (c == "mAP", len(c), c))
    alike = set.intersection(*(set(cell.figure.labels.items()) for cell in cells))
    shared = {name: value for name, value in alike if name not in ("boxes", "sketches")}
    lines = []
    for row in _rows(cells):
        first = next(iter(row.values()))
        figures = [row[column].figure if column in row else None for column in columns]
        labels = first.figure.labels.items()
        conditions = " ".join(f"{n}={v}" for n, v in labels if n not in shared)
        lines.append({
            head: first.source.name,
            "figure": "" if family else first.figure.metric,
            "protocol" if family else "conditions": conditions,
            "split": f"{first.source.file.loader} {first.source.file.split}".strip(),
            "n": first.figure.n,
            "gallery": first.figure.gallery,
            **dict(zip(columns, map(_value, figures))),
            "chance": _join([figure and figure.chance for figure in figures]),
            "perfect classifier": _join([figure and figure.ceiling for figure in figures]),
            "beside it": "" if family else first.figure.controls_text,
            "steps": first.source.file.step,
            "s/step": f"{first.source.seconds:.3g}" if family and first.source.seconds else "",
        })  # fmt: skip
    title = f"{TITLES.get(family, family)} (`{family}`)" if family else "Other figures"
    if len(columns) > 1:
        title += f"; chance of {', '.join(columns)}"
    title += "".join(f"; all with {name}={value}" for name, value in sorted(shared.items()))
    heads = [name for name in lines[0] if any(line[name] not in ("", None) for line in lines)]
    texts = [[_escape(line[name]) for name in heads] for line in lines]
    return f"{title}:\n\n{tabulate(texts, heads, tablefmt='github', disable_numparse=True)}"


def _rows(cells: Sequence[Cell]) -> list[dict[str, Cell]]:
    """Return the rows, column -> cell: by protocol, then by source, real sketches first."""
    groups: dict[Any, int] = {}  # in the order in which they come
    rows: dict[Any, dict[str, Cell]] = defaultdict(dict)
    for cell in cells:
        file, figure = cell.source.file, cell.figure
        labels = dict(figure.labels)
        sketches = labels.pop("sketches", "")
        metric = "" if cell.table else figure.metric
        group = (file.loader, file.split, metric, figure.gallery, *sorted(labels.items()))
        place = groups.setdefault(group, len(groups))
        control = SKETCHES.index(sketches) if sketches in SKETCHES else len(SKETCHES)
        row = rows[place, cell.number, control, sketches, figure.n]
        if cell.column in row:
            raise UserError(f"{file.path} has {figure.metric} twice under {figure.labels_text}")
        row[cell.column] = cell
    return [rows[key] for key in sorted(rows)]


def _value(figure: Figure | None) -> str:
    if figure is None:
        return ""
    interval = " [{:.3f}, {:.3f}]".format(*figure.interval) if figure.interval else ""
    return f"{figure.value:.3f}{interval}"


def _join(values: Sequence[float | None]) -> str:
    if all(value is None for value in values):
        return ""
    return " / ".join("-" if value is None else f"{value:.3f}" for value in values)


def _escape(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
