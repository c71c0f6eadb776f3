"""What a metric gives back, how it is printed, and the bootstrap interval all of them share.

A metric is a function `compute(evaluation, name) -> list of Figure or Picture`, registered by name
with `METRICS.register(name)`; `name` comes back to it, with '-test' behind when `evaluation` is of
the test split. It only computes: gathering features is
`core.evaluation.embedded_split`'s work, and an error in a metric is an error, never a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Figure:
    """One number, with what is needed to judge it.

    `labels` say under which conditions (boxes, sketches, vector, view ...), `n` how many queries or
    objects were averaged, `gallery` how many candidates each query chose from, `chance` what a
    guess scores, `ceiling` what a perfect classifier scores, `interval` the 95 % bootstrap
    interval, `controls` other numbers to read beside the value.
    """

    metric: str
    split: str
    value: float
    n: int
    labels: dict[str, str] = field(default_factory=dict)
    gallery: int | None = None
    chance: float | None = None
    ceiling: float | None = None
    interval: tuple[float, float] | None = None
    controls: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if not np.isfinite(self.value):
            raise ValueError(f"{self.metric} is {self.value}: a figure must be a finite number")

    @property
    def labels_text(self) -> str:
        """The labels as one text; empty without any."""
        return " ".join(f"{key}={value}" for key, value in self.labels.items())

    def __str__(self) -> str:
        beside = {"chance": self.chance, "perfect classifier": self.ceiling, **self.controls}
        beside = [
            f"{key} {value:.3g}"
            for key, value in beside.items()
            if value is not None and not key.endswith(("_low", "_high"))
        ]
        between = " [{:.3f}, {:.3f}]".format(*self.interval) if self.interval else ""
        about = f" {self.labels_text}" if self.labels else ""
        text = f"{self.metric}{about}: {self.value:.3f}{between}"
        return f"{text} ({', '.join(beside)})" if beside else text

    @property
    def controls_text(self) -> str:
        """The controls as one text; one with '_low' and '_high' beside it has them as interval."""
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

    def to_json(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Picture:
    """A picture file made by a metric."""

    metric: str
    split: str
    path: Path
    labels: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict:
        return {**asdict(self), "path": self.path.name}


Result = Figure | Picture


def macro_average(values: np.ndarray, classes: np.ndarray) -> float:
    """Mean over classes of the mean of `values` (n,) within each class of `classes` int (n,)."""
    _, index = np.unique(classes, return_inverse=True)
    return float(np.mean(np.bincount(index, weights=values) / np.bincount(index)))


def bootstrap_interval(
    values: np.ndarray,
    groups: np.ndarray | None = None,
    classes: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap 95 % interval of a mean, or of a mean over classes.

    values: float (n,). groups: int (n,), the scene each value comes from; scenes are redrawn
    whole, because objects of one scene are not independent (default: every value by itself).
    classes: int (n,); when given, the statistic is the macro average over the classes present in
    the resample.
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
    for weights in _redrawn(shape[0], resamples, seed):
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
    """`bootstrap_interval` of the mean of each column of values float (n, c), all from the same
    resamples (drawing them is what costs): float64 (c, 2), low and high."""
    group = np.arange(len(values)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(group)
    sums = np.zeros((len(sizes), values.shape[1]))
    np.add.at(sums, group, values)
    means = [
        weights @ sums / (weights @ sizes)[:, None]
        for weights in _redrawn(len(sizes), resamples, seed)
    ]
    return np.percentile(np.concatenate(means), [2.5, 97.5], axis=0).T


def _redrawn(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n units is drawn in each resample: float64 (rows, n), in blocks.

    Drawn one by one and counted, which is many times faster than multinomial numbers."""
    rng = np.random.default_rng(seed)
    block = max(1, 1_000_000 // n)  # keeps the weights of a block at 8 MB
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n)
        yield counts.reshape(rows, n).astype(np.float64)


def table(figures: Sequence[Figure]) -> str:
    """The figures as one aligned text table, controls included."""
    header = ("metric", "split", "conditions", "value", "95 % interval", "chance", "ceiling")
    header += ("n", "gallery", "beside it")
    rows = [header]
    for figure in figures:
        low_high = "{:.3f} - {:.3f}".format(*figure.interval) if figure.interval else "-"
        rows.append(
            (
                figure.metric,
                figure.split,
                figure.labels_text or "-",
                f"{figure.value:.3f}",
                low_high,
                _short(figure.chance),
                _short(figure.ceiling),
                str(figure.n),
                "-" if figure.gallery is None else str(figure.gallery),
                " ".join(f"{key}={value:.4g}" for key, value in figure.controls.items()),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    number = {3, 5, 6, 7, 8}
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if i in number else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join(lines)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
