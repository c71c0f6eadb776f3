"""Colours of classes in layouts."""

import numpy as np
import pytest

from core.dataset import Vocabulary
from core.label_colours import (
    INSTANCE_PALETTE,
    PALETTE,
    class_palette,
    coco_names,
    oklab,
    spread,
)
from core.label_maps import BACKGROUND


@pytest.mark.parametrize("palette", [PALETTE, INSTANCE_PALETTE], ids=["classes", "instances"])
def test_colours_are_told_apart(palette):
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    assert _apart(palette).min() > 0.025


def _apart(colours):
    """Return how different each colour looks from the others; black and white: 1."""
    places = oklab(colours)
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    np.fill_diagonal(apart, np.inf)
    return apart


# COCO-Stuff ids of what photographs show beside each other.
TOGETHER = {
    "water and sky": (157, 106, 155, 148, 178, 159, 120, 135),
    "outdoors": (124, 169, 97, 154, 149, 140, 157, 155, 150, 111, 1),
    "indoors": (173, 102, 118, 115, 181, 67, 62, 1),
}


@pytest.mark.parametrize("ids", TOGETHER.values(), ids=TOGETHER)
def test_neighbours_are_far_apart(ids):
    assert _apart(PALETTE[np.array(ids) - 1]).min() > 0.055


def test_each_is_the_farthest_there_is():
    """White from black; after that none is farther from those before it than the last one was."""
    found = np.concatenate([[[0, 0, 0]], spread([(0, 0, 0)], 20)])
    assert found[1].tolist() == [255] * 3
    distances = [_apart(found[: n + 1])[n].min() for n in range(1, 21)]
    assert distances == sorted(distances, reverse=True)


def test_oklab_of_known_colours():
    found = oklab(np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0]]))
    expected = [[0, 0, 0], [1, 0, 0], [0.6280, 0.2249, 0.1258]]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_classes_have_the_colours_of_their_ids():
    """Id 183 is no label, and `__image__` has none: they take spare ones, the last."""
    vocabulary = Vocabulary(("tree", "other", "person", "__image__"), ids=(169, 183, 1, 0))
    found = class_palette(vocabulary)
    np.testing.assert_array_equal(found[:4], PALETTE[[168, 254, 0, 253]])
    assert (found[4:] == 255).all() and (PALETTE[BACKGROUND] == 255).all()
    assert coco_names(vocabulary) == {168: "tree", 0: "person"}
    bare = class_palette(Vocabulary(tuple(map(str, range(255)))))
    assert len(np.unique(bare, axis=0)) == 256
