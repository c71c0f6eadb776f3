"""Reading annotation files, the vocabulary, and which regions are kept."""

import json

import numpy as np
import pytest
from tiny_coco import STUFF, THINGS, TinyCoco

from core.errors import HParamError, UsageError, UserError
from core.hparams import parse
from prep_data import coco_annotations as coco
from prep_data import coco_sets
from prep_data.common import Report

LISTS = coco.read_class_lists(coco.CocoHParams().excluded_meta_file)


def read(world: TinyCoco, min_object_size: float = 0.05):
    report = Report()
    categories, sets = coco.read_dataset(world.write(), LISTS, min_object_size, report)
    return categories, sets, report.to_dict()


@pytest.fixture
def world(tmp_path):
    result = TinyCoco(tmp_path)
    result.photo("train2017", 7)
    result.photo("val2017", 9)
    return result


def test_class_lists_are_those_of_the_paper():
    assert len(LISTS.objects) == 91
    assert len(set(LISTS.objects)) == 91
    assert not set(LISTS.objects) & set(LISTS.materials)
    assert not set(LISTS.fully_excluded) & {*LISTS.objects, *LISTS.materials}
    assert "other" in LISTS.materials and "other" not in LISTS.objects
    assert {"person", "clouds", "teddy bear", "zebra"} <= set(LISTS.objects)
    assert {"suitcase", "dining table", "rug"} <= set(LISTS.fully_excluded)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "'objects' must be a list of names"),
        ('{"objects": ["a"], "materials": [1], "fully_excluded": []}', "'materials' must be"),
        ('{"objects": ["a"], "materials": ["a"], "fully_excluded": []}', "'a' is both"),
        ("{", "not valid JSON"),
    ],
)
def test_bad_class_lists_are_named(tmp_path, content, message):
    path = tmp_path / "lists.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        coco.read_class_lists(str(path))
    with pytest.raises(UserError, match="does not exist"):
        coco.read_class_lists(str(tmp_path / "none.json"))


def test_hparams_that_do_not_fit_together():
    assert parse("mask_size=32,min_object_size=.02", coco.CocoHParams).mask_size == 32
    assert coco.CropHParams().max_objects_per_image == 10
    with pytest.raises(UsageError, match="multiple of 4"):
        parse("mask_size=30", coco.CocoHParams)
    with pytest.raises(UsageError, match="exceeds"):
        parse("min_objects_per_image=9", coco.CocoHParams)
    with pytest.raises(HParamError, match="min_objct_size"):
        parse("min_objct_size=.1", coco.CocoHParams)


# ---- the stream ------------------------------------------------------------------------------


def test_stream_agrees_with_json_and_finds_every_annotation(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    annotations = [
        {
            "id": i,
            "image_id": 1,
            "category_id": 1,
            "bbox": rng.random(4).round(3).tolist(),
            "segmentation": [rng.random(2 * int(rng.integers(3, 300))).tolist()],
            "note": 'a ] } , " \\ é',
        }
        for i in range(40)
    ]
    content = {
        "info": {"n": [1, [2]], "version": 12.5},
        "annotations": annotations,  # before the images, as some tools write them
        "empty": [],
        "categories": [{"id": 1, "name": "café"}, {"id": 2, "name": "日本"}],
        "images": [{"id": 1, "file_name": "é.jpg", "width": 5, "height": 6}],
        "last": 123,
    }
    for ascii_only, indent, step in ((True, None, 1), (False, 2, 7), (False, None, 1 << 20)):
        path = tmp_path / "a.json"
        path.write_text(
            json.dumps(content, ensure_ascii=ascii_only, indent=indent), encoding="utf-8"
        )
        real = coco._Window

        class Small(real):
            def __init__(self, path, step=step):
                super().__init__(path)
                self._step = step

        monkeypatch.setattr(coco, "_Window", Small)
        file = coco.read_annotation_file(path, Report())
        monkeypatch.setattr(coco, "_Window", real)
        assert [category["name"] for category in file.categories] == ["café", "日本"]
        assert file.images == {1: coco.ListedImage("é.jpg", 5, 6)}
        data = path.read_bytes()
        rows = file.annotations
        spans = zip(rows["offset"].tolist(), rows["length"].tolist())
        assert [json.loads(data[at : at + length]) for at, length in spans] == annotations
        np.testing.assert_array_equal(rows["box"], [a["bbox"] for a in annotations])
        assert rows["id"].tolist() == list(range(40))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"images": [', '{"images": [{]}', "<html>"])
def test_broken_json_is_named(tmp_path, content):
    path = tmp_path / "instances_train2017.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"instances_train2017.json"):
        coco.read_annotation_file(path, Report())


def test_json_of_another_kind_is_named(tmp_path):
    path = tmp_path / "a.json"
    for categories in ("", ', "categories": null', ', "categories": {"id": 1}'):
        path.write_text('{"images": [], "annotations": []' + categories + "}")
        with pytest.raises(UserError, match="no list 'categories'"):
            coco.read_annotation_file(path, Report())


def test_odd_entries_are_counted(world):
    world.images["train2017"] += [{"id": 8, "file_name": "x.jpg"}, 5]
    good = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 30, 30]}
    world.annotations["instances", "train2017"] += [
        {**good, "id": "7"},
        {**good, "category_id": None},
        {**good, "image_id": 2**70},
        "text",
    ]
    _, sets, report = read(world)
    # The list of images is in both files of the set.
    assert report["image listed without id, name or size"]["count"] == 4
    assert report["annotation without usable ids"]["count"] == 4
    assert sets["train2017"].image_ids == [7]


# ---- the vocabulary --------------------------------------------------------------------------


def test_vocabulary_is_all_categories_by_id_whatever_the_images(world, tmp_path):
    categories, _, _ = read(world)
    assert categories.ids == (*sorted([*THINGS, *STUFF]), 0)
    assert categories.names == (
        *("person", "car", "cat", "umbrella", "apple", "dining table"),
        *("clouds", "grass", "sky-other", "other", "__image__"),
    )
    other = TinyCoco(tmp_path / "other")
    other.photo("train2017", 3)
    other.photo("val2017", 4)
    other.annotate("train2017", 3, 1, [0, 0, 30, 30])
    for path in [other.path(source, name) for source, name in other.annotations]:
        other.write()
        content = json.loads(path.read_text())
        content["categories"].reverse()
        path.write_text(json.dumps(content))
    assert read(other)[0] == categories
    meta = categories.meta(LISTS, ["p", "q"])
    assert meta["obj_idx_to_name"][-1] == "__image__"
    assert meta["obj_name_to_ID"]["__image__"] == 0
    assert meta["obj_ID_to_idx"]["0"] == len(categories.names) - 1
    assert meta["pred_name_to_idx"] == {"p": 0, "q": 1}
    for i, name in enumerate(meta["obj_idx_to_name"]):
        id_ = meta["obj_idx_to_ID"][i]
        assert meta["obj_ID_to_name"][str(id_)] == name
        assert meta["obj_ID_to_idx"][str(id_)] == i


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{"id": 1, "name": "cow"}], "category 1 is"),
        ([{"id": 500, "name": "person"}], "more than one id"),
        ([{"id": 0, "name": "zero"}], "positive id"),
        ([{"id": 7}], "positive id and a name"),
        ([{"id": 7, "name": "__image__"}], "__image__"),
    ],
)
def test_contradictory_categories(world, categories, message):
    world.write()
    path = world.path("stuff", "val2017")
    content = json.loads(path.read_text())
    content["categories"] += categories
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        coco.read_dataset(world.folder, LISTS, 0.05, Report())


def test_missing_parts_of_the_data_set_are_named(world):
    coco.source_sizes(world.write())
    world.path("stuff", "val2017").unlink()
    with pytest.raises(UserError, match=r"stuff_val2017.json is missing"):
        coco.source_sizes(world.folder)
    (world.folder / "images/train2017/000000000007.jpg").unlink()
    (world.folder / "images/train2017").rmdir()
    with pytest.raises(UserError, match=r"images/train2017 is missing"):
        coco.source_sizes(world.folder)


# ---- what is kept ----------------------------------------------------------------------------


def test_rules_of_keeping(world):
    """The photograph has 60 x 40 = 2,400 pixels: an object needs more than 120."""
    add = world.annotate
    crowd = {"size": [40, 60], "counts": [0, 2400]}
    kept = [
        add("train2017", 7, 1, [0, 0, 11, 11]),  # 121
        add("train2017", 7, 1, [0, 0, 60, 40], iscrowd=1, segmentation=crowd),
        add("train2017", 7, 3, [50, 30, 200, 100]),  # 10 x 10 within: too small, see below
        add("train2017", 7, 106, [-10, -10, 30, 30]),  # clouds, an object; 20 x 20 within
    ]
    stuff = [
        add("train2017", 7, 124, [0, 0, 1, 1]),  # stuff has no least size
        add("train2017", 7, 183, [0, 0, 60, 40]),  # 'other' is a material, no object
    ]
    too_small = kept.pop(2)
    add("train2017", 7, 1, [0, 0, 12, 10])  # exactly 5 %
    add("train2017", 7, 67, [0, 0, 60, 40])  # dining table: in neither list
    add("train2017", 7, 1, [0, 0, 60, 40], id=kept[0])
    add("train2017", 7, 2, [0, 0, 60, 40])
    add("train2017", 77, 1, [0, 0, 60, 40])
    for box in (
        [0, 0, 0, 40], [0, 0, -5, 40], [0, 0, float("nan"), 40], [0, 0, float("inf"), 40],
        [0, 0, 60], None, ["0", 0, 60, 40],
    ):  # fmt: skip
        add("train2017", 7, 1, [0, 0, 60, 40], bbox=box)
    add("train2017", 7, 1, [60, 0, 30, 30])
    _, sets, report = read(world)
    photo = sets["train2017"].photo(7)
    assert [region.annotation_id for region in photo.objects] == kept
    assert [region.annotation_id for region in photo.stuff] == stuff
    assert photo.objects[2].box == (0, 0, 20, 20)
    assert sets["train2017"].n_objects().tolist() == [3]
    assert sets["val2017"].n_objects().tolist() == [0]
    counts = {reason: entry["count"] for reason, entry in report.items()}
    assert counts == {
        "object too small": 2,
        "annotation whose class is neither object nor material": 1,
        "annotation with the id of an earlier one": 1,
        "annotation of a category that is not listed": 1,
        "annotation of an image that is not listed": 1,
        "annotation without a proper box": 7,
        "annotation whose box lies outside its image": 1,
    }
    assert f"{too_small} of image 7 (train2017)" in report["object too small"]["first"]
    raw = photo.sources[photo.objects[0].source].read_bytes()
    region = photo.objects[0]
    annotation = json.loads(raw[region.offset : region.offset + region.length])
    assert annotation["id"] == kept[0]


def test_splits_cut_the_photographs_listed(tmp_path):
    world = TinyCoco(tmp_path)
    for id_ in (40, 10, 30, 20, 50):  # listed in no order; 20 has no object
        world.photo("val2017", id_)
        if id_ != 20:
            world.annotate("val2017", id_, 1, [0, 0, 30, 30])
    for id_ in range(1, 31):
        world.photo("train2017", id_)
        world.annotate("train2017", id_, 1, [0, 0, 30, 30])
    _, sets, _ = read(world)
    report = Report()
    ids = coco_sets.splits(sets, 2, 1, 0, report)
    assert (ids["valid"], ids["test"]) == ([10], [30, 40, 50])
    assert report.to_dict() == {
        "image with fewer than 1 kept objects": {
            "count": 1,
            "first": ["val2017/000000000020.jpg"],
        }
    }
    assert sorted(ids["train"]) == list(range(1, 31)) != ids["train"]
    assert coco_sets.splits(sets, 2, 1, 0, Report()) == ids
    assert coco_sets.splits(sets, 2, 1, 1, Report())["train"] != ids["train"]
    for val_size in (0, 5, 1024):
        with pytest.raises(UsageError, match=rf"--val-size is {val_size}.*5 photographs.*1 to 4"):
            coco_sets.splits(sets, val_size, 1, 0, Report())
    with pytest.raises(UserError, match=r"no photograph of train2017 is left for train: none of"):
        coco_sets.splits(sets, 2, 3, 0, Report())
