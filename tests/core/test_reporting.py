"""core.reporting: metrics.jsonl and the learning curves."""

import json

import numpy as np
import pytest
from PIL import Image

from core.reporting import (
    Reporter,
    learning_curves,
    read_metrics,
    running_mean,
    truncate_metrics,
)
from core.run_dir import RunDir


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path, "m", "1")
    run.create()
    return run


def test_a_line_holds_the_losses_and_mean_times(run):
    with Reporter(run, 0, 10) as report:
        report.step(99.0, 1.0)  # the first step, with tracing, does not count
        report.step(0.2, 0.1)
        report.step(0.4, 0.2)
        report.losses(3, {"a": 0.5})
        report.step(1.0, 0.0)
        report.losses(4, {"a": 0.25})
    first, second = read_metrics(run.metrics)
    assert first["step"] == 3
    assert first["losses"] == {"a": 0.5}
    assert (first["time"], first["data_time"]) == (0.3, 0.15)
    assert (second["time"], second["data_time"]) == (1.0, 0.0)
    assert set(first) == {"step", "losses", "time", "data_time", "wall"}


def test_float32_losses_come_back_bit_for_bit(run):
    value = float(np.float32(1) / np.float32(3))
    with Reporter(run, 0, 10) as report:
        report.losses(1, {"a": value})
    assert read_metrics(run.metrics)[0]["losses"]["a"] == value


def test_lines_after_the_resumed_step_and_half_lines_go(run):
    lines = [json.dumps({"step": step, "losses": {}}) for step in (1, 2, 3)]
    run.metrics.write_text("\n".join(lines) + '\n{"step": 4, "los')
    assert [line["step"] for line in read_metrics(run.metrics)] == [1, 2, 3]
    truncate_metrics(run.metrics, 2)
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [1, 2]
    with Reporter(run, 2, 10) as report:
        report.losses(3, {"a": 1.0})
    assert [line["step"] for line in read_metrics(run.metrics)] == [1, 2, 3]


def test_learning_curves_draw_a_panel_for_every_loss(tmp_path):
    lines = [
        {"step": step, "losses": {name: 1.0 / (step + i) for i, name in enumerate("abcd")}}
        for step in range(1, 200)
    ]
    lines[50]["losses"].pop("a")  # a missing point is no reason to fail
    path = tmp_path / "plots" / "losses.png"
    learning_curves(lines, path)
    image = np.asarray(Image.open(path).convert("RGB"))
    rows, columns = image.shape[0] / 2, image.shape[1] / 3
    inked = [
        (
            image[int(r * rows) : int((r + 1) * rows), int(c * columns) : int((c + 1) * columns)]
            < 128
        )
        .any(-1)
        .mean()
        > 0.002
        for r in range(2)
        for c in range(3)
    ]
    assert inked == [True, True, True, True, False, False]
    assert [entry.name for entry in path.parent.iterdir()] == ["losses.png"]


def test_nothing_is_drawn_without_losses(tmp_path):
    learning_curves([], tmp_path / "losses.png")
    assert not (tmp_path / "losses.png").exists()


def test_a_failed_plot_is_logged_and_does_not_stop(run, caplog):
    run.plots.write_text("a file where the folder should be")
    with Reporter(run, 0, 10) as report:
        report.losses(1, {"a": 1.0})
        report.plots()
    assert "could not be drawn" in caplog.text


def test_running_mean():
    # windows of at most 2: [4], [4,2], [2,6], [6,0]
    np.testing.assert_allclose(running_mean(np.array([4.0, 2, 6, 0]), 2), [4, 3, 4, 3])
    assert running_mean(np.array([1.0]), 1) is None
