"""Results of metrics, their tables, and the bootstrap interval all of them share.

A metric is a function `compute(evaluation, name) -> list of Figure or Picture`, registered by name
with `METRICS.register(name)`; `name` comes back to it, with '-test' behind when `evaluation` is of
the test split. It only computes: embedding is the work of `core.evaluation.embedded_split`, and an
error in a metric is an error, never a number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from core.evaluation.query_protocols import main_protocol


@dataclass(frozen=True)
class Figure:
    """One number, with what is needed to judge it. ValueError for one that is not finite."""

    metric: str
    split: str
    value: float
    n: int  # queries or objects averaged
    labels: dict[str, str] = field(default_factory=dict)  # conditions: boxes, sketches, view ...
    gallery: int | None = None  # candidates that each query chose from
    chance: float | None = None  # score of a guess
    ceiling: float | None = None  # score of a perfect classifier
    interval: tuple[float, float] | None = None  # 95 %, by bootstrap
    # Other numbers to compare with; 'minus_x' is the difference to a control x, and 'minus_x_low'
    # and 'minus_x_high' its interval.
    controls: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if not np.isfinite(self.value):
            raise ValueError(f"{self.metric} is {self.value}: a figure must be a finite number")

    @property
    def labels_text(self) -> str:
        """The labels as one text, '' without any."""
        return " ".join(f"{key}={value}" for key, value in self.labels.items())

    @property
    def controls_text(self) -> str:
        """The controls as one text, those with an interval followed by it."""
        shown = []
        for name, value in self.controls.items():
            if name.endswith(("_low", "_high")):
                continue
            text = f"{name.replace('_', ' ')} {value:.3g}"
            if {f"{name}_low", f"{name}_high"} <= self.controls.keys():
                low, high = self.controls[f"{name}_low"], self.controls[f"{name}_high"]
                text += f" [{low:.3f}, {high:.3f}]"
            shown.append(text)
        return ", ".join(shown)

    def __str__(self) -> str:
        numbers = {"chance": self.chance, "perfect classifier": self.ceiling}
        notes = [f"{name} {number:.3g}" for name, number in numbers.items() if number is not None]
        notes += [self.controls_text] if self.controls else []
        interval = " [{:.3f}, {:.3f}]".format(*self.interval) if self.interval else ""
        about = f" {self.labels_text}" if self.labels else ""
        text = f"{self.metric}{about}: {self.value:.3f}{interval}"
        return f"{text} ({', '.join(notes)})" if notes else text

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Picture:
    """A picture file made by a metric."""

    metric: str
    split: str
    path: Path
    labels: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name, of the path the file's name."""
        return {**asdict(self), "path": self.path.name}


Result = Figure | Picture


def mean_figure(
    metric: str,
    split: str,
    values: np.ndarray,
    labels: dict[str, str],
    groups: np.ndarray | None = None,
    classes: np.ndarray | None = None,
    seed: int = 0,
    **fields: Any,
) -> Figure:
    """Return the mean of values (n,) with its interval: over the values, or over the means within
    classes. groups, classes, seed: as of `bootstrap_interval`. fields: the figure's other ones."""
    value = float(values.mean()) if classes is None else macro_average(values, classes)
    interval = bootstrap_interval(values, groups, classes, seed=seed)
    return Figure(metric, split, value, len(values), labels, interval=interval, **fields)


def mean_difference(
    control: str, gaps: np.ndarray, groups: np.ndarray | None = None, seed: int = 0
) -> dict[str, float]:
    """Return the entries of `Figure.controls` for paired differences (n,) to a control."""
    interval = bootstrap_interval(gaps, groups, seed=seed)
    return difference(control, float(gaps.mean()), interval)


def difference(
    control: str, value: float, interval: Sequence[float] | None = None
) -> dict[str, float]:
    """Return the entries of `Figure.controls` for a difference to a control, with its interval."""
    key = f"minus_{control}"
    ends = {f"{key}_low": interval[0], f"{key}_high": interval[1]} if interval else {}
    return {key: value, **ends}


def macro_average(values: np.ndarray, classes: np.ndarray) -> float:
    """Return the mean over classes of the mean within each. values: (n,). classes: int (n,)."""
    _, index = np.unique(classes, return_inverse=True)
    return float(np.mean(np.bincount(index, weights=values) / np.bincount(index)))


def bootstrap_interval(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    classes: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap 95 % interval of a mean, low and high.

    values: float (n,). groups: int (n,), the scene of each value: scenes are redrawn whole, because
    objects of one scene are not independent (default: every value by itself). classes: int (n,):
    for the interval of the macro average, over the classes present in each resample.
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    group = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    column = np.zeros(n, int) if classes is None else np.unique(classes, return_inverse=True)[1]
    shape = (int(group.max()) + 1, int(column.max()) + 1)
    sums, counts = np.zeros(shape), np.zeros(shape)  # (groups, classes)
    np.add.at(sums, (group, column), values)
    np.add.at(counts, (group, column), 1)

    means = []
    for weights in _resample_counts(shape[0], resamples, seed):
        total, count = weights @ sums, weights @ counts  # (rows, classes)
        seen = count > 0
        ratio = np.where(seen, total / np.maximum(count, 1), 0)
        means.append(ratio.sum(1) / seen.sum(1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def bootstrap_intervals(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Return the interval of the mean of each column, all from the same resamples (drawing them is
    what costs): float64 (c, 2), low and high. values: float (n, c). groups: int (n,)."""
    group = np.arange(len(values)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(group)
    sums = np.zeros((len(sizes), values.shape[1]))
    np.add.at(sums, group, values)
    means = [
        weights @ sums / (weights @ sizes)[:, None]
        for weights in _resample_counts(len(sizes), resamples, seed)
    ]
    return np.percentile(np.concatenate(means), [2.5, 97.5], axis=0).T


def _resample_counts(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each of n units is drawn in each resample: float64 (rows, n), in blocks.

    They are drawn one by one and counted, many times faster than multinomial numbers."""
    rng = np.random.default_rng(seed)
    block = max(1, 1_000_000 // n)  # keeps the weights of a block at 8 MB
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n)
        yield counts.reshape(rows, n).astype(np.float64)


def table(figures: Sequence[Figure]) -> str:
    """Return all there is to know of the figures as a table, a row a figure, of any width."""
    rows = [
        (
            figure.metric,
            figure.split,
            figure.labels_text or "-",
            f"{figure.value:.3f}",
            "{:.3f} - {:.3f}".format(*figure.interval) if figure.interval else "-",
            _number(figure.chance),
            _number(figure.ceiling),
            str(figure.n),
            "-" if figure.gallery is None else str(figure.gallery),
            " ".join(f"{name}={value:.4g}" for name, value in figure.controls.items()),
        )
        for figure in figures
    ]
    headers = ("metric", "split", "conditions", "value", "95 % interval", "chance", "ceiling")
    headers += ("n", "gallery", "controls")
    align = ("left",) * 3 + ("right", "left") + ("right",) * 4 + ("left",)
    return tabulate(rows, headers, disable_numparse=True, colalign=align)


def summary(figures: Sequence[Figure]) -> str:
    """Return the figures that count as text of at most 100 columns: searches with real sketches
    under `main_protocol`, and all figures that are of no query protocol. Each has its control."""
    searches = [figure for figure in figures if {"boxes", "sketches"} <= figure.labels.keys()]
    boxes = {figure.labels["boxes"] for figure in searches}
    main = main_protocol("own" in boxes, "whole-drawing" not in boxes)
    shown = [figure for figure in searches if main.labels.items() <= figure.labels.items()]
    others = [figure for figure in figures if figure not in searches]
    texts = []
    if shown:
        sizes = {f"{figure.n} queries in {figure.gallery} photographs" for figure in shown}
        whole = main.boxes == "whole-drawing"
        kind = "whole drawings" if whole else f"{main.boxes} boxes"
        title = f"Search for scenes, {kind}, {', '.join(sorted(sizes))}:"
        texts += [title, _short_table(shown, "real", "blank", main.labels), ""]
    if others:
        texts.append(_short_table(others, "value", "control"))
    return "\n".join(texts).rstrip()


def _short_table(
    figures: Sequence[Figure], value: str, control: str, known_labels: Collection[str] = ()
) -> str:
    rows = []
    for figure in figures:
        labels = [text for name, text in figure.labels.items() if name not in known_labels]
        about = f" ({', '.join(labels)})" if labels else ""
        cells = (f"{figure.value:.3f}", *_control(figure), _number(figure.chance))
        rows.append((f"{figure.metric}{about}", *cells))
    headers = ("metric", value, control, "difference [95 %]", "chance")
    align = ("left", "right", "left", "left", "right")
    return tabulate(rows, headers, disable_numparse=True, colalign=align)


def _control(figure: Figure) -> tuple[str, str]:
    """Return the control that a figure has a difference to, and the difference with interval."""
    for key, gap in figure.controls.items():
        name = key.removeprefix("minus_")
        if name != key and f"{key}_low" in figure.controls:
            low, high = figure.controls[f"{key}_low"], figure.controls[f"{key}_high"]
            about = "" if name == "blank" else f" {name.replace('_', ' ')}"
            return f"{figure.value - gap:.3f}{about}", f"{gap:.3f} [{low:.3f}, {high:.3f}]"
    return "-", "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
