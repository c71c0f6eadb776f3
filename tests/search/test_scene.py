"""Drawn scenes: files, boxes, and pixels equal to those of the training data."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from dataloaders import sketches
from search.scene import Scene, SceneObject

HOUSE = [
    np.array([[10, 60], [10, 20], [40, 0], [70, 20], [70, 60], [10, 60]]),
    np.array([[30, 60], [30, 40]]),
]


def drawing_of(strokes):
    """The sketch-rnn rows of strokes, written out move by move."""
    rows, at = [], (0, 0)
    for stroke in strokes:
        for i, (x, y) in enumerate(stroke.tolist()):
            rows.append([x - at[0], y - at[1], int(i == len(stroke) - 1)])
            at = (x, y)
    return np.array(rows, np.int16)


def page(objects, canvas=(100, 80), **more):
    return json.dumps(
        {
            "format": "scene-designer scene",
            "version": 1,
            "canvas": canvas,
            "objects": objects,
            **more,
        }
    ).encode()


def data_url(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("scale", [1, 0.001, 37])
def test_strokes_give_the_pixels_of_the_quickdraw_drawing(scale):
    strokes = [stroke * scale for stroke in HOUSE]
    drawn = Scene([SceneObject(strokes)], 80 * scale, 80 * scale).sketches(96)[0]
    np.testing.assert_array_equal(drawn, sketches.rasterise(drawing_of(HOUSE), 96))


def test_boxes_are_the_extents_of_strokes_unless_given():
    line = np.array([[50.0, 20.0], [50.0, 60.0]])
    scene = Scene(
        [SceneObject(HOUSE), SceneObject([line]), SceneObject(HOUSE, box=(0.5, -1, 2, 0.5))],
        100,
        80,
    )
    expected = [[0.1, 0, 0.7, 0.75], [0.495, 0.25, 0.505, 0.75], [0.5, 0, 1, 0.5]]
    np.testing.assert_allclose(scene.boxes, expected, atol=1e-6)


def test_a_saved_scene_comes_back(tmp_path):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8))
    scene = Scene(
        [
            SceneObject(HOUSE, label="house"),
            SceneObject(picture=photo, box=(0, 0, 0.5, 1), is_photo=True),
        ],
        100,
        80,
    )
    scene.save(tmp_path / "scene.json")
    again = Scene.read(tmp_path / "scene.json")
    assert (again.width, again.height, again.objects[0].label) == (100, 80, "house")
    for old, new in zip(scene.objects[0].strokes, again.objects[0].strokes, strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(np.asarray(again.objects[1].picture), np.asarray(photo))
    np.testing.assert_array_equal(again.boxes, scene.boxes)
    assert (again.sketches(32)[1] == 255).all()


def test_an_svg_with_a_group_an_object(tmp_path):
    (tmp_path / "page.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="100" viewBox="0 0 100 50">'
        '<g id="cat"><path d="M 10 10 L 20 10 L 20 30"/>'
        '<g transform="translate(5,0)"><line x1="10" y1="30" x2="20" y2="30"/></g></g>'
        '<g id="sun"><circle cx="80" cy="10" r="5"/></g><g id="empty"><text>no</text></g></svg>'
    )
    scene = Scene.read(tmp_path / "page.svg")
    assert [each.label for each in scene.objects] == ["cat", "sun"]
    np.testing.assert_allclose(
        scene.boxes, [[0.1, 0.2, 0.25, 0.6], [0.75, 0.1, 0.85, 0.3]], atol=2e-3
    )


def test_quickdraw_lines_with_boxes(tmp_path):
    line = {
        "word": "house",
        "drawing": [[*stroke.T.tolist()] for stroke in HOUSE],
        "box": [0.2, 0.2, 0.6, 0.7],
    }
    (tmp_path / "page.ndjson").write_text((json.dumps(line) + "\n") * 2)
    scene = Scene.read(tmp_path / "page.ndjson")
    assert [each.label for each in scene.objects] == ["house", "house"]
    np.testing.assert_array_equal(scene.sketches(96)[1], sketches.rasterise(drawing_of(HOUSE), 96))


def test_a_picture_of_the_page_with_boxes(tmp_path):
    """Each object is what its box cuts out of the page: a drawing of its own gives these pixels."""
    drawing = Image.fromarray(sketches.rasterise(drawing_of(HOUSE), 96))
    sheet = Image.new("L", (200, 150), 255)
    sheet.paste(drawing, (10, 40))
    sheet.save(tmp_path / "sheet.png")
    box = (10 / 200, 40 / 150, 106 / 200, 136 / 150)
    right = Scene([SceneObject(picture=drawing, box=box)]).sketches(96)[0]
    for picture in ("sheet.png", data_url(sheet)):
        objects = [{"box": box, "label": "house"}, LINE]
        (tmp_path / "scene.json").write_bytes(page(objects, picture=picture))
        scene = Scene.read(tmp_path / "scene.json")
        assert scene.objects[0].label == "house" and scene.objects[1].picture is None
        np.testing.assert_array_equal(scene.sketches(96)[0], right)
    scene.save(tmp_path / "again.json")
    np.testing.assert_array_equal(Scene.read(tmp_path / "again.json").sketches(96)[0], right)


WHOLE = [0, 0, 1, 1]
LINE = {"strokes": [[[1, 1], [9, 9]]]}
WHITE = data_url(Image.new("L", (20, 20), 255))


@pytest.mark.parametrize(
    ("name", "data", "words"),
    ids=lambda each: each if isinstance(each, str) else "",
    argvalues=[
        ("a.json", page([]), "0 objects"),
        ("a.json", page([LINE] * 500), "500 objects"),
        ("a.json", page([{}]), "object 0: it needs strokes or a picture"),
        ("a.json", page([{"strokes": [[]]}]), "object 0: it needs strokes or a picture"),
        ("a.json", page([{"strokes": [[[1, 2], [3, 4]] * 5_001]}]), "more than 10,000 points"),
        ("a.json", page([LINE, {"strokes": [[[200, 0], [300, 9]]]}]), "object 1: it lies outside"),
        ("a.json", page([{"strokes": [[[1, float("nan")]]]}]), "no scene"),
        ("a.json", page([{**LINE, "box": [0.5, 0, 0.4, 1]}]), "x0 < x1"),
        ("a.json", page([{"picture": WHITE}]), "needs a box"),
        ("a.json", page([{"picture": "http://example.org/a.png", "box": WHOLE}]), "data URL"),
        ("a.json", page([{"picture": "data:image/png;base64,AA", "box": WHOLE}]), "its picture"),
        ("a.json", page([{"box": WHOLE}], picture="../b.png"), "a file beside the scene's"),
        ("a.json", page([{"box": WHOLE}], picture="/etc/b.png"), "a file beside the scene's"),
        ("a.json", page([{"box": WHOLE}], picture="b.png"), "picture missing"),
        ("a.json", page([{"box": WHOLE}], picture="a.json"), "no whole JPEG"),
        ("a.json", page([{}], picture=WHITE), "object 0: a picture needs a box"),
        ("a.json", page([{"box": [0.9, 0, 0.1, 1]}], picture=WHITE), "x0 < x1"),
        ("a.json", page([{"box": [2, 0, 1e300, 1]}], picture=WHITE), "outside the canvas"),
        ("a.json", page([LINE], canvas=(0, 1)), "canvas"),
        ("a.json", page([LINE]).replace(b'"version": 1', b'"version": 2'), "reads"),
        ("a.json", b"[" * 100_000, "no scene"),
        ("a.svg", b"<svg/>", "no groups"),
        ("a.svg", b"nonsense", "no SVG"),
        ("a.svg", b'<!DOCTYPE s [<!ENTITY a SYSTEM "file:///x">]><svg>&a;</svg>', "DOCTYPE"),
        ("a.ndjson", b'{"drawing": [[[1, 2], [3, 4]]]}', "line 1"),
        ("a.ndjson", b'{"drawing": [[[1, 2], [3]]], "box": [0, 0, 1, 1]}', "line 1"),
        ("a.png", b"", "a scene is a"),
    ],
)  # fmt: skip
def test_what_is_no_scene_is_told_in_a_sentence(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        Scene.read(tmp_path / name)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "shown", [{"strokes": [np.array([[5, 5]])]}, {"picture": Image.new("L", (20, 20), 255)}]
)
def test_an_object_that_shows_nothing_is_named(shown):
    with pytest.raises(UserError, match="object 0: it shows nothing"):
        Scene([SceneObject(box=(0, 0, 0.5, 0.5), **shown)]).sketches(32)


def test_a_scene_from_elsewhere_names_no_files():
    with pytest.raises(UserError, match="must be a data URL"):
        Scene.from_json(page([{"box": WHOLE}], picture="a.png"))


def test_a_hostile_svg_reads_no_file(tmp_path):
    (tmp_path / "a.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><g>'
        '<image href="/etc/passwd"/><use href="http://127.0.0.1:9/x.svg#a"/></g></svg>'
    )
    with pytest.raises(UserError, match="no groups with lines"):
        Scene.read(tmp_path / "a.svg")
