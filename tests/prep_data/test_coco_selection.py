"""The regions that are kept, and the splits of photographs."""

import pytest
from tiny_coco import TinyCoco

from core.errors import UsageError, UserError
from prep_data import coco_sets
from prep_data.coco_annotations import read_files, read_segmentation
from prep_data.coco_classes import CocoHParams, read_class_lists
from prep_data.coco_selection import select_regions
from prep_data.report import Report

LISTS = read_class_lists(CocoHParams().excluded_meta_file)


def select(world: TinyCoco) -> tuple[dict, dict]:
    """The sets of photographs by name, and the report."""
    report = Report()
    files = read_files(world.write(), report)
    _, sets = select_regions(world.folder, files, LISTS, 0.05, report)
    return sets, report.to_dict()


def test_rules_of_keeping(tmp_path):
    """The photograph has 60 x 40 = 2,400 pixels: an object needs more than 120."""
    world = TinyCoco(tmp_path)
    world.photo("train2017", 7)
    world.photo("val2017", 9)
    add = world.annotate
    crowd = {"size": [40, 60], "counts": [0, 2400]}
    kept = [
        add("train2017", 7, 1, [0, 0, 11, 11]),  # 121
        add("train2017", 7, 1, [0, 0, 60, 40], iscrowd=1, segmentation=crowd),
        add("train2017", 7, 106, [-10, -10, 30, 30]),  # clouds, an object; 20 x 20 within
    ]
    stuff = [
        add("train2017", 7, 124, [0, 0, 1, 1]),  # stuff has no least size
        # 'other' is a material, no object; ids of the other file do not count
        add("train2017", 7, 183, [0, 0, 60, 40], id=kept[0]),
    ]
    stuff.sort()
    too_small = add("train2017", 7, 3, [50, 30, 200, 100])  # 10 x 10 within
    add("train2017", 7, 1, [0, 0, 12, 10])  # exactly 5 %
    add("train2017", 7, 67, [0, 0, 60, 40])  # dining table: in neither list
    add("train2017", 7, 1, [0, 0, 60, 40], id=kept[0])
    add("train2017", 7, 2, [0, 0, 60, 40])
    add("train2017", 77, 1, [0, 0, 60, 40])
    for box in ([0, 0, 0, 40], [0, 0, -5, 40], [0, 0, float("inf"), 40], None):
        add("train2017", 7, 1, [0, 0, 60, 40], bbox=box)
    add("train2017", 7, 1, [60, 0, 30, 30])
    sets, report = select(world)
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
        "annotation without a proper box": 4,
        "annotation whose box lies outside its image": 1,
    }
    assert f"{too_small} of image 7 (train2017)" in report["object too small"]["first"]
    region = photo.objects[1]
    assert read_segmentation(region.file, region.offset, region.length).counts == [0, 2400]


def test_splits_cut_the_photographs_listed(tmp_path):
    world = TinyCoco(tmp_path)
    for id_ in (40, 10, 30, 20, 50):  # listed in no order; 20 has no object
        world.photo("val2017", id_)
        if id_ != 20:
            world.annotate("val2017", id_, 1, [0, 0, 30, 30])
    for id_ in range(1, 31):
        world.photo("train2017", id_)
        world.annotate("train2017", id_, 1, [0, 0, 30, 30])
    sets, _ = select(world)
    report = Report()
    ids = coco_sets.split_photographs(sets, 2, 1, 0, report)
    assert (ids["valid"], ids["test"]) == ([10], [30, 40, 50])
    assert report.to_dict() == {
        "image with fewer than 1 kept objects": {
            "count": 1,
            "first": ["images/val2017/000000000020.jpg"],
        }
    }
    assert sorted(ids["train"]) == list(range(1, 31)) != ids["train"]
    assert coco_sets.split_photographs(sets, 2, 1, 0, Report()) == ids
    assert coco_sets.split_photographs(sets, 2, 1, 1, Report())["train"] != ids["train"]
    for val_size in (0, 5, 1024):
        with pytest.raises(UsageError, match=rf"--val-size is {val_size}.*5 photographs.*1 to 4"):
            coco_sets.check_val_size(val_size, 5)
    with pytest.raises(UserError, match=r"no photograph of train2017 is left for train: none of"):
        coco_sets.split_photographs(sets, 2, 3, 0, Report())
