"""The page in a real browser before `python -m search.serve` and an index of the drawn sample."""

import json
import re
from typing import NamedTuple

import numpy as np
import pytest
from playwright.sync_api import expect

from prep_data.sample.__main__ import main as make_sample
from tests.search.sample_site import Server, write_index
from tests.search.test_page import drag, expect_hits, finger_of


class Photograph(NamedTuple):
    """A photograph to find. objects: (class, box in [0, 1]) of each."""

    name: str
    objects: list


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """(folder of an index, a photograph in it with two objects of different classes)."""
    folder = tmp_path_factory.mktemp("indexed")
    sizes = "--train-images 1 --val-images 40 --drawings 1 --eval-drawings 1 --workers 0"
    sizes += " --sl-train-pairs 0 --sl-test-pairs 0 --fs-pairs 1"
    make_sample(["--target-dir", str(folder / "sample"), *sizes.split()])
    index = write_index(folder, folder / "sample")
    boxes = folder / "sample/coco-stuff/annotations/instances_val2017.json"
    listed = json.loads(boxes.read_text())
    names = {each["id"]: each["name"] for each in listed["categories"]}
    for image in listed["images"]:
        inside = [each for each in listed["annotations"] if each["image_id"] == image["id"]]
        if len({each["category_id"] for each in inside}) == len(inside) == 2:
            side = [image["width"], image["height"]]
            objects = [
                (names[each["category_id"]], _in_picture(each["bbox"], side)) for each in inside
            ]
            return index, Photograph(image["file_name"], objects)
    raise AssertionError("the sample has no such photograph")


def _in_picture(bbox, side):
    low, size = np.array(bbox).reshape(2, 2) / side
    return [*low, *(low + size)]


@pytest.fixture(scope="module")
def site(indexed):
    site = Server(indexed[0])
    yield site
    site.kill()


@pytest.fixture
def server(site):
    return site


def zigzag(box):
    """Corners of a line through a box, in units of the canvas."""
    x0, y0, x1, y1 = np.array(box) * (400, 300, 400, 300)
    return [(x0, y0), (x1, y0 + (y1 - y0) / 3), (x0, y0 + 2 * (y1 - y0) / 3), (x1, y1)]


def with_mouse(page, objects):
    for label, box in objects:
        page.get_by_role("button", name="New object").click()
        drag(page, zigzag(box))
        page.get_by_role("combobox").first.fill(label)
        page.get_by_role("option", name=label).first.click()


def with_finger(page, objects):
    finger = finger_of(page)
    for label, box in objects:
        page.get_by_role("button", name="New object").tap()
        start, *corners = zigzag(box)
        page.locator("#canvas").scroll_into_view_if_needed()
        finger("touchStart", start)
        for corner in corners:
            finger("touchMove", corner)
        finger("touchEnd")
        page.get_by_role("combobox").first.tap()
        page.get_by_role("combobox").first.fill(label)
        page.get_by_role("option", name=label).first.tap()


def with_keys(page, objects):
    """6 units a key: the pen goes to a corner, down, along two sides, up."""

    def go(dx, dy):
        for keys, way in ((("ArrowLeft", "ArrowRight"), dx), (("ArrowUp", "ArrowDown"), dy)):
            for _ in range(abs(round(way / 6))):
                page.keyboard.press(keys[way > 0])

    while page.evaluate("document.activeElement.id") != "canvas":
        page.keyboard.press("Tab")
    for label, box in objects:
        page.keyboard.press("n")
        x0, y0, x1, y1 = np.array(box) * (400, 300, 400, 300)
        go(x0 - 200, y0 - 150)  # the pen begins in the middle
        page.keyboard.press("Space")
        go(x1 - x0, y1 - y0)
        page.keyboard.press("Space")
        page.keyboard.press("Enter")
        page.keyboard.type(label)
        page.keyboard.press("Enter")


HANDS = {
    "mouse": (with_mouse, {}),
    "finger": (with_finger, {"width": 360, "height": 740, "has_touch": True, "is_mobile": True}),
    "keys": (with_keys, {"width": 820, "height": 1180}),
}


@pytest.mark.parametrize("hand", HANDS)
def test_a_drawn_scene_finds_its_photograph(visit, indexed, hand):
    _, photograph = indexed
    draw, screen = HANDS[hand]
    page = visit(**screen)
    draw(page, photograph.objects)
    page.get_by_role("slider", name="learned").fill("0")
    expect_hits(page, photograph.name)


def test_a_killed_server_comes_back_in_the_middle_of_a_session(visit, indexed, site, tmp_path):
    _, photograph = indexed
    page = visit(fails=True)
    with_mouse(page, photograph.objects[:1])
    page.get_by_role("slider", name="learned").fill("0")
    expect(page.locator(".photo")).to_have_count(24)
    site.kill()
    with_mouse(page, photograph.objects[1:])
    expect(page.locator("#notice")).to_contain_text("does not answer")
    with page.expect_download() as saved:  # without a server
        page.get_by_role("button", name="Save").first.click()
    saved.value.save_as(tmp_path / "scene.json")
    site.start()
    expect_hits(page, photograph.name)
    expect(page.locator("#notice")).to_be_empty()
    page.get_by_role("button", name="Clear").first.click()
    expect(page.locator(".photo")).to_have_count(0)
    page.locator("#file").set_input_files(tmp_path / "scene.json")
    expect_hits(page, photograph.name)

    # The second object of the photograph in the place of the drawn one.
    page.keyboard.press("PageDown")
    page.locator(".photo").first.click()
    page.get_by_role("button", name=re.compile("^Put ")).last.click()
    page.locator("#objects button").nth(1).click()
    page.keyboard.press("Delete")
    expect(page.locator("#objects li")).to_have_count(2)
    expect_hits(page, photograph.name)
    page.locator(".photo").first.click()
    page.get_by_role("button", name="More like this").click()
    expect(page.locator("#found-title")).to_have_text(f"More like {photograph.name}")
    expect(page.locator(".photo")).to_have_count(24)
    assert photograph.name not in page.locator(".photo").first.get_attribute("aria-label")

    page.locator("summary").click()
    page.get_by_role("button", name="grass").click()
    box = page.locator("#layout").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#legend li").filter(has_text="grass")).to_have_count(1)
