"""The page of all runs of a folder."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from core import cli, commands
from core.errors import UserError
from core.run_folder import HParamGroups, RunConfig, RunFolder
from experiments.tables.report import ReportHParams, ReportPage

ABOUT = {
    "schema": 1, "model": "graph-attention", "run": "SD01", "step": 1000,
    "loader": "coco-tfrecord", "split": "test",
}  # fmt: skip


@pytest.fixture
def out(tmp_path):
    """A run with a history of two, curves and an evaluation; an experiment's record."""
    run = RunFolder(tmp_path / "runs", "graph-attention", "SD01")
    run.root.mkdir(parents=True)
    history = [
        {"step": step, "loader": loader, "command": ["train.py", "x", "--hparams", "goal=a <b>"],
         "versions": {}, "git": None, "seed": 0, "data": {},
         "time": f"2026-01-0{step + 1}", "changes": {}}
        for step, loader in ((0, "coco-tfrecord"), (5, "sketchycoco-tf"))
    ]  # fmt: skip
    groups = HParamGroups({"goal": "<i>mine</i>"}, {}, {})
    RunConfig("graph-attention", "sketchycoco-tf", groups, history).write(run.config)
    run.plots.mkdir()
    run.evaluation.mkdir()
    for name in ("losses.png", "tsne-step-900.png", "tsne-step-1000.png", "masks-step-1000.png"):
        Image.new("RGB", (4, 4)).save(run.plots / name)
    Image.new("RGB", (4, 4)).save(run.evaluation / "masks-step-1000.png")
    figure = {
        "metric": "sbir-top1", "split": "valid", "value": 0.25, "n": 8, "gallery": 8,
        "labels": {"boxes": "jittered", "sketches": "real"}, "chance": 0.125, "ceiling": None,
        "interval": [0.1, 0.5], "controls": {"minus_blank": 0.2},
    }  # fmt: skip
    blank = {**figure, "labels": {"boxes": "jittered", "sketches": "blank"}, "controls": {}}
    masks = {**figure, "metric": "mask-iou", "labels": {}, "chance": None, "gallery": None}
    report = {
        "schema": 2, "run": "graph-attention-SD01",
        "loader": "coco-tfrecord", "split": "valid", "step": 1000,
        "command": ["evaluate-metrics.py", "graph-attention"],
        "results": [figure, blank, masks, {"path": "masks-step-1000.png"}],
    }  # fmt: skip
    (run.evaluation / "coco-tfrecord-valid-step-1000.json").write_text(json.dumps(report))
    for name in ("plots/._losses.png", "evaluation/._coco-tfrecord-valid-step-1000.json"):
        (run.root / name).write_bytes(b"what Finder leaves on a network disk")
    return tmp_path / "runs"


def page(out, results):
    results.mkdir(exist_ok=True)
    ReportPage(ReportHParams(results=str(results)), out / "report-x").run(None)
    return (results / "report.html").read_text(encoding="utf-8")


def test_what_stands_on_the_page(out, tmp_path):
    text = page(out, tmp_path / "results")
    assert "&lt;i&gt;mine&lt;/i&gt;" in text and "<i>mine</i>" not in text
    assert text.count("python train.py x --hparams") == 2
    assert "from step 5, on sketchycoco-tf" in text
    assert "python evaluate-metrics.py graph-attention" in text
    # The newest of each kind, and the masks once, with the evaluation that made them.
    assert re.findall(r"<figcaption>(.*?)</figcaption>", text) == [
        "losses", "tsne-step-1000", "masks-step-1000",
    ]  # fmt: skip
    rows = re.findall(r'<tr class="(.*?)">', text)
    assert rows == ["first", "control", "first"]
    # It needs no other file.
    sources = re.findall(r'(?:src|href)="(.*?)"', text)
    assert sources and all(s.startswith(("data:image/png;base64,", "#")) for s in sources)
    # Bars: 120 pixels are 1. A value of 0.25 is 30, an interval of 0.1 to 0.5 from 12 to 60, chance
    # 0.125 at 15; the masks have no chance.
    assert text.count('<rect width="30.0"') == text.count('x1="12.0" x2="60.0"') == 3
    assert text.count('x1="15.0" x2="15.0"') == text.count('stroke="#c00"') == 2


def experiment(out, name, run_id, time="2026-02-01", model=None, **hparams):
    """Write the record of an experiment; return its path."""
    path = out / f"{name}-{run_id}" / "config.json"
    path.parent.mkdir()
    record = {"experiment": name, "time": time, "command": ["run-experiment.py", name, run_id],
              "hparams": hparams}  # fmt: skip
    path.write_text(json.dumps({**record, "model": model} if model else record))
    return path


def test_searches_stand_under_their_own_commands(out, tmp_path):
    """Two in one folder, after the run, whose command is older."""
    results = tmp_path / "found"
    results.mkdir()
    figures = json.loads((out / EVALUATION).read_text())["results"][:2]
    for name in ("valid", "test"):
        content = {**ABOUT, "featsfile": f"{name}_feats.npz", "results": figures}
        (results / f"{name}_feats_sbir.json").write_text(json.dumps(content))
        files = {"results": str(results), "results_dir": "", "featsfile": f"a/{name}_feats.npz"}
        experiment(out, "sbir-on-features-file", name, f"2026-02-{name}", **files)
    text = page(out, tmp_path / "results")
    assert text.index("graph-attention-SD01</a>") < text.index("sbir-on-features-file-test</a>")
    parts = text.split("<h2 ")
    for name in ("valid", "test"):
        (part,) = (part for part in parts if f"sbir-on-features-file {name}<" in part)
        assert re.findall(r"<p>(\w+_feats.npz)</p>", part) == [f"{name}_feats.npz"]
        assert part.count("sbir-top1</td>") == 2


def test_experiments_on_a_model_with_what_they_have_written(out, tmp_path):
    """Those of the same name on another run, in the same folder, stand elsewhere."""
    results = tmp_path / "found"
    results.mkdir()
    for run in ("SD-01", "SD02"):
        Image.new("RGB", (4, 4)).save(results / f"curve-{run}.png")
        content = {
            **ABOUT, "results": [], "notes": [f"<note> of {run}"], "pictures": [f"curve-{run}.png"],
        }  # fmt: skip
        name = f"{run}_coco_tfrecord_test_mixed_queries.json".replace("-", "_")
        (results / name).write_text(json.dumps(content))
    experiment(out, "mixed-queries", "x", model={"id": "SD-01"}, results=str(results))
    text = page(out, tmp_path / "results")
    assert "<p>&lt;note&gt; of SD-01</p>" in text and "SD02" not in text
    assert "<figcaption>curve-SD-01</figcaption>" in text


def test_features_of_another_system(out, tmp_path):
    ids, vectors = np.arange(4), np.eye(4)
    for name in ("q", "g"):
        np.savez(tmp_path / f"{name}.npz", ids=ids, vectors=vectors)
    hparams = f"queries={tmp_path}/q.npz,gallery={tmp_path}/g.npz,results={tmp_path}/found"
    argv = ["score-features", "-o", str(out), "--id", "x", "--exp-hparams", hparams]
    assert commands.run(cli.run_experiment, argv) == 0
    (part,) = (
        part for part in page(out, tmp_path / "results").split("<h2 ") if "q.npz</p>" in part
    )
    assert re.findall(r'<tr class="(.*?)">', part) == ["first", "control"] * 2
    assert "minus shuffled 1 [1.000, 1.000]" in part


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


RUN = "graph-attention-SD01/config.json"
EVALUATION = "graph-attention-SD01/evaluation/coco-tfrecord-valid-step-1000.json"


@pytest.mark.parametrize(
    ("name", "edit", "piece"),
    [
        (EVALUATION, lambda it: it["results"][3].update(path="../x.png"), "results[3]: Expected"),
        (EVALUATION, lambda it: it.pop("results"), "holds no figures"),
        (RUN, lambda it: it["history"][0].update(command=[1]), "Expected"),
        (RUN, lambda it: it.update(schema=99), "schema"),
    ],
)
def test_a_file_that_is_not_whole_is_left_out(out, tmp_path, name, edit, piece, caplog):
    experiment(out, "mixed-queries", "x", model={"id": "SD01"})
    (out / "cut").mkdir()
    (out / "cut/config.json").write_text('{"model": "m", ')
    change(out / name, edit)
    text = page(out, tmp_path / "results")
    assert "mixed-queries-x</h2>" in text and "Evaluation on coco-tfrecord" not in text
    assert ("graph-attention-SD01</h2>" in text) == (name == EVALUATION)
    assert f"left out: {out / name}" in caplog.text and piece in caplog.text
    assert "cut/config.json is not valid" in caplog.text


@pytest.mark.parametrize(
    "wrong", [{"command": [1]}, {"model": {"id": "/etc"}}, {"hparams": {"results": "a\0b"}}]
)
def test_an_experiment_with_ill_typed_entries_is_left_out(out, tmp_path, wrong, caplog):
    path = experiment(out, "mixed-queries", "x")
    change(path, lambda content: content.update(wrong))
    text = page(out, tmp_path / "results")
    assert "mixed-queries-x" not in text and "python train.py x" in text
    assert f"left out: {path}: Expected `" in caplog.text


@pytest.mark.parametrize("content", ["5", "[]", '{"experiment": "x"}', '{"model": "m"}'])
def test_files_of_others_are_passed_over(out, tmp_path, content):
    (out / "strange").mkdir()
    (out / "strange/config.json").write_text(content)
    text = page(out, tmp_path / "results")
    assert "strange" not in text and "Evaluation on coco-tfrecord" in text


def test_nothing_to_report(tmp_path):
    with pytest.raises(UserError, match="there is nothing to report"):
        ReportPage(ReportHParams(), tmp_path / "report-x").run(None)


def test_the_command_line(out, tmp_path, capsys):
    argv = ["report", "-o", str(out), "--id", "x", "--exp-hparams", f"results={tmp_path / 'page'}"]
    assert commands.run(cli.run_experiment, argv) == 0
    assert (tmp_path / "page/report.html").is_file()
    # It does not report on itself when it is made again.
    assert commands.run(cli.run_experiment, argv) == 0
    assert "report-x" not in (tmp_path / "page/report.html").read_text()
