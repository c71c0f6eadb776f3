"""'scene-tsne': the grid, the pages, the figures, and files that do not fit."""

import itertools
import json
import math

import numpy as np
import pytest
from PIL import Image

from core import features
from core.errors import UserError
from core.evaluation.picture_grids import TILE
from experiments.analysis import scene_tsne
from experiments.analysis.scene_tsne import GAP, HEAD, SceneTsne, assign_cells, mosaic
from tests.core.test_features import make
from tests.experiments.running import run_experiment

SCENES = 12


def test_cells_by_hand():
    """Four corners, though one point is further out than the others."""
    points = np.array([[0.0, 0.0], [9.0, 1.0], [1.0, 8.0], [7.0, 7.0]])
    assert assign_cells(points).tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]


def test_cells_are_the_best_of_all_ways():
    """Five points on the nine cells of a grid, by trying all 15,120 ways."""
    points = np.random.default_rng(3).random((5, 2))
    stretched = (points - points.min(0)) / np.ptp(points, axis=0) * 2
    grid = np.array(list(itertools.product(range(3), range(3))))
    best = min(
        ((stretched - grid[list(way)]) ** 2).sum() for way in itertools.permutations(range(9), 5)
    )
    cells = assign_cells(points)
    assert len({tuple(cell) for cell in cells.tolist()}) == 5
    assert ((stretched - cells) ** 2).sum() == pytest.approx(best)


@pytest.mark.parametrize("count", [1, 2, 10])
def test_points_in_one_place_get_cells_of_their_own(count):
    cells = assign_cells(np.zeros((count, 2)))
    assert len({tuple(cell) for cell in cells.tolist()}) == count
    assert cells.min() >= 0 and cells.max() < math.ceil(count**0.5)


def test_pictures_lie_in_their_cells():
    pictures = [Image.new("RGB", (TILE, TILE), (value, 0, 0)) for value in (10, 120, 250)]
    page = np.asarray(mosaic(pictures, np.array([[1, 0], [0, 1], [1, 1]]), "title"))
    step = TILE + GAP
    for value, (column, row) in ((10, (1, 0)), (120, (0, 1)), (250, (1, 1))):
        x, y = GAP + column * step, HEAD + row * step
        inside = page[y + 1 : y + TILE - 1, x + 1 : x + TILE - 1]
        assert (inside == (value, 0, 0)).all()
    assert (page[HEAD : HEAD + TILE, GAP : GAP + TILE] == 255).all()  # the cell of nobody


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "saved" / "SD01_test_feats.npz"
    path.parent.mkdir()
    features.write(path, make(SCENES))
    features.thumbnail_folder(path).mkdir()
    for image_id in make(SCENES).arrays["image_ids"].tolist():
        for side, kind in (("photo", "JPEG"), ("sketch", "PNG")):
            image = Image.new("RGB", (TILE, TILE), (image_id % 256, 90, 90))
            image.save(features.thumbnail_path(path, image_id, side), kind)
    return path


def run(path, results):
    text = f"results={results},featsfile={path}"
    run_experiment(SceneTsne, results / "own", text)
    return json.loads((results / f"{path.stem}_scene_tsne.json").read_text())


def test_pages_and_figures(path, tmp_path, capsys):
    content = run(path, tmp_path / "r")
    assert content["image_ids"] == make(SCENES).arrays["image_ids"].tolist()
    assert len({tuple(cell) for cell in content["cells"]}) == SCENES
    assert {figure["labels"]["of"] for figure in content["results"]} == {"map", "grid"}
    for figure in content["results"]:
        assert figure["metric"] == "tsne-trustworthiness"
        assert 0 <= figure["chance"] <= 1 and figure["n"] == SCENES
    pictures = [f"{path.stem}_scene_tsne_{name}.jpg" for name in ("photos", "queries")]
    assert content["pictures"] == pictures
    for name in pictures:
        page = np.asarray(Image.open(tmp_path / "r" / name).convert("RGB")).astype(int)
        for image_id, (column, row) in zip(content["image_ids"], content["cells"]):
            x, y = GAP + column * (TILE + GAP), HEAD + row * (TILE + GAP)
            middle = page[y + TILE // 2, x + TILE // 2]
            np.testing.assert_allclose(middle, (image_id % 256, 90, 90), atol=4)
    assert capsys.readouterr().out.count("saved: ") == 3


def test_more_scenes_than_a_page_has_room_for(path, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(scene_tsne, "MAX_SCENES", 5)
    caplog.set_level("INFO")
    content = run(path, tmp_path / "r")
    drawn = np.random.default_rng(content["seed"]).permutation(SCENES)[:5]
    ids = make(SCENES).arrays["image_ids"]
    assert content["image_ids"] == ids[np.sort(drawn)].tolist()
    assert "5 of 12 scenes" in caplog.text


def test_what_cannot_be_mapped(path, tmp_path):
    some = features.thumbnail_path(path, make(SCENES).arrays["image_ids"][4], "sketch")
    some.unlink()
    with pytest.raises(UserError, match=r"thumbnail .*-sketch.png .*save_images=True"):
        run(path, tmp_path / "r")
    features.write(path, make(1))
    with pytest.raises(UserError, match="single scene"):
        run(path, tmp_path / "r")
