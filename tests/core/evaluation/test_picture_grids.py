"""Pictures of an evaluation, and the map of an embedding."""

import numpy as np
import pytest
from PIL import Image

from core import plots
from core.evaluation import embedded_split
from core.evaluation.picture_grids import CAPTION, GAP, TILE, tsne
from core.evaluation.query_protocols import QueryProtocol
from tests.core.evaluation.fakes import SIDE, FakeModel, FakeScenes, evaluate


def test_groups_stay_together_and_the_seed_decides():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3, 16))
    group = np.repeat(np.arange(3), 20)
    vectors = (centres[group] + 0.05 * rng.standard_normal((60, 16))).astype(np.float32)
    points = tsne(vectors, 0)
    assert points.shape == (60, 2)
    middles = np.stack([points[group == g].mean(0) for g in range(3)])
    nearest = np.linalg.norm(points[:, None] - middles, axis=2).argmin(1)
    np.testing.assert_array_equal(nearest, group)
    np.testing.assert_array_equal(tsne(vectors, 0), points)


@pytest.mark.parametrize("count", [2, 3, 40])
def test_a_collapsed_embedding_is_a_point(count):
    points = tsne(np.ones((count, 8), np.float32), 0)
    np.testing.assert_array_equal(points, np.zeros((count, 2)))


@pytest.mark.parametrize(("count", "width"), [(2, 8), (5, 1)])
def test_few_points_and_narrow_vectors(count, width):
    vectors = np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)
    assert np.isfinite(tsne(vectors, 0)).all()


def test_picture_frames_the_right_one(tmp_path):
    (picture,) = evaluate(FakeModel(), ["sbir-on-valid"], tmp_path)
    image = np.asarray(Image.open(picture.path))
    green = np.all(image == (0, 150, 60), axis=2).any()
    own = embedded_split.Evaluation(FakeModel(), FakeScenes())
    rank = own.scene_ranks(QueryProtocol(boxes="jittered"), "projection")
    chosen = np.random.default_rng(0).permutation(20)[:8]
    assert green == (rank[chosen] <= 5).any()
    assert green


def test_masks_are_pictured_with_their_overlaps(tmp_path):
    """The fake model's masks are the left halves of the true ones."""
    (picture,) = evaluate(FakeModel(), ["generated-masks"], tmp_path)
    page = np.asarray(Image.open(picture.path))
    step_x, step_y = TILE + GAP, TILE + CAPTION + GAP
    top = 2 * CAPTION + 2 * GAP
    own = embedded_split.Evaluation(FakeModel(), FakeScenes())
    objects = own.compared_masks("sketch").objects
    depicted = own.queries(QueryProtocol()).query_to_photo
    np.testing.assert_array_equal(objects, depicted)
    for row, number in enumerate(objects[np.random.default_rng(0).permutation(len(objects))[:8]]):
        y = top + row * step_y

        def tile(column, y=y):
            x = GAP + column * step_x
            return page[y : y + TILE, x : x + TILE, 0]

        assert (tile(0) == number).all()  # the crop shows the object's number as its grey
        assert (tile(3)[2:-2, 2:-2] == number).all()  # so does the sketch
        for column, width in ((1, 1.0), (2, 0.5), (4, 0.5)):
            share = (tile(column) == 255).mean()
            assert share == pytest.approx(width * (4 + number % 8) / SIDE, abs=0.01)


def test_the_embedding_is_mapped(tmp_path):
    (picture,) = evaluate(FakeModel(), ["common-embedding-tsne"], tmp_path)
    assert picture.path == tmp_path / "common-embedding-tsne-fake-scenes-step-7.png"
    page = np.asarray(Image.open(picture.path).convert("RGB"))
    for colour in plots._COLOURS[:5]:  # five classes
        assert np.all(page == tuple(bytes.fromhex(colour[1:])), axis=2).any()


def test_pictures_of_the_test_split_have_their_own_name(tmp_path):
    names = ["sbir-on-valid", "sbir-on-valid-test", "generated-masks-test"]
    dataset = FakeScenes()
    pictures = evaluate(FakeModel(), names, tmp_path, dataset)
    assert [(p.metric, p.split) for p in pictures] == list(zip(names, ("valid", "test", "test")))
    assert [p.path.name for p in pictures] == [f"{name}-fake-scenes-step-7.png" for name in names]
