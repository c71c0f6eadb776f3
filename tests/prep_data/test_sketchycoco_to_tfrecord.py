"""Paired scenes from COCO-Stuff and SketchyCOCO, on good and on bad input."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from set_files import contents, serialized
from tiny_sketchycoco import SCENES, drawing, objects_of, paired

from core.errors import UsageError, UserError
from core.files import read_json
from core.registry import LOADERS
from dataloaders import records
from dataloaders.images import fit, load_sketch
from prep_data import coco_to_tfrecord, cococrops_to_tfrecord, sketchycoco_to_tfrecord
from prep_data.prepared_set import SPLITS, PreparedSet
from prep_data.sample.__main__ import main as make_sample

ROOT = Path(__file__).parents[2]


def flags(source: Path, target: Path, *more: str) -> list:
    return [
        *("--dataset-dir", str(source / "coco"), "--sketchycoco-dir", str(source / "sketchycoco")),
        *("--target-dir", str(target), "--workers", "0", *more),
    ]


def features(folder: Path) -> dict:
    """All records straight from protobuf: image id -> (split, features by name)."""
    found = {}
    for split in SPLITS:
        for record in serialized(folder, split):
            example = dict(tf.train.Example.FromString(record).features.feature)
            found[example["image_id"].int64_list.value[0]] = split, example
    return found


def annotation_ids(folder: Path) -> dict:
    """Image id -> (split, annotation ids of its objects)."""
    return {
        image_id: (split, list(example["annotation_ids"].int64_list.value))
        for image_id, (split, example) in features(folder).items()
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    paired(folder).coco.write()
    return folder


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    target = tmp_path_factory.mktemp("paired") / "set"
    sketchycoco_to_tfrecord.main(flags(source, target, "--n-chunks", "2"))
    return target


# ---- good input ------------------------------------------------------------------------------


def test_splits_and_objects(whole):
    expected = {
        image_id: (split, list(objects_of(image_id)))
        for split, name in (("train", "trainInTrain"), ("valid", "valInTrain"), ("test", "val"))
        for image_id in SCENES[name]
    }
    assert annotation_ids(whole) == expected
    ids = {
        split: records.SceneRecord.parse(serialized(whole, split)).image_id.numpy().tolist()
        for split in SPLITS
    }
    assert ids["train"] != sorted(ids["train"])  # in a random order
    assert (ids["valid"], ids["test"]) == ([6, 7, 8], [501, 502, 503, 504])
    assert records.read_index(whole, "train").shards.tolist() == [
        f"train/scenes-0000{i}-of-00002.tfrecord" for i in range(2)
    ]


def test_every_object_has_its_own_sketch(whole):
    for split in SPLITS:
        scenes = records.SceneRecord.parse(serialized(whole, split))
        assert scenes.sketches.row_lengths().numpy().tolist() == [2] * len(scenes.image)
        drawn = zip(scenes.annotation_ids.flat_values.numpy(), scenes.sketches.flat_values)
        for id_, encoded in drawn:
            sketch = tf.io.decode_png(encoded)
            assert (sketch.shape, sketch.dtype) == ((96, 96, 1), tf.uint8)
            np.testing.assert_array_equal(sketch[..., 0], fit(drawing(int(id_)), 96))
    # By hand: 40 x 20 + 101 % 17 = 36 pixels become 92 x 82.8.
    first = load_sketch_of(whole, 101) < 128
    assert (first.any(0).sum(), first.any(1).sum()) in ((92, 82), (92, 83), (92, 84))


def load_sketch_of(folder: Path, annotation_id: int) -> np.ndarray:
    """The stored sketch of an object: uint8 (96, 96)."""
    for _, example in features(folder).values():
        ids = list(example["annotation_ids"].int64_list.value)
        if annotation_id in ids:
            encoded = example["sketches"].bytes_list.value[ids.index(annotation_id)]
            return tf.io.decode_png(encoded).numpy()[..., 0]
    raise AssertionError(f"{annotation_id} is not in {folder}")


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
    meta = records.read_meta(whole, "sketchycoco-scenes")
    other = records.read_meta(target, "coco-scenes")
    assert [meta[f"n_{split}_samples"] for split in SPLITS] == [5, 3, 4]
    assert meta["train_total_objs"] == 10
    counts = {"kind", "train_total_objs", *(f"n_{split}_samples" for split in SPLITS)}
    assert {k: v for k, v in meta.items() if k not in counts} == {
        k: v for k, v in other.items() if k not in counts
    }
    records.check_same_vocabulary({"a": meta, "b": other})


def test_two_runs_are_equal_to_the_byte(source, whole, tmp_path):
    """Also with other numbers of workers and another hash seed, as a command."""
    target = tmp_path / "set"
    command = [
        *(sys.executable, "-m", "prep_data.sketchycoco_to_tfrecord"),
        *flags(source, target, "--n-chunks", "2", "--workers", "2"),
    ]
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert "train 5, valid 3, test 4" in run.stdout
    assert "Nothing was left out." in run.stdout
    assert contents(target) == contents(whole)


def test_restart_goes_on_and_gives_the_same_bytes(source, whole, tmp_path, monkeypatch):
    wrote = PreparedSet._write_part
    done = []

    def stumble(self, part, *more):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(part)
        return wrote(self, part, *more)

    arguments = flags(source, tmp_path / "set", "--n-chunks", "2")
    with monkeypatch.context() as patch:
        patch.setattr(PreparedSet, "_write_part", stumble)
        with pytest.raises(KeyboardInterrupt):
            sketchycoco_to_tfrecord.main(arguments)
    assert not (tmp_path / "set" / "meta.json").exists()
    kept = [path for path in contents(tmp_path / "set") if path.endswith(".tfrecord")]
    assert len(kept) == 2
    written = {path: (tmp_path / "set" / path).stat().st_mtime_ns for path in kept}
    sketchycoco_to_tfrecord.main(arguments)
    assert contents(tmp_path / "set") == contents(whole)
    assert written == {path: (tmp_path / "set" / path).stat().st_mtime_ns for path in kept}


def test_a_complete_set_says_so(tmp_path, capsys):
    world = paired(tmp_path)
    world.coco.write()
    arguments = flags(tmp_path, tmp_path / "set")
    sketchycoco_to_tfrecord.main(arguments)
    sketchycoco_to_tfrecord.main(arguments)
    assert "already complete" in capsys.readouterr().out
    world.sketch("train", 999)
    with pytest.raises(UserError, match="prepared from other files than these"):
        sketchycoco_to_tfrecord.main(arguments)


def test_sizes_are_hparams(source, tmp_path):
    target = tmp_path / "set"
    hparams = "image_size=32,mask_size=16,crop_size=48,min_object_size=0.22"
    sketchycoco_to_tfrecord.main(flags(source, target, "--hparams", hparams))
    train = records.SceneRecord.parse(serialized(target, "train"))
    # Of 600 and 500 pixels of 2,400 only the person exceeds 22 %.
    assert train.obj_idx.row_lengths().numpy().tolist() == [1] * 5
    assert tf.io.decode_jpeg(train.image[0]).shape == (32, 32, 3)
    assert tf.io.decode_png(train.sketches.flat_values[0]).shape == (48, 48, 1)
    assert records.unpack_masks(train.masks, 16).shape == (5, 16, 16)


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
    sketchycoco_to_tfrecord.main(flags(tmp_path, tmp_path / "set"))
    found = annotation_ids(tmp_path / "set")
    assert found[1] == ("train", [102])
    assert found[501] == ("test", [objects_of(501)[1]])
    assert found[6] == ("valid", list(objects_of(6)))
    stored = load_sketch_of(tmp_path / "set", of_six)
    np.testing.assert_array_equal(stored, fit(drawing(of_six), 96))


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
    sketchycoco_to_tfrecord.main(flags(tmp_path, tmp_path / "set"))
    found = annotation_ids(tmp_path / "set")
    assert [found[i][1] for i in (1, 2, 3)] == [list(objects_of(i)) for i in (1, 2, 3)]
    # Of two files with one number the one with the shorter name counts.
    assert read_json(tmp_path / "set" / "report.json") == {
        "file with the number of another": {"count": 1, "first": ["train/0/obj107_7.png"]}
    }


# ---- bad input -------------------------------------------------------------------------------


def test_what_is_skipped_is_counted_and_named(tmp_path, capsys):
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
    world.coco.write()
    sketchycoco_to_tfrecord.main(flags(tmp_path, tmp_path / "set"))
    report = read_json(tmp_path / "set" / "report.json")
    gone = objects_of(3)
    assert report == {
        "sketch broken": {"count": 1, "first": ["train/1/101.png"]},
        "object without a sketch": {
            "count": 3,
            "first": [
                "104 of train2017/000000000002.jpg",
                *(f"{id_} of train2017/000000000003.jpg" for id_ in gone),
            ],
        },
        "image with fewer than 1 kept objects": {
            "count": 1,
            "first": ["train2017/000000000003.jpg"],
        },
        "photograph missing": {"count": 1, "first": ["train2017/000000000004.jpg"]},
        "sketch without annotation": {"count": 1, "first": ["val/5/77.png"]},
        "sketch of an object outside the scenes": {"count": 1, "first": ["val/1/104.png"]},
        "object too small": {"count": 1, "first": [f"{small} of image 1 (train2017)"]},
        "sketch whose annotation is not a kept object": {
            "count": 2,
            "first": ["train/3/103.png", f"train/3/{small}.png"],
        },
        "scene image without photograph in the annotations of train2017": {
            "count": 1,
            "first": ["GT/trainInTrain/000000000060.png"],
        },
        "scene image without photograph in the annotations of val2017": {
            "count": 1,
            "first": ["GT/val/000000000005.png"],
        },
        "file that is not <number>.png": {
            "count": 2,
            "first": ["GT/val/readme.txt", "train/1/cat.png"],
        },
        "image with more than 8 kept objects": {
            "count": 1,
            "first": ["train2017/000000000005.jpg"],
        },
    }
    printed = capsys.readouterr().out
    for reason, entry in report.items():
        assert f"{reason}: {entry['first'][0]}" in printed
    found = annotation_ids(tmp_path / "set")
    assert {i: ids for i, (split, ids) in found.items() if split == "train"} == {1: [102], 2: [105]}
    assert len(found) == 2 + 3 + 4


def test_the_rest_of_coco_is_not_reported(tmp_path):
    """What is wrong with photographs that are no scenes is not this command's business."""
    world = paired(tmp_path)
    world.coco.photo("train2017", 99)
    world.coco.annotate("train2017", 99, 3, [0, 0, 5, 5])
    world.coco.annotate("train2017", 4, 67, [0, 0, 30, 30])  # dining tables are no objects
    world.coco.write()
    sketchycoco_to_tfrecord.main(flags(tmp_path, tmp_path / "set"))
    assert list(read_json(tmp_path / "set" / "report.json")) == [
        "annotation whose class is neither object nor material"
    ]


def test_nothing_left_is_an_error(tmp_path):
    world = paired(tmp_path)
    for path in world.folder.glob("Object/Sketch/train/*/*.png"):
        path.write_bytes(b"no sketch")
    world.coco.write()
    with pytest.raises(UserError, match=r"nothing is left in train: .*sketch broken"):
        sketchycoco_to_tfrecord.main(flags(tmp_path, tmp_path / "set"))
    assert not (tmp_path / "set" / "meta.json").exists()


def test_photographs_of_another_coco(tmp_path):
    world = paired(tmp_path)
    for path in world.folder.glob("Scene/GT/val/*.png"):
        path.rename(path.with_name("9" + path.name))
    world.coco.write()
    with pytest.raises(UserError, match=r"for test: the annotations of val2017 list none of the 4"):
        sketchycoco_to_tfrecord.main(flags(tmp_path, tmp_path / "set"))


@pytest.mark.parametrize("name", ["Scene/GT/valInTrain", "Object/Sketch/val"])
def test_empty_and_missing_folders(tmp_path, name):
    world = paired(tmp_path)
    world.coco.write()
    folder = world.folder / name
    for path in list(folder.rglob("*.png")):
        path.unlink()
    with pytest.raises(UserError, match=rf"{name} has no <number>.png: --sketchycoco-dir must"):
        sketchycoco_to_tfrecord.main(flags(tmp_path, tmp_path / "set"))
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"{name} is missing: --sketchycoco-dir must hold"):
        sketchycoco_to_tfrecord.main(flags(tmp_path, tmp_path / "set"))
    assert not (tmp_path / "set").exists()


def test_bad_command_lines(source, tmp_path):
    arguments = flags(source, tmp_path / "set")
    with pytest.raises(UsageError, match="--sketchycoco-dir"):
        sketchycoco_to_tfrecord.main(arguments[:2] + arguments[4:])
    with pytest.raises(UserError, match=r"--sketchycoco-dir .*nowhere is not a folder"):
        sketchycoco_to_tfrecord.main([*arguments, "--sketchycoco-dir", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"--dataset-dir .*nowhere is not a folder"):
        sketchycoco_to_tfrecord.main([*arguments, "--dataset-dir", str(tmp_path / "nowhere")])
    with pytest.raises(UsageError, match="image_sise"):
        sketchycoco_to_tfrecord.main([*arguments, "--hparams", "image_sise=64"])
    with pytest.raises(UsageError, match="--n-chunks is 0"):
        sketchycoco_to_tfrecord.main([*arguments, "--n-chunks", "0"])


# ---- the drawn sample ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The drawn sample, its paired scenes and its crops."""
    folder = tmp_path_factory.mktemp("sample")
    sizes = ["--train-images", "36", "--val-images", "12", "--drawings", "1"]
    sizes += ["--sl-train-pairs", "0", "--sl-test-pairs", "0"]
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
    found = {}
    for scene in (sample / "s" / "sketchycoco" / "Scene" / "GT" / scenes).iterdir():
        found[int(scene.stem)] = {}
    for kind in ("instances", "stuff"):
        path = sample / "s" / "coco-stuff" / "annotations" / f"{kind}_{photos}.json"
        content = json.loads(path.read_text())
        sizes = {image["id"]: image["width"] * image["height"] for image in content["images"]}
        for annotation in content["annotations"]:
            image_id, (_, _, w, h) = annotation["image_id"], annotation["bbox"]
            if image_id not in found or w * h / sizes[image_id] <= 0.05:
                continue
            for part in parts:
                folder = sample / "s" / "sketchycoco" / "Object" / "Sketch" / part
                for file in folder.glob(f"*/{annotation['id']}.png"):
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
    for batch in batches.as_numpy_iterator():
        files = [file for i in batch.image_ids.tolist() for file in expected[i].values()]
        drawn = np.stack([load_sketch(file, 96) for file in files])
        np.testing.assert_array_equal(batch.sketches[..., 0], drawn)
        names = [dataset.vocabulary.names[k] for k in batch.query.classes]
        assert names == [file.parent.name for file in files]
