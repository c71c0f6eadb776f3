"""Files of figures, read back: what is whole comes back equal, what is not is one sentence."""

import json

import pytest

from core.errors import UserError
from core.evaluation.figure_files import read
from core.evaluation.figures import Figure

FIGURES = (
    Figure("sbir-top1", "valid", 0.25, 8, {"boxes": "own", "sketches": "real"}, 9, 1 / 9,
           interval=(0.1, 0.5), controls={"minus_blank": 0.125, "classes": 3}),
    Figure("mask-iou", "valid", 1.0, 3, ceiling=1.0),
)  # fmt: skip
PICTURE = {"metric": "m", "split": "valid", "path": "m-step-5.png", "labels": {}}


def evaluation(**changes):
    return {
        "schema": 2, "run": "graph-attention-SD01", "command": ["evaluate-metrics.py", "x"],
        "model": "graph-attention", "step": 5, "loader": "coco-tfrecord", "split": "valid",
        "results": [*(figure.to_json() for figure in FIGURES), PICTURE], **changes,
    }  # fmt: skip


def saved(tmp_path, content):
    path = tmp_path / "figures.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_an_evaluation_comes_back_equal(tmp_path):
    file = read(saved(tmp_path, evaluation()))
    assert file.figures == FIGURES
    assert file.pictures == (tmp_path / "m-step-5.png",)
    assert (file.run, file.loader, file.split, file.step) == (
        "graph-attention-SD01", "coco-tfrecord", "valid", 5,
    )  # fmt: skip
    assert file.command == ("evaluate-metrics.py", "x")


def test_what_experiments_write(tmp_path):
    content = {
        "schema": 1, "featsfile": "f.npz", "model": "graph-attention", "run": "SD01", "step": 5,
        "loader": "coco-tfrecord", "split": "test", "seed": 0, "gallery": "all of it",
        "notes": ["a note"], "pictures": ["curve.png"], "results": [FIGURES[0].to_json()],
    }  # fmt: skip
    file = read(saved(tmp_path, content))
    assert (file.run, file.featsfile, file.step) == ("graph-attention-SD01", "f.npz", 5)
    assert (file.notes, file.pictures) == (("a note",), (tmp_path / "curve.png",))
    assert file.figures == FIGURES[:1] and file.command == ()
    for name in ("model", "run", "step", "loader", "split", "notes", "pictures"):
        del content[name]  # as of features of another system
    file = read(saved(tmp_path, content))
    assert (file.run, file.loader, file.split, file.step) == ("f.npz", "", "", None)


def figure(**changes):
    return evaluation(results=[{**FIGURES[0].to_json(), **changes}])


@pytest.mark.parametrize(
    ("content", "piece"),
    [
        ("", "is not valid JSON"),
        ({"schema": 2}, "holds no figures"),
        (evaluation(schema=1), "schema 1, but this version of the program reads schema 2"),
        (evaluation(results={}), "Expected `array`, got `object` - at `$.results`"),
        (evaluation(step=-1), "Expected `int` >= 0 - at `$.step`"),
        (figure(value="high"), "results[0]: Expected `float`, got `str` - at `$.value`"),
        (figure(value=float("nan")), "is not valid JSON"),
    ],
)
def test_what_is_not_whole_is_named(tmp_path, content, piece):
    path = saved(tmp_path, content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(path) in str(caught.value) and piece in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize(
    "name", ["/etc/hostname.png", "../x.png", "a/x.png", "", ".", "..", "secret.txt", "a\\..\\", 5]
)
def test_pictures_lie_beside_the_file(tmp_path, name):
    with pytest.raises(UserError, match="results"):
        read(saved(tmp_path, evaluation(results=[{**PICTURE, "path": name}])))
    content = {**evaluation(pictures=[name], results=[]), "schema": 1}
    del content["command"]
    with pytest.raises(UserError, match="pictures"):
        read(saved(tmp_path, content))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        read(tmp_path / "none.json")


def test_controls_as_text():
    controls = {"minus_blank": 0.5, "minus_blank_low": 0.25, "minus_blank_high": 0.75, "rank": 2.0}
    assert Figure("m", "valid", 1.0, 1, controls=controls).controls_text == (
        "minus blank 0.5 [0.250, 0.750], rank 2"
    )
    half = Figure("m", "valid", 1.0, 1, controls={"gap": 0.5, "gap_low": 0.25})
    assert half.controls_text == "gap 0.5"
