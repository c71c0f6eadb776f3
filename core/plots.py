"""Pictures of curves and points, by matplotlib: pure functions of what they show.

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

from core.errors import UserError
from core.files import write_atomic

COLUMNS = 3
# What is drawn beside a figure: its fields and controls of the figure's own kind.
BESIDE = {
    "chance": "chance",
    "ceiling": "perfect classifier",
    "all_ones": "all-ones mask",
    "class_mean": "mean mask of the class",
}
LEGEND_CLASSES = 12


def save(path: Path, png: bytes) -> None:
    """Write a picture whole or not at all, making its folder. UserError when that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path.parent}: {error.strerror}") from None
    write_atomic(path, png)


def learning_curves(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel for every loss over steps: the values, and their running mean when there are many.

    lines: of metrics.jsonl, as `core.reporting.read_metrics` gives them; nothing is drawn without
    any.
    """
    names = list(dict.fromkeys(name for line in lines for name in line["losses"]))
    if not names:
        return
    figure, panels = _panels(names, 2.9)
    for panel, name in zip(panels, names):
        points = [(line["step"], line["losses"][name]) for line in lines if name in line["losses"]]
        steps, values = np.array(points, dtype=np.float64).T
        mean = running_mean(values, max(1, len(values) // 20))
        many = mean is not None
        panel.plot(steps, values, color="tab:blue", alpha=0.35 if many else 1.0,
                   linewidth=0.8 if many else 1.4, marker="." if len(values) < 20 else None,
                   label="logged")  # fmt: skip
        if many:
            panel.plot(steps, mean, color="tab:blue", linewidth=1.6, label="running mean")
        panel.set_ylabel("loss", fontsize=9)
        if many:
            _legend_below(panel)
    save(path, _png(figure))


def figure_curves(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel for every metric over steps: each figure with its 95 % interval, blank
    and shuffled sketches dashed and dotted, and beside them chance, the ceiling and the baselines
    that need no model.

    lines: of figures.jsonl. Where a metric is missing at a step, or another loader begins, its
    line is broken. Nothing is drawn without figures.
    """
    metrics = list(dict.fromkeys(figure["metric"] for line in lines for figure in line["figures"]))
    if not metrics:
        return
    figure, panels = _panels(metrics, 3.6)
    for panel, metric in zip(panels, metrics):
        curves = _curves(lines, metric)
        colour_of: dict[str, str] = {}
        for (label, kind), points in curves.items():
            steps, values, low, high = np.array(points, np.float64).T
            if kind == "value":
                # A control has the colour of what it controls.
                shown = next((kind for kind in _CONTROLS if kind in label), "real")
                pair = label.replace(shown, "real")
                colour = colour_of.setdefault(pair, f"C{len(colour_of)}")
                style = {"color": colour, "linestyle": _CONTROLS.get(shown, "-")}
                panel.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
            else:
                own = label.partition(", ")[2]  # the one curve it belongs to, if not to all
                style = {"color": colour_of.get(own, "0.45"), "linestyle": _STYLES[kind]}
            panel.plot(steps, values, label=label, linewidth=1.5, marker=".", markersize=4, **style)
        panel.set_ylim(-0.03, 1.03)
        panel.set_ylabel(_Y_LABELS.get(metric.partition("-")[0], "score"), fontsize=9)
        _legend_below(panel)
    save(path, _png(figure))


_CONTROLS = {"blank": "--", "shuffled": ":"}  # sketches that should find nothing
_STYLES = dict(zip(BESIDE, (":", "-.", (0, (3, 1, 1, 1, 1, 1)), (0, (6, 2)))))
_Y_LABELS = {"embedding": "accuracy", "mask": "IoU"}


def _curves(
    lines: Sequence[dict[str, Any]], metric: str
) -> dict[tuple[str, str], list[tuple[float, float, float, float]]]:
    """(label, kind) -> points (step, value, low, high), NaN where the line is broken."""
    curves: dict[tuple[str, str], list[tuple[float, float, float, float]]] = {}
    loader = None
    for line in lines:
        step = line["step"]
        found: dict[tuple[str, str], tuple[float, float, float]] = {}
        beside: dict[str, dict[str, float]] = {}  # kind -> label -> value
        for figure in line["figures"]:
            if figure["metric"] != metric:
                continue
            label = " ".join(figure["labels"].values()) or "value"
            value = figure["value"]
            found[label, "value"] = (value, *(figure["interval"] or (value, value)))
            for kind in BESIDE:
                other = figure.get(kind, figure["controls"].get(kind))
                if other is not None:
                    beside.setdefault(kind, {})[label] = other
        for kind, values in beside.items():
            for label, value in values.items():
                alike = len(set(values.values())) == 1
                found[BESIDE[kind] + ("" if alike else f", {label}"), kind] = (value,) * 3
        if loader not in (None, line["loader"]):
            for points in curves.values():
                points.append((step, *[math.nan] * 3))
        loader = line["loader"]
        for key in curves.keys() | found.keys():
            curves.setdefault(key, []).append((step, *found.get(key, (math.nan,) * 3)))
    return dict(sorted(curves.items(), key=lambda item: (item[0][1] != "value", item[0][0])))


def jitter_curve(
    curves: dict[str, list[tuple[float, float, float, float]]], chance: float, title: str
) -> bytes:
    """Recall over the amount of jitter, as a PNG. curves: kind of sketches -> points (amount as a
    share of a box, recall, low, high)."""
    amounts = [point[0] for points in curves.values() for point in points]
    return recall_curves(
        {f"{name} sketches": points for name, points in curves.items()},
        {"chance": [(amount, chance) for amount in (min(amounts), max(amounts))]},
        "jitter of the query's boxes, share of a box (0: the photograph's own)",
        "recall@1",
        title,
    )


def recall_curves(
    curves: Mapping[str, Sequence[tuple[float, float, float, float]]],
    chance: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    title: str,
    logarithmic: bool = False,
) -> bytes:
    """Recall over something, as a PNG. curves: label -> points (x, recall, low, high). Those whose
    label starts with 'blank' are dashed, in the colours of the others in their order. chance: label
    -> points (x, recall). logarithmic: the x axis, with a tick at every x."""
    from matplotlib.ticker import NullLocator

    figure = _figure((6.4, 4.4))
    panel = figure.subplots()
    drawn = {True: 0, False: 0}  # how many curves are: blank, others
    for label, points in curves.items():
        blank = label.startswith("blank")
        x, values, low, high = np.array(points, np.float64).T
        style = {"color": f"C{drawn[blank]}", "linestyle": "--" if blank else "-"}
        drawn[blank] += 1
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
    """Points of photographs (circles) and sketches (crosses) coloured by class, as PNG.

    points float (n, 2); classes int (n,) index `names`; sketched bool (n,). The legend names the
    most frequent classes, the others are grey.
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
        own = np.isin(classes, group)
        photo, sketch = points[own & ~sketched], points[own & sketched]
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


def running_mean(values: np.ndarray, width: int) -> np.ndarray | None:
    """Mean of each value and up to `width` before it, float64 (n,); None when width is 1."""
    if width < 2:
        return None
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _figure(inches: tuple[float, float]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _panels(titles: Sequence[str], height: float) -> tuple[Any, Iterable[Any]]:
    """A figure with one titled panel over steps for each title, `height` inches high."""
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
    """Under the axis, where it covers no data."""
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=8, frameon=False)


def _png(figure: Any) -> bytes:
    drawn = io.BytesIO()
    figure.canvas.print_figure(drawn, format="png", dpi=110)
    return drawn.getvalue()
