"""run-experiment.py end to end: the README's commands on tiny sets and an untrained network, and
what goes in wrong."""

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from core import cli, commands, features, hparams
from core.checkpoints import Checkpoints
from core.evaluation import figure_files
from core.registry import LOADERS, MODELS
from core.run_folder import HParamGroups, RunConfig, RunFolder
from tests.dataloaders import tiny_sets

ROOT = Path(__file__).resolve().parent.parent
STAGE1, STAGE2 = "multidomain-representation", "graph-attention"
ENCODERS = "pretrained_e_model=shallow,image_size=32,pretrained_weights=none"
SMALL = f"{ENCODERS},pt_mdomain_id=01,mask_width=8,layout_d_arch=verysmall,gconv_num_layers=1," + (
    "g_enc_n_layers=1,gconv_hidden_dim=64"
)
# As in the README; {..} stand for its example paths.
EXTRACT = r"""
python run-experiment.py extract-features \
    --model-name graph-attention \
    --model-id SD01 \
    --data-loader sketchycoco-tf \
    --model-hparams sketchycoco_dir='{paired}',crops_dir='{crops}'\
    -o {out} --id exp-sbir \
    --gpu 0 --resume {checkpoint} \
    --exp-hparams results='{features}'
"""
SEARCH = r"""
python run-experiment.py sbir-on-features-file \
    -o {out} --id exp-sbir \
    --gpu 0 --resume /path/to/checkpoint \
    --exp-hparams results='{results}',featsfile='{features}/SD01_sketchycoco_tf_test_feats.npz'
"""


class World(NamedTuple):
    """Folders; out holds the runs graph-attention-SD01 (saved at step 3, of coco-tfrecord) and
    multidomain-representation-01."""

    sets: tiny_sets.TinySets
    paired: str
    out: Path

    def checkpoint(self, model=STAGE2, run_id="SD01"):
        return Checkpoints(RunFolder(self.out, model, run_id).checkpoints).latest()


def save_run(out, model_name, run_id, loader_name, text, folders):
    """A run as train.py leaves it, without the training: at its initial weights."""
    model_cls, loader_cls = MODELS[model_name], LOADERS[loader_name]
    base = hparams.parse("batch_size=4,autograph=False,slack_config=", hparams.BaseHParams)
    own, data = hparams.parse(text, model_cls.HParams), loader_cls.HParams(*folders)
    dataset = loader_cls(data, base, model_cls.crop_size(own), base.seed)
    model = model_cls(own, dataset.vocabulary, base.iterations, dataset.sizes.mask)
    run = RunFolder(out, model_name, run_id)
    Checkpoints(run.checkpoints).save(model, 3, True, dataset.sizes)
    base, own, data = (hparams.to_dict(each) for each in (base, own, data))
    groups = HParamGroups(base, own, {loader_name: data})
    RunConfig(model_name, loader_name, groups).write(run.config)


def make_world(folder):
    sets = tiny_sets.write_all(folder, scenes=24, mask_side=16)
    paired = tiny_sets.write_scenes(folder / "paired", scenes=24, mask_side=16, paired=True)
    out = folder / "runs"
    coco = (sets.scenes, sets.indexed, sets.crops)
    save_run(out, STAGE2, "SD01", "coco-tfrecord", SMALL, coco)
    crops = (sets.quickdraw, sets.crops)
    save_run(out, STAGE1, "01", "quickdraw-cococrops-tf", ENCODERS, crops)
    return World(sets, paired, out)


@pytest.fixture(scope="module")
def extracted(world, tmp_path_factory):
    """The features that the README's first command writes."""
    folder = tmp_path_factory.mktemp("features")
    line = EXTRACT.format(
        paired=world.paired, crops=world.sets.crops, out=world.out,
        checkpoint=world.checkpoint(), features=folder,
    )  # fmt: skip
    assert commands.run(cli.run_experiment, words(line)) == 0
    return folder


def words(line):
    """Return the words that the shell passes to the script."""
    return shlex.split(line.replace("\\\n", ""))[2:]


def script(argv):
    return subprocess.run(
        [sys.executable, "run-experiment.py", *map(str, argv)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip


def refused(argv, code):
    """The one sentence with which the command ends."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        assert commands.run(cli.run_experiment, list(map(str, argv))) == code
    lines = told.getvalue().strip().splitlines()
    assert lines[-1].startswith("error: ") and "Traceback" not in told.getvalue()
    return lines[-1]


# --- the README's commands ---


def test_extract_features_as_the_readme_says(world, extracted):
    files = sorted(path.name for path in extracted.iterdir())
    assert files == [f"SD01_sketchycoco_tf_{s}_feats.npz" for s in ("test", "train", "valid")]
    file = features.read(extracted / files[1])
    assert file.metadata.step == 3
    assert file.metadata.vector == "token"
    # Train in the order of its set, not in one drawn for training.
    assert file.arrays["image_ids"].tolist() == list(range(100, 124))
    np.testing.assert_allclose(
        np.linalg.norm(file.arrays["photo_projection"], axis=1), 1, rtol=1e-4
    )
    record = json.loads((world.out / "extract-features-exp-sbir" / "config.json").read_text())
    assert record["experiment"] == "extract-features"
    assert record["hparams"]["results"] == str(extracted)
    assert record["model"]["checkpoint"] == str(world.checkpoint().resolve())
    assert record["model"]["hparams"]["data.sketchycoco-tf"]["crops_dir"] == world.sets.crops
    assert record["command"][:2] == ["run-experiment.py", "extract-features"]


def test_sbir_on_features_file_as_the_readme_says(world, extracted, tmp_path):
    line = SEARCH.format(out=world.out, features=extracted, results=tmp_path)
    done = script(words(line))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    report = tmp_path / "SD01_sketchycoco_tf_test_feats_sbir.json"
    assert done.stdout.splitlines()[-1] == f"saved: {report}"
    assert {figure.gallery for figure in figure_files.read(report).figures} == {12}
    record = world.out / "sbir-on-features-file-exp-sbir" / "config.json"
    assert "model" not in json.loads(record.read_text())


def test_search_loads_no_model():
    code = (
        "import sys; from core import cli; from core.registry import EXPERIMENTS\n"
        "EXPERIMENTS['sbir-on-features-file']\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('models', 'dataloaders')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.fixture
def one_split(monkeypatch):
    """Extracts from valid only, for the sake of time."""
    monkeypatch.setattr("experiments.extract_features.SPLITS", ("valid",))


def test_model_name_id_and_folder_are_enough(world, tmp_path, one_split):
    argv = ["extract-features", "--model-name", STAGE2, "--model-id", "SD01", "-o", world.out]
    more = ["--exp-hparams", f"results_dir={tmp_path}", "--model-hparams", "batch_size=7,seed=4"]
    assert commands.run(cli.run_experiment, list(map(str, [*argv, *more]))) == 0
    record = json.loads((world.out / "extract-features-SD01" / "config.json").read_text())
    groups = record["model"]["hparams"]
    assert (groups["base"]["batch_size"], groups["base"]["seed"]) == (7, 4)
    assert groups["data.coco-tfrecord"]["crops_dir"] == world.sets.crops
    assert features.read(tmp_path / "SD01_coco_tfrecord_valid_feats.npz").metadata.seed == 4


def test_an_untrained_network_says_so(world, tmp_path, one_split, capsys):
    # Of a run without a checkpoint, so that nothing could have been loaded.
    run = RunFolder(tmp_path, STAGE2, "SD01")
    run.root.mkdir()
    shutil.copy(RunFolder(world.out, STAGE2, "SD01").config, run.config)
    argv = ["extract-features", "--model-name", STAGE2, "--model-id", "SD01", "-o", str(tmp_path)]
    assert commands.run(cli.run_experiment, [*argv, "--resume", "none"]) == 0
    assert "untrained network" in capsys.readouterr().err
    own = tmp_path / "extract-features-SD01"  # where results go that nothing sends elsewhere
    assert features.read(own / "SD01_coco_tfrecord_valid_feats.npz").metadata.step == 0
    assert json.loads((own / "config.json").read_text())["model"]["checkpoint"] is None


# --- bad input ---


def extract(world, *more, model=STAGE2, run_id="SD01"):
    argv = ["extract-features", "--model-name", model, "--model-id", run_id, "-o", world.out]
    return [*argv, "--id", "x", *more]


@pytest.mark.parametrize(
    ("argv", "pieces"),
    [
        ([], ["missing: experiment; experiments: ", "extract-features", "sbir-on-features-file"]),
        (["extract-feature"], ["unknown experiment", "Did you mean 'extract-features'?"]),
        (["extract-features", "-o", "o", "--id", "x"],
         ["missing: --model-name, --model-id;", "models: graph-attention"]),
        (["extract-features", "-o", "o", "--model-name", "graph", "--model-id", "1"],
         ["unknown model 'graph'", "Valid names"]),
        (["sbir-on-features-file", "--id", "o"], ["missing: --output-dir."]),
        (["sbir-on-features-file", "-o", "o", "--id", "x", "--exp-hparams", "feats=1"],
         ["--exp-hparams: clause 'feats=1'", "Did you mean 'featsfile'?", "save_separate"]),
        (["sbir-on-features-file", "-o", "o", "--id", "x", "--exp-hparams", "save_images=yes"],
         ["save_images must be bool"]),
        (["sbir-on-features-file", "--hparams", "a=1"], ["unrecognized arguments: --hparams"]),
    ],
)  # fmt: skip
def test_a_wrong_command_line(argv, pieces, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = refused(argv, 2)
    for piece in pieces:
        assert piece in told
    assert list(tmp_path.iterdir()) == []


def test_wrong_model_hparams(world):
    told = refused(extract(world, "--model-hparams", "crop_dir=x"), 2)
    assert "--model-hparams: clause 'crop_dir=x'" in told
    for piece in ("Did you mean 'crops_dir'?", "batch_size", "gconv_dim", "coco_dir"):
        assert piece in told


def test_a_loader_the_run_never_saw(world):
    told = refused(extract(world, "--data-loader", "sketchycoco-tf"), 1)
    assert "never saw the loader 'sketchycoco-tf': name its folders with --model-hparams" in told
    told = refused(extract(world, "--data-loader", "quickdraw-cococrops-tf"), 2)
    assert "does not take the batches" in told


def test_checkpoints_that_are_not_there_or_of_another_model(world):
    told = refused(extract(world, run_id="SD07"), 1)
    assert "runs/graph-attention-SD07 has no checkpoint" in told
    assert "check -o and --model-id" in told
    told = refused(extract(world, "--resume", "/no/where"), 1)
    assert "there is no such checkpoint folder: /no/where" in told
    told = refused(extract(world, "--resume", world.checkpoint(STAGE1, "01")), 1)
    assert f"of the model '{STAGE1}', not '{STAGE2}'" in told
    told = refused(extract(world, "--resume", world.out), 1)
    assert "is not a checkpoint" in told
    told = refused(extract(world, model=STAGE1, run_id="01"), 2)
    assert f"extract-features takes {STAGE2} or whole-scene, not {STAGE1}" in told


def test_folders_that_cannot_be_written(world, extracted, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    told = refused(extract(world, "--exp-hparams", f"results={file}/a"), 1)
    assert f"cannot write to the results folder {file}/a" in told
    search = ["sbir-on-features-file", "--id", "x", "-o"]
    feats = f"featsfile={extracted}/SD01_sketchycoco_tf_test_feats.npz"
    told = refused([*search, file, "--exp-hparams", feats], 1)
    assert "cannot write to the run folder" in told and "--exp-hparams results=FOLDER" in told
    cli.run_experiment([*search, str(file), "--exp-hparams", f"{feats},results={tmp_path}/mine"])
    record = json.loads((tmp_path / "mine/sbir-on-features-file-x.json").read_text())
    assert record["hparams"]["results"] == f"{tmp_path}/mine"
    assert file.read_text() == "mine"


# --- help ---


def test_help_hps(capsys):
    def told(*names):
        cli.run_experiment([*names, "--help-hps"])
        return capsys.readouterr().out

    alone = told("sbir-on-features-file")
    assert "featsfile" in alone and "results_dir" in alone
    assert "--model-hparams" not in alone
    both = told("extract-features", "--model-name", STAGE2)
    for piece in ("--exp-hparams of extract-features", "save_images", "gconv_dim", "batch_size",
                  "--model-hparams of sketchycoco-tf"):  # fmt: skip
        assert piece in both
    assert "featsfile" not in both and "qdraw_dir" in both
    one = told("extract-features", "--model-name", STAGE2, "--data-loader", "sketchycoco-tf")
    assert "qdraw_dir" not in one
    everything = told()
    for piece in ("featsfile", f"of {STAGE1}", "of coco-tfrecord", "iterations"):
        assert piece in everything
