"""Figures and histories of runs, as others may send them: files of figures, metrics.jsonl, and the
page and the table that are made of them."""

import json

import pytest
from hypothesis import given

from core.errors import UserError
from core.evaluation import figure_files
from core.evaluation.figures import Figure
from experiments.tables import report
from tests.fuzz.hostile import each_replaced, mutated, mutated_json, refused_or
from tests.fuzz.test_fuzz_hparams import CONFIG

FIGURE = Figure("sbir-top1", "valid", 0.25, 8, {"boxes": "own"}, 9, 1 / 9, interval=(0.1, 0.5))
EVALUATION = {
    "schema": figure_files.EVALUATION_SCHEMA, "run": "m-1", "command": ["evaluate-metrics.py"],
    "model": "m", "step": 5, "loader": "coco-tfrecord", "split": "valid",
    "results": [FIGURE.to_json(), {"metric": "m", "split": "valid", "path": "a.png", "labels": {}}],
}  # fmt: skip
SEARCH = {
    "schema": figure_files.EXPERIMENT_SCHEMA, "featsfile": "f.npz", "model": "m", "run": "1",
    "step": 5, "loader": "coco-tfrecord", "split": "test", "notes": ["a note"],
    "pictures": ["curve.png"], "results": [FIGURE.to_json()],
}  # fmt: skip
RUN = {**CONFIG, "hparams": {**CONFIG["hparams"], "base": {"goal": "to see"}}}
SEARCHED = {"experiment": "sbir-on-features-file", "time": "now", "command": ["run-experiment.py"],
            "hparams": {"featsfile": "f.npz", "results": "."}, "model": {"id": "1"}}  # fmt: skip
SCRIPT = "<script>alert(1)</script>"


def changed(content):
    return mutated_json(content).map(json.dumps) | mutated(json.dumps(content).encode())


@given(data=changed(EVALUATION) | changed(SEARCH))
def test_files_of_figures(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "figures.json"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    file = refused_or(figure_files.read, path, size=len(data))
    for picture in file.pictures if file else ():
        assert picture.parent == path.parent and picture.suffix in (".png", ".jpg")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run with an evaluation, and a search. -> (folder, file -> its content)"""
    folder = tmp_path_factory.mktemp("out")
    files = {
        "m-1/config.json": RUN, "m-1/evaluation/valid.json": EVALUATION,
        "search-1/config.json": SEARCHED, "search-1/f_sbir.json": SEARCH,
    }  # fmt: skip
    SEARCHED["hparams"]["results"] = str(folder / "search-1")
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder, files


def made(folder):
    experiment = report.ReportPage(report.ReportHParams(results=str(folder)), folder / "report-1")
    experiment.run(None)
    return (folder / "report.html").read_text()


def test_the_page_that_is_spoilt_is_whole(world):
    assert all(text in made(world[0]) for text in ("to see", "sbir-top1", "a note"))


@pytest.mark.parametrize(
    "name", ["m-1/config.json", "m-1/evaluation/valid.json", "search-1/config.json",
             "search-1/f_sbir.json"]
)  # fmt: skip
def test_a_page_of_spoilt_files(world, name):
    folder, files = world
    try:
        for content in each_replaced(files[name]):
            text = json.dumps(content).replace('"x"', json.dumps(SCRIPT))
            (folder / name).write_text(text)
            try:
                page = made(folder)
            except UserError as error:
                assert "\n" not in str(error)
            except OSError:  # a name that is too long: core.commands says so
                pass
            else:
                assert SCRIPT not in page
    finally:
        (folder / name).write_text(json.dumps(files[name]))
