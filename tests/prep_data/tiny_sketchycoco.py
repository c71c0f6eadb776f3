"""A SketchyCOCO of a few hand-drawn sketches over a TinyCoco, for tests."""

from pathlib import Path

import numpy as np
from PIL import Image
from tiny_coco import TinyCoco, plain


def drawing(id_: int) -> np.ndarray:
    """An outlined rectangle of 40 x 20 + id % 17 pixels, somewhere: uint8 (80, 100)."""
    page = np.full((80, 100), 255, np.uint8)
    top, left, height = 5 + id_ % 11, 9 + id_ % 7, 20 + id_ % 17
    page[top : top + height, left : left + 40] = 0
    page[top + 3 : top + height - 3, left + 3 : left + 37] = 255
    return page


class TinySketchycoco:
    """The official layout, written at once; object sketches by annotation id."""

    def __init__(self, folder: Path, coco: TinyCoco) -> None:
        self.folder, self.coco = folder, coco
        for name in ("trainInTrain", "valInTrain", "val"):
            (folder / "Scene" / "GT" / name).mkdir(parents=True)
        for name in ("train", "val"):
            (folder / "Object" / "Sketch" / name).mkdir(parents=True)

    def scene(self, name: str, image_id: int) -> Path:
        """A picture of Scene/GT; what it shows does not matter."""
        path = self.folder / "Scene" / "GT" / name / f"{image_id:012d}.png"
        Image.new("RGB", (4, 4)).save(path)
        return path

    def sketch(self, part: str, id_: int, category: str = "3", name: str = "{}.png") -> Path:
        """The sketch of an annotation."""
        path = self.folder / "Object" / "Sketch" / part / category / name.format(id_)
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(drawing(id_)).convert("RGB").save(path)
        return path


# Of `plain`, in which photograph number k (from 0) has the objects 101 + 3k and 102 + 3k, its
# grass is 103 + 3k: train2017 has photographs 1 to 8, val2017 501 to 504.
SCENES = {
    "trainInTrain": range(1, 6),
    "valInTrain": range(6, 9),
    "val": range(501, 505),
}


def objects_of(image_id: int) -> tuple[int, int]:
    """Annotation ids of a photograph's two objects."""
    k = image_id - 1 if image_id < 500 else image_id - 501 + 8
    return 101 + 3 * k, 102 + 3 * k


def paired(folder: Path) -> TinySketchycoco:
    """Every object of every photograph has a sketch; those of valInTrain lie in both parts. The
    annotation files are not written yet."""
    world = TinySketchycoco(folder / "sketchycoco", plain(folder / "coco", 8, 4))
    for name, ids in SCENES.items():
        for image_id in ids:
            world.scene(name, image_id)
            first, second = objects_of(image_id)
            both_parts = {6: ("train", "val"), 7: ("val", "val"), 8: ("train", "train")}
            default = ("val", "val") if name == "val" else ("train", "train")
            parts = both_parts.get(image_id, default)
            world.sketch(parts[0], first, "1")
            world.sketch(parts[1], second, "17")
    return world
