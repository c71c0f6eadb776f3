"""COCO exports of labelling tools, in the folders that the two COCO commands take.

Each writes its own form of COCO; here are the keys and numbers that they write, by hand.
"""

import json
from pathlib import Path

import pytest
from set_files import scenes
from tiny_coco import TinyCoco, rectangle

from core.errors import UserError
from core.files import read_json
from prep_data import coco_to_tfrecord, cococrops_to_tfrecord
from prep_data.set_writer import SPLITS
from tests.dataloaders.tiny_sets import read_split

PHOTOS = {"train2017": (1, 2, 3), "val2017": (4, 5)}  # each with a cat and a car
CAT, CAR = [2.5, 3.0, 20.0, 30.0], [30.0, 5.0, 25.0, 20.5]
RLE = {"size": [40, 60], "counts": [1200, 800, 400]}  # columns 30 to 49
LICENCES = [{"id": 1, "name": "CC BY 4.0", "url": "https://creativecommons.org/licenses/by/4.0/"}]


def photos(name: str, first: int, **more) -> list:
    """Images as most tools list them, ids from `first` in each file."""
    return [
        {"id": first + i, "file_name": f"{id_:012d}.jpg", "width": 60, "height": 40, **more}
        for i, id_ in enumerate(PHOTOS[name])
    ]


def objects(name: str, first: int, cat: int, car: int, **more) -> list:
    """A cat and a car of each photograph, ids of images and of annotations from `first`."""
    return [
        {
            "id": first + 2 * i + k,
            "image_id": first + i,
            "category_id": category,
            "segmentation": rectangle(*box),
            "area": box[2] * box[3],
            "bbox": box,
            "iscrowd": 0,
            **more,
        }
        for i in range(len(PHOTOS[name]))
        for k, (category, box) in enumerate(((cat, CAT), (car, CAR)))
    ]


def roboflow(name: str) -> dict:
    """Ids from 0, and a category 0 that is the root of the others."""
    root = {"id": 0, "name": "things", "supercategory": "none"}
    return {
        "info": {"year": "2024", "version": "1", "description": "Exported", "url": ""},
        "licenses": LICENCES,
        "categories": [
            root,
            {"id": 1, "name": "car", "supercategory": "things"},
            {"id": 2, "name": "cat", "supercategory": "things"},
        ],
        "images": photos(name, 0, license=1, date_captured="2024-05-06T07:08:09+00:00"),
        "annotations": objects(name, 0, 2, 1),
    }


def roboflow_boxes(name: str) -> dict:
    """An export of a project with boxes alone."""
    content = roboflow(name)
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    return content


def cvat(name: str) -> dict:
    """Names with the subset's folder, attributes, crowds as runs."""
    images = photos(name, 1, license=0, flickr_url="", coco_url="", date_captured=0)
    for image in images:
        image["file_name"] = f"{name}/{image['file_name']}"
    annotations = objects(name, 1, 1, 2, attributes={"occluded": False, "rotation": 0.0})
    annotations[1].update(iscrowd=1, segmentation=RLE)
    return {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "version": "", "year": ""},
        "categories": [
            {"id": 1, "name": "cat", "supercategory": ""},
            {"id": 2, "name": "car", "supercategory": ""},
        ],
        "images": images,
        "annotations": annotations,
    }


def label_studio(name: str) -> dict:
    """Every id from 0, names with Windows' separators, no supercategory."""
    images = photos(name, 0)
    for image in images:
        image["file_name"] = f"images\\{name}\\{image['file_name']}"
    return {
        "images": images,
        "categories": [{"id": 0, "name": "car"}, {"id": 1, "name": "cat"}],
        "annotations": objects(name, 0, 1, 0, ignore=0),
        "info": {"year": 2024, "version": "1.0", "contributor": "Label Studio"},
    }


def label_studio_renumbered(name: str) -> dict:
    """An export renumbered as its error says."""
    content = label_studio(name)
    for category in content["categories"]:
        category["id"] += 1
    for annotation in content["annotations"]:
        annotation["category_id"] += 1
    return content


def write(folder: Path, tool) -> Path:
    """A data set with the tool's file in place of each official one; stuff is not annotated."""
    world = TinyCoco(folder)
    for name, ids in PHOTOS.items():
        for id_ in ids:
            world.photo(name, id_)
        content = tool(name)
        for source, annotations in (("instances", content["annotations"]), ("stuff", [])):
            text = json.dumps({**content, "annotations": annotations})
            world.path(source, name).write_text(text)
    return folder


@pytest.mark.parametrize("tool", [roboflow, cvat, label_studio_renumbered])
def test_what_tools_export_is_read(tmp_path, tool):
    flags = ["--dataset-dir", str(write(tmp_path / "coco", tool))]
    flags += ["--val-size", "1", "--workers", "0", "--target-dir"]
    coco_to_tfrecord.main([*flags, str(tmp_path / "scenes")])
    cococrops_to_tfrecord.main([*flags, str(tmp_path / "crops")])
    for split, n in zip(SPLITS, (3, 1, 1)):
        found = scenes(tmp_path / "scenes", split)
        assert (len(found.image), len(found.obj_idx.flat_values)) == (n, 2 * n)
        assert len(read_split(tmp_path / "crops", split)) == 2 * n
    names = read_json(tmp_path / "scenes/meta.json")["obj_idx_to_name"]
    assert sorted(names) == ["__image__", "car", "cat"]
    for kind in ("scenes", "crops"):
        assert read_json(tmp_path / kind / "report.json") == {}


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        (roboflow_boxes, r"nothing is left in .* 10 segmentation empty or degenerate: "),
        (label_studio, r"category .*\"car\".* has annotations, .*: add 1 to each id"),
    ],
)
def test_what_tools_export_and_cannot_be_used_is_told(tmp_path, tool, message):
    flags = ["--dataset-dir", str(write(tmp_path / "coco", tool)), "--val-size", "1"]
    for main in (coco_to_tfrecord.main, cococrops_to_tfrecord.main):
        with pytest.raises(UserError, match=message):
            main([*flags, "--workers", "0", "--target-dir", str(tmp_path / "set")])
