"""The main job end to end: the commands of the README on a small drawn world, and what goes wrong.

The networks are tiny and trained for a few steps: what is tested is that the pieces fit, that a
stopped run goes on to the same bits, and that bad input ends in one sentence. That something is
learnt is tested by `make demo`.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core import cli, commands
from core.checkpoints import Checkpoints
from core.errors import UserError
from core.reporting import read_metrics
from core.run_folder import RunFolder
from prep_data import (
    coco_to_tfrecord,
    cococrops_to_tfrecord,
    index_quickdrawtf,
    quickdraw_to_tfrecord,
)
from prep_data.sample.__main__ import main as make_sample
from tests.core.fakes import file_size_limit
from tests.dataloaders import tiny_sets
from tests.faults.harness import HPARAMS, LOADER, STAGE1, STAGE2

ROOT = Path(__file__).resolve().parent.parent
BASE = "batch_size=4,log_every=1,notify_every=1000,save_every=1000,safety_save=1000,slack_config="
PATIENCE = 300  # seconds for a process on a machine that is busy


class Sets(NamedTuple):
    """Folders of the four prepared sets."""

    quickdraw: Path
    indexed: Path
    scenes: Path
    crops: Path

    def hparams(self, model):
        if model == STAGE1:
            return f"qdraw_dir={self.quickdraw},crops_dir={self.crops}"
        return f"coco_dir={self.scenes},qdraw_dir={self.indexed},crops_dir={self.crops}"


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The drawn world in the public layouts."""
    folder = tmp_path_factory.mktemp("world") / "sample"
    sizes = "--train-images 40 --val-images 16 --drawings 12 --eval-drawings 6 --workers 0"
    sizes += " --sl-train-pairs 8 --sl-test-pairs 8 --fs-pairs 1"
    make_sample(["--target-dir", str(folder), *sizes.split()])
    return folder


@pytest.fixture(scope="module")
def sets(sample):
    """All four sets prepared from it."""
    sets = Sets(*(sample.parent / name for name in Sets._fields))
    for command, source, target, more in (
        (quickdraw_to_tfrecord, "quickdraw", sets.quickdraw, ()),
        (index_quickdrawtf, "quickdraw", sets.indexed, ()),
        (coco_to_tfrecord, "coco-stuff", sets.scenes, ("--val-size", "10")),
        (cococrops_to_tfrecord, "coco-stuff", sets.crops, ("--val-size", "10")),
    ):
        folders = ["--dataset-dir", str(sample / source), "--target-dir", str(target)]
        command.main([*folders, "--workers", "0", *more])
    return sets


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of all runs. Ends with TensorFlow as undetermined as it was."""
    yield tmp_path_factory.mktemp("runs")
    from tensorflow.python.framework import config

    config.disable_op_determinism()


def flags(model, sets, out, run_id, *more, iterations=6, base=""):
    """The command line of a training."""
    return [
        model, "--data-loader", LOADER[model], "-o", str(out), "--id", run_id,
        "--hparams", HPARAMS[model], "--data-hparams", sets.hparams(model),
        "--base-hparams", f"{BASE},deterministic=true,iterations={iterations}{base}", *more,
    ]  # fmt: skip


def script(name, *argv, **more):
    """Start a script of the repository as a process of its own."""
    return subprocess.Popen(
        [sys.executable, *name.split(), *map(str, argv)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, **more,
    )  # fmt: skip


def ended(process):
    """(exit code, stderr) of a process, which must end by itself."""
    try:
        _, stderr = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert "Traceback" not in stderr
    return process.returncode, stderr


def wait_until(true, process):
    deadline = time.monotonic() + PATIENCE
    while not true() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def losses(out, model, run_id):
    return {x["step"]: x["losses"] for x in read_metrics(RunFolder(out, model, run_id).metrics)}


def refused(capsys, command, argv, code=1):
    """The one sentence with which a command ends, and nothing like a traceback."""
    capsys.readouterr()
    assert commands.run(command, argv) == code
    stderr = capsys.readouterr().err
    assert "Traceback" not in stderr
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and stderr.count("error: ") == 1
    return last


@pytest.fixture(scope="module")
def stage1(sets, out):
    """An undisturbed stage 1 run '01'; the steps it took."""
    assert commands.run(cli.train, flags(STAGE1, sets, out, "01")) == 0
    return losses(out, STAGE1, "01")


class Stopped(NamedTuple):
    code: int
    stderr: str
    step: int  # of its checkpoint
    second: str  # what a second training of the same run was told meanwhile


@pytest.fixture(scope="module")
def stopped(sets, out, stage1):
    """Stage 2 run 'cut': train.py on its own, ended by SIGTERM after some steps."""
    argv = flags(STAGE2, sets, out, "cut", iterations=10**6)
    process = script("train.py", *argv)
    run, told = RunFolder(out, STAGE2, "cut"), io.StringIO()
    wait_until(lambda: run.config.exists(), process)
    with contextlib.redirect_stderr(told):
        assert commands.run(cli.train, argv) == 1
    wait_until(lambda: len(losses(out, STAGE2, "cut")) >= 2, process)
    process.send_signal(signal.SIGTERM)
    code, stderr = ended(process)
    (step,) = Checkpoints(run.checkpoints).steps()
    return Stopped(code, stderr, step, told.getvalue().strip().splitlines()[-1])


@pytest.fixture(scope="module")
def stage2(sets, out, stopped):
    """An undisturbed stage 2 run 'SD01' of two steps more than the stopped one did."""
    steps = stopped.step + 2
    assert commands.run(cli.train, flags(STAGE2, sets, out, "SD01", iterations=steps)) == 0
    return losses(out, STAGE2, "SD01")


# ---- stopping and going on -------------------------------------------------------------------


def test_stage_1_after_ctrl_c_goes_on_to_the_same_bits(sets, out, stage1, monkeypatch, capsys):
    from core import reporting

    report = reporting.Reporter.losses

    def report_and_press(self, step, values):
        report(self, step, values)
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)  # of Ctrl-C, while step 3 is reported

    monkeypatch.setattr(reporting.Reporter, "losses", report_and_press)
    assert commands.run(cli.train, flags(STAGE1, sets, out, "cut")) == 130
    assert "stopped by SIGINT after step 4; go on" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.undo()
    assert list(losses(out, STAGE1, "cut")) == [1, 2, 3, 4]
    go_on = [STAGE1, "-o", str(out), "--id", "cut", "--resume", "latest"]
    assert commands.run(cli.train, go_on) == 0
    assert losses(out, STAGE1, "cut") == stage1
    assert list(stage1) == [1, 2, 3, 4, 5, 6]


def test_stage_2_after_sigterm_goes_on_to_the_same_bits(out, stopped, stage2):
    assert stopped.code == 143
    assert f"stopped by SIGTERM after step {stopped.step}; go on" in stopped.stderr
    steps = stopped.step + 2
    go_on = [STAGE2, "-o", out, "--id", "cut", "--resume", "latest"]
    # An evaluation on the way, which SD01 had not, must not change a bit either.
    base = f"iterations={steps},notify_every={steps - 1}"
    code, stderr = ended(script("train.py", *go_on, "--base-hparams", base))
    assert code == 0, stderr
    assert losses(out, STAGE2, "cut") == stage2
    assert list(stage2) == list(range(1, steps + 1))
    run = RunFolder(out, STAGE2, "cut")
    (line,) = read_metrics(run.figures)
    assert (line["step"], line["loader"], line["failed"]) == (steps - 1, LOADER[STAGE2], [])
    assert len(line["figures"]) == 5 * 6 + 4 + 2 * 2 + 2  # scenes, objects, accuracies, masks
    assert {path.name for path in run.plots.iterdir()} >= {
        f"{name}-{LOADER[STAGE2]}-step-{steps - 1}.png"
        for name in ("sbir-on-valid", "generated-masks", "common-embedding-tsne")
    }


def test_stage_2_goes_on_with_drawings_that_have_no_masks(sample, sets, out, stage2):
    """On SketchyCOCO-SL, then resumed on it: the same bits as without the stop. Its drawings are
    looked at in their own boxes too."""
    data = f"sl_dir={sample}/sketchycoco-sl,crops_dir={sets.crops}"
    steps = len(stage2)
    for run_id, stops in (("sl", [4]), ("sl-cut", [2, 4])):
        shutil.copytree(RunFolder(out, STAGE2, "SD01").root, RunFolder(out, STAGE2, run_id).root)
        more = ["--data-loader", "sketchycoco-sl", "--data-hparams", data]
        for stop in stops:
            argv = [STAGE2, "-o", str(out), "--id", run_id, "--resume", "latest", *more]
            # Layers count on in a process, and the order of sums in a graph may follow their names.
            tf.keras.backend.clear_session()
            assert (
                commands.run(cli.train, [*argv, "--base-hparams", f"iterations={steps + stop}"])
                == 0
            )
            more = []  # the run knows its loader by now
    mine = losses(out, STAGE2, "sl")
    assert mine == losses(out, STAGE2, "sl-cut") and list(mine) == list(range(1, steps + 5))
    gone = set(mine[steps]) - set(mine[steps + 1])
    assert gone == {"g_mask_loss", "g_mask_sketch_loss", "mask_recon_loss", "d_mask_loss"}

    argv = [STAGE2, "-o", str(out), "--id", "sl", "--data-loader", "sketchycoco-sl"]
    assert commands.run(cli.evaluate, [*argv, "--metrics", "sbir-top1-test"]) == 0
    folder = RunFolder(out, STAGE2, "sl").evaluation
    report = json.loads((folder / f"sketchycoco-sl-test-step-{steps + 4}.json").read_text())
    assert {row["labels"]["boxes"] for row in report["results"]} == {"shared", "jittered", "own"}
    assert {row["gallery"] for row in report["results"]} == {8}


def test_a_second_training_of_a_run_is_turned_away(stopped):
    assert "graph-attention-cut is being written by process" in stopped.second


# ---- search figures --------------------------------------------------------------------------


def test_search_figures_of_stage_2(out, stage2):
    run, step = RunFolder(out, STAGE2, "SD01"), len(stage2)
    code, stderr = ended(script("evaluate-metrics.py", STAGE2, "-o", out, "--id", "SD01"))
    assert code == 0, stderr
    report = json.loads((run.evaluation / f"coco-tfrecord-valid-step-{step}.json").read_text())
    assert (report["model"], report["step"], report["split"]) == (STAGE2, step, "valid")
    figures = [result for result in report["results"] if "value" in result]
    by_name = {}
    for figure in figures:
        low, high = figure["interval"]
        assert 0 <= low <= figure["value"] <= high <= 1, figure
        by_name.setdefault(figure["metric"], []).append(figure)
    for kind in ("mAP", "top1", "top5", "top10"):
        rows = by_name[f"sbir-{kind}"]
        assert [(row["labels"]["boxes"], row["labels"]["sketches"]) for row in rows] == [
            (boxes, sketches)
            for boxes in ("shared", "jittered")
            for sketches in ("real", "blank", "shuffled")
        ]
        for row in rows:
            assert (row["n"], row["gallery"]) == (10, 10)
            assert ("minus_blank" in row["controls"]) == (row["labels"]["sketches"] == "real")
        (row,) = by_name[f"obj-sbir-{kind}"]
        assert 0 < row["chance"] < row["ceiling"] <= 1
    chances = [by_name[f"sbir-top{k}"][0]["chance"] for k in (1, 5, 10)]
    assert chances == [0.1, 0.5, 1.0]
    for side in ("obj", "skt"):
        assert {"macro", "micro"} == {
            row["labels"]["average"] for row in by_name[f"embedding-{side}-accuracy"]
        }
    masks = by_name["mask-iou"]
    assert [row["labels"]["view"] for row in masks] == ["photo", "sketch"]
    for row in masks:
        controls = row["controls"]
        assert 0.3 < controls["all_ones"] < controls["class_mean"] < 1
    pictures = {r["metric"]: r["path"] for r in report["results"] if "path" in r}
    assert set(pictures) == {"sbir-on-valid", "generated-masks", "common-embedding-tsne"}
    for path in pictures.values():
        with Image.open(run.evaluation / path) as image:
            image.load()
            assert image.format == "PNG"
            assert 600 < image.width < 3000 and 600 < image.height < 4000
            assert np.asarray(image).std() > 20


def test_figures_of_stage_1_and_a_disk_that_is_full(out, stage1, capsys):
    argv = [STAGE1, "-o", str(out), "--id", "01"]
    folder = RunFolder(out, STAGE1, "01").evaluation
    with file_size_limit(500):
        one = [*argv, "--metrics", "embedding-obj-accuracy"]
        assert "quickdraw-cococrops-tf-valid-step-6.json" in refused(capsys, cli.evaluate, one)
    assert list(folder.iterdir()) == []
    assert commands.run(cli.evaluate, argv) == 0
    report = json.loads((folder / "quickdraw-cococrops-tf-valid-step-6.json").read_text())
    assert {result["metric"] for result in report["results"]} == {
        "embedding-obj-accuracy", "embedding-skt-accuracy", "common-embedding-tsne",
    }  # fmt: skip


# ---- damaged and unfit sets ------------------------------------------------------------------


@pytest.fixture
def own_sets(sets, tmp_path):
    """Copies of the sets, to be damaged."""
    copies = Sets(*(tmp_path / name for name in Sets._fields))
    for source, target in zip(sets, copies):
        shutil.copytree(source, target)
    return copies


def shard_of(folder, place, split="train"):
    return sorted((folder / split).glob("*.tfrecord"))[place]


@pytest.mark.parametrize(
    ("model", "which", "place"),
    # The first shard of a set is met when the loader is built, the last only in the first step.
    [(STAGE1, "quickdraw", 0), (STAGE2, "scenes", -1)],
)
def test_a_flipped_bit_is_named(own_sets, out, stage1, tmp_path, capsys, model, which, place):
    shard = shard_of(getattr(own_sets, which), place)
    tiny_sets.flip_bit(shard, 1)
    told = refused(capsys, cli.train, flags(model, own_sets, out, tmp_path.name))
    assert f"{shard} is damaged: delete it" in told
    assert losses(out, model, tmp_path.name) == {}


def test_a_damaged_record_is_named_in_evaluation(own_sets, out, stage1, capsys):
    shard = shard_of(own_sets.quickdraw, 0, "valid")
    tiny_sets.flip_bit(shard, 70)  # beyond the first block
    argv = [STAGE1, "-o", str(out), "--id", "01", "-dp", own_sets.hparams(STAGE1)]
    assert f"{shard} is damaged: delete it" in refused(capsys, cli.evaluate, argv)


def truncate(sets):
    shard = shard_of(sets.scenes, -1)
    shard.write_bytes(shard.read_bytes()[:-10])


def edit_meta(folder, **changes):
    path = folder / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def other_vocabulary(sets):
    names = json.loads((sets.crops / "meta.json").read_text())["obj_idx_to_name"]
    edit_meta(sets.crops, obj_idx_to_name=["zeppelin", *names[1:]])


def empty(sets):
    shutil.rmtree(sets.crops)
    sets.crops.mkdir()


@pytest.mark.parametrize(
    ("spoil", "pieces"),
    [
        (truncate, ["scenes-00004-of-00005.tfrecord", "delete it and run"]),
        (other_vocabulary, ["zeppelin", "/crops", "/scenes"]),
        (lambda sets: edit_meta(sets.indexed, schema=7), ["/indexed", "7", "schema"]),
        (
            lambda sets: shutil.rmtree(sets.indexed),
            ["/indexed is not a folder"],
        ),
        (empty, ["/crops", "meta.json"]),
        (lambda sets: edit_meta(sets.scenes, kind="coco-crops"), ["/scenes", "coco-crops"]),
    ],
)
def test_unfit_sets_are_named_before_anything_starts(
    own_sets, out, tmp_path, capsys, spoil, pieces
):
    spoil(own_sets)
    told = refused(capsys, cli.train, flags(STAGE2, own_sets, out, tmp_path.name))
    for piece in pieces:
        assert piece in told
    assert not RunFolder(out, STAGE2, tmp_path.name).config.exists()


# ---- output that cannot be written -----------------------------------------------------------


def test_files_where_folders_should_be(sets, sample, out, stage1, tmp_path, capsys, caplog):
    place = tmp_path / "file"
    place.write_text("mine")
    assert str(place) in refused(capsys, cli.train, flags(STAGE1, sets, place, "01"))
    argv = ["--dataset-dir", str(sample / "quickdraw"), "--target-dir", str(place)]
    with pytest.raises(UserError, match=f"cannot write to {place}"):
        index_quickdrawtf.main(argv)
    shutil.copytree(RunFolder(out, STAGE1, "01").root, tmp_path / f"{STAGE1}-01")
    evaluation = RunFolder(tmp_path, STAGE1, "01").evaluation
    shutil.rmtree(evaluation, ignore_errors=True)
    evaluation.write_text("mine")
    argv = [STAGE1, "-o", str(tmp_path), "--id", "01"]
    assert commands.run(cli.evaluate, argv) == 0
    assert "embedding-skt-accuracy" in capsys.readouterr().out  # printed, but not saved
    assert str(evaluation) in caplog.text
    assert place.read_text() == evaluation.read_text() == "mine"
