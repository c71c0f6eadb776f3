"""The page in a real browser, before a server of made-up photographs."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from search.scene import Scene, SceneObject
from tests.search.page_server import ABOUT, BOXES, CLASSES, SYNTHESIS, PageServer, photograph

SQUARE = [(40, 60), (140, 60), (140, 160), (40, 160), (40, 60)]
TICK = [(220, 180), (260, 240), (360, 120)]
SQUARE_BOX = [0.1, 0.2, 0.35, 160 / 300]
TICK_BOX = [0.55, 0.4, 0.9, 0.8]
WITHIN = 0.006  # of the canvas: a pixel of the screen


@pytest.fixture
def server():
    server = PageServer()
    yield server
    server.close()


def on_screen(page, point):
    box = page.locator("#canvas").bounding_box()
    return box["x"] + point[0] / 400 * box["width"], box["y"] + point[1] / 300 * box["height"]


def drag(page, points, steps=4):
    """Press, move and lift the mouse: points in units of the canvas."""
    page.mouse.move(*on_screen(page, points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*on_screen(page, point), steps=steps)
    page.mouse.up()


def finger_of(page):
    """The function that sends what fingers do: points in units of the canvas."""
    touch = page.context.new_cdp_session(page)

    def finger(kind, *points):
        points = [dict(zip("xy", on_screen(page, point))) for point in points]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    return finger


def draw_two(page):
    drag(page, SQUARE)
    page.keyboard.press("n")
    drag(page, TICK)


def expect_hits(page, name):
    """Wait for the answer of this name."""
    expect(page.locator(".photo").first).to_have_attribute(
        "aria-label", re.compile(f"1: {name}\\b")
    )


def last_objects(server):
    return server.searches[-1]["scene"]["objects"]


def until(page, condition):
    """Wait until a condition holds, of what the server was asked."""
    for _ in range(100):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError("not within 5 s")


def expect_boxes(server, page, boxes):
    """Wait until just these boxes are searched."""

    def searched():
        found = [each["box"] for each in last_objects(server)] if server.searches else []
        return len(found) == len(boxes) and np.allclose(found, boxes, atol=WITHIN)

    until(page, searched)


def test_what_is_drawn_is_searched(visit, server):
    page = visit()
    draw_two(page)
    expect_hits(page, "2 drawn")
    expect(page.locator(".photo")).to_have_count(24)
    expect_boxes(server, page, [SQUARE_BOX, TICK_BOX])
    body = server.searches[-1]
    assert (body["first"], body["count"]) == (0, 24)
    assert body["weights"] == {"learned": 1.0, "layout": 1.0}
    (stroke,) = body["scene"]["objects"][1]["strokes"]
    for corner in TICK:  # every corner was passed
        assert np.abs(np.array(stroke) - corner).max(axis=1).min() < 1.5, corner
    scene = Scene.from_json(json.dumps(body["scene"]).encode())  # as the server reads it
    assert (scene.sketches(64) < 128).sum(axis=(1, 2)).min() > 30
    colours = page.locator("#canvas .strokes[stroke]").evaluate_all(
        "all => all.filter(e => e.tagName == 'g').map(e => e.getAttribute('stroke'))"
    )
    assert len(set(colours)) == 2
    # A line more for the object that is selected, not a third one.
    drag(page, [(230, 130), (260, 130)])
    until(page, lambda: [len(each["strokes"]) for each in last_objects(server)] == [1, 2])


def test_undo_and_redo_over_everything(visit, server):
    page = visit()
    draw_two(page)
    page.keyboard.press("c")
    page.keyboard.press("Delete")
    for count in (3, 2, 1, 0):
        page.keyboard.press("Control+z")
        expect(page.locator("#objects li")).to_have_count(count)
    expect(page.locator("[data-action=undo]")).to_be_disabled()
    for count in (1, 2, 3, 2):
        page.keyboard.press("Control+y")
        expect(page.locator("#objects li")).to_have_count(count)
    expect(page.locator("[data-action=redo]")).to_be_disabled()
    expect_boxes(server, page, [SQUARE_BOX, TICK_BOX])


def test_moved_and_resized_by_pointer(visit, server):
    page = visit()
    draw_two(page)
    page.keyboard.press("s")
    drag(page, [(90, 60), (130, 90)])  # by its line
    moved = np.add(SQUARE_BOX, 0.1)
    expect_boxes(server, page, [moved, TICK_BOX])
    drag(page, [(184, 194), (224, 224)])  # the handle below right
    expect_boxes(server, page, [np.add(moved, [0, 0, 0.1, 0.1]), TICK_BOX])
    assert np.allclose(np.max(last_objects(server)[0]["strokes"][0], axis=0), [220, 220], atol=2)
    drag(page, [(150, 86), (150, 26)])  # the handle above
    expect_boxes(server, page, [np.add(moved, [0, -0.2, 0.1, 0.1]), TICK_BOX])
    drag(page, [(110, 220), (110, -900)])  # some of it stays on the canvas
    until(page, lambda: 0 < last_objects(server)[0]["box"][3] < 0.1)


def test_actions_on_an_object(visit, server):
    page = visit()
    draw_two(page)
    expect_boxes(server, page, [SQUARE_BOX, TICK_BOX])
    start = last_objects(server)[1]["strokes"][0][0]
    page.keyboard.press("[")
    expect_boxes(server, page, [TICK_BOX, SQUARE_BOX])
    page.keyboard.press("]")
    expect_boxes(server, page, [SQUARE_BOX, TICK_BOX])
    page.keyboard.press("m")  # round the middle of its box
    mirrored = [400 * (TICK_BOX[0] + TICK_BOX[2]) - start[0], start[1]]
    until(page, lambda: np.allclose(last_objects(server)[1]["strokes"][0][0], mirrored, atol=2))
    page.keyboard.press("c")
    expect_boxes(server, page, [SQUARE_BOX, TICK_BOX, np.add(TICK_BOX, 0.04)])
    page.keyboard.press("Delete")
    expect_boxes(server, page, [SQUARE_BOX, TICK_BOX])


def test_eraser_takes_the_lines_it_touches(visit, server):
    page = visit()
    drag(page, SQUARE)
    drag(page, [(60, 200), (200, 200)])
    page.keyboard.press("n")
    drag(page, TICK)
    page.keyboard.press("e")
    drag(page, [(180, 190), (180, 210)])  # the second line of the first object
    expect_boxes(server, page, [SQUARE_BOX, TICK_BOX])
    drag(page, [(300, 20), (300, 280)], steps=1)  # quickly
    expect_boxes(server, page, [SQUARE_BOX])
    page.keyboard.press("Control+z")
    expect_boxes(server, page, [SQUARE_BOX, TICK_BOX])


def test_labels_are_guessed_and_chosen(visit, server):
    page = visit()
    drag(page, SQUARE)
    expect(page.locator("#canvas .tag")).to_have_text("1 cat?")
    expect(page.locator("#guesses button")).to_have_text(["cat61 %", "dog20 %", "tree10 %"])
    page.locator("#guesses button").nth(1).click()
    expect(page.locator("#canvas .tag")).to_have_text("1 dog")
    label = page.get_by_role("combobox")
    label.click()
    expect(page.get_by_role("option")).to_have_count(len(CLASSES) + 1)
    label.press("ArrowUp")  # round the end
    expect(page.get_by_role("option").last).to_have_attribute("aria-selected", "true")
    label.fill("tr")
    expect(page.get_by_role("option")).to_have_text([re.compile("tree"), "traffic light"])
    label.press("ArrowDown")
    label.press("Enter")
    expect(page.locator("#canvas .tag")).to_have_text("1 traffic light")
    expect(page.locator("#canvas")).to_be_focused()
    until(page, lambda: last_objects(server)[0]["label"] == "traffic light")
    label.click()
    page.get_by_role("option", name="No label").click()
    until(page, lambda: last_objects(server)[0]["label"] is None)


def test_answers_that_come_late_are_dropped(visit, server):
    page = visit()
    server.delays = [0, 1.2, 0]
    drag(page, SQUARE)
    expect_hits(page, "1 drawn")
    page.keyboard.press("n")
    drag(page, TICK)
    until(page, lambda: len(server.searches) == 2)  # and not answered: what was there stays
    expect(page.locator(".photo")).to_have_count(24)
    page.keyboard.press("c")
    expect_hits(page, "3 drawn")
    page.wait_for_timeout(1300)
    expect_hits(page, "3 drawn")


def test_hits_say_why_and_go_on(visit, server):
    page = visit()
    draw_two(page)
    expect_hits(page, "2 drawn")
    hit = page.locator(".hit").nth(1)
    expect(page.locator("#said")).to_be_empty()  # what was said of the first object is over
    expect(hit.locator(".scores")).to_have_text(re.compile(r"2\s*2\.40.*0\.81"))
    expect(page.locator("#found-status")).to_have_text("The best 24 of 60 photographs")
    expect(hit.locator(".boxes")).to_have_css("opacity", "0")
    hit.hover()
    expect(hit.locator(".boxes")).to_have_css("opacity", "1")
    photo, box = hit.locator("img").bounding_box(), hit.locator(".box").nth(1).bounding_box()
    place = [(box["x"] - photo["x"]) / photo["width"], (box["y"] - photo["y"]) / photo["height"]]
    assert np.allclose(place, BOXES[1][:2], atol=0.02)
    drawn = page.locator("#canvas polyline").nth(1).evaluate("e => getComputedStyle(e).stroke")
    expect(hit.locator(".box").nth(1)).to_have_css("border-color", drawn)
    for count in (48, 60):
        page.get_by_role("button", name="More").click()
        expect(page.locator(".photo")).to_have_count(count)
    expect(page.locator("#more")).to_be_hidden()
    expect(page.locator(".rank")).to_have_text([str(i + 1) for i in range(60)])


def test_full_view_more_like_this_and_back(visit, server):
    page = visit()
    drag(page, SQUARE)
    page.locator(".photo").nth(2).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading")).to_have_text("1 drawn/2.jpg")
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("heading")).to_have_text("1 drawn/3.jpg")
    expect(dialog.locator(".box")).to_have_text(["1 cat", "dog"])
    dialog.get_by_role("button", name="Put dog 2").hover()
    expect(dialog.locator(".box.pointed")).to_have_text("dog")
    dialog.get_by_role("button", name="More like this").click()
    expect(page.locator("#found-title")).to_have_text("More like 1 drawn/3.jpg")
    expect_hits(page, "like")
    asked = {"first": "0", "count": "24", "learned": "1", "layout": "1"}
    assert ("/api/photographs/3/like", asked) in server.asked
    page.get_by_role("button", name="Back to the drawing").click()
    expect_hits(page, "1 drawn")


def test_photographed_object_joins_the_query(visit, server):
    page = visit()
    drag(page, SQUARE)
    page.locator(".photo").nth(1).click()
    page.get_by_role("button", name="Put dog 2 into the drawing").click()
    expect_boxes(server, page, [SQUARE_BOX, BOXES[1]])
    added = last_objects(server)[1]
    assert added["is_photo"] is True
    assert added["label"] == "dog"
    assert added["picture"].startswith("data:image/jpeg;base64,")
    scene = Scene.from_json(json.dumps(server.searches[-1]["scene"]).encode())
    assert scene.objects[1].picture.size == (90, 60)
    page.keyboard.press("m")
    until(page, lambda: last_objects(server)[1]["picture"].startswith("data:image/png;base64,"))
    page.keyboard.press("d")
    drag(page, TICK)  # beside a picture a line is an object of its own
    expect_boxes(server, page, [SQUARE_BOX, BOXES[1], TICK_BOX])


def test_rankings_are_weighed(visit, server):
    """Those that the server has, a third one too."""
    server.about = {**ABOUT, "weights": {"learned": 1.0, "layout": 1.0, "whole": 0.5}}
    page = visit()
    drag(page, SQUARE)
    expect_hits(page, "1 drawn")
    expect(page.get_by_role("slider", name="whole picture")).to_have_value("0.5")
    page.get_by_role("slider", name="learned").fill("0")
    asked = {"learned": 0, "layout": 1, "whole": 0.5}
    until(page, lambda: server.searches[-1]["weights"] == asked)
    expect(page.locator(".parts").first).to_contain_text("whole picture")
    page.locator(".photo").first.click()
    page.get_by_role("button", name="More like this").click()
    expect_hits(page, "like")
    asked = {"first": "0", "count": "24", "learned": "0", "layout": "1", "whole": "0.5"}
    assert ("/api/photographs/0/like", asked) in server.asked


def test_saved_opened_and_exported(visit, server, tmp_path):
    page = visit()
    draw_two(page)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save").click()
    saved.value.save_as(tmp_path / "scene.json")
    scene = Scene.read(tmp_path / "scene.json")
    assert np.allclose(scene.boxes, [SQUARE_BOX, TICK_BOX], atol=WITHIN)
    with page.expect_download() as exported:
        page.get_by_role("button", name="Export PNG").click()
    exported.value.save_as(tmp_path / "scene.png")
    pixels = np.asarray(Image.open(tmp_path / "scene.png").convert("L"))
    assert pixels.shape == (1200, 1600)
    assert pixels[240, 200] < 200 < pixels[10, 10]
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#objects li")).to_have_count(0)
    page.locator("#file").set_input_files(tmp_path / "scene.json")
    expect_boxes(server, page, [SQUARE_BOX, TICK_BOX])
    assert Scene.from_json(json.dumps(server.searches[-1]["scene"]).encode()).width == 400


def test_opens_a_scene_of_another_canvas(visit, server, tmp_path):
    """The box stays, and the proportions of the drawing, which say what it is."""
    strokes = [np.array([[0, 0], [1, 0], [1, 0.5]])]
    Scene([SceneObject(strokes, box=(0.2, 0.1, 0.4, 0.9), label="cat")]).save(
        tmp_path / "scene.json"
    )
    page = visit()
    page.locator("#file").set_input_files(tmp_path / "scene.json")
    expect_boxes(server, page, [[0.2, 0.1, 0.4, 0.9]])
    (found,) = last_objects(server)
    assert found["label"] == "cat"
    width, height = np.ptp(found["strokes"][0], axis=0)
    assert width == pytest.approx(80)
    assert height == pytest.approx(40)


def test_files_that_are_no_scenes(visit, tmp_path):
    page = visit()
    drag(page, SQUARE)
    head = '{"format": "scene-designer scene", "version": 1, "canvas": [4, 3], "objects": '
    for text, told in [
        ("no", "it is not JSON"),
        ('{"format": "other"}', "does not say"),
        (head + "[]}", "has 0 objects"),
        (head + '[{"picture": "http://127.0.0.1:1/a.png", "box": [0, 0, 1, 1]}]}', "Object 1"),
        (head + '[{"strokes": [[[1, "<b>"]]]}]}', "Object 1"),
        (head + '[{"strokes": [[[1, 2]]], "box": [0.5, 0.5, 0.2, 0.9]}]}', "Object 1"),
        (head + '[{"picture": "data:image/png;base64,AAAA", "box": [0, 0, 1, 1]}]}', "A picture"),
    ]:
        (tmp_path / "scene.json").write_text(text)
        page.locator("#file").set_input_files(tmp_path / "scene.json")
        expect(page.locator("#said")).to_contain_text(told)
    expect(page.locator("#objects li")).to_have_count(1)


def test_touch(visit, server):
    page = visit(820, 1180, has_touch=True)
    finger = finger_of(page)
    finger("touchStart", SQUARE[0])
    for corner in SQUARE[1:]:
        finger("touchMove", corner)
    finger("touchMove", SQUARE[-1], (300, 200))  # a second finger draws nothing
    finger("touchEnd")
    expect_boxes(server, page, [SQUARE_BOX])
    assert len(last_objects(server)[0]["strokes"]) == 1
    assert page.evaluate("scrollY") == 0
    page.get_by_role("button", name="Select").tap()
    finger("touchStart", (148, 165))  # near the handle: fingers are broad
    finger("touchMove", (188, 195))
    finger("touchEnd")
    expect_boxes(server, page, [np.add(SQUARE_BOX, [0, 0, 0.1, 0.1])])


def test_keyboard_alone(visit, server):
    page = visit()

    def press(*keys):
        for key in keys:
            page.keyboard.press(key)

    for _ in range(12):
        press("Tab")
        if page.evaluate("document.activeElement.id") == "canvas":
            break
    expect(page.locator("#canvas")).to_be_focused()
    press("Space", *["ArrowRight"] * 10, *["ArrowDown"] * 5, "Space")  # the pen: 6 units a key
    box = np.array([0.5, 0.5, 0.65, 0.6])
    expect_boxes(server, page, [box])
    press("s", *["ArrowLeft"] * 10, "Shift+ArrowUp")
    moved = box - [0.15, 1 / 300, 0.15, 1 / 300]
    expect_boxes(server, page, [moved])
    press("+", "+")
    grown = moved + 0.105 * np.array([-0.15, -0.1, 0.15, 0.1])
    expect_boxes(server, page, [grown])
    press("Control+z")  # keys of a moment are one step
    expect_boxes(server, page, [moved])
    press("c", "PageUp")
    expect(page.locator("#said")).to_contain_text("Object 1 of 2, cat?")
    expect(page.locator("#canvas")).to_have_attribute(
        "aria-activedescendant", re.compile("object-")
    )
    press("Enter")
    page.keyboard.type("giraf")
    press("Enter", "PageDown", "Delete")
    until(page, lambda: [each["label"] for each in last_objects(server)] == ["giraffe"])
    press("?")
    expect(page.get_by_role("dialog")).to_contain_text("arrow keys")
    press("Escape")
    page.locator(".photo").first.focus()
    expect(page.locator(".hit .boxes").first).to_have_css("opacity", "1")
    press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("More like this")


@pytest.mark.parametrize(("width", "height"), [(360, 740), (820, 1180), (1280, 800)])
def test_fits_the_screen(visit, width, height):
    page = visit(width, height)
    page.locator("#examples button").first.click()
    expect_hits(page, "3 drawn")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    canvas, hits = (page.locator(name).bounding_box() for name in ("#canvas", "#hits"))
    assert canvas["y"] + canvas["height"] < height
    wide = width > 1000
    assert (hits["x"] > canvas["x"] + canvas["width"]) == wide
    assert (hits["y"] > canvas["y"] + canvas["height"]) != wide
    page.locator(".photo").first.click()
    dialog = page.get_by_role("dialog").bounding_box()
    assert dialog["x"] >= 0 and dialog["x"] + dialog["width"] <= width


def test_examples_to_start_from(visit, server):
    page = visit()
    examples = [["airplane", "clouds", "clouds"], ["boat", "boat"], ["car", "traffic light"]]
    for number, labels in enumerate(examples):
        page.locator("#examples button").nth(number).click()
        until(page, lambda count=number + 1: len(server.searches) == count)
        assert [each["label"] for each in last_objects(server)] == labels
        scene = Scene.from_json(json.dumps(server.searches[-1]["scene"]).encode())
        assert (scene.boxes > 0).all() and (scene.boxes < 1).all()
        page.keyboard.press("Control+z")


def test_server_restarted_in_the_middle(visit, server):
    page = visit(fails=True)
    drag(page, SQUARE)
    expect_hits(page, "1 drawn")
    server.close()
    page.keyboard.press("c")
    expect(page.locator("#notice")).to_contain_text("does not answer")
    expect(page.locator(".photo")).to_have_count(24)
    server.start()
    expect_hits(page, "2 drawn")
    expect(page.locator("#notice")).to_be_empty()


def test_busy_server_is_asked_again(visit, server):
    page = visit(fails=True)
    server.busy = 2  # the search and the guess
    drag(page, SQUARE)
    expect(page.locator("#notice")).to_contain_text("busy")
    expect_hits(page, "1 drawn")
    expect(page.locator("#notice")).to_be_empty()


def test_nothing_found_and_refusals_are_told(visit, server):
    page = visit(fails=True)
    server.total = 0
    drag(page, SQUARE)
    expect(page.locator("#found-status")).to_contain_text("Nothing found")
    server.refusal = "object 0: <b>it shows nothing</b>"
    page.keyboard.press("c")
    expect(page.locator("#found-status")).to_have_text("Object 1: <b>it shows nothing</b>")
    server.refusal, server.total = None, 60
    page.keyboard.press("c")
    expect_hits(page, "3 drawn")


def test_no_more_objects_than_can_be_searched(visit, server):
    page = visit()
    drag(page, SQUARE)
    for _ in range(8):
        page.keyboard.press("c")
    expect(page.locator("#said")).to_contain_text("at most 8 objects")
    page.keyboard.press("n")
    drag(page, TICK)
    expect(page.locator("#said")).to_contain_text("at most 8 objects")
    expect_hits(page, "8 drawn")


# ---- layout and picture ----------------------------------------------------------------------


@pytest.fixture
def synthesis(visit, server):
    """Opens the page of a server that makes layouts and pictures, with a square drawn and the fold
    open."""

    def opened(**settings):
        server.about = {**ABOUT, "synthesis": SYNTHESIS}
        page = visit(**settings)
        drag(page, SQUARE)
        page.locator("summary").click()
        until(page, lambda: server.layouts)
        expect_hits(page, "1 drawn")
        return page

    return opened


def paint(page, *points):
    """Press, move and lift the mouse over the layout: points in fractions of it."""
    box = page.locator("#layout").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=6)
    page.mouse.up()


def stuff_of(server, page, condition):
    """The stuff of the last layout that was asked for, once a condition holds of it."""
    until(page, lambda: server.layouts[-1][1] is not None and condition(server.layouts[-1][1]))
    return server.layouts[-1][1]


def shown_pixel(page, x, y):
    return page.locator("#layout").evaluate(
        "(e, [x, y]) => [...e.getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3)", [x, y]
    )


SKY, GRASS, SAND = 100, 101, 102


def test_a_server_without_synthesis_or_a_closed_fold_asks_for_no_layout(visit, server):
    page = visit()
    drag(page, SQUARE)
    expect_hits(page, "1 drawn")
    expect(page.locator("summary")).to_be_hidden()
    server.about = {**ABOUT, "synthesis": SYNTHESIS}
    page = visit()
    drag(page, SQUARE)
    expect_hits(page, "1 drawn")
    expect(page.locator("summary")).to_be_visible()
    assert not server.layouts


def test_bands_and_brush_lie_behind_the_drawing(synthesis, server):
    page = synthesis()
    searches = len(server.searches)
    assert server.layouts[-1][1] is None
    paint(page, (0.5, 0.02))
    page.get_by_role("button", name="grass").click()
    paint(page, (0.2, 0.3), (0.3, 0.5))  # its edge follows the pointer
    stuff = stuff_of(server, page, lambda stuff: (stuff[-1] == GRASS).all())
    edge = np.flatnonzero(stuff[:, 0] == GRASS)[0]
    assert edge == pytest.approx(128, abs=2)
    assert (stuff[10:edge] == SKY).all() and (stuff[edge:] == GRASS).all()
    page.get_by_role("button", name="Brush").click()
    page.get_by_role("button", name="sand").click()
    paint(page, (0.2, 0.8), (0.8, 0.8))
    stuff = stuff_of(server, page, lambda stuff: (stuff == SAND).any())
    rows, columns = np.nonzero(stuff == SAND)
    # Round on the screen: 18 pixels up and down, three quarters of it to the sides.
    assert [rows.min(), rows.max()] == pytest.approx([0.8 * 256 - 18, 0.8 * 256 + 18], abs=2)
    assert [columns.min(), columns.max()] == pytest.approx([51 - 13.5, 205 + 13.5], abs=2)
    assert (stuff[205, 45:210] == SAND).all()
    expect(page.locator("#legend li")).to_have_text(["sky", "grass", "sand"])
    assert shown_pixel(page, 60, 100) == [200, 60, 40]  # the object, before the background
    page.locator("#others").select_option("metal")
    paint(page, (0.9, 0.1))
    stuff_of(server, page, lambda stuff: (stuff == 110).any())
    for label in (110, SAND, GRASS):
        page.keyboard.press("Control+z")
        stuff_of(server, page, lambda stuff, label=label: not (stuff == label).any())
    page.keyboard.press("Control+y")
    stuff_of(server, page, lambda stuff: (stuff == GRASS).any())
    page.mouse.down()
    page.mouse.move(400, 400)
    page.keyboard.press("Escape")  # leaves what has begun
    page.mouse.up()
    expect(page.locator("[data-action=redo]")).to_be_enabled()
    page.wait_for_timeout(400)
    assert len(server.searches) == searches  # the drawing is as it was


def test_a_moved_object_changes_the_layout(synthesis, server):
    page = synthesis()
    page.keyboard.press("s")
    page.mouse.move(*on_screen(page, (65, 60)))
    page.mouse.down()
    page.mouse.move(*on_screen(page, (225, 90)), steps=3)
    moved = np.add(SQUARE_BOX, [0.4, 0.1, 0.4, 0.1])  # and not yet let go
    until(
        page,
        lambda: np.allclose(server.layouts[-1][0]["objects"][0]["box"], moved, atol=WITHIN),
    )
    page.mouse.up()
    page.keyboard.press("Delete")
    expect(page.locator("#layout")).to_have_attribute("data-empty", "")
    expect(page.locator("#make")).to_be_disabled()


def test_painting_by_keys(synthesis, server):
    page = synthesis(width=360, height=740)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator("#layout").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Space")
    stuff = stuff_of(server, page, lambda stuff: (stuff == SKY).any())
    assert (stuff[137:] == SKY).all() and (stuff[:137] == 255).all()


def test_all_three_are_downloaded_and_the_background_opened(synthesis, server, tmp_path):
    page = synthesis()
    paint(page, (0.5, 0.5))
    stuff = stuff_of(server, page, lambda stuff: (stuff == SKY).any())
    expect(page.locator("#legend li")).to_have_text(["sky"])
    page.get_by_role("button", name="Make the picture").click()
    expect(page.locator("#made")).to_be_visible()
    saved = {}
    for name in ("Export PNG", "Download layout", "Download picture", "Save background"):
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        download.value.save_as(tmp_path / download.value.suggested_filename)
        saved[name] = Image.open(tmp_path / download.value.suggested_filename)
    assert [image.size for image in saved.values()] == [(1600, 1200), *[(256, 256)] * 3]
    assert saved["Download layout"].getpixel((60, 100)) == (200, 60, 40)
    np.testing.assert_array_equal(saved["Download picture"], photograph(3, (256, 256)))
    assert saved["Save background"].mode == "L"
    np.testing.assert_array_equal(saved["Save background"], stuff)
    page.get_by_role("button", name="Clear background").click()
    until(page, lambda: server.layouts[-1][1] is None)
    page.locator("#stuff-file").set_input_files(tmp_path / "background.png")
    np.testing.assert_array_equal(stuff_of(server, page, np.any), stuff)
    for name, size in (("scene.json", 0), ("grey.png", 256), ("large.png", 300)):
        path = tmp_path / name
        Image.new("L", (size, size), 7).save(path) if size else path.write_text("{}")
        page.locator("#stuff-file").set_input_files(path)
        told = "no background material" if size == 256 else "a grey PNG of 256 x 256"
        expect(page.locator("#layout-said")).to_contain_text(told, ignore_case=True)
    np.testing.assert_array_equal(server.layouts[-1][1], stuff)


def test_a_busy_generator_is_told_and_an_old_picture_is_pale(synthesis, server):
    page = synthesis(fails=True)
    server.generator_error = {"error": "the generator is busy: 3 <b>before</b> ours"}, 503
    make = page.get_by_role("button", name="Make the picture")
    make.click()
    said = page.locator("#made-said")
    expect(said).to_have_text("The generator is busy: 3 <b>before</b> ours")
    expect(page.locator("#made")).to_be_hidden()
    server.generator_error = None
    make.click()
    expect(page.locator("#made")).to_be_visible()
    expect(said).to_be_empty()
    expect(page.locator("#made")).not_to_have_attribute("data-old", "")
    paint(page, (0.5, 0.5))
    expect(page.locator("#made")).to_have_attribute("data-old", "")
    page.keyboard.press("Control+z")
    expect(page.locator("#made")).not_to_have_attribute("data-old", "")
