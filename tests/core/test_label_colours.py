"""Colours of classes in layouts."""

import colorsys

import numpy as np
import pytest

from core.dataset import Vocabulary
from core.label_colours import (
    INSTANCE_PALETTE,
    PALETTE,
    class_palette,
    coco_names,
    spread,
)
from core.label_maps import BACKGROUND


@pytest.mark.parametrize("palette", [PALETTE, INSTANCE_PALETTE], ids=["classes", "instances"])
def test_colours_are_told_apart(palette):
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    apart = np.linalg.norm(palette.astype(int)[:, None] - palette, axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert apart.min() > 18


# COCO-Stuff ids of what photographs show beside each other.
TOGETHER = {
    "water and sky": (157, 106, 155, 148, 178, 159, 120, 135),
    "outdoors": (124, 169, 97, 154, 149, 140, 157, 155, 150, 111, 1),
    "indoors": (173, 102, 118, 115, 181, 67, 62, 1),
}


@pytest.mark.parametrize("ids", TOGETHER.values(), ids=TOGETHER)
def test_neighbours_are_far_apart(ids):
    colours = PALETTE[np.array(ids) - 1].astype(int)
    apart = np.linalg.norm(colours[:, None] - colours, axis=-1)
    assert apart[np.triu_indices(len(ids), 1)].min() > 30


@pytest.mark.parametrize(
    ("number", "hue"),
    [(157, 205), (155, 210), (148, 200), (124, 100), (169, 130), (154, 46), (1, 0), (52, 52)],
    ids=["sky-other", "sea", "river", "grass", "tree", "sand", "person", "banana"],
)
def test_hues_of_photographs(number, hue):
    found = 360 * colorsys.rgb_to_hsv(*PALETTE[number - 1] / 255)[0]
    assert found == pytest.approx(hue, abs=12)


def test_spread_by_hand():
    """Farthest from black is white; from both, the middle of an edge between two others."""
    found = spread([(0, 0, 0)], 2)
    assert found[0].tolist() == [255] * 3
    low, middle, high = sorted(found[1].tolist())
    assert (low, high) == (0, 255) and middle in (119, 136)


def test_classes_have_the_colours_of_their_ids():
    """Id 183 is no label, and `__image__` has none: they take spare ones, the last."""
    vocabulary = Vocabulary(("tree", "other", "person", "__image__"), ids=(169, 183, 1, 0))
    found = class_palette(vocabulary)
    np.testing.assert_array_equal(found[:4], PALETTE[[168, 254, 0, 253]])
    assert (found[4:] == 255).all() and (PALETTE[BACKGROUND] == 255).all()
    assert coco_names(vocabulary) == {168: "tree", 0: "person"}
    bare = class_palette(Vocabulary(tuple(map(str, range(255)))))
    assert len(np.unique(bare, axis=0)) == 256
