"""Reading annotation files: whole ones, damaged ones, and ones with odd entries."""

import codecs
import json

import msgspec
import numpy as np
import pytest
from tiny_coco import TinyCoco

from core.errors import UserError
from prep_data import coco_annotations as coco
from prep_data.report import Report

CONTENT = {
    "images": [{"id": 1, "file_name": "é.jpg", "width": 5, "height": 6}],
    "annotations": [],
    "categories": [{"id": 1, "name": "café"}, {"id": 2, "name": "日本"}],
}


def read(path, content) -> tuple[coco.AnnotationFile, dict]:
    """The file as read, and the report."""
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    report = Report()
    return coco.read_annotation_file(path, report), report.to_dict()


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("options", [{}, {"ensure_ascii": False}, {"indent": 2}])
def test_numbers_and_segmentations_are_those_of_the_file(tmp_path, options, mark):
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
    # Annotations before the images, as some tools write them.
    content = {"info": {"n": [1, [2]]}, "annotations": annotations, **CONTENT, "last": 12.5}
    content["annotations"] = annotations
    path = tmp_path / "a.json"
    file, report = read(path, mark + json.dumps(content, **options).encode())
    assert report == {}
    assert file.categories == [(1, "café"), (2, "日本")]
    assert file.images == {1: coco.ListedImage("é.jpg", 5, 6)}
    rows = file.annotations
    assert rows["id"].tolist() == list(range(40))
    np.testing.assert_array_equal(rows["box"], [a["bbox"] for a in annotations])
    for row, annotation in zip(rows, annotations):
        segmentation = coco.read_segmentation(path, row["offset"], row["length"])
        assert segmentation == annotation["segmentation"]


def test_numbers_that_python_writes_and_json_has_not(tmp_path):
    good = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "note": "so, NaN, so"}
    broken = {**good, "id": 2, "bbox": [float("nan"), 0, 1, float("-inf")]}
    hole = {**good, "id": 3, "segmentation": [[float("nan")] * 6]}
    path = tmp_path / "a.json"
    file, report = read(path, {**CONTENT, "annotations": [good, broken, hole]})
    assert report == {} and file.annotations["id"].tolist() == [1, 2, 3]
    assert np.isnan(file.annotations["box"]).all(axis=1).tolist() == [False, True, False]
    row = file.annotations[2]
    with pytest.raises(msgspec.DecodeError):
        coco.read_segmentation(path, row["offset"], row["length"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [', "not whole, valid JSON"),
        (b"<html>", "not whole, valid JSON"),
        ("[]".encode("utf-16"), "it is UTF-16 text"),
        (b"[]", "file: a JSON object with images, annotations and categories was expected"),
        (b'{"images": [], "annotations": [], "categories": null}', "not a COCO annotation file"),
    ],
)
def test_files_that_are_no_annotations_are_named(tmp_path, content, message):
    with pytest.raises(UserError, match=rf"instances_train2017.json.*{message}"):
        read(tmp_path / "instances_train2017.json", content)


@pytest.mark.parametrize("category", [{"id": -1, "name": "minus"}, {"id": 7}, "cat"])
def test_categories_need_an_id_and_a_name(tmp_path, category):
    with pytest.raises(UserError, match=r"a.json: category .* needs a positive id and a name"):
        read(tmp_path / "a.json", {**CONTENT, "categories": [category]})


def test_category_zero_is_left_out_where_nothing_is_annotated_with_it(tmp_path):
    content = {**CONTENT, "categories": [{"id": 0, "name": "root"}, *CONTENT["categories"]]}
    of_one = {"id": 5, "image_id": 1, "category_id": 1, "bbox": [0, 0, 3, 3]}
    file, report = read(tmp_path / "a.json", {**content, "annotations": [of_one]})
    assert (file.categories, report) == ([(1, "café"), (2, "日本")], {})
    with pytest.raises(UserError, match=r'a.json: category .*"root".* has annotations.*: add 1'):
        read(tmp_path / "a.json", {**content, "annotations": [{**of_one, "category_id": 0}]})


def test_numbers_as_text_and_whole_floats_are_read(tmp_path):
    content = {
        "images": [{"id": "1", "file_name": "a.jpg", "width": 5.0, "height": "6"}],
        "annotations": [{"id": "7", "image_id": 1.0, "category_id": "2", "bbox": ["0", 1, 2, 3]}],
        "categories": [{"id": 2.0, "name": "cat"}],
    }
    file, report = read(tmp_path / "a.json", content)
    assert report == {}
    assert file.images == {1: coco.ListedImage("a.jpg", 5, 6)} and file.categories == [(2, "cat")]
    row = file.annotations[0]
    assert [row[name].tolist() for name in ("id", "image", "category", "box")] == [
        7,
        1,
        2,
        [0, 1, 2, 3],
    ]


def test_odd_entries_are_reported_and_spoil_no_others(tmp_path):
    good = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 30, 30]}
    content = {
        **CONTENT,
        "images": [
            *({"id": 8, "file_name": "x.jpg"}, {"id": 9, "width": float("inf")}, 5),
            *CONTENT["images"],
        ],
        "annotations": [
            {**good, "id": "seven"},
            {**good, "category_id": None},
            {**good, "image_id": 2**70},
            "text",
            good,
            *({**good, "bbox": box} for box in ([0, 0, 60], None, ["x", 0, 60, 40])),
        ],
    }
    file, report = read(tmp_path / "a.json", content)
    assert list(file.images) == [1]
    unlisted = report["image listed without id, name or size"]
    assert unlisted["count"] == 3
    assert unlisted["first"][::2] == ['{"id": 8, "file_name": "x.jpg"} of a.json', "5 of a.json"]
    assert report["annotation without usable ids"]["count"] == 4
    assert np.isnan(file.annotations["box"]).all(axis=1).tolist() == [False, True, True, True]


def test_missing_parts_of_the_data_set_are_named(tmp_path):
    world = TinyCoco(tmp_path)
    coco.check_layout(world.write())
    world.path("stuff", "val2017").unlink()
    with pytest.raises(UserError, match=r"stuff_val2017.json is missing"):
        coco.check_layout(world.folder)
    (world.folder / "images/train2017").rmdir()
    with pytest.raises(UserError, match=r"images/train2017 is missing"):
        coco.check_layout(world.folder)
