"""Layouts and pictures of drawings: what a run makes, over what is painted, by a generator."""

import base64
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import flask
import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from core.label_colours import PALETTE
from core.label_maps import label_maps
from core.run import Run
from search import serve
from search.index import PhotoIndex, encode
from search.scene import Scene, SceneObject, data_url
from search.synthesis import Synthesis
from SPADE import api, generators
from tests.search.test_serve import Site, listen, listen_app
from tests.test_experiments import STAGE2

SKY, CAT = 156, 16  # labels: COCO-Stuff id - 1
CROSS = [np.array([[0.0, 0.0], [1, 1]]), np.array([[1.0, 0], [0, 1]])]


def scene(*boxes, label="cat"):
    return Scene([SceneObject(CROSS, box=box, label=label) for box in boxes])


def request(drawn=None, stuff=None):
    """The body of a request. stuff: labels, or a data URL."""
    url = data_url(Image.fromarray(stuff)) if isinstance(stuff, np.ndarray) else stuff
    return {"scene": None if drawn is None else json.loads(drawn.to_json()), "stuff": url}


def pixels(url):
    assert url.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


class FakeGenerator:
    """A server whose pictures are red as the label, green as the instance; it may fail."""

    def __init__(self):
        self.failure, self.wait, self.asked = None, threading.Event(), 0
        self.wait.set()
        app = api.create_app(self._generate, "fake", "0" * 64)
        app.before_request(self._fail)
        self.address = f"http://127.0.0.1:{listen_app(app)}"

    def _fail(self):
        if self.failure and flask.request.path == "/":
            return self.failure
        return None

    def _generate(self, labels, instances, _):
        self.asked += 1
        assert self.wait.wait(30)
        channels = np.stack([labels, instances, np.zeros_like(labels)])
        return (channels / 127.5 - 1)[None]


@pytest.fixture(scope="module")
def fake():
    return FakeGenerator()


@pytest.fixture(scope="module")
def site(world, fake, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "photographs").mkdir()
    Image.new("RGB", (20, 20), "red").save(folder / "photographs" / "a.png")
    run = Run.open(world.out / f"{STAGE2}-SD01")
    # The ids of COCO-Stuff; those of the small sets only count.
    run.model.vocabulary = replace(run.vocabulary, ids=(1, 6, 17, 18, 10, 157, 0))
    PhotoIndex.build(run, folder / "photographs", folder / "index")
    current = serve.CurrentIndex(folder / "index", run)
    generator = generators.find(fake.address, retries=0, start_seconds=0, busy_seconds=0)
    port = listen(current, synthesis=Synthesis(run, generator))
    return Site(port, current, folder / "photographs", folder / "index", run)


def test_about_tells_the_materials_and_colours(site):
    told = site.ask("/api/about")[2]["synthesis"]
    assert told["stuff"] == [{"name": "sky-other", "label": SKY, "colour": "#86c2f2"}]
    assert told["objects"]["cat"] == "#f4a450" and told["picture"] is True


@pytest.mark.parametrize("box", [(0.1, 0.2, 0.6, 0.9), (0.5, 0.0, 1.0, 0.5)])
def test_a_layout_has_the_masks_in_their_boxes_over_the_stuff(site, box):
    drawn = scene(box)
    stuff = np.full((256, 256), SKY, np.uint8)
    status, _, content = site.ask("/api/layout", request(drawn, stuff))
    assert status == 200
    labels = pixels(content["labels"])
    assert (labels.dtype, labels.shape) == (np.uint8, (256, 256))
    masks = site.run.masks(encode(site.run, drawn))
    alone, _ = label_maps(masks, drawn.boxes, np.array([CAT]), np.zeros(1, np.int32), 1)
    shown = alone[0].numpy() == CAT
    np.testing.assert_array_equal(labels, np.where(shown, CAT, SKY))
    x0, y0, x1, y1 = np.round(np.multiply(box, 256)).astype(int)
    shown[y0:y1, x0:x1] = False
    assert not shown.any()
    np.testing.assert_array_equal(pixels(content["layout"]), PALETTE[labels])
    areas = {"sky-other": (labels == SKY).sum(), "cat": (labels == CAT).sum()}
    names = sorted((name for name in areas if areas[name]), key=areas.get, reverse=True)
    colours = {"sky-other": "#86c2f2", "cat": "#f4a450"}
    assert content["legend"] == [[name, colours[name]] for name in names]


def test_an_object_without_label_is_what_the_run_takes_it_for(site):
    drawn = scene((0, 0, 1, 1), label=None)
    vocabulary = site.run.vocabulary
    best = encode(site.run, drawn).class_probabilities[0].argmax()
    content = site.ask("/api/layout", request(drawn))[2]
    labels = set(np.unique(pixels(content["labels"])))
    assert labels <= {vocabulary.ids[best] - 1, 255}


def test_bare_pixels_take_the_nearest_stuff(site):
    stuff = np.full((256, 256), 255, np.uint8)
    stuff[200:, 100:110] = SKY
    status, _, content = site.ask("/api/layout", request(None, stuff))
    assert status == 200 and (pixels(content["labels"]) == SKY).all()
    assert content["legend"] == [["sky-other", "#86c2f2"]]


def grey(*shape, value=255):
    return data_url(Image.fromarray(np.full(shape, value, np.uint8)))


@pytest.mark.parametrize(
    ("stuff", "told"),
    [
        (grey(256, 255), "256 x 256"),
        (grey(512, 512), "256"),
        (grey(256, 256, 3), "8-bit grey PNG"),
        (data_url(Image.new("1", (256, 256))), "8-bit grey PNG"),
        (data_url(Image.new("P", (256, 256))), "8-bit grey PNG"),
        (data_url(Image.new("I;16", (256, 256))), "8-bit grey PNG"),
        (grey(256, 256)[:-40] + "=" * 4, "8-bit grey PNG"),
        ("http://example.org/a.png", "data URL"),
        ("data:image/png;base64,AAAA", "8-bit grey PNG"),
        (grey(256, 256, value=CAT), f"stuff holds {CAT}, which is no background material"),
        (grey(256, 256, value=0), "stuff holds 0"),
        (grey(256, 256, value=200), "stuff holds 200"),
        (grey(256, 256), "nothing to show"),
        (None, "nothing to show"),
    ],
)
def test_bad_stuff_is_told(site, stuff, told):
    for path in ("/api/layout", "/api/picture"):
        status, _, content = site.ask(path, request(None, stuff))
        assert status == 400 and told in content["error"] and len(content["error"]) < 300


def test_a_picture_is_made_of_the_layout(site):
    body = request(scene((0.2, 0.2, 0.7, 0.7)), np.full((256, 256), SKY, np.uint8))
    labels = pixels(site.ask("/api/layout", body)[2]["labels"])
    status, _, content = site.ask("/api/picture", body)
    picture = pixels(content["picture"])
    assert status == 200 and picture.shape == (256, 256, 3)
    np.testing.assert_allclose(picture[..., 0], labels, atol=1)
    assert set(np.unique(picture[..., 1][labels == SKY])) <= {2}  # the piece after the object


@pytest.mark.parametrize(
    ("failure", "status", "retry_after", "told"),
    [
        (({"error": "no"}, 503, {"Retry-After": "7"}), 503, "7", "is busy"),
        (({"error": "it fell over"}, 500), 503, None, "failed with status 500: it fell over"),
        (({"error": "of another size"}, 400), 502, None, "status 400: of another size"),
        ("<html>", 502, None, "no picture but '<html>'"),
    ],
)
def test_a_generator_that_fails_is_told_at_once(site, fake, failure, status, retry_after, told):
    fake.failure, began = failure, time.monotonic()
    answered, headers, content = site.ask("/api/picture", request(scene((0, 0, 1, 1))))
    fake.failure = None
    assert (answered, headers["Retry-After"]) == (status, retry_after)
    assert told in content["error"] and "generator at http://127.0.0.1" in content["error"]
    assert time.monotonic() - began < 5


def test_without_generator_or_with_one_that_is_gone(site):
    body = request(scene((0, 0, 1, 1)))
    gone = generators.find("http://127.0.0.1:9", retries=0, start_seconds=0, busy_seconds=0)
    for synthesis, statuses, told in [
        (Synthesis(site.run, gone), (200, 503), "nobody listens there"),
        (Synthesis(site.run), (200, 404), "--generator"),
        (None, (404, 404), "no layouts"),
    ]:
        other = site._replace(port=listen(site.current, synthesis=synthesis))
        answers = [other.ask(path, body) for path in ("/api/layout", "/api/picture")]
        assert tuple(status for status, _, _ in answers) == statuses
        assert told in answers[1][2]["error"]
        about = other.ask("/api/about")[2]["synthesis"]
        assert about is False if synthesis is None else about["picture"] == (statuses[1] == 503)


def test_searches_go_on_while_pictures_are_made(site, fake):
    body, fake.asked = request(scene((0, 0, 1, 1))), 0
    fake.wait.clear()
    with ThreadPoolExecutor(2) as pool:
        try:
            made = [pool.submit(site.ask, "/api/picture", body) for _ in range(2)]
            while not fake.asked:
                time.sleep(0.02)
            time.sleep(0.5)  # the second one waits
            assert site.ask("/api/layout", body)[0] == 200
            status, headers, content = site.ask("/api/picture", body)
            assert status == 503 and int(headers["Retry-After"]) >= 1
            assert "ask again" in content["error"]
        finally:
            fake.wait.set()
        assert [each.result()[0] for each in made] == [200, 200]


def test_an_unknown_label(site):
    status, _, content = site.ask("/api/layout", request(scene((0, 0, 1, 1), label="unicorn")))
    assert status == 400 and "knows no class 'unicorn'" in content["error"]
    with pytest.raises(UserError, match="nothing to show"):
        Synthesis(site.run).layout(None, None)
