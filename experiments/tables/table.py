"""A Markdown table over runs: `python -m experiments.tables.table RUN... [--where boxes=jittered]`.

RUN is a run's folder, of which the newest evaluation of each loader and split is shown, or a JSON
file of figures: one in a run's `evaluation`, or what an experiment has written. Rows of one
protocol stand together, run by run, real sketches next to their controls.
"""

from __future__ import annotations

import math
import re
import shlex
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.commands import Parser, run
from core.errors import UsageError, UserError
from core.evaluation import figure_files
from core.evaluation.figure_files import FigureFile
from core.evaluation.figures import Figure
from core.evaluation.query_protocols import SKETCHES
from core.registry import closest
from core.run_folder import RunConfig, read_metrics

TITLES = {"sbir": "Scenes found by sketches", "obj-sbir": "Objects found by their sketches"}
_SEARCH = re.compile(r"(?P<family>.*sbir)-(?P<kind>mAP|top\d+)(-test)?")


@dataclass(frozen=True)
class Source:
    """A file of figures, how its run is called, and the seconds a step of it took (None:
    unknown)."""

    name: str
    file: FigureFile
    seconds: float | None = None


def main(argv: Sequence[str]) -> None:
    """Prints the table. Raises UserError for what a user can mend."""
    parser = Parser(prog="python -m experiments.tables.table", description=__doc__.split(":")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or a JSON file")
    parser.add_argument("--where", default="", metavar="a=1,b=2",
                        help="only figures with these labels, loader or split")  # fmt: skip
    args = parser.parse_args(list(argv))
    print(markdown(gather(args.runs), _wanted(args.where)))


def gather(paths: Iterable[str]) -> list[Source]:
    """What the runs and files hold. Runs of one name in different folders are called by their
    paths. UserError naming what cannot be used."""
    given = {Path(path).resolve(): path for path in paths}
    found = [each for real, path in given.items() for each in _sources(real, Path(path))]
    # A run's files share a name and a place; where another place has the name, it says nothing.
    places = Counter(name for name, _ in {(name, place) for name, place, _, _ in found})
    return [
        Source(name if places[name] == 1 else str(path), file, seconds_a_step(place, file.step))
        for name, place, path, file in found
    ]


def _sources(real: Path, path: Path) -> list[tuple[str, Path, Path, FigureFile]]:
    """(name of the run, its folder, the path given, file) of every file to show."""
    if not real.is_dir():
        file = figure_files.read(path)
        in_run = real.parent.name == "evaluation"
        return [(file.run, real.parent.parent if in_run else real.parent, path, file)]
    newest: dict[tuple[str, str], FigureFile] = {}
    for each in sorted((path / "evaluation").glob("*.json")):
        file = figure_files.read(each)
        key = file.loader, file.split
        if key not in newest or (file.step or 0) > (newest[key].step or 0):
            newest[key] = file
    if not newest:
        model = RunConfig.read(path / "config.json").model  # UserError when it is no run
        run_id = real.name[len(model) + 1 :]
        command = shlex.join(["evaluate-metrics.py", model, "-o", str(path.parent), "--id", run_id])
        raise UserError(f"the run {path} has no evaluation; make one with: python {command}")
    return [(real.name, real, path, newest[key]) for key in sorted(newest)]


def seconds_a_step(run_folder: Path, step: int | None) -> float | None:
    """Median seconds a step up to that step; None where no metrics.jsonl tells."""
    lines = read_metrics(run_folder / "metrics.jsonl") if step is not None else []
    times = [line.get("time") for line in lines if line["step"] <= step]
    times = [time for time in times if isinstance(time, float) and math.isfinite(time)]
    return statistics.median(times) if times else None


# ---- which figures -------------------------------------------------------------------------------


def _wanted(text: str) -> dict[str, str]:
    clauses = [clause.partition("=") for clause in text.split(",") if clause.strip()]
    for clause in clauses:
        if not all(part.strip() for part in clause):
            raise UsageError(f"--where: {''.join(clause)!r} is not like boxes=jittered")
    return {name.strip(): value.strip() for name, _, value in clauses}


def _chosen(
    sources: Sequence[Source], where: Mapping[str, str]
) -> list[tuple[int, Source, Figure]]:
    """(number of the source, source, figure) of those that `where` admits."""
    known: dict[str, set[str]] = {}
    found = []
    for number, source in enumerate(sources):
        for figure in source.file.figures:
            about = {"loader": source.file.loader, "split": source.file.split, **figure.labels}
            for name, value in about.items():
                known.setdefault(name, set()).add(value)
            if where.items() <= about.items():
                found.append((number, source, figure))
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
    return found


# ---- the tables ----------------------------------------------------------------------------------


@dataclass
class _Row:
    """Scores by kind ('mAP', 'top5') of one source under one protocol."""

    source: Source
    first: Figure
    scores: dict[str, Figure] = field(default_factory=dict)


def markdown(
    sources: Sequence[Source], where: Mapping[str, str] | None = None, head: str = "run"
) -> str:
    """All tables: a table of search for scenes, one for objects, one of all other figures, where
    there are such. where: label, 'loader' or 'split' -> the value figures must have. head: of the
    column of sources' names. UserError when nothing is left."""
    search: dict[str, list[tuple[int, Source, Figure, str]]] = {}
    others = []
    for number, source, figure in _chosen(sources, where or {}):
        match = _SEARCH.fullmatch(figure.metric)
        if match:
            rows = search.setdefault(match["family"], [])
            rows.append((number, source, figure, match["kind"]))
        else:
            others.append((number, source, figure))
    tables = [_search_table(family, found, head) for family, found in search.items()]
    tables += [_other_table(others, head)] if others else []
    return "\n\n".join(tables)


def _search_table(family: str, found: Sequence[tuple[int, Source, Figure, str]], head: str) -> str:
    groups: dict[Any, int] = {}  # loader, split, gallery, protocol but for the sketches -> place
    rows: dict[Any, _Row] = {}
    for number, source, figure, kind in found:
        labels = dict(figure.labels)
        sketches = labels.pop("sketches", "")
        about = source.file.loader, source.file.split, figure.gallery
        group = groups.setdefault((*about, *sorted(labels.items())), len(groups))
        control = SKETCHES.index(sketches) if sketches in SKETCHES else len(SKETCHES)
        row = rows.setdefault((group, number, control, sketches, figure.n), _Row(source, figure))
        if kind in row.scores:
            raise UserError(
                f"{source.file.path} has {figure.metric} twice under {figure.conditions}"
            )
        row.scores[kind] = figure
    kinds = sorted({kind for *_, kind in found}, key=lambda kind: (kind == "mAP", len(kind), kind))
    names = [kind if kind == "mAP" else f"recall@{kind[3:]}" for kind in kinds]
    same = _same([row.first for row in rows.values()])
    lines = []
    for _, row in sorted(rows.items(), key=lambda item: item[0]):
        scores = [row.scores.get(kind) for kind in kinds]
        lines.append(
            {
                head: row.source.name,
                "protocol": _conditions(row.first, same),
                "split": _data(row.source),
                "n": row.first.n,
                "gallery": row.first.gallery,
                **{name: score and _value(score) for name, score in zip(names, scores)},
                "chance": _joined([score and score.chance for score in scores]),
                "perfect classifier": _joined([score and score.ceiling for score in scores]),
                "steps": row.source.file.step,
                "s/step": row.source.seconds and f"{row.source.seconds:.3g}",
            }
        )
    title = f"{TITLES.get(family, family)} (`{family}`)"
    if len(kinds) > 1:
        title += f"; chance of {', '.join(names)}"
    return _captioned(title, same, lines)


def _other_table(found: Sequence[tuple[int, Source, Figure]], head: str) -> str:
    groups: dict[Any, int] = {}
    rows = []
    for number, source, figure in found:
        key = source.file.loader, source.file.split, figure.metric, *sorted(figure.labels.items())
        rows.append((groups.setdefault(key, len(groups)), number, source, figure))
    same = _same([figure for *_, figure in rows])
    lines = [
        {
            head: source.name,
            "figure": figure.metric,
            "conditions": _conditions(figure, same),
            "split": _data(source),
            "n": figure.n,
            "value": _value(figure),
            "chance": _joined([figure.chance]),
            "perfect classifier": _joined([figure.ceiling]),
            "beside it": figure.beside,
            "steps": source.file.step,
        }
        for _, _, source, figure in sorted(rows, key=lambda row: row[:2])
    ]
    return _captioned("Other figures", same, lines)


def _same(figures: Sequence[Figure]) -> dict[str, str]:
    """The labels that all figures have alike, to be said once; boxes and sketches are always said
    with each."""
    alike = set.intersection(*(set(figure.labels.items()) for figure in figures))
    return {name: value for name, value in sorted(alike) if name not in ("boxes", "sketches")}


def _conditions(figure: Figure, same: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in figure.labels.items() if name not in same)


def _value(figure: Figure) -> str:
    between = " [{:.3f}, {:.3f}]".format(*figure.interval) if figure.interval else ""
    return f"{figure.value:.3f}{between}"


def _joined(values: Sequence[float | None]) -> str:
    if all(value is None for value in values):
        return ""
    return " / ".join("-" if value is None else f"{value:.3f}" for value in values)


def _data(source: Source) -> str:
    return f"{source.file.loader} {source.file.split}".strip()


def _captioned(title: str, same: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Caption and aligned table of what str() makes of the cells (None: nothing); columns without
    any cell are left out."""
    columns = []
    for head in rows[0]:
        cells = ["" if row[head] is None else str(row[head]) for row in rows]
        if any(cells):
            cells = [" ".join(cell.split()).replace("|", "\\|") for cell in (head, *cells)]
            width = max(3, *map(len, cells))
            columns.append([cell.ljust(width) for cell in (cells[0], "-" * width, *cells[1:])])
    alike = "".join(f"; all with {name}={value}" for name, value in same.items())
    table = "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns))
    return f"{title}{alike}:\n\n{table}"


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
