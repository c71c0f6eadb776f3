"""'scene-layouts': masks, maps and figures of a model whose masks and boxes are known."""

import json

import numpy as np
import pytest
from PIL import Image

from core.evaluation import mask_metrics
from core.evaluation.embedded_split import Evaluation
from core.evaluation.query_protocols import QueryProtocol
from core.experiment import Trained
from core.label_colours import class_palette
from core.label_maps import label_maps
from experiments.analysis.scene_layouts import SceneLayouts
from tests.core.evaluation.fakes import SIDE, FakeModel
from tests.experiments.running import run_experiment
from tests.experiments.test_extract_features import Splits

NAME = "SD01_fake_scenes_test_scene_layouts"


class Paints(FakeModel):
    """The left half of the true masks, or with 'boxes' the whole ones; boxes are predicted to be
    the whole image."""

    def contextualise(self, scenes, with_masks=True):
        outputs = super().contextualise(scenes, with_masks)
        whole = np.broadcast_to(np.float32([0, 0, 1, 1]), scenes.boxes.shape)
        masks = outputs.masks
        if with_masks and self.kind == "boxes":
            masks[:, :, SIDE // 2 :] = masks[:, :, : SIDE // 2]
        return outputs._replace(boxes=whole)


class Maskless(Splits):
    has_masks, own_boxes = False, True

    def batch(self, scenes):
        return super().batch(scenes)._replace(masks=None)


def run(tmp_path, model, dataset, text="scenes=3"):
    run_experiment(SceneLayouts, tmp_path, text, Trained(model, dataset, "SD01", 7))
    content = json.loads((tmp_path / f"{NAME}.json").read_text())
    saved = dict(np.load(tmp_path / f"{NAME}.npz", allow_pickle=False))
    return content, saved


def test_everything_saved_is_that_of_the_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr("core.evaluation.embedded_split.MASK_SCENES", 7)
    content, saved = run(tmp_path, Paints(), Splits(batch_size=6))
    metadata = json.loads(str(saved.pop("metadata")))
    assert (metadata["mask_size"], metadata["run"], metadata["split"]) == (SIDE, "SD01", "test")
    own = Evaluation(Paints(), Splits(batch_size=50), "test")
    photos, queries = own.photos, own.queries(QueryProtocol())
    for key, side in (("photo", photos), ("query", queries)):
        for name in ("classes", "obj_to_img", "boxes"):
            np.testing.assert_array_equal(saved[f"{key}_{name}"], getattr(side, name))
        assert (saved[f"{key}_predicted_boxes"] == [0, 0, 1, 1]).all()
        numbers = side.objects[:, 0].astype(int)
        masks = mask_metrics.unpack(saved[f"{key}_masks"], SIDE)
        np.testing.assert_array_equal(masks[:, :, : SIDE // 2].sum(1)[:, 0], 4 + numbers % 8)
        assert not masks[:, :, SIDE // 2 :].any()
        np.testing.assert_allclose(saved[f"{key}_mask_iou"], 0.5)
    np.testing.assert_array_equal(saved["true_masks"], photos.masks)
    assert content["pictures"] == [f"{NAME}_1.jpg"] and (tmp_path / f"{NAME}_1.jpg").is_file()

    folder = tmp_path / NAME
    assert len(list(folder.iterdir())) == 20 * 3 * 2
    # One after the other, by the function that tests/core/test_layouts.py tests.
    for n, image_id in enumerate(photos.image_ids):
        for kind, side, masks in (
            ("true", photos, saved["true_masks"]),
            ("photo", photos, saved["photo_masks"]),
            ("sketch", queries, saved["query_masks"]),
        ):
            rows = side.obj_to_img == n
            maps = label_maps(
                mask_metrics.unpack(masks[rows], SIDE), side.boxes[rows], side.classes[rows],
                np.zeros(rows.sum(), np.int32), 1,
            )  # fmt: skip
            for what, expected in zip(("labels", "instances"), maps):
                image = Image.open(folder / f"{image_id}-{kind}-{what}.png")
                np.testing.assert_array_equal(np.asarray(image), expected[0])
            if kind == "true":
                labels = Image.open(folder / f"{image_id}-true-labels.png")
                colours = class_palette(Splits.vocabulary)[np.asarray(labels)]
                np.testing.assert_array_equal(np.asarray(labels.convert("RGB")), colours)


def by_labels(content):
    return {(each["metric"], *each["labels"].values()): each for each in content["results"]}


def test_figures_of_perfect_masks(tmp_path):
    """Class k has objects of heights 4 to 11 of 16; in the boxes as drawn, layouts are the true
    ones wherever the query shows all objects; predicted boxes show larger ones."""
    content, _ = run(tmp_path, Paints("boxes"), Splits(batch_size=6))
    found = by_labels(content)
    heights = [4 + number % 8 for number in range(sum(Splits().counts))]
    for view in ("photo", "sketch"):
        figure = found["mask-iou", view]
        assert figure["value"] == 1
        assert figure["controls"]["class_mean"] < 1
    all_ones = found["mask-iou", "photo"]["controls"]["all_ones"]
    assert all_ones == pytest.approx(np.mean(heights) / SIDE)
    drawn, predicted = (found["layout-iou", "photo", boxes] for boxes in ("drawn", "predicted"))
    assert (drawn["value"], drawn["n"]) == (1, 20)
    assert drawn["controls"]["all_ones"] < 1 and predicted["value"] < 1
    assert drawn["controls"]["minus_class_mean"] == pytest.approx(
        1 - drawn["controls"]["class_mean"]
    )
    # An object that the query leaves out counts as missed.
    sketch = found["layout-iou", "sketch", "drawn"]["value"]
    own = Evaluation(Paints(), Splits(), "test")
    missing = np.bincount(own.photos.obj_to_img) - np.bincount(
        own.queries(QueryProtocol()).obj_to_img
    )
    assert missing.any() and sketch < 1


def test_a_set_without_masks(tmp_path, caplog):
    content, saved = run(tmp_path, Paints(), Maskless(batch_size=6))
    assert content["results"] == []
    assert "fake-scenes has no masks" in caplog.text
    assert "true_masks" not in saved and "photo_mask_iou" not in saved
    assert len(list((tmp_path / NAME).iterdir())) == 20 * 2 * 2
    assert len(saved["query_masks"]) == len(saved["query_classes"])
    assert (tmp_path / f"{NAME}_1.jpg").is_file()
