"""The main job on real photographs and drawings, from the published weights of the backbone.

A few steps only: that all of it runs on real input and gives finite numbers. What longer training
finds is in docs/results.md.
"""

import json
import math

import numpy as np
import pytest

from core import cli, commands
from core.checkpoints import Checkpoints
from core.reporting import read_metrics
from core.run_folder import RunFolder
from dataloaders import records
from prep_data import (
    coco_to_tfrecord,
    cococrops_to_tfrecord,
    index_quickdrawtf,
    quickdraw_to_tfrecord,
)
from tests.dataloaders import tiny_sets

STAGE1, STAGE2 = "multidomain-representation", "graph-attention"
BASE = "iterations=3,log_every=1,slack_config="


@pytest.fixture(scope="module")
def sets(real_data, tmp_path_factory):
    """The four sets of all real samples; the folder of the COCO sets' parent."""
    folder = tmp_path_factory.mktemp("real")
    for command, source, target, more in (
        (quickdraw_to_tfrecord, "quickdraw", "quickdraw-tf", ()),
        (index_quickdrawtf, "quickdraw", "quickdraw-indexed", ()),
        (coco_to_tfrecord, "coco-stuff", "coco-graphs", ("--val-size", "140")),
        (cococrops_to_tfrecord, "coco-stuff", "coco-crops", ("--val-size", "140")),
    ):
        dirs = ["--dataset-dir", str(real_data / source), "--target-dir", str(folder / target)]
        command.main([*dirs, *more])
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def train(model, loader, run_id, out, hparams, data, batch_size):
    argv = [model, "--data-loader", loader, "-o", str(out), "--id", run_id, "-p", hparams]
    argv += ["-dp", data, "--base-hparams", f"{BASE},batch_size={batch_size}"]
    assert commands.run(cli.train, argv) == 0
    run = RunFolder(out, model, run_id)
    lines = read_metrics(run.metrics)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(math.isfinite(loss) for line in lines for loss in line["losses"].values())
    assert Checkpoints(run.checkpoints).steps() == [3]
    assert (run.plots / "losses.png").stat().st_size > 1000


@pytest.fixture(scope="module")
def stage1(real_data, sets, out):
    (weights,) = (real_data / "weights").glob("*.h5")
    data = f"qdraw_dir={sets}/quickdraw-tf,crops_dir={sets}/coco-crops"
    hparams = f"learning_rate=1e-4,pretrained_weights={weights}"
    train(STAGE1, "quickdraw-cococrops-tf", "01", out, hparams, data, 4)
    return weights


def test_the_prepared_sets(sets):
    meta, reports = (
        {path.parent.name: json.loads(path.read_text()) for path in sets.glob(f"*/{name}.json")}
        for name in ("meta", "report")
    )
    assert len(meta) == 4
    assert meta["coco-graphs"]["n_train_samples"] > 200
    assert 100 < meta["coco-graphs"]["n_valid_samples"] <= 140
    assert len(meta["coco-graphs"]["obj_idx_to_name"]) == 173
    assert set(reports["coco-graphs"]) <= {
        "annotation whose class is neither object nor material",
        "object too small",
        "image with fewer than 1 kept objects",
        "image with more than 8 kept objects",
        "segmentation outside its box or too thin for a mask",
    }
    for name in ("quickdraw-tf", "quickdraw-indexed"):
        assert meta[name]["n_train_samples"] > 2000 and reports[name] == {}
        assert len(meta[name]["coco_classes"]) == len(meta[name]["drawings"]["valid"]) == 91


def test_scenes_are_real_ones(sets):
    serialized = tiny_sets.read_split(sets / "coco-graphs", "train")
    train = records.SceneRecord.parse(serialized)
    boxes, masks = train.boxes.flat_values.numpy(), records.unpack_masks(train.masks, 64).numpy()
    assert (boxes >= 0).all() and (boxes <= 1).all()
    assert ((boxes[:, 2:] - boxes[:, :2]).prod(1) > 0.05).all()
    assert 0.4 < masks.mean() < 0.75  # real objects fill about half of their boxes
    assert len(train.stuff_idx.flat_values) > 0
    assert np.mean([len(record) for record in serialized]) < 465_000 / 8
    crops = tiny_sets.read_split(sets / "coco-crops", "train")
    assert np.mean([len(record) for record in crops]) < 46_000 / 8


def test_both_stages_and_figures(sets, out, stage1):
    data = (
        f"coco_dir={sets}/coco-graphs,crops_dir={sets}/coco-crops,"
        f"qdraw_dir={sets}/quickdraw-indexed"
    )
    hparams = f"pt_mdomain_id=01,pretrained_weights={stage1},mask_width=16,layout_d_arch=verysmall"
    train(STAGE2, "coco-tfrecord", "SD01", out, hparams, data, 2)
    argv = [STAGE2, "-o", str(out), "--id", "SD01", "--base-hparams", "batch_size=16"]
    assert commands.run(cli.evaluate, [*argv, "--metrics", "sbir-mAP", "obj-sbir-top10"]) == 0
    folder = RunFolder(out, STAGE2, "SD01").evaluation
    figures = json.loads((folder / "coco-tfrecord-valid-step-3.json").read_text())["results"]
    assert [figure["metric"] for figure in figures] == ["sbir-mAP"] * 6 + ["obj-sbir-top10"]
    assert all(math.isfinite(figure["value"]) for figure in figures)
    assert all(figure["gallery"] > 100 for figure in figures)
