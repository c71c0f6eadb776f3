"""Objects of photographs from files in COCO's form."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from core.dataset import Vocabulary
from core.errors import UserError
from search import building
from search.index import PhotoIndex
from search.objects import WHOLE, BoxesFile, ObjectSource, most_important

VOCABULARY = Vocabulary(("cat", "dog", "tree", "__image__"), objects=(0, 1), ids=(17, 18, 92, 0))
PICTURE = np.zeros((30, 40, 3), np.uint8)


def annotations(path, images, boxes, categories=((1, "dog"), (2, "cat"), (3, "spoon"))):
    """An annotation file. images: (name, width, height), ids from 7 on. boxes: (image id, category
    id, box)."""
    content = {
        "images": [
            {"id": 7 + i, "file_name": name, "width": width, "height": height}
            for i, (name, width, height) in enumerate(images)
        ],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": box}
            for i, (image, category, box) in enumerate(boxes)
        ],
        "categories": [{"id": id_, "name": name} for id_, name in categories],
    }
    path.write_text(json.dumps(content))
    return path


def test_annotations_count_by_name(tmp_path):
    path = annotations(
        tmp_path / "a.json",
        [("cats/1.jpg", 200, 100), ("2.jpg", 10, 20)],
        [
            (7, 2, [50, 25, 100, 50]),
            (7, 1, [-20, -10, 60, 30]),  # reaches out of the picture
            (7, 3, [190, 90, 100, 100]),
            (7, 1, [300, 0, 10, 10]),  # lies outside
            (7, 1, [10, 10, -5, 5]),
            (8, 9, [0, 0, 10, 20]),  # of a class that is not listed
        ],
    )
    source = BoxesFile(path, VOCABULARY, ["1.jpg", "more/2.jpg"])
    found = source.find("1.jpg", PICTURE, (40, 30))  # a copy of another size
    np.testing.assert_allclose(
        found.boxes, [[0.25, 0.25, 0.75, 0.75], [0, 0, 0.2, 0.2], [0.95, 0.9, 1, 1]]
    )
    assert found.labels.tolist() == [0, 1, -1] and (found.scores == 1).all()
    assert source.find("more/2.jpg", PICTURE, (10, 20)).labels.tolist() == [-1]
    assert source.annotated_size("1.jpg") == (200, 100)


def test_results_count_by_ids(tmp_path, caplog):
    rows = [
        {"image_id": 12, "category_id": 18, "bbox": [0, 0, 20, 15], "score": 0.5, "area": 4},
        {"image_id": 12, "category_id": 17, "bbox": [20, 0, 20, 30], "score": 0.75},
        {"image_id": 12, "category_id": 1, "bbox": [0, 0, 4, 3], "score": 0.25},
        {"image_id": 99, "category_id": 1, "bbox": [0, 0, 4, 3], "score": 0.25},
    ]
    path = tmp_path / "results.json"
    path.write_text("\n" + json.dumps(rows))
    names = ["val2017/000000000012.jpg", "none.jpg", "000000000013.jpg"]
    source = BoxesFile(path, VOCABULARY, names)
    found = source.find(names[0], PICTURE, (40, 30))
    np.testing.assert_allclose(found.boxes[:2], [[0.5, 0, 1, 1], [0, 0, 0.5, 0.5]])
    assert found.labels.tolist() == [0, 1, -1]
    np.testing.assert_allclose(found.scores, [0.75, 0.5, 0.25])
    assert source.find("none.jpg", PICTURE, (40, 30)) is WHOLE
    # Missing on either side: in one warning.
    ((_, level, message),) = caplog.record_tuples
    assert level == logging.WARNING and "1 pictures that the folder has not: 99" in message
    assert "2 photographs that it has not, each taken for one object: none.jpg" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("", "not whole, valid JSON"),
        ('{"images": []}', "not a COCO annotation file"),
        ('[{"image_id": 1}]', "image_id, category_id, bbox and score"),
        ("[{", "not valid JSON"),
        ("[]", "names no pictures"),
        ('{"images": [], "annotations": [], "categories": []}', "names no pictures"),
        (
            '[{"image_id": 2, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 1}]',
            "picture is 2, the first photograph a/1.jpg",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "boxes.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        BoxesFile(path, VOCABULARY, ["a/1.jpg"])


def test_the_largest_and_surest_count():
    sides = np.linspace(0.1, 1, 12)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], 1)
    found = most_important(boxes, np.arange(12), np.ones(12, np.float32), least_area=0.6)
    assert found.labels.tolist() == [11, 10, 9]
    scores = np.where(sides > 0.95, 0.01, 1).astype(np.float32)
    found = most_important(boxes, np.arange(12), scores)
    assert found.labels.tolist() == [10, 9, 8, 7, 6, 5, 4, 3]


def test_boxes_of_pictures_turned_by_exif(scene_run, tmp_path):
    """Annotation tools look at the stored picture or at the upright one: its size says which."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    stored = Image.new("RGB", (80, 40), "red")
    stored.paste("blue", (0, 0, 20, 40))
    for name in ("stored", "upright"):
        stored.save(folder / f"{name}.png", exif=exif)
    path = annotations(
        tmp_path / "a.json",
        [("stored.png", 80, 40), ("upright.png", 40, 80)],
        [(7, 1, [0, 0, 20, 40]), (8, 1, [0, 0, 40, 20])],
    )
    built = PhotoIndex.build(scene_run, folder, tmp_path / "index", boxes=path)
    assert [file.path for file in built.files] == ["stored.png", "upright.png"]
    np.testing.assert_allclose(built.objects.boxes, [[0, 0, 0.25, 1], [0, 0, 1, 0.25]])
    for row, size in enumerate([(80, 40), (40, 80)]):
        shown = built.picture(row, 400)
        assert shown.size == size  # as the boxes are for
        assert shown.getpixel((2, 2)) == (0, 0, 255)
        assert shown.getpixel((size[0] - 2, size[1] - 2)) == (255, 0, 0)


def test_a_folder_that_changes_meanwhile(scene_run, tmp_path, monkeypatch):
    """A file that is gone is told, one that was changed is looked at again, one more is found by
    the next build."""
    monkeypatch.setattr(building, "BLOCK", 2)
    folder, home = tmp_path / "photographs", tmp_path / "index"
    folder.mkdir()
    for n in range(9):
        Image.new("RGB", (20, 20), "red").save(folder / f"{n}.png")

    class Changing(ObjectSource):
        def find(self, path, image, size):
            self.asked = [*self.asked, path]
            if path == "0.png" and (folder / "8.png").exists():
                (folder / "8.png").unlink()
                Image.new("RGB", (30, 20), "blue").save(folder / "0.png")
                Image.new("RGB", (9, 9), "blue").save(folder / "9.png")
            return WHOLE

    source = Changing()
    source.asked = []
    built = PhotoIndex.build(scene_run, folder, home, objects=source)
    assert [file.path for file in built.files] == [f"{n}.png" for n in range(8)]
    assert [(file.path, why) for file, why in built.broken] == [("8.png", "photograph missing")]
    source.asked = []
    built = PhotoIndex.build(scene_run, folder, home, objects=source)
    assert source.asked == ["0.png", "9.png"] and not built.broken
    assert [file.path for file in built.files] == [*(f"{n}.png" for n in range(8)), "9.png"]
