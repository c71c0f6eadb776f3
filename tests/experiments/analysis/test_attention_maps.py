"""'attention-maps': numbers, pages and figures of a model whose attention is known."""

import json

import numpy as np
import pytest
from PIL import Image

from core.errors import EmptySplitError, UsageError
from core.evaluation.embedded_split import Evaluation
from core.evaluation.query_protocols import main_protocol
from core.experiment import Trained
from experiments.analysis.attention_maps import LESS, MORE, AttentionMaps, concordance, shade
from models.layers.scene_transformer import Attention
from tests.core.evaluation.fakes import FakeModel
from tests.experiments.running import run_experiment
from tests.experiments.test_extract_features import Splits

NAME = "SD01_fake_scenes_{}_attention_maps"


class Looks(FakeModel):
    """Half of the scene token's attention goes to objects: the more, the higher their number;
    'boxes': the larger their box. White paper has the number 255."""

    def attention(self, scenes):
        vectors, boxes, obj_to_img, _, _ = scenes
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        weight = areas if self.kind == "boxes" else 1 + vectors[:, 0]
        share = (0.5 * weight / np.bincount(obj_to_img, weight)[obj_to_img]).astype(np.float32)
        return Attention(share / 2, share)


def run(tmp_path, model, dataset, text="scenes=3"):
    run_experiment(AttentionMaps, tmp_path, text, Trained(model, dataset, "SD01", 7))


def figures(tmp_path):
    content = json.loads((tmp_path / f"{NAME.format('test')}.json").read_text())
    assert (content["run"], content["split"], content["step"]) == ("SD01", "test", 7)
    return {
        (each["metric"], each["labels"].get("view")): each for each in content["results"]
    }, content


def test_numbers_with_their_ids(tmp_path, capsys):
    run(tmp_path, Looks(), Splits(batch_size=6))
    saved = dict(np.load(tmp_path / f"{NAME.format('test')}.npz", allow_pickle=False))
    metadata = json.loads(str(saved.pop("metadata")))
    assert metadata["vocabulary"] == ["a", "b", "c", "d", "e", "__image__"]
    assert metadata["protocol"]["boxes"] == "jittered"
    own = Evaluation(Looks(), Splits(batch_size=50), "test")
    sides = {"photo": own.photos, "query": own.queries(main_protocol(False))}
    for key, side in sides.items():
        for name in ("classes", "obj_to_img", "boxes"):
            np.testing.assert_array_equal(saved[f"{key}_{name}"], getattr(side, name))
        totals = np.bincount(side.obj_to_img, saved[f"{key}_attention"])
        np.testing.assert_allclose(totals, np.full(20, 0.5), rtol=1e-6)
        np.testing.assert_allclose(saved[f"{key}_attention"], 2 * saved[f"{key}_attention_last"])
    assert saved["image_ids"].tolist() == list(range(100, 120))
    np.testing.assert_array_equal(saved["query_to_photo"], sides["query"].query_to_photo)
    assert len(saved["blank_attention"]) == len(saved["query_attention"])
    page = Image.open(tmp_path / f"{NAME.format('test')}_1.jpg")
    assert page.width > 6 * 224
    assert "saved: " in capsys.readouterr().out


def test_figures_of_a_model_that_follows_what_is_drawn(tmp_path):
    """Photograph and query agree always; on white paper all objects tie: one half."""
    run(tmp_path, Looks(), Splits(batch_size=6))
    found, content = figures(tmp_path)
    agreement = found["attention-agreement", None]
    assert (agreement["value"], agreement["chance"]) == (1, 0.5)
    assert agreement["controls"]["blank"] == 0.5
    assert agreement["controls"]["minus_blank"] == 0.5
    assert found["attention-larger-object", "blank"]["value"] == 0.5
    assert "rollout" in content["notes"][0]


def test_figures_of_a_model_that_follows_the_boxes_are_explained_by_them(tmp_path):
    run(tmp_path, Looks("boxes"), Splits(batch_size=6))
    found, _ = figures(tmp_path)
    for view in ("photo", "query", "blank"):
        assert found["attention-larger-object", view]["value"] == 1
    controls = found["attention-agreement", None]["controls"]
    assert (controls["blank"], controls["minus_blank"], controls["larger_object"]) == (1, 0, 1)


def test_scenes_of_one_object_have_no_figures(tmp_path):
    run(tmp_path, Looks(), Splits(scenes=1))
    assert figures(tmp_path)[0] == {}


def test_pairs_worked_by_hand():
    """Scene 0: a rises, falls, rises from 1 to 2; b rises, rises, ties. Scene 2 has one pair."""
    a, b = np.array([1, 3, 2, 5, 1, 2]), np.array([4, 5, 5, 0, 2, 1])
    values, scenes = concordance(a, b, np.array([0, 0, 0, 1, 2, 2]))
    # neighbours (0, 1), (1, 2), (4, 5), then (0, 2)
    assert values.tolist() == [1, 0.5, 0, 1]
    assert scenes.tolist() == [0, 0, 2, 0]
    values, scenes = concordance(a[:1], b[:1], np.array([0]))
    assert len(values) == len(scenes) == 0


def test_shades_show_who_gets_more():
    """Shares of 3/4 and 1/4, half as much again and half of an even one: alpha 100 of 255."""
    paper = Image.new("RGB", (100, 100), "white")
    boxes = np.array([[0.1, 0.1, 0.4, 0.9], [0.6, 0.1, 0.9, 0.9]])
    tile = np.asarray(shade(paper, boxes, np.array([0.3, 0.1]), ["a", "b"]))
    for x, colour in ((25, MORE), (75, LESS)):
        expected = 255 + (np.array(colour) - 255) * 100 / 255
        np.testing.assert_allclose(tile[70, x], expected, atol=1.5)
    assert (tile[70, 50] == 255).all()


def test_what_cannot_be_drawn(tmp_path):
    with pytest.raises(UsageError, match="abbl_skip_transformer"):
        run(tmp_path, FakeModel(), Splits())
    with pytest.raises(EmptySplitError, match="test split"):
        run(tmp_path, Looks(), Splits(empty=("test",)), "split=test")
