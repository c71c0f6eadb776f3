"""The server of the search page: its requests, what it refuses, many clients at once."""

import base64
import contextlib
import http.client
import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from core.commands import run as run_command
from core.run import Run
from search import serve
from search.index import PhotoIndex
from search.objects import FoundObjects, ObjectSource
from search.scene import Scene, SceneObject
from search.stores import Store, StoreUnavailableError
from SPADE import api
from tests.SPADE import servers

TOKEN = "a secret of sixteen and more"
HOSTILE = "<img onerror=alert(1) src=x>.jpg"
CROSS = [np.array([[40.0, 30], [160, 150]]), np.array([[160.0, 30], [40, 150]])]
SCENE = json.loads(Scene([SceneObject(CROSS)], 400, 300).to_json())


class Halves(ObjectSource):
    """Two objects in each photograph: its left half and its right."""

    identity = "halves"

    def find(self, path, image, size):
        boxes = np.array([[0, 0, 0.5, 1], [0.5, 0, 1, 1]], np.float32)
        return FoundObjects(boxes, np.array([0, -1], np.int16), np.array([0.5, 0.5], np.float32))


class Site(NamedTuple):
    """A server, and what it serves."""

    port: int
    current: serve.CurrentIndex
    photographs: object
    home: object
    run: Run

    def ask(self, path, body=None, method=None, **headers):
        """(status, headers, content), of JSON its value."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method or ("POST" if body else "GET"), path, data, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.getheader("Content-Type") == "application/json":
            content = json.loads(content)
        return answer.status, answer.headers, content

    def search(self, scene=SCENE, **more):
        return self.ask("/api/search", {"scene": scene, **more})


def listen(current, hosts=("localhost", "127.0.0.1"), token=None, synthesis=None):
    """The port of a search server, which ends with this process."""
    return listen_app(serve.create_app(current, hosts, token, synthesis))


def listen_app(app):
    """The port of a server, which ends with this process."""
    bound = api.bind("127.0.0.1", 0)
    threading.Thread(target=api.serve, args=(app, bound), daemon=True).start()
    port = bound.getsockname()[1]
    for _ in range(100):
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return port
        time.sleep(0.05)
    raise AssertionError("nothing listens")


@pytest.fixture(scope="module")
def site(scene_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    photographs, home = folder / "photographs", folder / "index"
    (photographs / "süd 'x'").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(30):
        name = f"süd 'x'/{n}.jpg" if n % 2 else f"{n}.jpg"
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(photographs / name)
    # Red on the left and blue on the right, once it is turned upright.
    turned = Image.new("RGB", (1000, 2000), "red")
    turned.paste("blue", (0, 0, 1000, 1000))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(photographs / "turned.jpg", exif=exif)
    Image.new("RGB", (9, 9), "green").save(photographs / HOSTILE)
    Image.new("RGB", (9, 9)).save(folder / "secret.jpg")
    Image.new("RGB", (9, 9)).save(photographs / "link.jpg")
    PhotoIndex.build(scene_run, photographs, home, objects=Halves())
    (photographs / "link.jpg").unlink()
    (photographs / "link.jpg").symlink_to(folder / "secret.jpg")
    current = serve.CurrentIndex(home, scene_run)
    return Site(listen(current), current, photographs, home, scene_run)


def row_of(site, name):
    return [file.path for file in site.current.index.files].index(name)


def picture(content):
    return Image.open(io.BytesIO(content))


# ---- the contract ----------------------------------------------------------------------------


def test_about(site):
    names = site.run.vocabulary.names
    status, headers, content = site.ask("/api/about")
    assert status == 200
    assert content == {
        "photographs": 33, "run": "graph-attention-SD01",
        "classes": [names[label] for label in site.run.vocabulary.objects],
        "weights": {"learned": 1.0, "layout": 1.0}, "most_objects": 8, "synthesis": False,
    }  # fmt: skip
    policy = headers["Content-Security-Policy"]
    for rule in ("default-src 'self'", "frame-ancestors 'none'", "form-action 'none'"):
        assert rule in policy
    assert "unsafe" not in policy and headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "waitress" not in str(headers)


def test_a_search_finds_what_the_index_finds(site):
    weights = {"learned": 0.5, "layout": 2.0}
    status, _, content = site.search(weights=weights)
    assert status == 200 and content["total"] == 33 and len(content["hits"]) == 24
    hits = site.current.index.search(Scene([SceneObject(CROSS)], 400, 300), 24, weights)
    for told, hit in zip(content["hits"], hits, strict=True):
        name = hit.path.relative_to(site.photographs).as_posix()
        assert (told["name"], told["rank"], told["id"]) == (name, hit.rank, hit.row)
        assert told["score"] == pytest.approx(hit.score) and told["parts"].keys() == weights.keys()
        assert told["boxes"] == [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
        assert told["labels"] == [site.run.vocabulary.names[0], None]
        ((drawn, photographed, score),) = told["matches"]
        assert (drawn, photographed) == hit.matches[0][:2] and 0 < score <= 1
    rest = site.search(first=24, weights=weights)[2]["hits"]
    assert HOSTILE in {hit["name"] for hit in content["hits"] + rest}


def test_pages_of_results_join(site):
    whole = site.search(count=33)[2]["hits"]
    parts = [site.search(first=first, count=10)[2]["hits"] for first in (0, 10, 20, 30, 40)]
    assert [len(part) for part in parts] == [10, 10, 10, 3, 0]
    assert [hit for part in parts for hit in part] == whole
    assert [hit["rank"] for hit in whole] == list(range(1, 34))


def test_more_like_a_photograph(site):
    index = site.current.index
    by_name, by_hit = (index.more_like(p, 3) for p in ("8.jpg", index.folder / "8.jpg"))
    assert [hit.row for hit in by_name] == [hit.row for hit in by_hit]
    row = row_of(site, "4.jpg")
    status, _, content = site.ask(f"/api/photographs/{row}/like?first=2&count=5&learned=1&layout=0")
    assert status == 200 and content["total"] == 32
    assert [hit["rank"] for hit in content["hits"]] == [3, 4, 5, 6, 7]
    hits = site.current.index.more_like("4.jpg", 7, {"learned": 1.0})[2:]
    assert [hit["id"] for hit in content["hits"]] == [hit.row for hit in hits]
    everything = site.ask(f"/api/photographs/{row}/like?count=100")[2]["hits"]
    assert row not in [hit["id"] for hit in everything] and len(everything) == 32


def test_labels_of_a_drawing(site):
    two = {**SCENE, "objects": SCENE["objects"] * 2}
    status, _, content = site.ask("/api/labels", {"scene": two})
    assert status == 200 and [len(guesses) for guesses in content["labels"]] == [5, 5]
    name, chance = content["labels"][0][0]
    assert name in site.run.vocabulary.names and 0 < chance <= 1


def test_photographs_are_upright_and_small(site):
    row = row_of(site, "turned.jpg")
    for query, size in (("", (1600, 800)), ("?size=thumbnail", (320, 160))):
        status, headers, content = site.ask(f"/api/photographs/{row}{query}")
        assert (status, headers["Content-Type"]) == (200, "image/jpeg")
        found = picture(content)
        assert found.size == size and not found.getexif()
        red, blue = (found.getpixel((size[0] * at // 4, 9)) for at in (1, 3))
        assert red[0] > 200 > 50 > red[2] and blue[2] > 200 > 50 > blue[0]
    for number, channel in ((0, 0), (1, 2)):
        status, _, content = site.ask(f"/api/photographs/{row}/objects/{number}")
        found = picture(content)
        assert status == 200 and found.size == (256, 256)
        assert np.asarray(found).mean((0, 1)).argmax() == channel
    (told,) = [hit for hit in site.search(count=50)[2]["hits"] if hit["id"] == row]
    assert (told["width"], told["height"]) == (2000, 1000)


def test_browsers_ask_whether_a_photograph_is_still_the_same(site):
    path = f"/api/photographs/{row_of(site, '2.jpg')}?size=thumbnail"
    _, headers, content = site.ask(path)
    assert len(content) > 100 and "no-cache" in headers["Cache-Control"]
    status, again, content = site.ask(path, If_None_Match=headers["ETag"])
    assert (status, content) == (304, b"") and again["Content-Security-Policy"]


def test_a_cut_out_searches_too(site):
    _, _, content = site.ask(f"/api/photographs/{row_of(site, '8.jpg')}/objects/1")
    cut_out = {
        "picture": "data:image/jpeg;base64," + base64.b64encode(content).decode(),
        "box": [0.5, 0.1, 0.9, 0.9], "is_photo": True,
    }  # fmt: skip
    mixed = {**SCENE, "objects": [*SCENE["objects"], cut_out]}
    status, _, content = site.search(mixed)
    assert status == 200 and len(content["hits"]) == 24


# ---- refusals --------------------------------------------------------------------------------


def drawn(**changes):
    return {"scene": {**SCENE, **changes}}


def of_object(**changes):
    return drawn(objects=[{**SCENE["objects"][0], **changes}])


MANY = [[float(n), float(n % 7)] for n in range(10_001)]
BAD = {
    "no JSON": (b"<html>", "no such request"),
    "not UTF-8": (b'{"scene": "\xff"}', "no such request|no scene"),
    "deep": (b'{"scene": ' + b"[" * 100_000, "no such request"),
    "a list": ([], "no such request"),
    "no scene": ({"first": 0}, "scene"),
    "another key": ({"scene": SCENE, "path": "/etc/passwd"}, "path"),
    "before the first": ({"scene": SCENE, "first": -1}, "first"),
    "too many": ({"scene": SCENE, "count": 101}, "count"),
    "a ranking that is not there": ({"scene": SCENE, "weights": {"x": 1}}, "no ranking 'x'"),
    "a weight like no other": ({"scene": SCENE, "weights": {"layout": 1e308}}, "weights"),
    "a weight below 0": ({"scene": SCENE, "weights": {"layout": -1}}, "weight of 'layout'"),
    "an empty scene": (drawn(objects=[]), "0 objects"),
    "500 objects": (drawn(objects=SCENE["objects"] * 500), "500 objects"),
    "no canvas": (drawn(canvas=[0, 300]), "canvas"),
    "another version": (drawn(version=9), "9"),
    "one dot": (of_object(strokes=[[[5, 5]]]), "object 0: it shows nothing"),
    "no stroke": (of_object(strokes=[]), "object 0: it needs strokes"),
    "a stroke of nothing": (of_object(strokes=[[]]), "object 0: "),
    "outside the canvas": (of_object(strokes=[[[900, 9], [990, 99]]]), "outside the canvas"),
    "NaN": (json.dumps(of_object(strokes=[[[1, float("nan")], [2, 3]]])).encode(), "no such"),
    "infinite": (b'{"scene": ' + json.dumps(SCENE).replace("160", "1e999").encode() + b"}", ""),
    "huge": (of_object(strokes=[[[-1e308, 0], [1e308, 9]]]), "object 0: "),
    "many points": (of_object(strokes=[MANY]), "more than 10,000 points"),
    "a long label": (of_object(label="x" * 1_000_000), "length <= 100"),
    "an unknown label": (of_object(label="unicorn"), "knows no class 'unicorn'"),
    "a picture from elsewhere": (
        of_object(strokes=[], picture="http://example.org/a.png", box=[0, 0, 1, 1]), "data URL",
    ),
    "a broken picture": (
        of_object(strokes=[], picture="data:image/png;base64,AAAA", box=[0, 0, 1, 1]), "picture",
    ),
    "a box of nothing": (of_object(box=[0.5, 0.5, 0.5, 0.9]), "its box"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_answered_with_a_sentence(site, name):
    body, pattern = BAD[name]
    status, headers, content = site.ask("/api/search", body or b"[]")
    assert status == 400 and list(content) == ["error"] and headers["Content-Security-Policy"]
    assert pattern.split("|")[0] in content["error"] or pattern.split("|")[-1] in content["error"]
    assert len(content["error"]) < 500 and "Traceback" not in content["error"]
    assert site.search()[0] == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/photographs/33", 404), ("/api/photographs/-1", 404), ("/api/photographs/x", 404),
        ("/api/photographs/" + "9" * 50, 404), ("/api/photographs/0/objects/2", 404),
        ("/api/photographs/0?size=huge", 400), ("/api/photographs/33/like", 404),
        ("/api/photographs/0/like?count=0", 400), ("/api/photographs/0/like?learned=nan", 400),
        ("/api/photographs/0/like?layout=1e308", 400),
        ("/api/photographs/0/like?path=/etc/passwd", 400), ("/api/search", 405), ("/none", 404),
        ("/static/../serve.py", 404), ("/static/%2e%2e/serve.py", 404),
        ("/static/.%2f..%2fserve.py", 404),
        ("/api/photographs/%2e%2e%2fsecret.jpg", 404), ("/console", 404),
    ],
)  # fmt: skip
def test_other_places_are_refused(site, path, status):
    answered, headers, content = site.ask(path)
    assert answered == status and list(content) == ["error"] and "\n" not in content["error"]
    assert headers["Content-Security-Policy"]


def test_a_body_that_is_too_large(site):
    length = str(api.MOST_BYTES + 1)
    assert site.ask("/api/search", method="POST", Content_Length=length)[0] == 413


def test_nothing_outside_the_folder_is_served(site):
    row = row_of(site, "link.jpg")  # a picture when it was indexed
    for path in (f"/api/photographs/{row}", f"/api/photographs/{row}/objects/0"):
        status, _, content = site.ask(path)
        assert status == 404 and "link out of the folder" in content["error"]
        assert "secret" not in content["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:9000"}, 200),  # a port may be passed on
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "localhost:9000", "Origin": "http://localhost:9000"}, 200),
        ({"Host": "localhost:9000", "Origin": "http://localhost:9001"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_other_pages_cannot_ask(site, headers, status):
    assert site.ask("/api/about", **headers)[0] == status
    assert site.ask("/api/labels", {"scene": SCENE}, **headers)[0] == status


def test_a_token_is_needed_where_there_is_one(site, capfd):
    port = listen(site.current, None, TOKEN)
    guarded = site._replace(port=port)
    for path, headers in (
        ("/", {}), ("/api/about", {}), ("/static/main.js", {}), ("/?token=", {}),
        ("/?token=" + TOKEN[:-1].replace(" ", "+"), {}), ("/api/about?token=" + "x" * 20, {}),
        ("/api/about", {"Authorization": "Bearer x"}),
        ("/api/about", {"Authorization": "Bearer \xfc"}),
        ("/api/about", {"Cookie": "scene-designer="}),
    ):  # fmt: skip
        status, _, content = guarded.ask(path, **headers)
        assert status == 401 and "token" in content["error"], path
    assert guarded.ask("/api/about", Authorization=f"Bearer {TOKEN}")[0] == 200
    status, headers, _ = guarded.ask("/?token=" + TOKEN.replace(" ", "+"))
    cookie = headers["Set-Cookie"]
    assert (status, headers["Location"]) == (303, "/")
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
    assert guarded.ask("/api/about", Cookie=cookie.partition(";")[0])[0] == 200
    # Under any name: the token guards it.
    named = guarded.ask("/api/about", Cookie=cookie.partition(";")[0], Host="photos.example")
    assert named[0] == 200
    assert TOKEN not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("argv", "code", "pieces"),
    [
        ("--host 0.0.0.0", 2, ["--allow-network", "--token"]),
        ("--host 0.0.0.0 --allow-network", 2, ["--token"]),
        ("--host 0.0.0.0 --token {token}", 2, ["--allow-network"]),
        ("--token {folder}/none", 1, ["cannot read the token"]),
        ("--token {short}", 1, ["16 or more", "token_urlsafe"]),
        ("--port 99999", 2, ["99999"]),
        ("--index {folder}", 1, ["is no index"]),
        ("--run {folder}", 1, ["is no run"]),
        ("--generator http://", 2, ["no address"]),
        ("--generator {folder}/none.npz", 1, ["there is no weights file"]),
    ],
)
def test_wrong_command_lines(site, tmp_path, argv, code, pieces, capsys):
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "short").write_text("short secret")
    places = {"folder": tmp_path, "token": tmp_path / "token", "short": tmp_path / "short"}
    words = ["--index", str(site.home), "--port", "0", *argv.format(**places).split()]
    assert run_command(serve.main, words) == code
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert all(piece in said for piece in pieces)
    assert TOKEN not in said and "short secret" not in said


# ---- in use ----------------------------------------------------------------------------------


def test_a_full_queue_is_told_and_pictures_are_served_meanwhile(site, monkeypatch):
    search, busy = PhotoIndex.search, threading.Lock()

    def slow(*arguments):
        assert busy.acquire(blocking=False), "two searches at a time"
        try:
            time.sleep(0.3)
            return search(*arguments)
        finally:
            busy.release()

    monkeypatch.setattr(PhotoIndex, "search", slow)
    with ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(site.search) for _ in range(20)]
        time.sleep(0.5)
        assert site.ask("/api/photographs/0?size=thumbnail")[0] == 200
        answers = [each.result() for each in waiting]
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 503} and statuses.count(200) >= api.LIMIT
    for status, headers, content in answers:
        assert status == 200 or (
            int(headers["Retry-After"]) >= 1 and "ask again" in content["error"]
        )


def test_twenty_clients_at_once(site):
    """They search, look at photographs, and ask again when they are told to wait."""

    def client(number):
        for _ in range(3):
            scene = {**SCENE, "objects": SCENE["objects"] * (1 + number % 3)}
            while (answer := site.search(scene, count=3))[0] == 503:
                time.sleep(0.1)
            assert answer[0] == 200
            for hit in answer[2]["hits"]:
                status, _, _ = site.ask(f"/api/photographs/{hit['id']}?size=thumbnail")
                assert status == 200

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(client, range(20)))


def test_an_unforeseen_error_is_told_in_a_sentence(site, monkeypatch):
    monkeypatch.setattr(PhotoIndex, "search", lambda *_: 1 / 0)
    status, headers, content = site.search()
    assert status == 500 and "console" in content["error"] and headers["Content-Security-Policy"]
    monkeypatch.undo()
    assert site.search()[0] == 200


def test_a_database_that_is_gone_may_come_back(site, monkeypatch):
    class Gone(Store):
        build = open = classmethod(lambda cls: None)

        def candidates(self, vector, k):
            raise StoreUnavailableError("the Milvus store at http://db: connection refused")

    monkeypatch.setattr(site.current.index, "store", Gone(site.current.index.learned))
    for path, body in (("/api/search", {"scene": SCENE}), ("/api/photographs/0/like", None)):
        status, headers, content = site.ask(path, body)
        assert status == 503 and "connection refused" in content["error"]
        assert int(headers["Retry-After"]) > 0 and headers["Content-Security-Policy"]
    monkeypatch.undo()
    assert site.search()[0] == 200


def test_the_index_may_change_meanwhile(site, tmp_path):
    folder, home = tmp_path / "photographs", tmp_path / "index"
    folder.mkdir()
    for name in "ab":
        Image.new("RGB", (20, 20), "red").save(folder / f"{name}.png")
    PhotoIndex.build(site.run, folder, home)
    changing = site._replace(port=listen(serve.CurrentIndex(home, site.run)))
    assert changing.search()[2]["total"] == 2
    Image.new("RGB", (20, 20), "blue").save(folder / "c.png")
    (folder / "a.png").unlink()
    assert changing.ask("/api/photographs/0")[0] == 404  # and a sentence
    PhotoIndex.build(site.run, folder, home)
    found = changing.search()[2]
    assert found["total"] == 2 and {hit["name"] for hit in found["hits"]} == {"b.png", "c.png"}
    assert changing.ask("/api/photographs/0")[0] == 200
    # An index that cannot be used leaves the one before, until it can.
    Image.new("RGB", (20, 20), "blue").save(folder / "d.png")
    PhotoIndex.build(site.run, folder, home)
    boxes = home / "photos" / "boxes.npy"
    boxes.rename(home / "away.npy")
    assert changing.search()[2]["total"] == 2
    (home / "away.npy").rename(boxes)
    assert changing.search()[2]["total"] == 3


def test_the_command_serves_the_page(site):
    with servers.started("-m", "search.serve", "--index", site.home) as port:
        own = site._replace(port=port)
        assert own.search()[0] == 200
        status, _, content = own.ask("/")
        if (serve.PAGE / "index.html").is_file():
            assert status == 200 and b"<html" in content
            for path in serve.PAGE.glob("*.js"):
                _, headers, _ = own.ask(f"/static/{path.name}")
                assert headers["Content-Type"].startswith("text/javascript")
