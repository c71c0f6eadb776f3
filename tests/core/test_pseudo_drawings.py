"""Pseudo-drawings of squares, discs and noise, whose edges are known."""

import numpy as np
import pytest
import tensorflow as tf

from core.pseudo_drawings import MOST, PEN, edges, pseudo_drawings, strongest

SIDE = 160
SEED = tf.constant([3, 4])


def square(ground=255, ink=0):
    image = np.full((1, SIDE, SIDE, 3), ground, np.uint8)
    image[:, 40:120, 50:130] = ink
    return image


def noise(count=3, side=SIDE):
    """Blocks of 8 pixels, each of a colour of its own."""
    blocks = np.random.default_rng(0).integers(0, 256, (count, side // 8, side // 8, 3), np.uint8)
    return blocks.repeat(8, 1).repeat(8, 2)


@pytest.mark.parametrize(("ground", "ink"), [(255, 0), (0, 255), (100, 130)])
def test_a_square_gives_its_outline_one_pixel_thin(ground, ink):
    lines = strongest(edges(square(ground, ink)), tf.constant([0.02])).numpy()[0, ..., 0]
    for middle in (lines[60:100], lines[:, 70:110].T):  # rows and columns that cross two sides
        assert (middle.sum(axis=1) == 2).all()
    rows, columns = np.nonzero(lines)
    near = [np.abs(np.subtract.outer(at, ends)).min(1) for at, ends in
            ((rows, (39.5, 119.5)), (columns, (49.5, 129.5)))]  # fmt: skip
    assert np.minimum(*near).max() <= 3  # smoothing rounds the corners
    assert len(rows) > 0.9 * 4 * 80


def test_the_contrast_of_a_step_is_that_of_its_greys():
    grey = (200 - 50) / 255
    assert edges(square(200, 50)).numpy()[0, 80].max() == pytest.approx(grey, rel=0.1)


def test_the_outline_of_a_disc_is_closed():
    """From its middle, no way leads out but across the line (4 neighbours)."""
    y, x = np.mgrid[:SIDE, :SIDE] - 80
    disc = np.where((y**2 + x**2 < 50**2)[..., None], 30, 220).repeat(3, 2)[None]
    lines = strongest(edges(tf.constant(disc, tf.uint8)), tf.constant([0.03])).numpy()[0, ..., 0]
    inside = np.zeros_like(lines)
    inside[80, 80] = True
    for _ in range(SIDE):
        grown = inside.copy()
        for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
            grown |= np.roll(inside, shift, axis)
        inside = grown & ~lines
    assert inside.sum() == pytest.approx(np.pi * 50**2, rel=0.05)


def test_a_higher_threshold_never_adds_lines():
    contrast = edges(noise())
    kept = [strongest(contrast, tf.fill([3], share)).numpy() for share in (0.005, 0.02, 0.05)]
    for few, more in zip(kept, kept[1:]):
        assert (few <= more).all() and few.sum() < more.sum()
    assert kept[-1].mean(axis=(1, 2, 3)) == pytest.approx([0.05] * 3, abs=1e-4)


def test_uniform_and_nearly_uniform_pictures_give_white_paper():
    uniform = np.full((2, 96, 96, 3), [[[[7, 90, 200]]], [[[255, 255, 255]]]], np.uint8)
    assert (pseudo_drawings(uniform, SEED).numpy() == 255).all()
    faint = uniform[:1] + np.random.default_rng(1).integers(0, 4, (1, 96, 96, 3), np.uint8)
    assert (pseudo_drawings(faint, SEED).numpy() == 255).all()


def test_a_drawing_has_lines_of_the_pens_width_and_is_its_seeds():
    first, again, other = (pseudo_drawings(square(), seed).numpy() for seed in (SEED, SEED, [3, 5]))
    assert first.dtype == np.uint8 and first.shape == (1, SIDE, SIDE, 1)
    assert set(np.unique(first)) == {0, 255}
    assert ((first[0, 60:100, :, 0] == 0).sum(axis=1) == 2 * round(PEN * SIDE)).all()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, other)  # all its edges are equal, whatever their share
    drawn = [pseudo_drawings(noise(), seed).numpy() for seed in (SEED, SEED, [3, 5])]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    shares = [(each == 0).mean(axis=(1, 2, 3)) for each in drawn]
    assert len(np.unique(np.concatenate([shares[0], shares[2]]))) == 6
    assert np.max(shares) <= MOST * round(PEN * SIDE) ** 2


@pytest.mark.parametrize("side", [16, 33, 96])
def test_any_side(side):
    step = tf.function(pseudo_drawings, autograph=False)
    images = noise(4, 8 * (side // 8 + 1))[:, :side, :side]
    assert step(tf.constant(images), SEED).shape == (4, side, side, 1)
