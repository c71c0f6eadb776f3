"""Evaluation of a model that sees whole photographs and whole drawings."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core.errors import UsageError
from core.evaluation import embedded_split, report
from core.evaluation.query_protocols import (
    SKETCHES,
    DrawnScenes,
    QueryProtocol,
    standard_protocols,
)
from core.model import WholeSceneModel
from dataloaders.batches import SceneBatch
from dataloaders.queries import query_objects
from tests.core.evaluation.fakes import FakeScenes
from tests.core.test_drawings import slow_drawings

SIDE = 32  # of the pictures that the model sees


class Whole(FakeScenes):
    """The photograph of scene n is a plain grey of 10 n. A sketch has a black line, left and top,
    in its grey."""

    def batch(self, scenes):
        batch = super().batch(scenes)
        greys = 10 * tf.constant(list(scenes), tf.uint8)[:, None, None, None]
        lines = np.ones(batch.sketches.shape, np.uint8)
        lines[:, :2] = lines[:, :, :1] = 0
        images = tf.broadcast_to(greys, (len(scenes), 64, 64, 3))
        return batch._replace(images=images, sketches=batch.sketches * lines)


class Pixels(WholeSceneModel):
    """Its vectors are the pixels, of photographs the red ones."""

    name, batch_type = "pixels", "SceneBatch"
    vector_names = ("pixels",)
    metrics = ("sbir-mAP", "sbir-top1", "sbir-on-valid")
    scene_size = SIDE
    train_step = warm_start_parts = None

    def __init__(self):
        self.photographs = 0

    def embed_photographs(self, images):
        assert images.dtype == tf.uint8 and images.shape[1:] == (SIDE, SIDE, 3)
        self.photographs += len(images)
        return {"pixels": self._flat(images[..., 0])}

    def embed_drawings(self, drawings):
        assert drawings.dtype == tf.uint8 and drawings.shape[1:] == (SIDE, SIDE, 1)
        return {"pixels": self._flat(drawings)}

    def _flat(self, pixels):
        return tf.reshape(tf.cast(pixels, tf.float32), (len(pixels), SIDE * SIDE))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    "protocol",
    [
        QueryProtocol(),
        QueryProtocol("jittered"),
        QueryProtocol("jittered", "shuffled"),
        QueryProtocol("shared", dropped=0.5),
        QueryProtocol("shared", "blank"),
    ],
    ids=str,
)
def test_drawings_show_every_sketch_in_its_box(protocol, mirrored, monkeypatch):
    monkeypatch.setattr(embedded_split, "MASK_SCENES", 7)
    own = embedded_split.Evaluation(Pixels(), Whole(), mirrored=mirrored)
    queries = own.queries(protocol)
    drawings = queries.vectors["pixels"].reshape(20, SIDE, SIDE, 1)

    dataset = Whole(batch_size=50)
    (batch,) = dataset.eval_batches("valid")
    columns = (batch.image_ids, batch.query.obj_to_img, batch.query.boxes, batch.query_to_photo)
    drawn = DrawnScenes(*(each.numpy() for each in (*columns, batch.photo.boxes)))
    shown = dataset.queries(protocol, drawn).sketches  # -1, white paper, comes last
    sketches = np.concatenate([batch.sketches, np.full_like(batch.sketches[:1], 255)])[shown]
    sketches = sketches[:, :, :: -1 if mirrored else 1]
    expected = slow_drawings(sketches, queries.boxes, queries.obj_to_img, 20, SIDE)
    np.testing.assert_allclose(drawings, expected, atol=2)
    assert (expected.min(axis=(1, 2, 3)) < 100).all() != (protocol.sketches == "blank")


def test_photographs_are_embedded_once_and_queries_under_each_protocol(tmp_path):
    model, dataset = Pixels(), Whole()
    results = report.run(model, dataset, tmp_path, ["sbir-mAP", "sbir-top1"])
    assert model.photographs == 20 and dataset.passes == ["valid"]
    protocols = {str(protocol) for protocol in standard_protocols(own_boxes=False)}
    assert {f.labels_text.removesuffix(" vector=pixels") for f in results} == protocols
    blank = [f for f in results if f.labels["sketches"] == "blank"]
    assert all(f.value <= f.chance for f in blank)  # one drawing for all: ties count against it


def test_the_picture_of_a_search(tmp_path):
    (picture,) = report.run(Pixels(), Whole(), tmp_path, ["sbir-on-valid"])
    assert picture.labels["vector"] == "pixels"
    colours = {c for _, c in Image.open(picture.path).convert("RGB").getcolors(1 << 20)}
    chosen = np.random.default_rng(0).permutation(20)[:8]
    assert {(10 * n,) * 3 for n in chosen.tolist()} <= colours


class Pages(Whole):
    """Sets without objects: drawing n is white but for its first 30 or 31 columns, of grey 10 n."""

    has_objects = has_masks = False
    queries = query_objects

    def batch(self, scenes):
        drawings = np.full((len(scenes), SIDE, SIDE, 1), 255, np.uint8)
        for drawing, n in zip(drawings, scenes):
            drawing[:, : 30 + n % 2] = 10 * n
        batch = super().batch(scenes)
        return SceneBatch(batch.image_ids, batch.images, drawings=tf.constant(drawings))


@pytest.mark.parametrize("mirrored", [False, True])
def test_whole_drawings_are_shown_real_blank_and_shuffled(mirrored):
    own = embedded_split.Evaluation(Pixels(), Pages(), mirrored=mirrored)
    kinds = [QueryProtocol("whole-drawing", sketches) for sketches in SKETCHES]
    assert standard_protocols(own_boxes=False, has_objects=False) == tuple(kinds)
    real, blank, shuffled = (
        own.queries(kind).vectors["pixels"].reshape(20, SIDE, SIDE) for kind in kinds
    )
    drawn = np.full((20, SIDE, SIDE), 255)
    for n, drawing in enumerate(drawn):
        drawing[:, : 30 + n % 2] = 10 * n
    np.testing.assert_array_equal(real, drawn[:, :, :: -1 if mirrored else 1])
    assert (blank == 255).all() and blank.shape == real.shape
    others = [int(np.flatnonzero((page == real).all(axis=(1, 2)))[0]) for page in shuffled]
    assert sorted(others) == list(range(20)) and all(n != other for n, other in enumerate(others))
    np.testing.assert_array_equal(own.photos.vectors["pixels"][:, 0], 10 * np.arange(20))
    with pytest.raises(UsageError, match="cannot have jittered boxes"):
        own.queries(QueryProtocol("jittered"))


def test_figures_of_whole_drawings_stand_beside_their_controls(tmp_path, capsys):
    """Photographs are plain greys: which is nearest follows from the pixels. To white paper it is
    the lightest, for all."""
    names = ["sbir-top1", "sbir-on-valid"]
    *figures, picture = report.run(Pixels(), Pages(), tmp_path, names)
    found = {figure.labels["sketches"]: figure for figure in figures}
    assert {figure.labels["boxes"] for figure in figures} == {"whole-drawing"}
    greys, columns = 10.0 * np.arange(20), 30 + np.arange(20)[:, None] % 2
    distances = (greys[:, None] - greys) ** 2 * columns + (255 - greys) ** 2 * (SIDE - columns)
    right = (distances.argmin(axis=1) == np.arange(20)).mean()
    assert right > 0.1 and found["real"].value == pytest.approx(right)
    assert found["real"].chance == found["blank"].value == 1 / 20
    assert found["real"].controls["minus_blank"] == pytest.approx(right - 1 / 20)
    assert "Search for scenes, whole drawings, 20 queries in 20" in capsys.readouterr().out
    assert picture.labels["boxes"] == "whole-drawing" and picture.path.is_file()
    with pytest.raises(UsageError, match="needs objects, which fake-scenes has not"):
        report.check_metrics(["sbir-ndcg@10"], SimpleNamespace(metrics=["sbir-ndcg@10"]), Pages())


def test_there_are_no_encoded_objects():
    own = embedded_split.Evaluation(Pixels(), Whole())
    photos, queries = own.photos, own.queries(QueryProtocol())
    for side in (photos, queries):
        assert side.objects is side.embedding is side.predicted is None
        assert len(side.classes) == len(side.boxes) == len(side.obj_to_img)
    assert len(photos.masks) == len(photos.classes)
