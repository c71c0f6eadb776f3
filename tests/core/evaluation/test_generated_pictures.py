"""Metrics of generated pictures, on plain photographs and a generator that looks at them."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw

from core.dataset import Vocabulary
from core.evaluation import embedded_split, generated_pictures
from core.label_colours import PALETTE

SIDE = 32
GREYS = np.array([0, 51, 102, 153, 204], np.uint8)  # of the photographs of the scenes


class Data:
    """Photographs of one grey each; label 7 on the left half of all, 9 on the right."""

    name, seed, has_masks = "grey", 0, True
    vocabulary = Vocabulary(("truck", "traffic light"), ids=(8, 10))

    def eval_batches(self, split, limit=None):
        """Two scenes at a time. In the train split every right half is black."""
        for first in range(0, len(GREYS[:limit]), 2):
            greys = GREYS[:limit][first : first + 2]
            images = np.broadcast_to(greys[:, None, None, None], (len(greys), SIDE, SIDE, 3)).copy()
            if split == "train":
                images[:, :, SIDE // 2 :] = 0
            yield SimpleNamespace(images=tf.constant(images))


class Model:
    """Its pictures are 51 darker than the photographs, of 255; black stays black."""

    name, hparams = "painter", SimpleNamespace()

    def layouts(self, batch):
        self.images = batch.images
        labels = np.full((len(batch.images), SIDE, SIDE), 7, np.uint8)
        labels[:, :, SIDE // 2 :] = 9
        return tf.constant(labels), tf.constant(labels)

    def generate(self, labels, instances):
        return tf.maximum(tf.cast(self.images, tf.float32) - 51.0, 0) / 127.5 - 1


@pytest.fixture()
def evaluated(tmp_path):
    return embedded_split.Evaluation(Model(), Data(), folder=tmp_path, step=3)


def test_colours_of_labels(evaluated):
    """Left the mean of 0, 51, .. 204, which is 102; right black; elsewhere their mean, 51."""
    colours = evaluated.label_colours() * 255
    assert colours.shape == (256, 3)
    np.testing.assert_allclose(colours[[7, 9, 0]], [[102] * 3, [0] * 3, [51] * 3], atol=1e-4)


def test_error_by_hand(evaluated):
    """51 is 0.2. Ours: 0.2 but for the black one, 4 x 0.2 / 5 = 0.16. Mean colours, left: 0.4, 0.2,
    0, 0.2, 0.4, so 0.24; right: 0, 0.2, .. 0.8, so 0.4; together 0.32. Another scene, the one
    before: greys 0, 0, 0.2, 0.4 of photographs 0.2, 0.4, 0.6, 0.8: (0.2 + 3 x 0.4) / 4 = 0.35."""
    l1, ssim = generated_pictures._picture_error(evaluated, "picture-error")
    assert (l1.labels, l1.n, l1.split) == ({"measure": "l1"}, 5, "valid")
    assert l1.value == pytest.approx(0.16, abs=1e-5)
    assert l1.controls["label_colours"] == pytest.approx(0.32, abs=1e-5)
    assert l1.controls["other_scene"] == pytest.approx(0.35, abs=1e-5)
    assert l1.controls["minus_label_colours"] == pytest.approx(0.16 - 0.32, abs=1e-5)
    assert l1.interval[0] < l1.value < l1.interval[1]
    # SSIM of plain x and y is (2 x y + c) / (x^2 + y^2 + c), c = 0.01^2.
    x = GREYS / 255
    y = np.maximum(x - 0.2, 0)
    assert ssim.value == pytest.approx(((2 * x * y + 1e-4) / (x**2 + y**2 + 1e-4)).mean(), abs=1e-3)


def test_one_scene_has_no_other(evaluated):
    evaluated.limit = 1
    for figure in generated_pictures._picture_error(evaluated, "picture-error"):
        assert figure.n == 1 and "other_scene" not in figure.controls


def test_the_page(evaluated, monkeypatch):
    written = []
    text = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda *args, **how: (written.append(args[2]), text(*args, **how)),
    )
    (found,) = generated_pictures._generated_pictures(evaluated, "generated-pictures")
    assert found.path.name == "generated-pictures-grey-step-3.png"
    colours = {colour for _, colour in Image.open(found.path).convert("RGB").getcolors(1 << 20)}
    assert {(204,) * 3, (153,) * 3} <= colours  # the last photograph, and its picture
    assert {tuple(PALETTE[label].tolist()) for label in (7, 9)} <= colours
    assert [written.count(name) for name in ("truck", "traffic light", "unlabelled")] == [5, 5, 0]
