"""The sample: its layouts read by the official tools, its world by simple means."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from core.errors import UsageError, UserError
from dataloaders import sketches
from prep_data import quickdraw_drawings
from prep_data.npz import read_drawings
from prep_data.sample import layouts, pen
from prep_data.sample.__main__ import main
from prep_data.sample.objects import BACKGROUNDS, CLASSES, ObjectClass, individual_of
from prep_data.sample.scenes import make_scene
from tests.prep_data.set_files import contents

FLAGS = ["--train-images", "40", "--val-images", "13", "--drawings", "5", "--eval-drawings", "2"]
FLAGS += ["--sl-train-pairs", "5", "--sl-test-pairs", "30", "--fs-pairs", "20"]
SMALL = ["--train-images", "2", "--val-images", "1", "--drawings", "1", "--eval-drawings", "1"]
SMALL += ["--sl-train-pairs", "0", "--sl-test-pairs", "1", "--fs-pairs", "1"]


def run(target: Path, *more: str) -> None:
    main(["--target-dir", str(target), "--workers", "0", *FLAGS, *more])


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("made") / "sample"
    run(target)
    return target


@pytest.fixture(scope="module")
def coco(sample) -> dict:
    """{(kind, split): the annotations as the official tools read them}"""
    return {
        (kind, split): COCO(sample / "coco-stuff" / "annotations" / f"{kind}_{split}2017.json")
        for kind in ("instances", "stuff")
        for split in ("train", "val")
    }


# ---- layouts -----------------------------------------------------------------------------------


def test_classes_are_official(coco):
    classes = quickdraw_drawings.read_classes(quickdraw_drawings.CLASS_RELATIONSHIP)
    assert len(CLASSES) >= 12 and len(BACKGROUNDS) >= 4
    for cls in CLASSES:
        assert all(classes.sketch_to_coco[name] == cls.name for name in cls.sketch_classes)
    things = coco["instances", "train"].cats
    assert things[3]["name"] == "car" and things[85]["name"] == "clock"
    assert all(number <= 90 for number in things)
    stuff = coco["stuff", "val"].cats
    assert stuff[183]["name"] == "other" and stuff[157]["name"] == "sky-other"
    assert all(92 <= number <= 183 for number in stuff)


def test_photographs_and_annotations_fit(sample, coco):
    seen = set()
    for (_, split), annotations in coco.items():
        folder = sample / "coco-stuff" / "images" / f"{split}2017"
        images = annotations.dataset["images"]
        assert [i["id"] for i in images] == sorted({i["id"] for i in images})
        assert {i["file_name"] for i in images} == {p.name for p in folder.iterdir()}
        for image in images[:5]:
            with Image.open(folder / image["file_name"]) as picture:
                assert picture.format == "JPEG" and picture.mode == "RGB"
                assert picture.size == (image["width"], image["height"])
            assert image["file_name"] == f"{image['id']:012d}.jpg"
        ids = [a["id"] for a in annotations.dataset["annotations"]]
        assert len(set(ids)) == len(ids) and not seen & set(ids)
        seen |= set(ids)
    train, val = (set(coco["instances", split].imgs) for split in ("train", "val"))
    assert len(train) == 40 and len(val) == 13 and not train & val


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_are_what_can_be_seen(coco, split):
    """Things do not overlap, stuff covers every pixel once, and 'other' is just the things."""
    things, stuff = coco["instances", split], coco["stuff", split]
    for image_id, image in things.imgs.items():
        shape = image["height"], image["width"]
        mine = [things.annToMask(a) for a in things.imgToAnns[image_id]]
        covered = np.sum([np.zeros(shape, int), *mine], axis=0)
        assert (covered > 1).mean() < 0.003  # pixels on the border of two outlines
        ground = stuff.imgToAnns[image_id]
        whole = np.sum([stuff.annToMask(a) for a in ground], axis=0)
        assert whole.max() == 1 and (whole == 0).mean() < 0.002
        other = [stuff.annToMask(a) for a in ground if a["category_id"] == 183]
        other = np.sum([np.zeros(shape, int), *other], axis=0)
        assert ((covered > 0) != (other > 0)).mean() < 0.01
        assert len({a["category_id"] for a in ground}) == len(ground)


def test_annotation_fields(coco):
    for (kind, _), annotations in coco.items():
        for a in annotations.dataset["annotations"]:
            assert set(a) == {
                *("segmentation", "area", "iscrowd", "image_id", "bbox", "category_id", "id")
            }
            image = annotations.imgs[a["image_id"]]
            mask = annotations.annToMask(a)
            assert abs(mask.sum() - a["area"]) <= 1
            x, y, w, h = a["bbox"]
            assert x >= 0 and y >= 0 and w > 0 and h > 0
            assert x + w <= image["width"] + 0.01 and y + h <= image["height"] + 0.01
            rows, columns = np.nonzero(mask)
            assert abs(columns.min() - x) <= 2 and abs(columns.max() + 1 - x - w) <= 2
            assert abs(rows.min() - y) <= 2 and abs(rows.max() + 1 - y - h) <= 2
            if kind == "stuff":
                assert isinstance(a["segmentation"]["counts"], str)
            elif a["iscrowd"]:
                assert isinstance(a["segmentation"]["counts"], list)
            else:
                assert all(len(o) >= 6 and len(o) % 2 == 0 for o in a["segmentation"])


def test_scenes_vary(coco):
    rng = np.random.default_rng(3)
    scenes = [make_scene(rng) for _ in range(60)]
    alone = [[o for o in s.objects if len(o.individuals) == 1] for s in scenes]
    counts = [len(mine) for mine in alone]
    assert min(counts) >= 1 and max(counts) == 6
    assert any(len(a) != len(s.objects) for a, s in zip(alone, scenes))  # crowds
    assert all(
        len(set(np.unique(s.labels)) & {number for _, number, _ in BACKGROUNDS}) >= 2
        for s in scenes
    )
    large = []
    for scene in scenes:
        for thing in scene.objects:
            rows, columns = np.nonzero(thing.coverage >= 0.5)
            size = np.ptp(rows) * np.ptp(columns) if len(rows) else 0
            large.append(size > 0.05 * thing.coverage.size)
    assert 0.7 < np.mean(large) < 0.99  # most pass the rule of 5 %, some do not
    boxes = coco["instances", "train"].dataset["annotations"]
    assert len({a["category_id"] for a in boxes}) == 10


def test_quickdraw_layout(sample):
    names = {path.stem for path in (sample / "quickdraw").iterdir()}
    assert names == {name for cls in CLASSES for name in cls.sketch_classes}
    for path in (sample / "quickdraw").iterdir():
        for split, count in (("train", 5), ("valid", 2), ("test", 2)):
            drawings = read_drawings(path, split)
            assert len(drawings) == count
            for drawing in drawings:
                assert drawing.dtype == np.int16 and 6 < len(drawing) < 200
                assert sketches.why_not_drawable(drawing) is None
                assert set(drawing[:, 2].tolist()) <= {0, 1} and drawing[-1, 2] == 1
                assert (drawing[0, :2] == 0).all()


def test_sketchycoco_layout(sample, coco):
    root = sample / "sketchycoco"
    scenes = {
        part: {int(p.stem) for p in (root / "Scene" / "GT" / part).iterdir()}
        for part in ("trainInTrain", "valInTrain", "val")
    }
    assert all(scenes.values())
    assert not scenes["trainInTrain"] & scenes["valInTrain"]
    files = {
        kind: sorted(
            p.relative_to(root / "Object" / kind) for p in root.glob(f"Object/{kind}/*/*/*")
        )
        for kind in ("GT", "Sketch")
    }
    assert files["GT"] == files["Sketch"]
    in_val = {int(path.stem) for path in files["Sketch"] if path.parts[0] == "val"}
    both = coco["instances", "train"].anns.keys() | coco["stuff", "train"].anns.keys()
    assert in_val & both  # valid has objects of both parts


def sl_side(folder: Path, image_id: int, suffix: str) -> tuple[np.ndarray, np.ndarray]:
    """Grey pixels and boxes (n, 4) of a photograph or of its drawing."""
    with Image.open(folder / "Image" / f"{image_id:012d}.{suffix}") as image:
        pixels = np.asarray(image.convert("L"))
    rows = (folder / "GraphFeatures" / f"{image_id}.csv").read_text().splitlines()
    assert rows[0] == "id,className,bboxleft,bboxtop,bboxright,bboxbottom"
    table = np.array([row.split(",") for row in rows[1:]], int)
    assert table[:, 0].tolist() == list(range(len(table)))
    assert set(table[:, 1]) <= {2, 4, 5, 7}  # car, airplane, traffic light, cat
    boxes = table[:, 2:]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes[:, 2:] <= pixels.shape[::-1]).all()
    return pixels, boxes


def test_sketchycoco_sl_layout(sample, coco):
    """Each side has its own pictures and objects; no photograph is one of the COCO part."""
    ids = {}
    for split, count in (("train", 5), ("test", 30)):
        folder = sample / "sketchycoco-sl" / split
        ids[split] = {int(photo.stem) for photo in (folder / "image" / "Image").iterdir()}
        assert len(ids[split]) == count
        n_photographed = n_drawn = 0
        for image_id in ids[split]:
            _, in_photo = sl_side(folder / "image", image_id, "jpg")
            pixels, in_drawing = sl_side(folder / "sketch", image_id, "png")
            # What was drawn fills its box, on paper that is white.
            for x0, y0, x1, y1 in in_drawing:
                ink = pixels[y0:y1, x0:x1] < 128
                rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
                assert rows[0] <= 3 and columns[0] <= 3
                assert len(ink) - rows[-1] <= 4 and len(ink[0]) - columns[-1] <= 4
            assert (pixels > 250).mean() > 0.5
            assert 1 <= len(in_drawing) <= len(in_photo) <= 5
            assert not any(box in in_photo.tolist() for box in in_drawing.tolist())  # all moved
            n_photographed, n_drawn = n_photographed + len(in_photo), n_drawn + len(in_drawing)
        if count > 20:  # a fifth is forgotten, but at least one is drawn
            assert 0.7 < n_drawn / n_photographed < 0.95
    others = set(coco["instances", "train"].imgs) | set(coco["instances", "val"].imgs)
    assert not ids["train"] & ids["test"] and not others & (ids["train"] | ids["test"])


def test_fs_coco_layout(sample):
    """20 pairs of ten users: the first of each is in val_normal, both of three users in the other;
    drawings are lines on white paper of the photograph's size."""
    folder = sample / "fs-coco"
    users = {}
    for photo in sorted(folder.glob("images/*/*.jpg")):
        users.setdefault(int(photo.parent.name), []).append(photo.stem)
        drawing = folder / "raster_sketches" / photo.parent.name / photo.name
        with Image.open(photo) as picture, Image.open(drawing) as page:
            assert picture.size == page.size and (picture.mode, page.mode) == ("RGB", "L")
            pixels = np.asarray(page)
        assert (pixels > 250).mean() > 0.5 and (pixels < 100).any()
    assert {user: len(ids) for user, ids in users.items()} == dict.fromkeys(range(1, 11), 2)
    normal, unseen = (
        (folder / f"val_{name}.txt").read_text().split() for name in ("normal", "unseen_user")
    )
    assert sorted(normal) == sorted(ids[0] for ids in users.values())
    assert sorted(unseen) == sorted(users[8] + users[9] + users[10])


# ---- how it is written -------------------------------------------------------------------------


def test_the_same_flags_give_the_same_bytes_and_another_seed_another_world(tmp_path):
    run(tmp_path, *SMALL)  # an empty folder is used
    run(tmp_path / "b", *SMALL, "--seed", "1")
    main(["--target-dir", str(tmp_path / "again"), "--workers", "2", *SMALL])
    b, again = (contents(tmp_path / name) for name in ("b", "again"))
    first = contents(tmp_path)
    assert [name for name in again if again[name] != first[name]] == []
    for name in ("quickdraw/cat.npz", "coco-stuff/annotations/stuff_val2017.json"):
        assert first[name] != b[name]
    # The published set has no train part.
    assert [path.name for path in (tmp_path / "sketchycoco-sl").iterdir()] == ["test"]


def test_nothing_is_left_of_a_run_that_fails(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    stale = tmp_path / ".sample.999999999.partial"
    stale.mkdir()
    monkeypatch.setattr(layouts, "_write_annotations", fail)
    with pytest.raises(UserError, match="No space left"):
        run(tmp_path / "sample", *SMALL)
    assert list(tmp_path.iterdir()) == []  # also what an earlier, killed run had left


def test_places_that_are_taken(sample, tmp_path, capsys):
    before = sample.stat().st_mtime_ns
    run(sample)
    assert "already complete" in capsys.readouterr().out
    assert sample.stat().st_mtime_ns == before
    mine = tmp_path / "mine.txt"
    mine.write_text("keep")
    for message, target, *more in (
        ("other flags", sample, "--seed", "4"),
        ("not empty", tmp_path),
        ("is a file", mine),
        ("cannot write", mine / "sample"),
    ):
        with pytest.raises(UserError, match=message):
            run(target, *more)
    with pytest.raises(UsageError, match="--train-images"):
        run(tmp_path / "new", "--train-images", "0")


# ---- the world ---------------------------------------------------------------------------------


def test_drawings_of_a_class_differ_and_can_be_told_apart():
    """The nearest class mean of blurred drawings: far above chance (1 in 14), not perfect."""

    def blurred(cls: ObjectClass, seed: int) -> np.ndarray:
        rng = np.random.default_rng([seed, cls.category_id])
        image = Image.fromarray(sketches.rasterise(pen.draw(individual_of(cls, rng), rng)))
        return np.asarray(image.resize((12, 12), Image.Resampling.BOX), float).reshape(-1)

    means = [np.mean([blurred(cls, k) for k in range(6)], axis=0) for cls in CLASSES]
    right = [
        np.argmin([np.square(blurred(cls, 100 + k) - mean).sum() for mean in means]) == i
        for i, cls in enumerate(CLASSES)
        for k in range(2)
    ]
    assert np.mean(right) > 0.6
