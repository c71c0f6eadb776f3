"""Embedding a split, and the figures of models whose answers are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from core.dataset import Vocabulary
from core.errors import UsageError
from core.evaluation import embedded_split, mask_metrics
from core.evaluation.query_protocols import QueryProtocol
from dataloaders.batches import TripletBatch
from tests.core.evaluation.fakes import (
    SIDE,
    Drawings,
    FakeModel,
    FakeScenes,
    Gallery,
    by_label,
    evaluate,
)


def test_a_split_is_embedded_whole_whatever_the_batch_size():
    views = []
    for batch_size in (1, 6, 50):
        own = embedded_split.Evaluation(FakeModel(), FakeScenes(batch_size=batch_size))
        queries = own.queries(QueryProtocol(boxes="jittered"))
        # the sketch shows the number of the object it depicts: rows must line up
        depicted = own.photos.embedding[queries.query_to_photo]
        np.testing.assert_array_equal(queries.embedding, depicted)
        np.testing.assert_array_equal(
            queries.obj_to_img, own.photos.obj_to_img[queries.query_to_photo]
        )
        assert own.photos.image_ids.tolist() == list(range(100, 120))
        views.append((own.photos, queries))
    for photos, queries in views[1:]:
        for one, other in ((photos, views[0][0]), (queries, views[0][1])):
            for name in ("embedding", "classes", "predicted", "boxes", "obj_to_img"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            np.testing.assert_array_equal(one.vectors["projection"], other.vectors["projection"])


def test_model_without_projection(tmp_path):
    """Scenes are ranked by the token alone; asking for the projection is one clear sentence."""
    both = evaluate(FakeModel(), ["sbir-top1"], tmp_path, vectors=("projection", "token"))
    assert len(both) == 12
    # The token is constant in this model.
    assert by_label(both, vector="token", boxes="shared", sketches="real").value == 0

    class Unprojected(FakeModel):
        vector_names = ("token",)

        def contextualise(self, scenes, with_masks=True):
            sees = super().contextualise(scenes, with_masks)
            return sees._replace(vectors={"token": sees.vectors["projection"]})

    figures = evaluate(Unprojected("boxes"), ["sbir-top1"], tmp_path)
    same = evaluate(FakeModel("boxes"), ["sbir-top1"], tmp_path)  # by the same vectors, projected
    assert [f.value for f in figures] == [f.value for f in same]
    assert figures[0].value > 0
    with pytest.raises(UsageError, match=r"no scene vector 'projection'.*choose of token$"):
        embedded_split.Evaluation(Unprojected(), FakeScenes(), vectors=("projection",))


def test_each_object_is_encoded_once_whatever_the_protocols(tmp_path):
    dataset, model = FakeScenes(), FakeModel()
    evaluate(model, ["sbir-mAP", "sbir-top1", "obj-sbir-mAP"], tmp_path, dataset)
    objects = sum(dataset.counts)
    queries = sum(len(b.sketches) for b in FakeScenes().eval_batches("valid"))
    assert model.photos_encoded == objects
    assert model.queries_encoded == queries + 1  # and white paper
    assert dataset.passes == ["valid"]
    assert model.masks_made == 0  # the costliest part, and nobody asked
    dataset, model = FakeScenes(), FakeModel()
    evaluate(model, ["mask-iou"], tmp_path, dataset)
    assert sorted(dataset.passes) == ["train", "valid"]
    assert model.masks_made == objects + queries


def test_scene_recall_is_six_rows_with_controls(tmp_path):
    figures = evaluate(FakeModel("boxes"), ["sbir-mAP"], tmp_path)
    assert len(figures) == 6
    for boxes in ("shared", "jittered"):
        real = by_label(figures, boxes=boxes, sketches="real")
        blank = by_label(figures, boxes=boxes, sketches="blank")
        shuffled = by_label(figures, boxes=boxes, sketches="shuffled")
        # this model sees boxes only: whatever it scores, other sketches score too
        assert real.value == blank.value == shuffled.value
        assert real.controls["minus_blank"] == 0
        assert real.gallery == real.n == 20
        assert real.chance == pytest.approx(sum(1 / i for i in range(1, 21)) / 20)
        assert real.interval[0] <= real.value <= real.interval[1]


def test_a_model_that_sees_beats_its_blank_control(tmp_path):
    figures = evaluate(FakeModel("sees"), ["sbir-top5"], tmp_path)
    real = by_label(figures, boxes="jittered", sketches="real")
    blank = by_label(figures, boxes="jittered", sketches="blank")
    assert real.value > blank.value
    assert real.controls["minus_blank"] == pytest.approx(real.value - blank.value)
    assert real.controls["minus_blank_low"] > 0
    assert blank.value <= blank.chance
    shuffled = by_label(figures, boxes="jittered", sketches="shuffled")
    assert shuffled.value < real.value


def test_object_recall_of_perfect_embeddings(tmp_path):
    (figure,) = evaluate(FakeModel(), ["obj-sbir-top1"], tmp_path)
    dataset = FakeScenes()
    objects = sum(dataset.counts)
    assert figure.value == 1.0  # every number has its own place on the circle
    assert figure.gallery == objects
    assert figure.chance == pytest.approx(1 / objects)
    counts = np.bincount(np.arange(objects) % 5)
    assert figure.ceiling == pytest.approx(np.mean(1 / counts))


def test_mask_iou_worked_by_hand(tmp_path):
    photo, sketch = evaluate(FakeModel(), ["mask-iou"], tmp_path)
    # predicted: the left half of the true mask
    assert photo.labels == {"view": "photo"}
    assert photo.value == pytest.approx(0.5)
    assert sketch.value == pytest.approx(0.5)
    heights = 4 + np.arange(sum(FakeScenes().counts)) % 8
    assert photo.controls["all_ones"] == pytest.approx(np.mean(heights / SIDE))
    numbers = np.arange(len(heights))
    expected = []
    for number, height in zip(numbers, heights):
        own = heights[numbers % 5 == number % 5]
        mean = sum(np.mean(own > row) >= 0.5 for row in range(SIDE))
        expected.append(min(mean, height) / max(mean, height))
    assert photo.controls["class_mean"] == pytest.approx(np.mean(expected))
    gap = photo.controls["minus_class_mean"]
    assert gap == pytest.approx(0.5 - np.mean(expected))
    low, high = (photo.controls[f"minus_class_mean_{end}"] for end in ("low", "high"))
    assert low <= gap <= high


def test_class_means_come_from_train(tmp_path):
    own = embedded_split.Evaluation(FakeModel(), FakeScenes(), "valid", limit=3)
    packed = own.class_mean_masks()
    assert packed.shape == (6, SIDE * SIDE // 8)
    assert own.dataset.passes == ["train"]
    assert mask_metrics.unpack(packed, SIDE)[:, 0].all()


def test_an_evaluation_at_a_later_step_sees_the_model_anew_and_keeps_class_means():
    dataset, model = FakeScenes(), FakeModel("collapsed")
    first = embedded_split.Evaluation(model, dataset)
    first.compute("mask-iou")
    assert dataset.passes.count("train") == 1
    before = [figure.value for figure in first.compute("sbir-top5")]
    model.kind = "sees"
    second = first.at_step(9)
    assert second.step == 9
    assert [figure.value for figure in second.compute("sbir-top5")] != before
    assert [figure.value for figure in first.compute("sbir-top5")] == before
    second.compute("mask-iou")
    assert dataset.passes.count("train") == 1


def test_predicted_masks_come_with_their_rows(monkeypatch):
    monkeypatch.setattr(embedded_split, "MASK_SCENES", 6)
    own = embedded_split.Evaluation(FakeModel(), FakeScenes())
    queries = own.queries(QueryProtocol("jittered"))
    parts = list(own.predict_masks(queries))
    assert [(part.scenes.start, part.scenes.stop) for part in parts] == [
        (0, 6), (6, 12), (12, 18), (18, 20)
    ]  # fmt: skip
    for part in parts:
        rows = np.flatnonzero(
            (queries.obj_to_img >= part.scenes.start) & (queries.obj_to_img < part.scenes.stop)
        )
        assert range(part.rows.start, part.rows.stop) == range(rows[0], rows[-1] + 1)
        np.testing.assert_array_equal(part.boxes, queries.boxes[part.rows])
        numbers = queries.objects[part.rows, 0].astype(int)
        heights = (part.masks[:, :, 0] > 0.5).sum(1)
        np.testing.assert_array_equal(heights, 4 + numbers % 8)


def test_stage_one_accuracy(tmp_path):
    classes = np.array([0, 1, 1, 2], np.int32)
    grey = np.array([0, 1, 2, 2], np.uint8)[:, None, None, None]  # what the fake model reads

    class Data:
        name, seed, has_masks = "fake-triplets", 0, True
        vocabulary = Vocabulary(("a", "b", "c", "__image__"))

        def eval_batches(self, split, limit):
            for rows in (slice(0, 3), slice(3, 4)):
                sketch = tf.constant(grey[rows])
                crop = tf.repeat(tf.constant(2 - grey[rows]), 3, axis=3)
                labels = tf.constant(classes[rows])
                yield TripletBatch(sketch, crop, crop, labels, labels)

    class Model:
        name, batch_type, hparams = "fake-stage-1", "TripletBatch", SimpleNamespace()
        metrics = ("embedding-obj-accuracy", "embedding-skt-accuracy")

        def embed_photos(self, crops):
            numbers = tf.cast(crops[:, 0, 0, 0], tf.int32)
            return SimpleNamespace(embedding=tf.one_hot(numbers, 8), logits=tf.one_hot(numbers, 4))

        embed_sketches = embed_photos

    figures = evaluate(Model(), None, tmp_path, Data())
    photo, _, sketch, micro = figures
    assert photo.value == pytest.approx((0 + 1 / 2 + 0) / 3)  # crops read 2, 1, 0, 0
    assert sketch.value == pytest.approx((1 + 1 / 2 + 1) / 3)  # sketches read 0, 1, 2, 2
    assert micro.value == pytest.approx(3 / 4)
    assert micro.chance == pytest.approx(1 / 2)


def test_a_gallery_has_all_that_photographs_have(tmp_path):
    gallery = embedded_split.Evaluation(FakeModel(), Gallery())
    both = embedded_split.Evaluation(FakeModel(), FakeScenes())
    for name in ("image_ids", "classes", "boxes", "obj_to_img", "objects", "masks"):
        np.testing.assert_array_equal(getattr(gallery.photos, name), getattr(both.photos, name))
    np.testing.assert_array_equal(
        gallery.photos.vectors["projection"], both.photos.vectors["projection"]
    )
    with pytest.raises(UsageError, match="fake-scenes has no sketched scenes to search with"):
        gallery.queries(QueryProtocol())
    results = evaluate(FakeModel(), None, tmp_path, Gallery())
    assert {r.metric for r in results} == {"embedding-obj-accuracy", "mask-iou"}
    whole = evaluate(FakeModel(), ["embedding-obj-accuracy", "mask-iou"], tmp_path)
    assert results == [r for r in whole if r.labels.get("view") != "sketch"]
    with pytest.raises(UsageError, match="'sbir-mAP-test' needs sketched scenes"):
        evaluate(FakeModel(), ["sbir-mAP-test"], tmp_path, Gallery())


def test_drawings_alone_can_be_embedded(tmp_path):
    drawings = embedded_split.Evaluation(FakeModel(), Drawings())
    queries = drawings.queries(QueryProtocol())
    both = embedded_split.Evaluation(FakeModel(), FakeScenes()).queries(QueryProtocol())
    np.testing.assert_array_equal(queries.vectors["projection"], both.vectors["projection"])
    np.testing.assert_array_equal(queries.boxes, both.boxes)
    assert (queries.query_to_photo == -1).all()
    with pytest.raises(UsageError, match="fake-scenes has no photographs to search in"):
        drawings.scene_ranks(QueryProtocol(), "projection")
    results = evaluate(FakeModel(), None, tmp_path, Drawings())
    assert {r.metric for r in results} == {"embedding-skt-accuracy"}
