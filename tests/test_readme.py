"""The commands of the README and of docs/experiments.md, taken from the pages and run in their
order on the drawn sample.

What is replaced: paths, --val-size, the number of iterations, how long throughput is measured, and
the networks and batch sizes, by small ones: tests/test_real_data.py trains the encoders and graph
layers of the page, from the weights that Keras would download.
"""

import contextlib
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.checkpoints import Checkpoints
from core.run_folder import RunConfig, RunFolder
from prep_data.sample.__main__ import main as make_sample
from search import Scene, SceneObject
from tests.SPADE import servers
from tests.test_experiments import ENCODERS

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/experiments.md")
ITERATIONS = {"100000": "1", "120000": "1", "125000": "2"}
SMALL = {
    "multidomain-representation": ENCODERS,
    "graph-attention": f"{ENCODERS},mask_width=8,layout_d_arch=verysmall",
}


def commands():
    """Every command of every bash block of the pages, as the shell would split it."""
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    lines = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    split = (shlex.split(line, comments=True) for line in lines.replace("\\\n", " ").splitlines())
    return [words for words in split if words]


def name(words):
    named = (word for word in words[:4] if not word.startswith(("-", "/", "path/")))
    return "-".join(word for word in named if word != "python")


# tests/experiments/tables/test_ablations.py runs the ablations: at the sizes of the page they
# take minutes. tests/search/test_serve.py runs the server.
COMMANDS = [
    words
    for words in commands()
    if words[0] != "make" and not {"experiments.tables.ablations", "search.serve"} & set(words)
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with the sample in it; everything else comes of the commands."""
    folder = tmp_path_factory.mktemp("readme")
    sizes = "--train-images 40 --val-images 24 --drawings 12 --eval-drawings 6 --workers 0"
    sizes += " --sl-train-pairs 8 --sl-test-pairs 8 --fs-pairs 1"
    make_sample(["--target-dir", str(folder / "sample"), *sizes.split()])
    line = np.array([[0.1, 0.1], [0.5, 0.4]])
    Scene([SceneObject([line, line[:, ::-1]])]).save(folder / "scene.json")
    for letter in "qg":  # of another system
        vectors = np.random.default_rng(ord(letter)).standard_normal((6, 4))
        np.savez(folder / f"{letter}.npz", ids=np.arange(6), vectors=vectors)
    return folder


def place(world, path):
    """Return the place in this test of a path of the README, told by its last part."""
    last = Path(path).name
    runs = world / "directory"
    return {
        "download": world / "sample/quickdraw",
        "coco-stuff": world / "sample/coco-stuff",
        "sketchycoco": world / "sample/sketchycoco",
        "checkpoint": Checkpoints(RunFolder(runs, "graph-attention", "SD01").checkpoints).latest(),
        "graph-attention-SD01": runs / "graph-attention-SD01",
        "sketchycoco-sl": world / "sample/sketchycoco-sl",
        "train_feats.npz": world / "features/SD01_sketchycoco_tf_train_feats.npz",
        "photographs": world / "sample/coco-stuff/images/val2017",
        "feats.npz": world / "features/SD01_sketchycoco_tf_test_feats.npz",
    }.get(last, world / last)


def substituted(world, words):
    text = "\0".join(words)
    text = re.sub(r"/?path/[\w./-]+", lambda match: str(place(world, match[0])), text)
    text = re.sub(r"(?<=iterations=)\d+", lambda match: ITERATIONS[match[0]], text)
    text = re.sub(r"(?<=batch_size=)\d+", "4", text)
    if "train.py" in words:
        text = text.replace("learning_rate=1e-4", f"learning_rate=1e-4,{SMALL[words[2]]}")
    text = text.replace("--val-size\x001024", "--val-size\x0012")
    more = ["--seconds", "0.1", "--batch-size", "4"] if "dataloaders." in text else []
    if "prep_data.cococrops" in text:
        more = ["--val-size", "12"]  # the page leaves it at its default, the same 1024
    return [*text.split("\0"), *more]


def run(words, monkeypatch):
    """Run `python [-m] NAME ARGUMENTS...` in this process; its exit code."""
    assert words[0] == "python"
    monkeypatch.chdir(ROOT)
    module = words[1] == "-m"
    target, arguments = words[1 + module], words[2 + module :]
    monkeypatch.setattr(sys, "argv", [str(ROOT / target), *arguments])
    with pytest.raises(SystemExit) as ended:
        if module:  # in sys.modules as __main__, where its workers look for its functions
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(target, run_name="__main__")
    return ended.value.code or 0


def test_the_commands_are_those_known_here():
    """A command more or less in the README wants a look at what is replaced above."""
    assert [words[1] for words in commands() if words[0] == "make"] == ["demo", "search", "test"]
    assert [name(words) for words in COMMANDS] == [
        "prep_data.quickdraw_to_tfrecord",
        "prep_data.index_quickdrawtf",
        "prep_data.coco_to_tfrecord",
        "prep_data.cococrops_to_tfrecord",
        "dataloaders.qd_cc_tfrecord",
        "dataloaders.coco_tfrecord",
        "prep_data.sketchycoco_to_tfrecord",
        "dataloaders.sketchycoco_tfrecord",
        "train.py-multidomain-representation",
        "train.py-graph-attention",
        "train.py-graph-attention",
        "evaluate-metrics.py-graph-attention",
        "run-experiment.py-extract-features",
        "run-experiment.py-sbir-on-features-file",
        "run-experiment.py-generate-images",
        "search.build",
        "search.query",
        "evaluate-metrics.py-graph-attention",
        "run-experiment.py-extended-gallery",
        "run-experiment.py-extract-features",
        "run-experiment.py-scene-tsne",
        "run-experiment.py-score-features",
        "run-experiment.py-flipped-sketches",
        "run-experiment.py-mixed-queries",
        "run-experiment.py-fused-ranking",
        "run-experiment.py-attention-maps",
        "run-experiment.py-scene-layouts",
        "experiments.tables.table",
    ]


@pytest.mark.parametrize("words", COMMANDS, ids=name)
def test_command(words, world, monkeypatch):
    words = substituted(world, words)
    server = contextlib.nullcontext()
    if "generate-images" in words:  # from our own server, wherever it may listen
        weights = servers.write_weights(world / "generator.npz")
        server = servers.started("-m", "SPADE.serve", "--weights", weights)
    with server as port:
        if port:
            words[-1] += f",generator=http://127.0.0.1:{port},scenes=2"
        assert run(words, monkeypatch) == 0


def test_what_they_left(world):
    sets = "quickdraw-tf quickdraw-indexed coco-graphs coco-crops sketchycoco-tf"
    assert all((world / name / "meta.json").is_file() for name in sets.split())
    run_dir = RunFolder(world / "directory", "graph-attention", "SD01")
    config = RunConfig.read(run_dir.config)
    assert [(entry["step"], entry["loader"]) for entry in config.history] == [
        (0, "coco-tfrecord"),
        (1, "sketchycoco-tf"),
    ]
    assert set(config.hparams.data) == {"coco-tfrecord", "sketchycoco-tf"}
    (report,) = run_dir.evaluation.glob("sketchycoco-tf-*.json")
    results = json.loads(report.read_text())["results"]
    asked = ["sbir-on-valid", "sbir-mAP", "sbir-top1", "sbir-top10", "sbir-top5", "generated-masks"]
    assert list(dict.fromkeys(result["metric"] for result in results)) == asked
    for split in ("train", "valid", "test"):
        with np.load(world / f"features/SD01_sketchycoco_tf_{split}_feats.npz") as features:
            assert all(features[key].dtype != object for key in features)
    for name in ("flipped_sketches", "mixed_queries", "attention_maps", "scene_layouts"):
        stem = f"SD01_sketchycoco_tf_test_{name}"
        report = json.loads((world / f"results/{stem}.json").read_text())
        assert len(report["results"]) > 2 and report["step"] == 2
        assert all((world / "results" / picture).is_file() for picture in report["pictures"])
        assert len(report["pictures"]) == (name != "flipped_sketches")
    assert (world / "result.html").read_text().count("<li>") == 10
    ids = json.loads((world / "coco-crops/meta.json").read_text())["obj_idx_to_ID"]
    scenes = list((world / "images/SD01_sketchycoco_tf_test_images").iterdir())
    assert len(scenes) == 2
    for scene in scenes:
        picture = np.asarray(Image.open(scene / "sketch-generated.png"))
        assert picture.shape == (256, 256, 3) and picture.std() > 0
        label = np.asarray(Image.open(scene / "sketch-labels.png"))
        assert set(label[label < 255] + 1) <= set(ids)


def test_three_commands_from_own_photographs(monkeypatch, capsys, tmp_path):
    """A word that a command does not know ends it with 2; what is not there, with 1."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"\n    make install\n((?:    .*\n)+)", text)[1]
    lines = [line.replace("path/to", str(tmp_path)).split()[1:] for line in block.splitlines()]
    assert [words[:2] for words in lines] == [["-m", "search.build"], ["-m", "search.serve"]]
    for words in lines:
        assert run(["python", *words], monkeypatch) == 1
        assert str(tmp_path) in capsys.readouterr().err
