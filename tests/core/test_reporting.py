"""core.reporting: metrics.jsonl, figures.jsonl, and what fails without ending a training."""

import json
from types import SimpleNamespace

import pytest

from core.errors import EmptySplitError, UserError
from core.evaluation.figures import Figure
from core.reporting import Reporter, read_metrics, truncate_metrics
from core.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path, "m", "1")
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


def test_lines_after_the_resumed_step_and_half_lines_go(run):
    lines = [json.dumps({"step": step, "losses": {}}) for step in (1, 2, 3)]
    run.metrics.write_text("\n".join(lines) + '\n{"step": 4, "los')
    assert [line["step"] for line in read_metrics(run.metrics)] == [1, 2, 3]
    truncate_metrics(run.metrics, 2)
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [1, 2]
    with Reporter(run, 2, 10) as report:
        report.losses(3, {"a": 1.0})
    assert [line["step"] for line in read_metrics(run.metrics)] == [1, 2, 3]


def test_a_failed_plot_is_logged_and_does_not_stop(run, caplog):
    run.plots.write_text("a file where the folder should be")
    with Reporter(run, 0, 10) as report:
        report.losses(1, {"a": 1.0})
        report.curves()
    assert "could not be drawn" in caplog.text


class Evaluation:
    """Two metrics, of which one fails."""

    model = SimpleNamespace(metrics=("good", "bad"))
    dataset = SimpleNamespace(name="some-loader", has_masks=True)

    def __init__(self, step):
        self.step = step

    def compute(self, name):
        if name == "bad":
            raise ZeroDivisionError("a bug")
        return [Figure(name, "valid", 0.5, 4, chance=0.1)]


def test_a_failed_metric_is_a_missing_point_with_its_traceback(run, caplog):
    with Reporter(run, 0, 10) as report:
        report.evaluation(Evaluation(4), lambda: None)
    (line,) = read_metrics(run.figures)
    assert (line["step"], line["loader"], line["failed"]) == (4, "some-loader", ["bad"])
    assert [(f["metric"], f["value"], f["chance"]) for f in line["figures"]] == [("good", 0.5, 0.1)]
    assert "bad failed at step 4 and is missing there" in caplog.text
    assert "ZeroDivisionError: a bug" in caplog.text
    assert (run.plots / "figures.png").is_file()


def test_figures_after_the_resumed_step_go(run):
    with Reporter(run, 0, 10) as report:
        for step in (2, 4, 6):
            report.evaluation(Evaluation(step), lambda: None)
    with Reporter(run, 4, 10) as report:
        assert [line["step"] for line in read_metrics(run.figures)] == [2, 4]


def test_a_stop_ends_an_evaluation_unreported(run):
    with Reporter(run, 0, 10) as report:
        report.evaluation(Evaluation(4), lambda: 15)
    assert not run.figures.exists()


def test_an_empty_split_is_one_sentence_a_diverged_model_one_a_metric(run, caplog):
    class Refusing(Evaluation):
        error = EmptySplitError("the valid split is empty")

        def compute(self, name):
            raise self.error

    with Reporter(run, 0, 10) as report:
        report.evaluation(Refusing(4), lambda: None)
        assert not run.figures.exists()
        assert caplog.text.count("the valid split is empty") == 1
        Refusing.error = UserError("its vectors are not finite")
        report.evaluation(Refusing(6), lambda: None)
    (line,) = read_metrics(run.figures)
    assert line["failed"] == ["good", "bad"]
    assert caplog.text.count("its vectors are not finite") == 2
    assert "Traceback" not in caplog.text


def test_damaged_lines_are_left_out(run, caplog):
    run.metrics.write_bytes(
        b'{"step": "5"}\n{"step": 2, "x": "\xff"}\n[]\n{"step": null}\n{"step": 1e999}\n'
    )
    truncate_metrics(run.metrics, 3)
    assert [line["step"] for line in read_metrics(run.metrics)] == [2]
    assert caplog.text.count("is not a complete record") == 3
