"""The index of photographs: what it holds, how it is kept up to date, what it finds."""

import io
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core import layout_match
from core.dataset import DataSizes
from core.errors import UsageError, UserError
from core.evaluation.fusion import z_scores
from core.run import Run
from search import building, index, index_folder
from search.detector import Detector
from search.index import PhotoIndex
from search.objects import FoundObjects, ObjectSource
from search.photographs import photographs_in
from search.scene import Scene, SceneObject
from tests.core.evaluation.test_whole_scenes import Pixels
from tests.core.test_drawings import slow_drawings
from tests.test_experiments import STAGE1, STAGE2

CROSS = [np.array([[0.1, 0.1], [0.4, 0.5]]), np.array([[0.4, 0.1], [0.1, 0.5]])]


@pytest.fixture
def run(scene_run):
    return scene_run


@pytest.fixture
def photographs(tmp_path):
    """Nine photographs in two folders, and what is none."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photographs"
    (folder / "süd, 'x'").mkdir(parents=True)
    (folder / ".thumbnails").mkdir()
    for n in range(9):
        picture = Image.fromarray(rng.integers(0, 256, (20 + n, 30, 3), np.uint8))
        picture.save(folder / ("süd, 'x'" if n % 2 else "") / f"{n}.png")
    (folder / ".thumbnails" / "0.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    (folder / "empty.jpg").touch()
    return folder


class Corners(ObjectSource):
    """Two objects in each photograph: its corners. Counts what it is asked for."""

    identity = "corners"

    def __init__(self, labels=(0, -1)):
        self.labels, self.asked = labels, []

    def find(self, path, image, size):
        self.asked.append(path)
        boxes = np.array([[0, 0, 0.4, 0.4], [0.5, 0.5, 1, 1]], np.float32)
        return FoundObjects(boxes, np.array(self.labels, np.int16), np.array([0.75, 1], np.float32))


def build(run, photographs, home, source=None):
    return PhotoIndex.build(run, photographs, home, objects=source or Corners())


def equal(a, b):
    assert a.files == b.files
    assert [a.thumbnail(row) for row in range(len(a))] == [
        b.thumbnail(row) for row in range(len(b))
    ]
    for name in index_folder.KINDS:  # the network's last digit depends on what else is in a batch
        last = {"probabilities": 2, "vectors": 2e-3, "learned": 1e-4}.get(name, 0)
        values = (each._part.arrays[name].astype(float) for each in (a, b))
        np.testing.assert_allclose(*values, rtol=0, atol=last)


def test_holds_what_the_run_makes_of_each_photograph(run, photographs, tmp_path):
    home = tmp_path / "index"
    built = build(run, photographs, home)
    opened = PhotoIndex.open(home, run)
    equal(built, opened)
    assert [file.path for file in opened.files] == [
        *(f"{n}.png" for n in range(0, 9, 2)), *(f"süd, 'x'/{n}.png" for n in range(1, 9, 2)),
    ]  # fmt: skip
    assert {file.path for file, _ in opened.broken} == {"broken.jpg", "empty.jpg"}
    for row in (0, 8):
        image = np.asarray(Image.open(photographs / opened.files[row].path).convert("RGB"))
        shown = (Image.open(io.BytesIO(opened.thumbnail(row))), Image.fromarray(image))
        greys = [np.asarray(each.convert("L")) for each in shown]
        assert greys[0].shape == image.shape[:2]
        assert np.corrcoef(*(each.ravel() for each in greys))[0, 1] > 0.9
        scene = run.encode_photo(image, opened.objects.boxes[:2])
        np.testing.assert_allclose(opened.learned[row], run.ranking_vectors([scene])[0], atol=1e-5)
        expected = [np.eye(run.vocabulary.num_classes)[0], scene.class_probabilities[1]]
        found = layout_match.to_probabilities(opened.objects.probabilities[2 * row : 2 * row + 2])
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_link_out_of_the_folder_is_left_out(run, photographs, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    (photographs / "link.png").symlink_to(tmp_path / "secret.png")
    (photographs / "circle.png").symlink_to(photographs / "circle.png")
    broken = dict(build(run, photographs, tmp_path / "index").broken)
    (why,) = [why for file, why in broken.items() if file.path == "link.png"]
    assert why == "a link out of the folder of photographs: copy it there"


def test_a_name_that_is_no_text_is_left_out(tmp_path, caplog):
    for name in (os.fsdecode(b"caf\xe9.png"), "café.png"):
        (tmp_path / name).touch()
    assert [file.path for file in photographs_in(tmp_path).files()] == ["café.png"]
    assert "its name is not UTF-8" in caplog.text


def test_only_new_and_changed_photographs_are_looked_at_again(run, photographs, tmp_path):
    home, source = tmp_path / "index", Corners()
    build(run, photographs, home, source)
    assert len(source.asked) == 9
    (photographs / "0.png").unlink()
    Image.new("RGB", (9, 9), "red").save(photographs / "2.png")
    Image.new("RGB", (9, 9), "blue").save(photographs / "new.PNG")
    source.asked.clear()
    updated = build(run, photographs, home, source)
    assert source.asked == ["2.png", "new.PNG"]
    equal(updated, build(run, photographs, tmp_path / "another"))
    source.asked.clear()
    build(run, photographs, home, source)
    assert source.asked == []


def test_a_stopped_build_goes_on(run, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "BLOCK", 4)

    class Stopping(Corners):
        def find(self, path, image, size):
            if len(self.asked) == 6:
                raise KeyboardInterrupt
            return super().find(path, image, size)

    with pytest.raises(KeyboardInterrupt):
        build(run, photographs, tmp_path / "index", Stopping())
    source = Corners()
    goes_on = build(run, photographs, tmp_path / "index", source)
    assert 0 < len(source.asked) < 9
    equal(goes_on, build(run, photographs, tmp_path / "another"))
    assert not (tmp_path / "index" / index_folder.BLOCKS).exists()


def test_another_run_or_source_of_objects_makes_it_anew(run, photographs, tmp_path, world):
    home = tmp_path / "index"
    build(run, photographs, home)
    other = Corners(labels=(2, -1))
    other.identity = "other corners"
    assert (build(run, photographs, home, other)._part.arrays["labels"][:2] == [2, -1]).all()
    assert len(other.asked) == 9
    variable = run.model.trainable_variables[0]
    value = variable.numpy()
    variable.assign(value + 1)
    try:
        with pytest.raises(UserError, match="other weights"):
            PhotoIndex.open(home, run)
    finally:
        variable.assign(value)
    with pytest.raises(UserError, match="run of graph-attention"):
        build(Run.open(world.out / f"{STAGE1}-01"), photographs, home)


def test_index_photographs_and_run_can_be_moved_together(run, photographs, tmp_path, world):
    old, new = tmp_path / "old", tmp_path / "deeper" / "new"
    shutil.copytree(world.out / f"{STAGE2}-SD01", old / "run")
    shutil.copytree(photographs, old / "photographs")
    build(Run.open(old / "run"), old / "photographs", old / "index")
    new.parent.mkdir()
    old.rename(new)
    opened = PhotoIndex.open(new / "index")
    assert opened.folder == new / "photographs"
    assert opened.search(Scene([SceneObject(CROSS)]), k=3)[0].path.is_file()


def test_a_hit_says_why(run, photographs, tmp_path):
    found = build(run, photographs, tmp_path / "index")
    names = run.vocabulary.names
    scene = Scene(
        [
            SceneObject(CROSS, label=names[0]),
            SceneObject(CROSS, box=(0.5, 0.5, 1, 1), label=names[1]),
        ]
    )
    hits = found.search(scene, k=4, weights={"layout": 2.0})
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    scores = found.scores(found.query(scene))
    row = [file.path for file in found.files].index(
        hits[0].path.relative_to(photographs).as_posix()
    )
    assert hits[0].parts == pytest.approx({name: each[row] for name, each in scores.items()})
    assert hits[0].score == pytest.approx(2 * z_scores(scores["layout"])[row])
    assert [(pair.drawn, pair.photographed) for pair in hits[0].matches] == [(0, 0), (1, 1)]
    # Drawn [.1 .1 .4 .5], photographed [0 0 .4 .4]: dc^2 = .05^2 + .1^2, ds^2 = ln(3/4)^2.
    geometry = np.exp(-0.0125 / (2 * 0.15**2) - np.log(0.75) ** 2 / (2 * 0.7**2))
    assert hits[0].matches[0].score == pytest.approx(0.2 + 0.8 * geometry, abs=1e-3)


def test_more_like_a_photograph_leaves_it_out(run, photographs, tmp_path):
    found = build(run, photographs, tmp_path / "index")
    hits = found.more_like("4.png", k=8, weights={"learned": 1.0})
    assert len(hits) == 8 and photographs / "4.png" not in [hit.path for hit in hits]
    vectors = found.learned - found.learned[2]
    nearest = np.argsort(np.linalg.norm(vectors, axis=1))[1]
    assert hits[0].path == photographs / found.files[nearest].path
    with pytest.raises(UserError, match="no photograph of the index"):
        found.more_like("../secret.png")


def test_a_cut_out_of_a_photograph_stands_in_for_a_sketch(run, photographs, tmp_path):
    picture = Image.open(photographs / "8.png")
    boxes = [(0.1, 0.1, 0.5, 0.5), (0.4, 0.5, 0.9, 0.9)]
    mixed = Scene(
        [
            SceneObject(CROSS, box=boxes[0]),
            SceneObject(picture=picture, box=boxes[1], is_photo=True),
        ]
    )
    encoded = index.encode(run, mixed)
    sketched = index.encode(run, Scene([SceneObject(CROSS, box=box) for box in boxes]))
    crop = run.encode_photo(picture, [[0, 0, 1, 1]])
    np.testing.assert_allclose(encoded.vectors[0], sketched.vectors[0], atol=1e-5)
    np.testing.assert_allclose(encoded.vectors[1], crop.vectors[0], atol=1e-5)
    assert not np.allclose(encoded.token, sketched.token)


@pytest.fixture
def whole(tmp_path):
    """A run whose vectors are the pixels of whole pictures."""
    settings = SimpleNamespace(model=None)
    return Run(PixelsOfRun(), settings, DataSizes(sketch=64), 1, tmp_path / "whole-run")


class PixelsOfRun(Pixels):
    def weights_digest(self):
        return "91" * 32


def test_a_run_that_sees_whole_pictures_is_a_third_ranking(run, whole, photographs, tmp_path):
    home = tmp_path / "index"
    build(run, photographs, home, Corners())
    source = Corners()
    built = PhotoIndex.build(run, photographs, home, objects=source, whole=whole)
    assert len(source.asked) == 9  # made anew
    found = PhotoIndex.open(home, run, whole)
    equal(found, built)
    assert list(found.weights) == ["learned", "layout", "whole"]

    scene = Scene([SceneObject(CROSS), SceneObject(CROSS, box=(0.5, 0.2, 0.9, 0.9))])
    page = slow_drawings(scene.sketches(64)[..., None], scene.boxes, np.zeros(2, int), 1, 32)
    away = {}
    for row, file in enumerate(found.files):
        photo = whole.encode_photo(Image.open(photographs / file.path)).scene_vectors["pixels"]
        np.testing.assert_allclose(found._part.arrays["whole"][row], photo)
        away[row] = np.linalg.norm(photo - page.ravel())
    hits = found.search(scene, k=9, weights={"whole": 1.0})
    assert [hit.row for hit in hits] == sorted(away, key=away.get)
    assert hits[0].parts["whole"] == pytest.approx(-min(away.values()), rel=0.01)
    every = found.search(scene, k=9)
    fused = sum(z_scores(each) for each in found.scores(found.query(scene)).values())
    assert [hit.row for hit in every] == np.argsort(-fused).tolist()
    rows = np.array([5, 2, 7])
    some = found.scores(found.query(scene), rows)["whole"]
    np.testing.assert_allclose(some, [-away[row] for row in rows], rtol=0.01)
    vectors = found._part.arrays["whole"] - found._part.arrays["whole"][2]
    nearest = np.argsort(np.linalg.norm(vectors, axis=1))[1]
    assert found.more_like("4.png", k=1, weights={"whole": 1.0})[0].row == nearest


def test_another_run_that_sees_whole_pictures(run, whole, photographs, tmp_path):
    home = tmp_path / "index"
    PhotoIndex.build(run, photographs, home, objects=Corners(), whole=whole)
    whole.model.weights_digest = lambda: "92" * 32
    with pytest.raises(UserError, match=r"other weights than those of the run .*whole-run"):
        PhotoIndex.open(home, run, whole)
    with pytest.raises(UserError, match="the third ranking takes a run that sees whole pictures"):
        PhotoIndex.build(run, photographs, home, whole=run)


def test_labels_of_a_drawing(run, photographs, tmp_path):
    ((*_, last),) = labels = build(run, photographs, tmp_path / "i").labels(
        Scene([SceneObject(CROSS)])
    )
    chances = [chance for _, chance in labels[0]]
    assert len(chances) == 5 and sorted(chances, reverse=True) == chances
    assert last[0] in run.vocabulary.names


def test_a_store_names_the_candidates(run, photographs, tmp_path, monkeypatch):
    pytest.importorskip("faiss", reason="pip install -r search/stores/requirements-faiss.txt")
    home = tmp_path / "index"
    exact = build(run, photographs, home)
    scene = Scene([SceneObject(CROSS), SceneObject(CROSS, box=(0.5, 0.5, 1, 1))])
    every = exact.scores(exact.query(scene))
    PhotoIndex.build(run, photographs, home, objects=Corners(), store="faiss")
    found = build(run, photographs, home)  # an update keeps it
    assert found._part.saved.store.name == "faiss"
    equal(found, exact)
    for a, b in zip(found.search(scene, k=9), exact.search(scene, k=9)):
        assert (a.path, a.rank, a.matches) == (b.path, b.rank, b.matches)
        assert (a.score, a.parts) == (pytest.approx(b.score, abs=1e-4), pytest.approx(b.parts))
    monkeypatch.setattr(index, "CANDIDATES", 4)
    hits = found.search(scene, k=9)
    nearest = np.argsort(-every["learned"], kind="stable")[:4]
    assert {hit.row for hit in hits} == {*nearest.tolist()} and found.ranked == 4
    fused = sum(z_scores(each[nearest]) for each in every.values())
    assert [hit.score for hit in hits] == pytest.approx(sorted(fused, reverse=True), abs=1e-4)
    assert all(hit.parts["layout"] == pytest.approx(every["layout"][hit.row]) for hit in hits)


def test_misuse_is_told_in_a_sentence(run, photographs, tmp_path):
    found = build(run, photographs, tmp_path / "index")
    scene = Scene([SceneObject(CROSS)])
    for weights in ({"nonsense": 1}, {"layout": -1}, {"learned": float("nan")}):
        with pytest.raises(UsageError):
            found.search(scene, weights=weights)
    with pytest.raises(UserError, match="knows no class 'unicorn'"):
        found.search(Scene([SceneObject(CROSS, label="unicorn")]))
    with pytest.raises(UserError, match="is no index"):
        PhotoIndex.open(tmp_path)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="has no pictures"):
        build(run, tmp_path / "nothing", tmp_path / "i")
    (tmp_path / "nothing" / "a.jpg").touch()
    with pytest.raises(UserError, match="none of 1 pictures can be read"):
        build(run, tmp_path / "nothing", tmp_path / "i")
    np.save(tmp_path / "index" / "photos" / "boxes.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(UserError, match="damaged"):
        PhotoIndex.open(tmp_path / "index", run)
    names = tmp_path / "index" / "photos" / "index.json"
    names.write_text(names.read_text().replace('"schema": 2', '"schema": 99'))
    with pytest.raises(UserError, match="schema 99, but this version"):
        PhotoIndex.open(tmp_path / "index", run)


# ---- detectors -------------------------------------------------------------------------------


def save_detector(folder, outputs, dtype=tf.uint8):
    module = tf.Module()
    module.detect = tf.function(
        lambda input_tensor: {name: tf.constant(values) for name, values in outputs.items()},
        input_signature=[tf.TensorSpec((1, None, None, 3), dtype)],
    )
    tf.saved_model.save(module, str(folder), signatures=module.detect)
    return folder


def test_objects_of_a_detector(tmp_path):
    boxes = [
        [0, 0.1, 0.5, 0.9],
        [0.2, 0.2, 0.25, 0.3],
        [0, 0, 1, 1],
        [0.5, 0.5, 1.2, 1.5],
        [0, 0, 0.5, 0.5],
    ]
    outputs = {
        "detection_boxes": np.array([boxes], np.float32),
        "detection_scores": np.array([[0.9, 0.8, 0.19, 0.7, 0.6]], np.float32),
        "detection_classes": np.array([[3.0, 1, 1, 77, 1]], np.float32),
        "num_detections": np.array([4.0], np.float32),
    }
    detector = Detector(save_detector(tmp_path / "d", outputs), ids=(1, 3, 0))
    found = detector.find("a.jpg", np.zeros((8, 9, 3), np.uint8), (9, 8))
    # The second is too small, the third too unlikely, the fifth beyond num_detections.
    np.testing.assert_allclose(found.boxes, [[0.1, 0, 0.9, 0.5], [0.5, 0.5, 1, 1]])
    assert found.labels.tolist() == [1, -1]
    np.testing.assert_allclose(found.scores, [0.9, 0.7])


@pytest.mark.parametrize(
    ("outputs", "dtype"), [({"logits": np.zeros(3)}, tf.uint8), (None, tf.float32)]
)
def test_what_is_no_detector(tmp_path, outputs, dtype):
    outputs = outputs or {
        name: np.zeros((1, 1), np.float32)
        for name in ("detection_boxes", "detection_scores", "detection_classes", "num_detections")
    }
    with pytest.raises(UserError, match=r"no detector|uint8"):
        Detector(save_detector(tmp_path / "d", outputs, dtype), ids=(1,))
    with pytest.raises(UserError, match="no SavedModel"):
        Detector(tmp_path, ids=(1,))


def test_the_real_detector_finds_what_is_annotated(real_data):
    """Of annotated objects over 5 % of the picture a good half is found, by class and overlap."""
    folder = real_data / "coco-stuff"
    content = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    ids = sorted(each["id"] for each in content["categories"])
    detector = Detector(real_data / "weights" / "coco_detector", ids)
    names = {each["id"]: each for each in content["images"]}
    hits = []
    for image_id in list(names)[:12]:
        image = names[image_id]
        size = np.array([image["width"], image["height"]] * 2)
        found = detector.find(
            "",
            np.asarray(Image.open(folder / "images/val2017" / image["file_name"]).convert("RGB")),
            (image["width"], image["height"]),
        )
        for each in content["annotations"]:
            x, y, w, h = each["bbox"]
            if each["image_id"] != image_id or w * h < 0.05 * size[0] * size[1]:
                continue
            box = np.array([x, y, x + w, y + h]) / size
            same = found.boxes[found.labels == ids.index(each["category_id"])]
            both = np.maximum(
                np.minimum(same[:, 2:], box[2:]) - np.maximum(same[:, :2], box[:2]), 0
            ).prod(1)
            either = (same[:, 2:] - same[:, :2]).prod(1) + np.prod(box[2:] - box[:2]) - both
            hits.append((both / either >= 0.5).any())
    assert len(hits) > 15 and np.mean(hits) > 0.4
