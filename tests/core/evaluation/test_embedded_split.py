"""Gathering, the figures of known models, the report; with a fake loader and fake models whose
answers can be worked out by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core import plots
from core.dataset import Vocabulary
from core.errors import UsageError, UserError
from core.evaluation import embedded_split, mask_metrics, picture_grids, retrieval
from core.evaluation import report as reported
from core.evaluation.query_protocols import QueryProtocol
from core.registry import METRICS
from dataloaders.batches import TripletBatch
from tests.core.evaluation.fakes import (  # noqa: F401
    SCENE_METRICS,
    SIDE,
    FakeModel,
    FakeScenes,
    Outputs,
)


def evaluate(model, names, tmp_path, dataset=None, **options):
    dataset = dataset or FakeScenes()
    return reported.run(model, dataset, tmp_path, names, 7, **options)


def by_label(figures, **labels):
    found = [f for f in figures if labels.items() <= f.labels.items()]
    assert len(found) == 1
    return found[0]


def test_sides_are_gathered_whole_whatever_the_batch_size():
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

    class Unprojected(FakeModel):
        vector_names = ("token",)

        def contextualise(self, *arguments):
            sees = super().contextualise(*arguments)
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
    queries = sum(len(b.sketches) for b in dataset.eval_batches("valid"))
    assert model.photos_encoded == objects
    assert model.queries_encoded == queries + 1  # and white paper
    assert dataset.passes.count("valid") == 2  # the other one is ours, above
    assert model.masks_made == 0  # the costliest part, and nobody asked


def test_masks_take_no_pass_of_their_own(tmp_path):
    dataset, model = FakeScenes(), FakeModel()
    evaluate(model, ["mask-iou"], tmp_path, dataset)
    assert dataset.passes == ["train", "valid"]
    queries = sum(len(b.sketches) for b in dataset.eval_batches("valid"))
    assert model.masks_made == sum(dataset.counts) + queries


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


def test_a_collapsed_model_scores_at_or_below_chance(tmp_path):
    names = ["sbir-mAP", "sbir-top1", "sbir-top5", "sbir-top10"]
    for figure in evaluate(FakeModel("collapsed"), names, tmp_path):
        assert figure.value <= figure.chance


def test_both_vectors_on_request(tmp_path):
    figures = evaluate(FakeModel(), ["sbir-top1"], tmp_path, vectors=("projection", "token"))
    assert len(figures) == 12
    token = by_label(figures, vector="token", boxes="shared", sketches="real")
    assert token.value == 0  # constant in this model
    with pytest.raises(UsageError, match=r"no scene vector 'raw'"):
        evaluate(FakeModel(), ["sbir-top1"], tmp_path, vectors=("raw",))


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


def test_accuracies_of_both_sides(tmp_path):
    figures = evaluate(FakeModel(), ["embedding-obj-accuracy", "embedding-skt-accuracy"], tmp_path)
    assert [f.value for f in figures] == [1.0] * 4
    assert figures[0].chance == pytest.approx(1 / 5)


def test_test_variants_read_the_test_split(tmp_path):
    dataset = FakeScenes()
    figures = evaluate(FakeModel(), ["sbir-top1-test", "sbir-top1"], tmp_path, dataset)
    assert [f.split for f in figures] == ["test"] * 6 + ["valid"] * 6
    assert set(dataset.passes) == {"test", "valid"}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "fake-scenes-test-step-7.json",
        "fake-scenes-valid-step-7.json",
    ]


def test_report_is_printed_and_saved(tmp_path, capsys):
    figures = evaluate(FakeModel(), ["sbir-mAP", "mask-iou"], tmp_path / "evaluation")
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines()[:10])) <= 100
    lines = [line.split() for line in printed.splitlines()]
    real = by_label(figures, boxes="jittered", sketches="real")
    gap, low, high = (real.controls[f"minus_blank{end}"] for end in ("", "_low", "_high"))
    row = f"{real.value:.3f} {real.value - gap:.3f} {gap:.3f} [{low:.3f}, {high:.3f}] 0.180"
    assert ["sbir-mAP", "(projection)", *row.split()] in lines
    assert printed.count("sbir-mAP") == 1 and "--all" in printed
    evaluate(FakeModel(), ["sbir-mAP"], tmp_path / "evaluation", whole_table=True)
    assert capsys.readouterr().out.count("sbir-mAP") == 6
    evaluate(FakeModel(), ["sbir-mAP", "mask-iou"], tmp_path / "evaluation")
    report = json.loads((tmp_path / "evaluation" / "fake-scenes-valid-step-7.json").read_text())
    assert (report["run"], report["model"], report["step"]) == (tmp_path.name, "fake-model", 7)
    assert (report["loader"], report["split"]) == ("fake-scenes", "valid")
    assert [r["value"] for r in report["results"]] == [f.value for f in figures]
    assert report["results"][0]["labels"]["boxes"] == "shared"
    assert len(list((tmp_path / "evaluation").iterdir())) == 1  # nothing half-written


def test_two_runs_give_the_same_figures(tmp_path):
    one, other = (evaluate(FakeModel(), ["sbir-mAP", "obj-sbir-mAP"], tmp_path) for _ in "ab")
    assert one == other


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
    step_x, step_y = (
        picture_grids.TILE + picture_grids.GAP,
        picture_grids.TILE + picture_grids.CAPTION + picture_grids.GAP,
    )
    top = 2 * picture_grids.CAPTION + 2 * picture_grids.GAP
    own = embedded_split.Evaluation(FakeModel(), FakeScenes())
    objects = own.compared_masks("sketch").objects
    depicted = own.queries(QueryProtocol()).query_to_photo
    np.testing.assert_array_equal(objects, depicted)
    for row, number in enumerate(objects[np.random.default_rng(0).permutation(len(objects))[:8]]):
        y = top + row * step_y

        def tile(column, y=y):
            x = picture_grids.GAP + column * step_x
            return page[y : y + picture_grids.TILE, x : x + picture_grids.TILE, 0]

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


def test_an_evaluation_made_again_sees_the_model_anew_and_keeps_what_no_model_changes():
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


def test_results_as_a_message(tmp_path):
    results = evaluate(FakeModel("boxes"), ["sbir-top1", "sbir-on-valid"], tmp_path)
    text, pictures = reported.message(results, 7)
    lines = text.splitlines()
    assert lines[0] == "evaluation at step 7"
    assert lines[1].startswith("sbir-top1 boxes=shared sketches=real vector=projection: ")
    assert "(chance 0.05, minus blank 0 [0.000, 0.000])" in lines[1]
    assert len(lines) == 7
    assert pictures == [tmp_path / "sbir-on-valid-fake-scenes-step-7.png"]


def test_metrics_that_do_not_fit_are_named():
    model = FakeModel()
    model.metrics = ("embedding-obj-accuracy", "embedding-skt-accuracy")
    assert reported.check_metrics(["embedding-obj-accuracy-test"], model)
    with pytest.raises(UsageError, match=r"'sbir-mAP' does not fit.*embedding-skt-accuracy"):
        reported.check_metrics(["sbir-mAP"], model)
    with pytest.raises(UsageError, match="sbir-mAP"):
        reported.check_metrics(["sbir-map"], model)


def test_a_set_without_masks_has_all_other_figures(tmp_path):
    dataset = FakeScenes()
    dataset.has_masks = False
    batch = dataset.batch
    dataset.batch = lambda scenes: batch(scenes)._replace(masks=None)
    found = {result.metric for result in evaluate(FakeModel(), None, tmp_path, dataset)}
    assert found == set(SCENE_METRICS) - {"mask-iou", "generated-masks"}
    with pytest.raises(UsageError, match="'mask-iou-test' needs true masks, which fake-scenes"):
        evaluate(FakeModel(), ["sbir-top1", "mask-iou-test"], tmp_path, dataset)


def test_every_name_is_registered():
    for name in SCENE_METRICS:
        assert name in METRICS
    for kind in ("mAP", "top1", "top5", "top10"):
        assert f"sbir-{kind}" in METRICS
        assert f"obj-sbir-{kind}" in METRICS


def test_an_empty_split_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="the empty split of fake-scenes is empty"):
        evaluate(FakeModel(), ["sbir-mAP"], tmp_path, split="empty")


def test_a_diverged_model_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"step 7 are not finite.*--resume"):
        evaluate(FakeModel("broken"), ["sbir-mAP"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_error_in_a_metric_is_an_error(tmp_path, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(retrieval, "scores", fail)
    with pytest.raises(ZeroDivisionError):
        evaluate(FakeModel(), ["sbir-mAP"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_made_of_a_side_comes_with_its_rows(monkeypatch):
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


def test_a_model_without_attention_says_so():
    own = embedded_split.Evaluation(FakeModel(), FakeScenes())
    with pytest.raises(UsageError, match="abbl_skip_transformer"):
        own.attention(own.photos)


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


class Gallery(FakeScenes):
    """Photographs alone."""

    has_queries = False

    def batch(self, scenes):
        return super().batch(scenes)._replace(query=None, sketches=None, query_to_photo=None)


class Drawings(FakeScenes):
    """Queries alone."""

    has_photos = False
    nothing = dict.fromkeys(("photo", "images", "crops", "masks", "query_to_photo"))

    def batch(self, scenes):
        return super().batch(scenes)._replace(**self.nothing)


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
