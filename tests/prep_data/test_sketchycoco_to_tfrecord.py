"""Paired scenes from COCO-Stuff and SketchyCOCO, on good and on bad input."""

import json
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tiny_sketchycoco import SCENES, drawing, objects_of, paired

from core.errors import UsageError, UserError
from core.files import read_json
from core.registry import LOADERS
from dataloaders import prepared_sets, records
from dataloaders.images import load_sketch
from dataloaders.images import normalise_drawing as normalise
from prep_data import coco_to_tfrecord, cococrops_to_tfrecord, sketchycoco_to_tfrecord
from prep_data.sample.__main__ import main as make_sample
from prep_data.set_writer import SPLITS
from tests.dataloaders.scene_checks import collect
from tests.dataloaders.tiny_sets import read_split


def prepare(folder: Path, *more: str) -> Path:
    """The set made of `folder`'s coco and sketchycoco."""
    target = folder / "set"
    sketchycoco_to_tfrecord.main(
        [
            *("--dataset-dir", str(folder / "coco"), "--target-dir", str(target)),
            *("--sketchycoco-dir", str(folder / "sketchycoco"), "--workers", "0", *more),
        ]
    )
    return target


def features(folder: Path) -> dict:
    """All records straight from protobuf: image id -> (split, features by name)."""
    found = {}
    for split in SPLITS:
        for record in read_split(folder, split):
            example = dict(tf.train.Example.FromString(record).features.feature)
            found[example["image_id"].int64_list.value[0]] = split, example
    return found


def annotation_ids(folder: Path) -> dict:
    """Image id -> (split, annotation ids of its objects)."""
    return {
        image_id: (split, list(example["annotation_ids"].int64_list.value))
        for image_id, (split, example) in features(folder).items()
    }


def stored_sketches(folder: Path) -> dict:
    """Annotation id -> its sketch, uint8 (side, side)."""
    found = {}
    for _, example in features(folder).values():
        ids, sketches = example["annotation_ids"].int64_list, example["sketches"].bytes_list
        assert len(ids.value) == len(sketches.value)
        for id_, encoded in zip(ids.value, sketches.value):
            sketch = tf.io.decode_png(encoded)
            assert sketch.dtype == tf.uint8 and sketch.shape[2] == 1
            found[id_] = sketch[..., 0].numpy()
    return found


def assert_stored(sketches: np.ndarray, drawn: np.ndarray) -> None:
    """In 16 greys each pixel is off by 8 of 255 at most."""
    np.testing.assert_allclose(sketches.astype(int), drawn, rtol=0, atol=8)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    paired(folder).coco.write()
    return folder


@pytest.fixture(scope="module")
def whole(source):
    return prepare(source, "--n-chunks", "2")


# ---- good input ------------------------------------------------------------------------------


def test_splits_and_objects(whole):
    expected = {
        image_id: (split, list(objects_of(image_id)))
        for split, name in (("train", "trainInTrain"), ("valid", "valInTrain"), ("test", "val"))
        for image_id in SCENES[name]
    }
    assert annotation_ids(whole) == expected
    ids = {
        split: records.SceneRecord.parse(read_split(whole, split)).image_id.numpy().tolist()
        for split in SPLITS
    }
    assert ids["train"] != sorted(ids["train"])  # in a random order
    assert (ids["valid"], ids["test"]) == ([6, 7, 8], [501, 502, 503, 504])
    assert prepared_sets.read_index(whole, "train").shards.tolist() == [
        f"train/scenes-0000{i}-of-00002.tfrecord" for i in range(2)
    ]


def test_every_object_has_its_own_sketch(whole):
    sketches = stored_sketches(whole)
    assert len(sketches) == 2 * 12
    for id_, sketch in sketches.items():
        assert_stored(sketch, normalise(drawing(id_), 96))
    # By hand: 40 x 20 + 101 % 17 = 36 pixels become 92 x 82.8.
    ink = sketches[101] < 128
    assert ink.any(0).sum() == 92 and 82 <= ink.any(1).sum() <= 84


def test_everything_else_is_as_of_coco_to_tfrecord(source, whole, tmp_path):
    """Records but for the sketches, and meta.json but for what counts records."""
    target = tmp_path / "set"
    coco = ["--dataset-dir", str(source / "coco"), "--target-dir", str(target), "--workers", "0"]
    coco_to_tfrecord.main([*coco, "--val-size", "2"])
    plain = features(target)
    for image_id, (_, example) in features(whole).items():
        assert set(example) == {*plain[image_id][1], "sketches"}
        for key, value in plain[image_id][1].items():
            assert example[key] == value, key
    meta = json.loads((whole / "meta.json").read_text())
    other = json.loads((target / "meta.json").read_text())
    assert [meta[f"n_{split}_samples"] for split in SPLITS] == [5, 3, 4]
    assert meta["train_total_objs"] == 10
    counts = {"kind", "train_total_objs", *(f"n_{split}_samples" for split in SPLITS)}
    assert {k: v for k, v in meta.items() if k not in counts} == {
        k: v for k, v in other.items() if k not in counts
    }


def test_a_complete_set_of_other_sketches(tmp_path, capsys):
    world = paired(tmp_path)
    world.coco.write()
    prepare(tmp_path)
    prepare(tmp_path)
    assert "already complete" in capsys.readouterr().out
    hidden = world.sketch("train", 101, ".thumbnails")  # of another program
    hidden.write_bytes(b"no sketch")
    prepare(tmp_path)
    world.sketch("train", 999)
    with pytest.raises(UserError, match="prepared from other files than these"):
        prepare(tmp_path)


def test_which_folders_a_split_takes_sketches_from(tmp_path):
    """train: Object/Sketch/train, test: val, valid: both, train's first."""
    world = paired(tmp_path)
    sketches = world.folder / "Object" / "Sketch"
    (sketches / "train" / "1" / "101.png").rename(sketches / "val" / "1" / "101.png")  # photo 1
    first = objects_of(501)[0]
    (sketches / "val" / "1" / f"{first}.png").rename(sketches / "train" / "1" / f"{first}.png")
    of_six = objects_of(6)[0]  # in both folders, different ones
    (sketches / "val" / "1" / f"{of_six}.png").write_bytes(
        (sketches / "train" / "1" / f"{objects_of(8)[0]}.png").read_bytes()
    )
    world.coco.write()
    target = prepare(tmp_path)
    found = annotation_ids(target)
    assert found[1] == ("train", [102])
    assert found[501] == ("test", [objects_of(501)[1]])
    assert found[6] == ("valid", list(objects_of(6)))
    assert_stored(stored_sketches(target)[of_six], normalise(drawing(of_six), 96))


def test_names_and_folders_of_sketches_are_free(tmp_path):
    """The first run of digits counts, in whatever class folder."""
    world = paired(tmp_path)
    sketches = world.folder / "Object" / "Sketch" / "train"
    (sketches / "1" / "101.png").rename(sketches / "17" / "000101_a2.PNG")
    (sketches / "1" / "104.png").rename(sketches / "104.png")
    world.sketch("train", 107, "0", "obj{}_7.png").write_bytes(b"not read")
    (sketches / ".DS_Store").write_bytes(b"a note of the system")
    (world.folder / "Scene" / "GT" / "val" / "._000000000501.png").write_bytes(b"another")
    world.coco.write()
    target = prepare(tmp_path)
    found = annotation_ids(target)
    assert [found[i][1] for i in (1, 2, 3)] == [list(objects_of(i)) for i in (1, 2, 3)]
    # Of two files with one number the one with the shorter name counts.
    assert read_json(target / "report.json") == {
        "file with the number of another": {"count": 1, "first": ["train/0/obj107_7.png"]}
    }


# ---- bad input -------------------------------------------------------------------------------


def test_what_is_skipped_is_counted_and_named(tmp_path):
    world = paired(tmp_path)
    sketches = world.folder / "Object" / "Sketch"
    scenes = world.folder / "Scene" / "GT"
    broken = sketches / "train" / "1" / "101.png"  # of photograph 1
    broken.write_bytes(broken.read_bytes()[:90])
    (sketches / "train" / "1" / "104.png").unlink()  # of photograph 2
    for id_ in objects_of(3):  # nothing is left of photograph 3
        next(sketches.glob(f"train/*/{id_}.png")).unlink()
    (world.coco.folder / "images" / "train2017" / "000000000004.jpg").unlink()
    world.sketch("val", 77, "5")
    world.sketch("val", objects_of(2)[0], "1")  # photograph 2 is of train, which takes no such
    small = world.coco.annotate("train2017", 1, 3, [0, 0, 10, 10])
    grass = 103
    world.sketch("train", small)
    world.sketch("train", grass)
    world.scene("trainInTrain", 60)
    world.scene("val", 5)  # of train2017
    (scenes / "val" / "readme.txt").write_text("what lies about")
    (sketches / "train" / "1" / "cat.png").write_bytes(b"")
    for _ in range(9):
        world.sketch("train", world.coco.annotate("train2017", 5, 3, [0, 0, 30, 30]))
    # What is wrong with photographs that are no scenes is not this command's business.
    world.coco.photo("train2017", 99)
    world.coco.annotate("train2017", 99, 3, [0, 0, 5, 5])
    world.coco.write()
    report = read_json(prepare(tmp_path) / "report.json")
    gone = objects_of(3)
    train, val = "GT/trainInTrain/000000000060.png", "GT/val/000000000005.png"
    assert {reason: entry["first"] for reason, entry in report.items()} == {
        "sketch broken": ["train/1/101.png"],
        "object without a sketch": [
            "104 of images/train2017/000000000002.jpg",
            *(f"{id_} of images/train2017/000000000003.jpg" for id_ in gone),
        ],
        "image with fewer than 1 kept objects": ["images/train2017/000000000003.jpg"],
        "photograph missing": ["images/train2017/000000000004.jpg"],
        "sketch without annotation": ["val/5/77.png"],
        "sketch of an object outside the scenes": ["val/1/104.png"],
        "object too small": [f"{small} of image 1 (train2017)"],
        "sketch whose annotation is not a kept object": [
            "train/3/103.png",
            f"train/3/{small}.png",
        ],
        "scene image without photograph in the annotations of train2017": [train],
        "scene image without photograph in the annotations of val2017": [val],
        "file that is not <number>.png": ["GT/val/readme.txt", "train/1/cat.png"],
        "image with more than 8 kept objects": ["images/train2017/000000000005.jpg"],
    }
    assert all(entry["count"] == len(entry["first"]) for entry in report.values())
    found = annotation_ids(tmp_path / "set")
    assert {i: ids for i, (split, ids) in found.items() if split == "train"} == {1: [102], 2: [105]}
    assert len(found) == 2 + 3 + 4


def test_photographs_of_another_coco(tmp_path):
    world = paired(tmp_path)
    for path in world.folder.glob("Scene/GT/val/*.png"):
        path.rename(path.with_name("9" + path.name))
    world.coco.write()
    with pytest.raises(UserError, match=r"for test: the annotations of val2017 list none of the 4"):
        prepare(tmp_path)


@pytest.mark.parametrize("name", ["Scene/GT/valInTrain", "Object/Sketch/val"])
def test_empty_and_missing_folders(tmp_path, name):
    world = paired(tmp_path)
    world.coco.write()
    folder = world.folder / name
    for path in list(folder.rglob("*.png")):
        path.unlink()
    with pytest.raises(UserError, match=rf"{name} has no <number>.png: --sketchycoco-dir must"):
        prepare(tmp_path)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"{name} is missing: --sketchycoco-dir must hold"):
        prepare(tmp_path)
    assert not (tmp_path / "set").exists()


def test_bad_command_lines(source, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="--sketchycoco-dir"):
        sketchycoco_to_tfrecord.main(["--dataset-dir", nowhere, "--target-dir", nowhere])
    for flag in ("--sketchycoco-dir", "--dataset-dir"):
        with pytest.raises(UserError, match=rf"{flag} .*nowhere is not a folder"):
            prepare(source, flag, nowhere)


# ---- the drawn sample ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The drawn sample, its paired scenes and its crops."""
    folder = tmp_path_factory.mktemp("sample")
    sizes = ["--train-images", "36", "--val-images", "12", "--drawings", "1"]
    sizes += ["--sl-train-pairs", "0", "--sl-test-pairs", "0", "--fs-pairs", "1"]
    make_sample(["--target-dir", str(folder / "s"), *sizes, "--eval-drawings", "1"])
    coco = ["--dataset-dir", str(folder / "s" / "coco-stuff"), "--workers", "0"]
    sketchycoco = ["--sketchycoco-dir", str(folder / "s" / "sketchycoco")]
    sketchycoco_to_tfrecord.main([*coco, *sketchycoco, "--target-dir", str(folder / "paired")])
    crops = ["--target-dir", str(folder / "crops"), "--val-size", "6"]
    cococrops_to_tfrecord.main([*coco, *crops])
    return folder


def expected_objects(sample: Path, split: str) -> dict:
    """Image id -> annotation id -> its sketch file, by walking everything slowly."""
    scenes = {"train": "trainInTrain", "valid": "valInTrain", "test": "val"}[split]
    parts = {"train": ["train"], "valid": ["train", "val"], "test": ["val"]}[split]
    photos = "val2017" if split == "test" else "train2017"
    sketchycoco = sample / "s" / "sketchycoco"
    found = {int(scene.stem): {} for scene in (sketchycoco / "Scene" / "GT" / scenes).iterdir()}
    for kind in ("instances", "stuff"):
        path = sample / "s" / "coco-stuff" / "annotations" / f"{kind}_{photos}.json"
        content = json.loads(path.read_text())
        sizes = {image["id"]: image["width"] * image["height"] for image in content["images"]}
        for annotation in content["annotations"]:
            image_id, (_, _, w, h) = annotation["image_id"], annotation["bbox"]
            if image_id not in found or w * h / sizes[image_id] <= 0.05:
                continue
            for part in parts:
                for file in sketchycoco.glob(f"Object/Sketch/{part}/*/{annotation['id']}.png"):
                    found[image_id][annotation["id"]] = file
    return {image_id: dict(sorted(files.items())) for image_id, files in found.items() if files}


@pytest.mark.parametrize("split", SPLITS)
def test_the_drawn_sample_from_files_to_batches(sample, split):
    expected = expected_objects(sample, split)
    assert sum(map(len, expected.values())) >= 2
    found = annotation_ids(sample / "paired")
    assert {i: ids for i, (s, ids) in found.items() if s == split} == {
        image_id: list(files) for image_id, files in expected.items()
    }
    loader = LOADERS["sketchycoco-tf"]
    hparams = loader.HParams(str(sample / "paired"), str(sample / "crops"))
    dataset = loader(hparams, types.SimpleNamespace(batch_size=3), 96, 0)
    batches = dataset.eval_batches(split)
    if split == "train":
        batches = dataset.train_batches().take(3)
    for batch in collect(batches):
        files = [file for i in batch.image_ids.tolist() for file in expected[i].values()]
        drawn = np.stack([load_sketch(file, 96) for file in files])
        assert_stored(batch.sketches[..., 0], drawn)
        names = [dataset.vocabulary.names[k] for k in batch.query.classes]
        assert names == [file.parent.name for file in files]
