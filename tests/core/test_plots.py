"""core.plots: what is inked where, and the numbers behind the lines."""

import io
import math

import numpy as np
from PIL import Image

from core import plots
from core.plots import learning_curves


def test_learning_curves_draw_a_panel_for_every_loss(tmp_path):
    lines = [
        {"step": step, "losses": {name: 1.0 / (step + i) for i, name in enumerate("abcd")}}
        for step in range(1, 200)
    ]
    lines[50]["losses"].pop("a")  # a missing point is no reason to fail
    path = tmp_path / "plots" / "losses.png"
    learning_curves(lines, path)
    image = np.asarray(Image.open(path).convert("RGB"))
    dark = (image < 128).any(-1)
    panels = [part for row in np.array_split(dark, 2) for part in np.array_split(row, 3, axis=1)]
    assert [panel.mean() > 0.002 for panel in panels] == [True, True, True, True, False, False]
    assert [entry.name for entry in path.parent.iterdir()] == ["losses.png"]


def figure(metric, value, labels=None, **more):
    empty = {"interval": None, "chance": None, "ceiling": None, "controls": {}}
    return {"metric": metric, "value": value, "labels": labels or {}, **empty, **more}


def line(step, *figures, loader="a"):
    return {"step": step, "figures": figures, "loader": loader}


def known(points):
    """(step, value) of the points that are there, None where the line is broken."""
    return [None if math.isnan(value) else (step, value) for step, value, *_ in points]


def test_a_missing_figure_and_another_loader_break_the_line():
    lines = [
        line(1, figure("m", 0.1)), line(2, figure("m", 0.2)), line(3, figure("other", 0.9)),
        line(4, figure("m", 0.4)), line(5, figure("m", 0.5), loader="b"),
    ]  # fmt: skip
    curves = plots._curves(lines, "m")
    assert list(curves) == [("value", "value")]
    expected = [(1, 0.1), (2, 0.2), None, (4, 0.4), None, (5, 0.5)]
    assert known(curves["value", "value"]) == expected


def test_chance_is_one_line_where_it_is_one_number():
    real, blank = {"sketches": "real"}, {"sketches": "blank"}
    one = [line(1, figure("m", 0.5, real, chance=0.1), figure("m", 0.2, blank, chance=0.1))]
    assert known(plots._curves(one, "m")["chance", "chance"]) == [(1, 0.1)]
    two = [line(1, figure("m", 0.5, real, chance=0.1), figure("m", 0.2, blank, chance=0.3))]
    curves = plots._curves(two, "m")
    assert known(curves["chance, real", "chance"]) == [(1, 0.1)]
    assert known(curves["chance, blank", "chance"]) == [(1, 0.3)]


def test_figure_curves_draw_a_panel_for_every_metric(tmp_path):
    lines = [line(s, figure("m", 0.1 * s, interval=(0, 1)), figure("n", 0.5)) for s in (1, 2)]
    plots.figure_curves(lines, tmp_path / "new" / "figures.png")
    image = np.asarray(Image.open(tmp_path / "new" / "figures.png").convert("RGB"))
    half = image.shape[1] // 2
    blue = np.all(np.abs(image.astype(int) - (31, 119, 180)) < 30, axis=-1)
    assert blue[:, :half].any() and blue[:, half:].any()
    plots.figure_curves([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_embedding_map_tells_classes_by_colour_and_names_the_most_frequent():
    """Thirteen classes: twelve have colours, the rarest is grey. A run's id is no formula."""
    classes = np.repeat(np.arange(13), [3] * 12 + [2])
    points = np.stack([np.arange(len(classes)), classes], 1)
    names = [f"c{i}" for i in range(13)]
    sketched = np.arange(len(classes)) % 2 == 0
    png = plots.embedding_map(points, classes, sketched, names, r"run $\no$")
    colours = set(map(tuple, np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)))
    for colour in plots._COLOURS:
        assert tuple(bytes.fromhex(colour[1:])) in colours
    assert (204, 204, 204) in colours  # 0.8 x 255


def test_recall_curves_dash_blank_sketches_in_the_colour_of_the_real_ones():
    """Across the axis from 100 to 1600 the dashed line has less blue."""
    points = [(100 * 2**i, 0.8 - 0.1 * i, 0.8 - 0.1 * i, 0.8 - 0.1 * i) for i in range(5)]

    def image(curves):
        png = plots.recall_curves(
            curves, {"chance": [(100, 0.01), (1600, 0.0)]}, "x", "y", "t", logarithmic=True
        )
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)

    def blue(picture):
        return (abs(picture - (31, 119, 180)).sum(-1) < 30).sum()

    solid, dashed = blue(image({"real": points})), blue(image({"blank": points}))
    assert dashed > 200 and solid > 1.2 * dashed
