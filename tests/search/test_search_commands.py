"""python -m search.build and python -m search.query, as users meet them."""

import html.parser
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.commands import run as run_command
from core.errors import UserError
from search import build, index_folder, query
from search.index import PhotoIndex
from search.objects import WHOLE, ObjectSource
from search.scene import Scene, SceneObject

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = ["<img onerror=alert(1) src=x>.jpg", "new\nline \x1b[31m'\".jpg", "猫 süd.jpg"]
# The command, with small blocks and slow disks.
CODE = """
import functools, runpy, sys, time
from search import building, index_folder
building.BLOCK = 2
building.progress = functools.partial(building.progress, every=0.5)
write = index_folder.write_npz
def slow(*arguments):
    write(*arguments)
    time.sleep(0.3)
index_folder.write_npz = slow
sys.argv[0] = "search.build"
runpy.run_module("search.build", run_name="__main__")
"""


def fill(folder, names):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(len(names))
    for name in names:
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / name)
    return folder


class Counting(ObjectSource):
    """Whole pictures, counted."""

    def __init__(self):
        self.asked = []

    def find(self, path, image, size):
        self.asked.append(path)
        return WHOLE


def struck(run, photographs, home, number, blocks=3, before=lambda process: None):
    """Send a signal to a build that has saved some blocks; (exit code, stderr, blocks it left)."""
    arguments = [str(each) for each in (run.folder, photographs, home)]
    with subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        end = time.monotonic() + 300
        while len(list((home / index_folder.BLOCKS).glob("*.npz"))) < blocks:
            assert process.poll() is None and time.monotonic() < end, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGSTOP)
        before(process)
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        errors = process.stderr.read()
    return process.returncode, errors, len(list((home / index_folder.BLOCKS).glob("*.npz")))


@pytest.fixture(scope="module")
def run(scene_run):
    return scene_run


def test_a_build_and_an_update_go_on_after_a_kill(run, tmp_path):
    home = tmp_path / "index"
    photographs = fill(tmp_path / "photographs", [f"{n}.png" for n in range(20)])

    def build_too(process):
        with pytest.raises(UserError, match=f"is being built by process {process.pid}; wait"):
            PhotoIndex.build(run, photographs, home)

    code, errors, blocks = struck(run, photographs, home, signal.SIGKILL, before=build_too)
    assert code == -signal.SIGKILL and 3 <= blocks < 10
    assert "20 of 20 photographs are to be encoded" in errors  # in a log file too
    assert "index: " in errors and " of 20 (photographs)" in errors
    source = Counting()
    assert len(PhotoIndex.build(run, photographs, home, objects=source)) == 20
    assert len(source.asked) == 20 - 2 * blocks

    fill(photographs, [f"more {n}.png" for n in range(20)])
    others = []  # that have the index open while it is built again
    _, _, blocks = struck(
        run, photographs, home, signal.SIGKILL,
        before=lambda _: others.append(PhotoIndex.open(home, run)),
    )  # fmt: skip
    others.append(PhotoIndex.open(home, run))
    source = Counting()
    updated = PhotoIndex.build(run, photographs, home, objects=source)
    assert len(source.asked) == 20 - 2 * blocks
    fresh = PhotoIndex.build(run, photographs, tmp_path / "fresh")
    assert updated.files == fresh.files
    for each in others:  # they have what they opened
        assert len(each) == 20 and each.thumbnail(19) == fresh.thumbnail(19)
    np.testing.assert_allclose(updated.learned, fresh.learned, atol=1e-5)


def test_ctrl_c_says_how_to_go_on(run, tmp_path):
    photographs = fill(tmp_path / "photographs", [f"{n}.png" for n in range(20)])
    code, errors, _ = struck(run, photographs, tmp_path / "index", signal.SIGINT, blocks=1)
    assert code == 130 and "Traceback" not in errors
    assert errors.splitlines()[-1] == "stopped by SIGINT: run it again, and it goes on from here"


@pytest.fixture(scope="module")
def indexed(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexed")
    photographs = fill(folder / "photographs", [*HOSTILE, "4.jpg"])
    (photographs / "broken.jpg").write_bytes(b"\xff\xd8")
    (photographs / os.fsdecode(b"\xff.jpg")).touch()  # a name that is no text
    boxes = folder / "boxes.json"
    results = {"image_id": 4, "category_id": 1, "bbox": [-9, 0, 20, 99], "score": 0.5}
    boxes.write_text(json.dumps([results]))
    assert build_it(run, photographs, folder / "index", "--boxes", boxes) == 0
    return folder


def build_it(run, photographs, home, *more):
    words = [str(each) for each in (run.folder, photographs, home, *more)]
    return run_command(build.main, words)


def test_build_tells_what_it_left_out(run, indexed, capfd, caplog):
    home = indexed / "again"
    boxes = indexed / "boxes.json"
    assert build_it(run, indexed / "photographs", home, "--boxes", boxes) == 0
    assert capfd.readouterr().out == f"{home}: 4 photographs, 4 objects\n"
    said = caplog.text
    assert "1 pictures left out, as broken.jpg: photograph" in said
    assert "its name is not UTF-8" in said
    opened = PhotoIndex.open(home, run)
    np.testing.assert_allclose(opened.objects.boxes[0], [0, 0, 11 / 30, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--boxes", "a", "--detector", "b"], 2, "not allowed with"),
        (["--boxes", "/no/where"], 1, "cannot read /no/where"),
        (["--detector", "/no/where"], 1, "/no/where is no SavedModel"),
    ],
)
def test_wrong_builds(run, indexed, words, code, message, capsys):
    assert build_it(run, indexed / "photographs", indexed / "wrong", *words) == code
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and message in said


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def scene_file(folder, **changes):
    strokes = [np.array([[10.0, 10], [90, 80]]), np.array([[90.0, 10], [10, 80]])]
    cut_out = SceneObject(
        picture=Image.new("RGB", (9, 9), "red"), box=(0, 0, 0.5, 1), is_photo=True
    )
    path = folder / "<b>drawn.json"
    Scene([SceneObject(strokes, **changes), cut_out], 200, 100).save(path)
    return path


def ask(home, scene, *more):
    return run_command(query.main, [str(each) for each in (home, scene, *more)])


def test_query_prints_a_table_and_makes_a_page(indexed, tmp_path, capsys):
    page = tmp_path / "result.html"
    words = ["--k", 3, "--learned", 0.5, "--html", page]
    assert ask(indexed / "index", scene_file(tmp_path), *words) == 0
    head, rule, *rows, saved = capsys.readouterr().out.splitlines()
    assert head.split() == ["rank", "path", "score", "learned", "layout"] and set(rule) == {
        "-",
        " ",
    }
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert saved == f"saved: {page}" and "\x1b" not in "".join(rows)
    tags = Tags(page.read_text("utf-8")).found
    assert {tag for tag, _ in tags} <= {
        "html", "meta", "title", "style", "h1", "svg", "image", "polyline", "ol", "li", "rect",
        "br",
    }  # fmt: skip
    pictures = [attributes["href"] for tag, attributes in tags if tag == "image"]
    assert len(pictures) == 1 + 3 and all(each.startswith("data:image/jpeg;") for each in pictures)
    drawn = {attributes["stroke"] for tag, attributes in tags if tag == "polyline"}
    boxes = [attributes["stroke"] for tag, attributes in tags if tag == "rect"]
    assert drawn == {query.COLOURS[0]} and boxes and set(boxes) <= set(query.COLOURS[:2])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--k", 0], 2, "--k 0"),
        (["--layout", "nan"], 2, "the weight of 'layout' is nan"),
        (["--html", "/no/where/a.html"], 1, "cannot write /no/where/a.html"),
    ],
)
def test_wrong_queries(indexed, tmp_path, words, code, message, capsys):
    assert ask(indexed / "index", scene_file(tmp_path), *words) == code
    assert message in capsys.readouterr().err
    assert ask(indexed / "index", scene_file(tmp_path, label="unicorn")) == 1
    assert ask(indexed / "index", tmp_path / "none.json") == 1
    assert ask(tmp_path, scene_file(tmp_path)) == 1
    said = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in said) and "is no index" in said[-1]
