"""A COCO-Stuff data set of a few hand-made photographs, for tests."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

THINGS = {1: "person", 3: "car", 17: "cat", 28: "umbrella", 53: "apple", 67: "dining table"}
STUFF = {106: "clouds", 124: "grass", 157: "sky-other", 183: "other"}


def rectangle(x: float, y: float, w: float, h: float) -> list:
    """A segmentation of one polygon."""
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


class TinyCoco:
    """Photographs and annotations in memory; `write` gives the official layout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = {"train2017": [], "val2017": []}
        self.annotations = {
            (source, name): [] for source in ("instances", "stuff") for name in self.images
        }
        self.next_id = 100
        for name in self.images:
            (folder / "images" / name).mkdir(parents=True)
        (folder / "annotations").mkdir()

    def photo(self, name: str, id_: int, width: int = 60, height: int = 40) -> int:
        """Adds a smooth coloured photograph, different for every id."""
        file_name = f"{id_:012d}.jpg"
        y, x = np.mgrid[:height, :width] / max(width, height)
        pixels = np.stack([x * 255, y * 255, (x + y + id_ / 7) % 1 * 255], -1).astype(np.uint8)
        Image.fromarray(pixels).save(self.folder / "images" / name / file_name, quality=95)
        entry = {"id": id_, "file_name": file_name, "width": width, "height": height}
        self.images[name].append(entry)
        return id_

    def annotate(self, name: str, image_id: int, category: int, box: list, **changes) -> int:
        """Adds an annotation whose segmentation is its whole box; `changes` replace its keys."""
        source = "instances" if category < 92 else "stuff"
        self.next_id += 1
        annotation = {
            "id": self.next_id,
            "image_id": image_id,
            "category_id": category,
            "bbox": box,
            "iscrowd": 0,
            "segmentation": rectangle(*box),
            **changes,
        }
        self.annotations[source, name].append(annotation)
        return annotation["id"]

    def path(self, source: str, name: str) -> Path:
        return self.folder / "annotations" / f"{source}_{name}.json"

    def write(self) -> Path:
        for (source, name), annotations in self.annotations.items():
            names = THINGS if source == "instances" else STUFF
            content = {
                "info": {"year": 2017},
                "images": self.images[name],
                "annotations": annotations,
                "categories": [
                    {"id": i, "name": n, "supercategory": "x"} for i, n in names.items()
                ],
            }
            self.path(source, name).write_text(json.dumps(content))
        return self.folder


def plain(folder: Path, n_train: int = 12, n_val: int = 6) -> TinyCoco:
    """`n_train` + `n_val` photographs, each with a person, a class that varies, and grass."""
    world = TinyCoco(folder)
    for name, ids in (("train2017", range(1, 1 + n_train)), ("val2017", range(501, 501 + n_val))):
        for id_ in ids:
            world.photo(name, id_)
            world.annotate(name, id_, 1, [2 + id_ % 5, 3, 20, 30])
            world.annotate(name, id_, [3, 17, 28][id_ % 3], [30, 5, 25, 20])
            world.annotate(name, id_, 124, [0, 30, 60, 10])
    return world
