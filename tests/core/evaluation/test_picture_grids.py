"""Pictures of an evaluation, and the map of an embedding."""

import numpy as np
import pytest
from PIL import Image

from core import plots
from core.evaluation import embedded_split, mask_metrics
from core.evaluation.picture_grids import CAPTION, GAP, TILE, grid, layout, tsne
from core.evaluation.query_protocols import QueryProtocol
from core.label_colours import PALETTE
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


def test_masks_are_made_of_scenes_in_the_picture_alone(tmp_path, monkeypatch):
    """The page is the one that masks of the whole split give, also where a mask depends on all
    that its scene holds."""

    class InContext(FakeModel):
        def contextualise(self, scenes, with_masks=True):
            outputs = super().contextualise(scenes, with_masks)
            if not with_masks:
                return outputs
            sums = np.bincount(scenes.obj_to_img, scenes.vectors[:, 0], scenes.num_scenes)
            held = sums[scenes.obj_to_img].astype(int) % SIDE
            cut = np.arange(SIDE)[None, :, None] > held[:, None, None]
            return outputs._replace(masks=np.where(cut, 0.7, outputs.masks))

    def of_all(evaluation, side, rows):
        parts = [part.masks for part in evaluation.predict_masks(side)]
        return mask_metrics.pack(np.concatenate(parts))[rows]

    few, all_of_them = InContext(), InContext()
    (picture,) = evaluate(few, ["generated-masks"], tmp_path / "few", FakeScenes(200))
    monkeypatch.setattr(embedded_split.Evaluation, "masks_of", of_all)
    (whole,) = evaluate(all_of_them, ["generated-masks"], tmp_path / "all", FakeScenes(200))
    assert picture.path.read_bytes() == whole.path.read_bytes()
    assert few.masks_made <= 2 * 8 * 3  # views, rows, objects of a scene
    assert all_of_them.masks_made > 600


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


def _swatches(page, side):
    """The colours beside a layout, from above."""
    return [tuple(colour) for colour in page[8::16, side + 10].tolist()]


def test_legend_names_the_largest_first(monkeypatch):
    """Labels 0, 1, .. cover 1, 2, .. rows of 96; the last is unlabelled. Six lines have room."""
    written = []
    monkeypatch.setattr(
        "PIL.ImageDraw.ImageDraw.text", lambda self, place, text, *a, **k: written.append(text)
    )
    names = {label: f"class {label}" for label in range(9)}
    for count, more in ((3, []), (6, []), (7, ["2 more"]), (9, ["4 more"])):
        rows = np.repeat(range(count), [*range(1, count), 96 - count * (count - 1) // 2])
        labels = np.tile(rows[:, None], (1, 96)).astype(np.uint8)
        labels[labels == count - 1] = 255
        written.clear()
        page = np.asarray(layout(labels, names, 96))
        assert page.shape[0] == 96
        np.testing.assert_array_equal(page[1:-1, 1:95], PALETTE[labels][1:-1, 1:-1])
        order = [255, *range(count - 2, -1, -1)][: 5 if more else count]
        assert written == ["unlabelled", *(names[label] for label in order[1:]), *more]
        found = _swatches(page, 96)
        assert found[: len(order)] == [tuple(PALETTE[label].tolist()) for label in order]


def test_columns_are_as_wide_as_their_tiles():
    """Tiles keep their proportions and cover neither each other nor the title."""
    red, blue = Image.new("RGB", (30, 20), "red"), Image.new("RGB", (20, 20), "blue")
    page = np.asarray(grid([[(blue, ""), (red, ""), (blue, "")]] * 2, ["a", "b", "c"], "t", 20))
    assert page.shape[1] == 4 * GAP + 20 + 30 + 20
    for colour, left, width in (("red", 2 * GAP + 20, 30), ("blue", GAP, 20)):
        channel = (255, 0, 0) if colour == "red" else (0, 0, 255)
        columns = np.flatnonzero((page == channel).all(axis=2).any(axis=0))
        assert set(range(left, left + width)) <= set(columns)
    long = "a title far longer than three tiles together can ever be"
    assert grid([[(blue, "")]], ["a"], long, 20).width > 300
