"""Draw curves and points with matplotlib.

Figures are made without pyplot: no global state, and no display needed. matplotlib is imported when
a picture is drawn: it costs a second that a wrong command line should not wait for.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.files import make_folder, write_atomic

COLUMNS = 3
# Fields and controls of a figure that are drawn with it, and their labels.
BASELINES = {
    "chance": "chance",
    "ceiling": "perfect classifier",
    "all_ones": "all-ones mask",
    "class_mean": "mean mask of the class",
}
LEGEND_CLASSES = 12


def save(path: Path, png: bytes) -> None:
    """Write a picture atomically and make its folder. UserError when that fails."""
    make_folder(path.parent, "the folder of pictures", "look at its permissions")
    write_atomic(path, png)


def learning_curves(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a panel for every loss over steps, with its running mean when there are many values.

    lines: of metrics.jsonl, by `core.run_folder.read_metrics`. Nothing is drawn without any.
    """
    names = list(dict.fromkeys(name for line in lines for name in line["losses"]))
    if not names:
        return
    figure, panels = _panels(names, 2.9)
    for panel, name in zip(panels, names):
        points = [(line["step"], line["losses"][name]) for line in lines if name in line["losses"]]
        steps, values = np.array(points, dtype=np.float64).T
        panel.set_ylabel("loss", fontsize=9)
        marker = "." if len(values) < 20 else None
        if len(values) < 40:
            panel.plot(steps, values, linewidth=1.4, marker=marker)
            continue
        panel.plot(steps, values, color="C0", alpha=0.35, linewidth=0.8, label="logged")
        width = len(values) // 20
        mean = np.convolve(values, np.full(width, 1 / width), "valid")
        panel.plot(steps[width - 1 :], mean, color="C0", linewidth=1.6, label="running mean")
        _legend_below(panel)
    save(path, _png(figure))


def figure_curves(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a panel for every metric over steps: each figure with its 95 % interval.

    Blank and shuffled sketches are dashed and dotted; chance, the ceiling and the baselines that
    need no model are grey. lines: of figures.jsonl. Where a metric is missing at a step, or another
    loader begins, its line is broken. Nothing is drawn without figures.
    """
    metrics = list(dict.fromkeys(figure["metric"] for line in lines for figure in line["figures"]))
    if not metrics:
        return
    figure, panels = _panels(metrics, 3.6)
    for panel, metric in zip(panels, metrics):
        _draw_metric(panel, _curves(lines, metric))
        panel.set_ylim(-0.03, 1.03)
        panel.set_ylabel(_Y_LABELS.get(metric.partition("-")[0], "score"), fontsize=9)
        _legend_below(panel)
    save(path, _png(figure))


def _draw_metric(panel: Any, curves: Curves) -> None:
    colours: dict[str, str] = {}
    for (label, kind), points in curves.items():
        steps, values, low, high = np.array(points, np.float64).T
        if kind == "value":
            # A control has the colour of what it controls.
            control = next((name for name in _CONTROLS if name in label), "real")
            colour = colours.setdefault(label.replace(control, "real"), f"C{len(colours)}")
            style = {"color": colour, "linestyle": _CONTROLS.get(control, "-")}
            panel.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
        else:
            owner = label.partition(", ")[2]  # the one curve it belongs to, if not to all
            style = {"color": colours.get(owner, "0.45"), "linestyle": _STYLES[kind]}
        panel.plot(steps, values, label=label, linewidth=1.5, marker=".", markersize=4, **style)


_CONTROLS = {"blank": "--", "shuffled": ":"}  # sketches that should find nothing
_STYLES = dict(zip(BASELINES, (":", "-.", (0, (3, 1, 1, 1, 1, 1)), (0, (6, 2)))))
_Y_LABELS = {"embedding": "accuracy", "mask": "IoU"}


Point = tuple[float, float, float, float]  # step or x, value, low, high
Curves = dict[tuple[str, str], list[Point]]


def _curves(lines: Sequence[dict[str, Any]], metric: str) -> Curves:
    """Return the points of a metric by (label, kind), NaN where a line is broken.

    kind: 'value', or a name of BASELINES.
    """
    curves: Curves = {}
    loader = None
    for line in lines:
        figures = [figure for figure in line["figures"] if figure["metric"] == metric]
        if loader not in (None, line["loader"]):
            for points in curves.values():
                points.append((line["step"], *_BREAK))
        loader = line["loader"]
        values = {**_figure_values(figures), **_baseline_values(figures)}
        for key in curves.keys() | values.keys():
            curves.setdefault(key, []).append((line["step"], *values.get(key, _BREAK)))
    return dict(sorted(curves.items(), key=lambda item: (item[0][1] != "value", item[0][0])))


_BREAK = (math.nan,) * 3


def _figure_values(figures: Sequence[dict[str, Any]]) -> dict[tuple[str, str], tuple]:
    return {
        (_label(figure), "value"): (figure["value"], *(figure["interval"] or [figure["value"]] * 2))
        for figure in figures
    }


def _baseline_values(figures: Sequence[dict[str, Any]]) -> dict[tuple[str, str], tuple]:
    """Return the baselines of the figures; one that is equal for all is one curve."""
    found: dict[tuple[str, str], tuple] = {}
    for kind, name in BASELINES.items():
        values = {_label(each): each.get(kind, each["controls"].get(kind)) for each in figures}
        values = {label: value for label, value in values.items() if value is not None}
        shared = len(set(values.values())) == 1
        for label, value in values.items():
            found[name if shared else f"{name}, {label}", kind] = (value,) * 3
    return found


def _label(figure: dict[str, Any]) -> str:
    return " ".join(figure["labels"].values()) or "value"


def recall_curves(
    curves: Mapping[str, Sequence[Point]],
    chance: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    title: str,
    logarithmic: bool = False,
) -> bytes:
    """Draw recall over something, as a PNG.

    curves: label -> points (x, recall, low, high). Those whose label starts with 'blank' are
    dashed, in the colours of the others in their order. chance: label -> points (x, recall).
    logarithmic: the x axis, with a tick at every x.
    """
    from matplotlib.ticker import NullLocator

    figure = _figure((6.4, 4.4))
    panel = figure.subplots()
    counts = {True: 0, False: 0}  # of curves: blank, others
    for label, points in curves.items():
        blank = label.startswith("blank")
        x, values, low, high = np.array(points, np.float64).T
        style = {"color": f"C{counts[blank]}", "linestyle": "--" if blank else "-"}
        counts[blank] += 1
        panel.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
        panel.plot(x, values, label=label, marker="o", markersize=4, **style)
    for (label, points), style in zip(chance.items(), (":", "-.")):
        panel.plot(*np.array(points, np.float64).T, label=label, color="0.45", linestyle=style)
    if logarithmic:
        sizes = sorted({point[0] for points in curves.values() for point in points})
        panel.set_xscale("log")
        panel.set_xticks(sizes, [f"{size:g}" for size in sizes], rotation=45)
        panel.xaxis.set_minor_locator(NullLocator())
    panel.set_ylim(-0.03, 1.03)
    panel.set_xlabel(x_label, fontsize=9)
    panel.set_ylabel(y_label, fontsize=9)
    panel.set_title(title, fontsize=9)
    panel.grid(alpha=0.3)
    panel.tick_params(labelsize=8)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return _png(figure)


def embedding_map(
    points: np.ndarray,
    classes: np.ndarray,
    sketched: np.ndarray,
    names: Sequence[str],
    title: str,
) -> bytes:
    """Draw points of photographs (circles) and sketches (crosses) coloured by class, as a PNG.

    points: float (n, 2). classes: int (n,), index into `names`. sketched: bool (n,). The legend
    names the most frequent classes, the others are grey.
    """
    found, counts = np.unique(classes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    frequent = found[order[:LEGEND_CLASSES]]
    rest = np.setdiff1d(found, frequent)
    groups = [(index, names[index], colour) for index, colour in zip(frequent, _COLOURS)]
    if len(rest):
        groups.append((rest, f"{len(rest)} other classes", "0.8"))
    figure = _figure((10.4, 7.4))
    panel = figure.add_subplot()
    handles = [
        panel.scatter([], [], s=26, marker=marker, color="0.3", label=side)
        for marker, side in (("o", "photo"), ("x", "sketch"))
    ]
    for group, label, colour in groups:
        members = np.isin(classes, group)
        photo, sketch = points[members & ~sketched], points[members & sketched]
        panel.scatter(*photo.T, s=22, marker="o", color=[colour], alpha=0.65, linewidths=0)
        panel.scatter(*sketch.T, s=26, marker="x", color=[colour], linewidths=1.1)
        handles.append(panel.scatter([], [], s=40, marker="s", color=[colour], label=label))
    figure.legend(handles=handles, loc="outside right upper", fontsize=9, frameon=False)
    panel.set_title(title, fontsize=10)
    panel.set_xlabel("t-SNE dimension 1 (no unit)", fontsize=9)
    panel.set_ylabel("t-SNE dimension 2 (no unit)", fontsize=9)
    panel.tick_params(labelsize=8)
    return _png(figure)


# Twelve that are told apart on white.
_COLOURS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b",
    "#e377c2", "#bcbd22", "#17becf", "#000000", "#00ff7f", "#7b68ee",
)  # fmt: skip


def _figure(inches: tuple[float, float]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _panels(titles: Sequence[str], height: float) -> tuple[Any, Iterable[Any]]:
    """Return a figure and its panels over steps, one for each title, `height` inches high."""
    from matplotlib.ticker import MaxNLocator

    columns = min(COLUMNS, len(titles))
    rows = math.ceil(len(titles) / columns)
    figure = _figure((4.6 * columns, height * rows))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, title in zip(panels, titles):
        panel.set_title(title, fontsize=11)
        panel.set_xlabel("step", fontsize=9)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.3)
    for panel in panels[len(titles) :]:
        panel.set_visible(False)
    return figure, panels


def _legend_below(panel: Any) -> None:
    # Under the axis, where it covers no data.
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=8, frameon=False)


def _png(figure: Any) -> bytes:
    from matplotlib.text import Text

    for text in figure.findobj(Text):  # an id such as 'a$b$' is no formula
        text.set_parse_math(False)
    file = io.BytesIO()
    figure.canvas.print_figure(file, format="png", dpi=110)
    return file.getvalue()
