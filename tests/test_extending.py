"""docs/extending.md, followed to the letter in a copy of the project."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core.errors import UserError
from core.evaluation import report
from core.registry import LOADERS, METRICS, MODELS
from dataloaders.batches import TripletBatch
from prep_data.sample import fs_coco
from tests.dataloaders import tiny_sets

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """The copy, the page's files dropped in, and tiny sets where its commands look for them."""
    house = tmp_path_factory.mktemp("house")
    for room in ("core", "models", "dataloaders", "experiments", "SPADE"):
        shutil.copytree(ROOT / room, house / room, ignore=shutil.ignore_patterns("__pycache__"))
    for script in ROOT.glob("*.py"):
        shutil.copy(script, house)
    for block in blocks("python"):
        path = house / block.splitlines()[0].removeprefix("# ")
        assert not path.exists(), f"{path.name} is a file of the project"
        path.write_text(block, encoding="utf-8")
    tiny_sets.write_sketches(house / "path/to/quickdraw-tf", indexed=False)
    tiny_sets.write_crops(house / "path/to/coco-crops")
    tiny_sets.write_sketches(house / "path/to/quickdraw-indexed", indexed=True)
    tiny_sets.write_scenes(house / "path/to/coco-graphs", scenes=24, mask_side=16)
    write_photos(house / "path/to/photos")
    return house


def write_photos(folder):
    """The pictures that the page's boxes.json names, the left half of each black."""
    folder.mkdir()
    (content,) = blocks("json")
    (folder / "boxes.json").write_text(content)
    for name in json.loads(content)["boxes"]:
        pixels = np.full((40, 60, 3), 255, np.uint8)
        pixels[:, :30] = 0
        Image.fromarray(pixels).save(folder / name)


def run(house, block):
    """The block's commands; their output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", block], cwd=house, env={**os.environ, "PATH": path},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_a_file_for_each_kind():
    sections = PAGE.split("\n## ")[1:]
    assert [s.splitlines()[0] for s in sections] == [
        "A model",
        "A second scene encoder",
        "A loader",
        "A loader of one's own photographs",
        "A metric",
        "An experiment",
    ]
    assert [s.count("```python") for s in sections] == [1, 1, 1, 1, 1, 1]
    assert [s.count("```bash") for s in sections] == [0, 1, 0, 1, 1, 1]


def load(path, monkeypatch):
    """The page's module from the copy; what it registers is forgotten after the test."""
    for registry in (LOADERS, METRICS, MODELS):
        for name in registry.names():
            registry[name]  # what is imported later would be registered in the copy alone
        monkeypatch.setattr(registry, "_classes", {**registry._classes})
        monkeypatch.setattr(registry, "_places", {**registry._places})
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_the_metric_by_hand(house, monkeypatch):
    """Crops 0 0 1 1, sketches 0 1 1 1: three of four agree; chance 1/2 x 1/4 + 1/2 x 3/4 = 1/2."""
    module = load(house / "core/evaluation/agreement.py", monkeypatch)
    views = {"photo": np.array([0, 0, 1, 1]), "sketch": np.array([0, 1, 1, 1])}
    dataset = SimpleNamespace(vocabulary=SimpleNamespace(num_classes=3))
    evaluation = SimpleNamespace(
        embedded_objects=lambda view: SimpleNamespace(predicted=views[view]),
        dataset=dataset, split="valid", seed=0,
    )  # fmt: skip
    (figure,) = module.compute(evaluation, "embedding-agreement")
    assert (figure.value, figure.chance, figure.n) == (0.75, 0.5, 4)


def test_the_loader_by_hand(house, monkeypatch):
    """A dot becomes a square, as broad as the pen, in its middle."""
    module = load(house / "dataloaders/bold_triplets.py", monkeypatch)
    sketches = np.full((1, 9, 9, 1), 255, np.uint8)
    sketches[0, 4, 4] = 0
    bold = np.full((1, 9, 9, 1), 255, np.uint8)
    bold[0, 3:6, 3:6] = 0
    loader = SimpleNamespace(hparams=SimpleNamespace(pen=3))
    batch = TripletBatch(tf.constant(sketches), None, None, None, None)
    made = module.BoldTriplets._embolden(loader, batch).sketches
    np.testing.assert_array_equal(made.numpy(), bold)


def test_the_scene_encoder_trains_ranks_and_opens_as_a_run(house):
    output = run(house, blocks("bash")[0])
    folder = house / "runs/whole-scenes-01"
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert np.isfinite(json.loads(lines[-1])["losses"]["contrastive_loss"])
    (report,) = (folder / "evaluation").glob("*.json")
    figures = json.loads(report.read_text())["results"]
    protocols = {(f["labels"]["boxes"], f["labels"]["sketches"]) for f in figures if "labels" in f}
    assert {("jittered", "real"), ("jittered", "blank"), ("shared", "shuffled")} <= protocols
    assert "sbir-mAP" in output
    run(
        house,
        f"""python - <<'END'
import numpy as np
from core.run import Run

opened = Run.open("{folder}")
photo = opened.encode_photo(np.zeros((50, 40, 3), np.uint8))
line = np.eye(20, dtype=np.uint8) * 255 ^ 255
query = opened.encode_sketches([line], [[0.1, 0.1, 0.5, 0.5]])
(page,) = opened.encode_drawings([line])
assert page.scene_vectors["scene"].shape == (16,)
assert photo.scene_vectors["scene"].shape == (16,) and photo.vectors is None
assert opened.rank(query, [photo, photo]).tolist() == [0, 1]
END""",
    )


def test_the_scene_encoder_learns_from_whole_drawings(house, tmp_path, monkeypatch):
    """Those of the sample, two steps."""
    module = load(house / "models/whole_scenes.py", monkeypatch)
    folder = tmp_path / "fs-coco"
    for place in fs_coco.folders(folder):
        place.mkdir(parents=True)
    for index in range(40):  # of ten users: the first and fourth drawings of each are valid
        fs_coco.write_pair(folder, 0, index)
    fs_coco.write_lists(folder, 40)
    loader = LOADERS["fs-coco"]
    dataset = loader(loader.HParams(str(folder)), SimpleNamespace(batch_size=8), 96, 0)
    hparams = module.WholeScenesHParams(scene_size=32, width=8)
    model = module.WholeScenes(hparams, dataset.vocabulary, iterations=2)
    for step, batch in enumerate(dataset.train_batches().take(2)):
        losses = model.train_step(batch, tf.constant(step, tf.int64), tf.constant(0))
        assert 0 < losses["contrastive_loss"].numpy() < 20
    figures = report.run(model, dataset, tmp_path, ["sbir-top10"])
    assert [figure.labels["sketches"] for figure in figures] == ["real", "blank", "shuffled"]
    assert all((figure.n, figure.gallery, figure.chance) == (20, 20, 0.5) for figure in figures)


def own_photos(house, monkeypatch, folder):
    loader = load(house / "dataloaders/own_photos.py", monkeypatch).OwnPhotos
    return loader(loader.HParams(str(folder)), SimpleNamespace(batch_size=2), 32, 0)


def test_own_photographs_by_hand(house, monkeypatch):
    """sofa.png (row 0) has one box, walk.jpg two, of which the first is black up to x = 0.5."""
    gallery = own_photos(house, monkeypatch, house / "path/to/photos")
    (batch,) = gallery.eval_batches("test")
    assert batch.image_ids.numpy().tolist() == [0, 1]
    assert batch.photo.obj_to_img.numpy().tolist() == [0, 1, 1]
    names = [gallery.vocabulary.names[k] for k in batch.photo.classes]
    assert names == ["__image__", "person", "dog"]
    boxes = [[0.2, 0.1, 0.8, 0.7], [0.1, 0.2, 0.5, 0.9], [0.4, 0.5, 0.9, 1.0]]
    np.testing.assert_allclose(batch.photo.boxes, boxes)
    assert batch.images.shape == (2, 256, 256, 3) and batch.crops.shape == (3, 32, 32, 3)
    assert batch.crops[1, :, :30].numpy().max() < 40 and batch.crops[1].numpy().max() < 200
    assert batch.crops[2, :, 8:].numpy().min() > 200 and batch.crops[2, :, :5].numpy().max() < 80
    missing = (batch.query, batch.sketches, batch.query_to_photo, batch.masks, batch.negative_crops)
    assert all(field is None for field in missing)
    triples = gallery.relations(
        batch.photo.boxes.numpy(),
        batch.photo.obj_to_img.numpy(),
        np.arange(2),
        "canonical",
        "photo",
    )
    np.testing.assert_array_equal(triples, batch.photo.triples)
    (first, second) = gallery.train_batches().take(2)
    assert sorted(first.image_ids.numpy()) == sorted(second.image_ids.numpy()) == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": {"gone.jpg": [[0, 0, 1, 1]]}}, "photograph missing"),
        ({"boxes": {"sofa.png": []}}, "sofa.png needs 1 to 8 boxes"),
        ({"boxes": {"sofa.png": [[0, 1]]}}, "length"),
        ({"classes": {"sofa.png": ["sofa"]}}, "'sofa' is not in list"),
    ],
)
def test_unusable_boxes_of_own_photographs(house, monkeypatch, tmp_path, change, message):
    folder = tmp_path / "photos"
    shutil.copytree(house / "path/to/photos", folder)
    content = json.loads((folder / "boxes.json").read_text())
    (folder / "boxes.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(UserError, match=message):
        own_photos(house, monkeypatch, folder)


def test_own_photographs_are_encoded_by_a_run(house):
    if not (house / "runs/whole-scenes-01").is_dir():
        run(house, blocks("bash")[0])
    assert "own_photos_test_feats.npz: 2 scenes" in run(house, blocks("bash")[1])
    run(
        house,
        """python - <<'END'
from core.run import Run

gallery = Run.open("runs/whole-scenes-01").dataset("own-photos", photos_dir="path/to/photos")
assert sum(len(batch.images) for batch in gallery.eval_batches("test")) == 2
END""",
    )


def test_the_new_model_trains_with_the_new_loader_and_has_the_new_metric(house):
    output = run(house, blocks("bash")[2])
    lines = (house / "runs/contrastive-representation-01/metrics.jsonl").read_text().splitlines()
    assert "contrastive_loss" in json.loads(lines[-1])["losses"]
    config = json.loads((house / "runs/contrastive-representation-01/config.json").read_text())
    assert config["hparams"]["data"]["bold-triplets"]["pen"] == 5
    (report,) = (house / "runs/contrastive-representation-01/evaluation").glob("*.json")
    (figure,) = json.loads(report.read_text())["results"]
    assert figure["metric"] == "embedding-agreement" and "embedding-agreement" in output
    assert 0 <= figure["value"] <= 1 and 0 <= figure["chance"] <= 1


def test_the_new_experiment_runs_on_the_new_model(house):
    run(house, blocks("bash")[3])
    (path,) = (house / "runs").glob("confusions-*/confusions.json")
    found = json.loads(path.read_text())
    counts = [count for _, _, count in found["pairs"]]
    assert counts == sorted(counts, reverse=True) and len(counts) <= 5
    assert sum(counts) <= found["wrong"] <= found["sketches"]
    assert all(right in tiny_sets.THINGS and right != wrong for right, wrong, _ in found["pairs"])
