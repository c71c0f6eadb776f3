"""The two COCO commands from photographs to records, on good and on bad input."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from set_files import contents, scenes
from tiny_coco import plain

from core.errors import UsageError, UserError
from core.files import read_json
from dataloaders import prepared_sets, records
from prep_data import coco_to_tfrecord, cococrops_to_tfrecord
from tests.dataloaders.tiny_sets import read_split

ROOT = Path(__file__).parents[2]


def flags(source: Path, target: Path, *more: str) -> list:
    return [
        *("--dataset-dir", str(source), "--target-dir", str(target)),
        *("--val-size", "3", "--workers", "0", *more),
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return plain(tmp_path_factory.mktemp("coco")).write()


@pytest.fixture(scope="module")
def scene_set(source, tmp_path_factory):
    target = tmp_path_factory.mktemp("scenes") / "set"
    coco_to_tfrecord.main(flags(source, target, "--n-chunks", "2"))
    return target


# ---- good input ------------------------------------------------------------------------------


def test_scenes(scene_set):
    meta = json.loads((scene_set / "meta.json").read_text())
    assert [meta[f"n_{split}_samples"] for split in ("train", "valid", "test")] == [12, 3, 3]
    assert meta["train_total_objs"] == 24
    assert (meta["image_size"], meta["mask_size"], meta["crop_size"]) == (256, 64, 96)
    assert meta["pred_idx_to_name"][:2] == ["__in_image__", "left of"]
    assert len(meta["concrete_objs"]) == 91
    names = meta["obj_idx_to_name"]
    assert prepared_sets.read_index(scene_set, "train").shards.tolist() == [
        f"train/scenes-0000{i}-of-00002.tfrecord" for i in range(2)
    ]
    train = scenes(scene_set, "train")
    assert sorted(train.image_id.numpy()) == list(range(1, 13)) != train.image_id.numpy().tolist()
    valid = scenes(scene_set, "valid")
    assert valid.image_id.numpy().tolist() == [501, 502, 503]
    assert scenes(scene_set, "test").image_id.numpy().tolist() == [504, 505, 506]
    # Photograph 501: a person at [2 + 1, 3, 20, 30] and, as 501 % 3 = 0, a car, on 60 x 40 pixels.
    assert [names[i] for i in valid.obj_idx[0].numpy()] == ["person", "car"]
    expected = [[3 / 60, 3 / 40, 23 / 60, 33 / 40], [30 / 60, 5 / 40, 55 / 60, 25 / 40]]
    np.testing.assert_allclose(valid.boxes[0].numpy(), expected, rtol=1e-6)
    assert [names[i] for i in valid.stuff_idx[0].numpy()] == ["grass"]
    np.testing.assert_allclose(valid.stuff_boxes[0].numpy(), [[0, 0.75, 1, 1]])
    masks = records.unpack_masks(valid.masks, 64)
    assert masks.shape == (6, 64, 64) and masks.numpy().all()  # each fills its box
    image = tf.io.decode_jpeg(valid.image[0]).numpy()
    assert image.shape == (256, 256, 3)
    assert image[:, :10, 0].mean() < 20 < 235 < image[:, -10:, 0].mean()  # red grows to the right


@pytest.mark.parametrize("masked", [False, True])
def test_crops(tmp_path, masked):
    world = plain(tmp_path / "coco")
    left_half = [[30, 5, 42.5, 5, 42.5, 25, 30, 25]]
    for annotation in world.annotations["instances", "val2017"]:
        if annotation["category_id"] != 1:
            annotation["segmentation"] = left_half
    target = tmp_path / "set"
    more = ["--masked"] if masked else []
    cococrops_to_tfrecord.main(flags(world.write(), target, "--n-chunks", "2", *more))
    meta = json.loads((target / "meta.json").read_text())
    assert meta["masked"] is masked
    assert [meta[f"n_{split}_samples"] for split in ("train", "valid", "test")] == [24, 6, 6]
    index = prepared_sets.read_index(target, "train")
    assert index.classes.tolist() == ["car", "cat", "person", "umbrella"]
    assert "train/person-00001-of-00002.tfrecord" in index.shards
    assert (index.block_records.sum(), set(index.block_class)) == (24, {0, 1, 2, 3})
    # Each shard holds the class its blocks say.
    for block in range(len(index.block_shard)):
        shard = target / index.shards[index.block_shard[block]]
        crops = records.CropRecord.parse(list(tf.data.TFRecordDataset(str(shard))))
        found = {meta["obj_idx_to_name"][i] for i in crops.obj_idx.numpy()}
        assert found == {index.classes[index.block_class[block]]}
    crops = records.CropRecord.parse(read_split(target, "valid"))
    half = crops.image[crops.image_id.numpy().tolist().index(501)]
    pixels = tf.io.decode_jpeg(half).numpy()
    assert pixels.shape == (96, 96, 3)
    # A car is the first class by name; its right half is black when masked.
    assert (pixels[:, 56:].max() < 30) == masked
    assert pixels[:, :40].mean() > 60


def test_two_runs_are_equal_to_the_byte(source, scene_set, tmp_path):
    """Also with other numbers of workers and another hash seed, as a command."""
    target = tmp_path / "set"
    command = [
        *(sys.executable, "-m", "prep_data.coco_to_tfrecord"),
        *flags(source, target, "--n-chunks", "2", "--workers", "2"),
    ]
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert "train 12, valid 3, test 3" in run.stdout
    assert "Nothing was left out." in run.stdout
    assert contents(target) == contents(scene_set)


def test_a_complete_set_of_another_source(source, scene_set, tmp_path, capsys):
    same = shutil.copytree(source, tmp_path / "moved")
    coco_to_tfrecord.main(flags(same, scene_set, "--n-chunks", "2"))
    assert "already complete" in capsys.readouterr().out
    with pytest.raises(UserError, match="other settings"):
        coco_to_tfrecord.main(flags(same, scene_set, "--n-chunks", "3"))
    photo = next((same / "images/val2017").iterdir())
    photo.write_bytes(photo.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"\(name or size of a picture has changed from \d+ p"):
        coco_to_tfrecord.main(flags(same, scene_set, "--n-chunks", "2"))
    photo.write_bytes(photo.read_bytes()[:-1])
    annotations = same / "annotations/instances_val2017.json"
    text = annotations.read_text()
    assert '"iscrowd": 0' in text
    annotations.write_text(text.replace('"iscrowd": 0', '"iscrowd": 1', 1))  # of the same size
    with pytest.raises(
        UserError, match=r"\(instances_val2017.json has changed from \d+ bytes, \w+ to "
    ):
        coco_to_tfrecord.main(flags(same, scene_set, "--n-chunks", "2"))


def test_files_that_no_annotation_names_are_no_part_of_the_source(
    source, scene_set, tmp_path, capsys
):
    same = shutil.copytree(source, tmp_path / "coco")
    (same / "images/val2017/@eaDir").mkdir()
    for name in (
        "images/train2017/.DS_Store", "images/val2017/Thumbs.db", "images/val2017/@eaDir/501.jpg",
        "images/train2017/not annotated.jpg", "annotations/desktop.ini",
    ):  # fmt: skip
        (same / name).touch()
    coco_to_tfrecord.main(flags(same, scene_set, "--n-chunks", "2"))
    assert "already complete" in capsys.readouterr().out


def test_photographs_with_folders_in_their_name(tmp_path):
    world = plain(tmp_path / "coco")
    for k, image in enumerate(world.images["train2017"]):
        prefix = ["", "train2017/", "images/train2017/", "train2017\\", ".\\", "more/"][k % 6]
        image["file_name"] = prefix + image["file_name"]
    deeper = world.folder / "images/train2017/more"
    deeper.mkdir()
    for name in ("000000000006.jpg", "000000000012.jpg"):
        (deeper.parent / name).rename(deeper / name)
    coco_to_tfrecord.main(flags(world.write(), tmp_path / "set"))
    assert read_json(tmp_path / "set/report.json") == {}
    assert len(scenes(tmp_path / "set", "train").image) == 12
    (deeper / "000000000012.jpg").write_bytes(b"changed")
    with pytest.raises(UserError, match="prepared from other files than these"):
        coco_to_tfrecord.main(flags(world.folder, tmp_path / "set"))


def test_names_of_photographs_that_are_not_there(tmp_path):
    outside = ("../train2017/000000000001.jpg", "/data/1.jpg", "C:\\data\\1.jpg")
    long, url = "n" * 300 + "/1.jpg", "https://x.org/1.jpg"
    names = ("a/1.jpg", "x/1.jpg?alt=media", "x\\2.jpg", long, f"{url}?key=SECRET", *outside)
    world = plain(tmp_path / "coco")
    for image, name in zip(world.images["train2017"], names):
        image["file_name"] = name
    coco_to_tfrecord.main(flags(world.write(), tmp_path / "set"))
    report = read_json(tmp_path / "set/report.json")
    found = {
        reason: sorted(shown for shown in entry["first"] if " of stuff" not in shown)
        for reason, entry in report.items()
    }
    assert (
        found.items()
        >= {
            "photograph missing": [
                f"images/train2017/{name}" for name in ("a/1.jpg", "x/1.jpg?alt=media", "x/2.jpg")
            ],
            "photograph that cannot be read (File name too long)": [f"images/train2017/{long}"],
            "image named by a URL, not by its file": [f"{url} of instances_train2017.json"],
            "image whose file_name leads out of the data set": [
                f"{name} of instances_train2017.json" for name in outside
            ],
        }.items()
    )
    assert len(scenes(tmp_path / "set", "train").image) == 4


def test_data_can_be_mended_after_nothing_was_left(tmp_path):
    world = plain(tmp_path / "coco")
    folder = world.folder / "images" / "train2017"
    folder.rename(tmp_path / "elsewhere")
    folder.mkdir()
    with pytest.raises(
        UserError, match=r"nothing is left in train. Left out: 12 photograph missing"
    ):
        coco_to_tfrecord.main(flags(world.write(), tmp_path / "set"))
    folder.rmdir()
    (tmp_path / "elsewhere").rename(folder)
    coco_to_tfrecord.main(flags(world.folder, tmp_path / "set"))
    assert len(scenes(tmp_path / "set", "train").image) == 12


def test_sizes_are_hparams(source, tmp_path):
    target = tmp_path / "set"
    hparams = "image_size=32,mask_size=16,min_object_size=0.22,max_objects_per_image=1"
    coco_to_tfrecord.main(flags(source, target, "--hparams", hparams))
    train = scenes(target, "train")
    # Of 600 and 500 pixels of 2,400 only the person exceeds 22 %.
    assert set(train.obj_idx.flat_values.numpy()) == {0}
    assert tf.io.decode_jpeg(train.image[0]).shape == (32, 32, 3)
    assert records.unpack_masks(train.masks, 16).shape == (12, 16, 16)


# ---- bad input -------------------------------------------------------------------------------


def test_what_is_skipped_is_counted_and_named(tmp_path, capsys):
    world = plain(tmp_path / "coco")
    images = world.folder / "images" / "train2017"
    (images / "000000000001.jpg").unlink()
    broken = images / "000000000002.jpg"
    broken.write_bytes(broken.read_bytes()[:400])
    (images / "000000000003.jpg").write_bytes((images / "000000000004.jpg").read_bytes())
    world.images["train2017"][2]["width"] = 61  # of photograph 3
    empty = [
        world.annotate("train2017", 4, 3, [0, 0, 30, 30], segmentation=[]),
        world.annotate("train2017", 5, 3, [0, 0, 30, 30], segmentation=None),
        world.annotate("train2017", 6, 3, [0, 0, 30, 20], segmentation=[[40, 30, 50, 30, 50, 39]]),
    ]
    unlisted = world.annotate("train2017", 999, 1, [0, 0, 30, 30])
    for _ in range(9):
        world.annotate("train2017", 7, 3, [0, 0, 30, 30])
    world.photo("train2017", 20)
    target = tmp_path / "set"
    coco_to_tfrecord.main(flags(world.write(), target))
    report = read_json(target / "report.json")
    assert {reason: entry["first"] for reason, entry in report.items()} == {
        "photograph missing": ["images/train2017/000000000001.jpg"],
        "photograph broken": ["images/train2017/000000000002.jpg"],
        "photograph of another size than its annotation says": [
            "images/train2017/000000000003.jpg"
        ],
        "segmentation empty or degenerate": [f"{empty[0]} of images/train2017/000000000004.jpg"],
        "segmentation missing": [f"{empty[1]} of images/train2017/000000000005.jpg"],
        "segmentation outside its box or too thin for a mask": [
            f"{empty[2]} of images/train2017/000000000006.jpg"
        ],
        "annotation of an image that is not listed": [f"{unlisted} of image 999 (train2017)"],
        "image with more than 8 kept objects": ["images/train2017/000000000007.jpg"],
        "image with fewer than 1 kept objects": ["images/train2017/000000000020.jpg"],
    }
    assert all(entry["count"] == 1 for entry in report.values())
    printed = capsys.readouterr().out
    for reason, entry in report.items():
        assert f"{reason}: {entry['first'][0]}" in printed
    assert sorted(scenes(target, "train").image_id.numpy()) == [4, 5, 6, 8, 9, 10, 11, 12]
    # What is left of photographs 4 to 6 are their two good objects.
    assert scenes(target, "train").obj_idx.row_lengths().numpy().tolist() == [2] * 8


def test_an_image_may_become_small_enough_by_what_is_skipped(tmp_path):
    world = plain(tmp_path / "coco", n_train=1)
    for i in range(7):
        bad = {} if i else {"segmentation": []}
        world.annotate("train2017", 1, 3, [0, 0, 30, 30], **bad)
    coco_to_tfrecord.main(flags(world.write(), tmp_path / "set"))
    assert scenes(tmp_path / "set", "train").obj_idx.row_lengths().numpy().tolist() == [8]


@pytest.mark.parametrize(
    ("entries", "change", "message"),
    [
        ("images", {"width": None}, "val2017 lists 0 usable photographs, too few: valid and test"
         " need one each. Left out: 36 image listed without id, name or size: {"),
        ("annotations", {"id": None}, "no photograph of train2017 is left for train: none of 12 "
         "has 1 or more objects to keep. Left out: 54 annotation without usable ids: byte "),
        ("annotations", {"bbox": None}, "Left out: 54 annotation without a proper box: 101 of "
         "image 1 (train2017), ...; 12 image with fewer than 1 kept objects: "),
    ],
)  # fmt: skip
def test_what_was_left_out_comes_with_the_error(tmp_path, entries, change, message):
    world = plain(tmp_path / "coco")
    for entry in itertools.chain(*getattr(world, entries).values()):
        entry.update(change)
    with pytest.raises(UserError) as caught:
        coco_to_tfrecord.main(flags(world.write(), tmp_path / "set"))
    assert message in str(caught.value)


def test_scenes_that_all_lack_background_stuff_are_told(tmp_path, caplog):
    world = plain(tmp_path / "coco")
    world.annotations["stuff", "train2017"] = []
    coco_to_tfrecord.main(flags(world.write(), tmp_path / "set"))
    assert "no background stuff in 12 of 12 scenes of train" in caplog.text


def test_bad_command_lines(source, tmp_path):
    def run(*more: str) -> None:
        coco_to_tfrecord.main(flags(source, tmp_path / "set", *more))

    with pytest.raises(UsageError, match=r"--val-size is 6, .* 6 photographs .* choose 1 to 5"):
        run("--val-size", "6")
    with pytest.raises(UsageError, match="image_sise"):
        run("--hparams", "image_sise=64")
    with pytest.raises(UserError, match="does not exist"):
        run("--hparams", "excluded_meta_file=none.json")
    with pytest.raises(UserError, match=r"images/train2017 is missing"):
        coco_to_tfrecord.main(flags(tmp_path, tmp_path / "set"))
    with pytest.raises(UsageError, match="--dataset-dir"):
        coco_to_tfrecord.main(["--target-dir", "x"])
