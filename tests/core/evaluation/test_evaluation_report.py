"""Metrics by name: computed, printed, saved; and those that do not fit."""

import errno
import json
from pathlib import Path

import pytest

from core.errors import UsageError, UserError
from core.evaluation import report, retrieval
from tests.core.evaluation.fakes import SCENE_METRICS, FakeModel, FakeScenes, by_label, evaluate


def test_report_is_printed_and_saved(tmp_path, capsys):
    figures = evaluate(FakeModel(), ["sbir-mAP", "mask-iou"], tmp_path / "evaluation")
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines()[:10])) <= 100
    lines = [line.split() for line in printed.splitlines()]
    real = by_label(figures, boxes="jittered", sketches="real")
    gap, low, high = (real.controls[f"minus_blank{end}"] for end in ("", "_low", "_high"))
    row = f"{real.value:.3f} {real.value - gap:.3f} {gap:.3f} [{low:.3f}, {high:.3f}] 0.180"
    assert ["sbir-mAP", "(projection)", *row.split()] in lines
    assert printed.count("sbir-mAP") == 1 and "--all" in printed
    evaluate(FakeModel(), ["sbir-mAP"], tmp_path / "evaluation", whole_table=True)
    assert capsys.readouterr().out.count("sbir-mAP") == 6
    evaluate(FakeModel(), ["sbir-mAP", "mask-iou"], tmp_path / "evaluation")
    saved = json.loads((tmp_path / "evaluation" / "fake-scenes-valid-step-7.json").read_text())
    assert (saved["run"], saved["model"], saved["step"]) == (tmp_path.name, "fake-model", 7)
    assert (saved["loader"], saved["split"]) == ("fake-scenes", "valid")
    assert [r["value"] for r in saved["results"]] == [f.value for f in figures]
    assert saved["results"][0]["labels"]["boxes"] == "shared"
    assert len(list((tmp_path / "evaluation").iterdir())) == 1  # nothing half-written


def test_a_run_that_may_only_be_read(tmp_path, capsys, caplog, monkeypatch):
    def refuse(path):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    results = evaluate(FakeModel("boxes"), ["sbir-top1", "sbir-on-valid"], tmp_path)
    assert {result.metric for result in results} == {"sbir-top1"}  # no picture
    assert capsys.readouterr().out.count("sbir-top1") == 6  # the whole table
    (warning,) = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert f"{tmp_path}: Read-only file system; the figures are printed, not saved" in warning
    assert list(tmp_path.iterdir()) == []


def test_figures_that_cannot_be_saved_are_printed(tmp_path, capsys, monkeypatch):
    """The disk has become full meanwhile."""

    def refuse(path, content):
        raise UserError("No space left on device")

    monkeypatch.setattr(report, "write_json", refuse)
    with pytest.raises(UserError, match="No space left"):
        evaluate(FakeModel(), ["mask-iou"], tmp_path)
    assert "mask-iou" in capsys.readouterr().out


def test_test_variants_read_the_test_split(tmp_path):
    dataset = FakeScenes()
    figures = evaluate(FakeModel(), ["sbir-top1-test", "sbir-top1"], tmp_path, dataset)
    assert [f.split for f in figures] == ["test"] * 6 + ["valid"] * 6
    assert set(dataset.passes) == {"test", "valid"}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "fake-scenes-test-step-7.json",
        "fake-scenes-valid-step-7.json",
    ]


def test_results_as_a_message(tmp_path):
    results = evaluate(FakeModel("boxes"), ["sbir-top1", "sbir-on-valid"], tmp_path)
    text, pictures = report.message(results, 7)
    lines = text.splitlines()
    assert lines[0] == "evaluation at step 7"
    assert lines[1].startswith("sbir-top1 boxes=shared sketches=real vector=projection: ")
    assert "(chance 0.05, minus blank 0 [0.000, 0.000])" in lines[1]
    assert len(lines) == 7
    assert pictures == [tmp_path / "sbir-on-valid-fake-scenes-step-7.png"]


def test_metrics_that_do_not_fit_are_named():
    model = FakeModel()
    model.metrics = ("embedding-obj-accuracy", "embedding-skt-accuracy")
    assert report.check_metrics(["embedding-obj-accuracy-test"], model)
    with pytest.raises(UsageError, match=r"'sbir-mAP' does not fit.*embedding-skt-accuracy"):
        report.check_metrics(["sbir-mAP"], model)
    with pytest.raises(UsageError, match="sbir-mAP"):
        report.check_metrics(["sbir-map"], model)


def test_a_set_without_masks_has_all_other_figures(tmp_path):
    dataset = FakeScenes()
    dataset.has_masks = False
    batch = dataset.batch
    dataset.batch = lambda scenes: batch(scenes)._replace(masks=None)
    found = {result.metric for result in evaluate(FakeModel(), None, tmp_path, dataset)}
    assert found == set(SCENE_METRICS) - {"mask-iou", "generated-masks"}
    with pytest.raises(UsageError, match="'mask-iou-test' needs true masks, which fake-scenes"):
        evaluate(FakeModel(), ["sbir-top1", "mask-iou-test"], tmp_path, dataset)


def test_an_empty_split_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="the empty split of fake-scenes is empty"):
        evaluate(FakeModel(), ["sbir-mAP"], tmp_path, split="empty")


def test_a_diverged_model_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"step 7 are not finite.*--resume"):
        evaluate(FakeModel("broken"), ["sbir-mAP"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_error_in_a_metric_is_an_error(tmp_path, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(retrieval, "scores", fail)
    with pytest.raises(ZeroDivisionError):
        evaluate(FakeModel(), ["sbir-mAP"], tmp_path)
    assert not list(tmp_path.iterdir())
