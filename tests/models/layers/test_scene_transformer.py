"""The Transformer over scenes: positions, slots, padding, dropout."""

import math

import numpy as np
import pytest
import tensorflow as tf

from core.geometry import location_cells
from models.layers.scene_transformer import (
    Attention,
    Dropout,
    SceneSum,
    SceneTransformer,
    rollout,
    sinusoids,
    slot_indices,
)

DIM, HEADS = 8, 2


def box(cx, cy, w=0.2, h=0.1):
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


def test_sinusoids_by_hand():
    table = sinusoids(3, 4)
    # width 4: rates 1, 1, 0.01, 0.01
    expected = [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)]
    np.testing.assert_allclose(table[2], expected, rtol=1e-5)
    np.testing.assert_allclose(table[0], [0, 1, 0, 1])


def test_slots_by_hand():
    indices, taken = slot_indices(tf.constant([0, 0, 2]), tf.constant(3))
    assert indices.numpy().tolist() == [[0, 1], [0, 2], [2, 1]]
    assert taken.shape == (3, 9)
    assert taken.numpy().sum(axis=1).tolist() == [3, 1, 2]  # the token's slot is always taken


def test_slots_grow_for_crowded_scenes():
    indices, taken = slot_indices(tf.zeros(12, tf.int32), tf.constant(1))
    assert taken.shape == (1, 13)
    assert indices[-1].numpy().tolist() == [0, 12]


@pytest.fixture(scope="module")
def layer():
    tf.keras.utils.set_random_seed(0)
    transformer = SceneTransformer(DIM, HEADS, hidden=16, layers=2, dropout=0.5)
    transformer(*scenes([1]))
    transformer.token.assign(tf.random.normal((DIM,)))
    return transformer


def scenes(counts, seed=0):
    rng = np.random.default_rng(seed)
    total = sum(counts)
    objects = rng.normal(size=(total, DIM)).astype(np.float32)
    boxes = np.array([box(*rng.uniform(0.1, 0.9, 2)) for _ in range(total)], np.float32)
    return (
        tf.constant(objects),
        tf.constant(boxes),
        tf.constant(np.repeat(np.arange(len(counts)), counts), tf.int32),
        tf.constant(len(counts)),
    )


def slow_block(block, slots):
    """One scene without padding, one head and one slot at a time. slots (S, D)."""
    slots = slots.astype(np.float64)
    query, key, value = (
        slots @ d.kernel.numpy() + (d.bias.numpy() if d.use_bias else 0)
        for d in (block.query, block.key, block.value)
    )
    depth = DIM // HEADS
    joined = np.zeros_like(slots)
    for head in range(HEADS):
        part = slice(head * depth, (head + 1) * depth)
        for i in range(len(slots)):
            scores = [query[i, part] @ k[part] / math.sqrt(depth) for k in key]
            shares = np.exp(scores) / np.sum(np.exp(scores))
            joined[i, part] = sum(share * v[part] for share, v in zip(shares, value))

    def norm(x):
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)

    join, widen, narrow = block.join, block.widen, block.narrow
    slots = norm(slots + joined @ join.kernel.numpy() + join.bias.numpy())
    wide = np.maximum(0, slots @ widen.kernel.numpy() + widen.bias.numpy())
    return norm(slots + wide @ narrow.kernel.numpy() + narrow.bias.numpy())


def test_equals_slow_reference_scene_by_scene(layer):
    """Also: what else is in the batch, and the padding, do not matter."""
    counts = [2, 1, 5]
    objects, boxes, obj_to_img, count = scenes(counts)
    tokens, contextual = layer(objects, boxes, obj_to_img, count)
    cells = location_cells(boxes).numpy()
    inputs = objects.numpy() * math.sqrt(DIM) + sinusoids(25, DIM)[cells]
    first = 0
    for n, size in enumerate(counts):
        slots = np.concatenate([layer.token.numpy()[None], inputs[first : first + size]])
        for block in layer.blocks:
            slots = slow_block(block, slots)
        np.testing.assert_allclose(tokens[n], slots[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            contextual[first : first + size], slots[1:], rtol=1e-3, atol=1e-4
        )
        first += size


def test_attention_sums_to_one_over_the_taken_slots(layer):
    """Of every slot, the empty ones too; in scenes of 2, 1 and 5 objects."""
    _, _, layers = layer._encode(*scenes([2, 1, 5]))
    assert [attention.shape for attention in layers] == [(3, HEADS, 9, 9)] * 2
    for attention in layers:
        for n, taken in enumerate((3, 2, 6)):
            np.testing.assert_allclose(attention[n, :, :, :taken].numpy().sum(-1), 1, rtol=1e-5)
            assert not attention[n, :, :, taken:].numpy().any()


def test_attention_of_the_token_scene_by_scene(layer):
    """Each scene alone, with matrices of its taken slots only."""
    counts = [2, 1, 5]
    arguments = scenes(counts)
    found = layer.attention(*arguments)
    _, _, layers = layer._encode(*arguments)
    through, first = [], 0
    for n, size in enumerate(counts):
        matrices = [each[n, :, : size + 1, : size + 1].numpy().mean(0) for each in layers]
        np.testing.assert_allclose(found.last[first : first + size], matrices[1][0, 1:], rtol=1e-5)
        kept = [(matrix + np.eye(size + 1)) / 2 for matrix in matrices]
        through.append((kept[1] @ kept[0])[0])
        np.testing.assert_allclose(found.rollout[first : first + size], through[-1][1:], rtol=1e-5)
        first += size
    np.testing.assert_allclose([row.sum() for row in through], 1, rtol=1e-5)
    assert isinstance(found, Attention)


def test_asking_for_attention_changes_no_output(layer):
    arguments = scenes([2, 1, 5])
    alone = tf.function(lambda *rows: layer(*rows))(*arguments)
    both = tf.function(lambda *rows: (layer(*rows), layer.attention(*rows)))(*arguments)
    for one, other in zip(alone, both[0]):
        np.testing.assert_array_equal(one, other)


def test_rollout_by_hand():
    """Slot 0 looks at slot 1 alone, slot 1 at itself: (A + I) / 2 = [[1/2, 1/2], [0, 1]]; twice:
    [[1/4, 3/4], [0, 1]]. Uniform attention: [[3/4, 1/4], [1/4, 3/4]] on top of the first gives
    [3/8, 3/8 + 1/4]."""
    looks = tf.constant([[[0.0, 1.0], [0.0, 1.0]]])
    assert rollout([looks, looks])[0].numpy().tolist() == [[0.25, 0.75], [0, 1]]
    assert rollout([looks, tf.fill((1, 2, 2), 0.5)])[0, 0].numpy().tolist() == [0.375, 0.625]


def test_crowded_batch_leaves_small_scenes_alone(layer):
    """More slots for one scene of 11 objects: the others come out the same."""
    objects, boxes, obj_to_img, _ = scenes([2, 11])
    alone = layer(objects[:2], boxes[:2], obj_to_img[:2], tf.constant(1))
    together = layer(objects, boxes, obj_to_img, tf.constant(2))
    np.testing.assert_allclose(alone[0][0], together[0][0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(alone[1], together[1][:2], rtol=1e-4, atol=1e-5)


def test_dropout_is_a_function_of_its_seed(layer):
    arguments = scenes([3])
    plain, first, again, other = (
        layer(*arguments, seed=seed)[0].numpy()
        for seed in (None, tf.constant([1, 2]), tf.constant([1, 2]), tf.constant([1, 3]))
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    assert np.any(first != plain)


def test_dropout_draws_anew_at_each_use():
    dropout = Dropout(0.5, tf.constant([0, 1]))
    ones = tf.ones((1000,))
    first, second = dropout(ones).numpy(), dropout(ones).numpy()
    assert set(np.unique(first)) == {0.0, 2.0}
    assert np.mean(first == 0) == pytest.approx(0.5, abs=0.07)
    assert np.mean(first == second) == pytest.approx(0.5, abs=0.07)


def test_scene_sum_by_hand():
    """Scenes of two, no and one object."""
    layer = SceneSum()
    objects = tf.constant([[1.0, 2.0], [10.0, 20.0], [5.0, 5.0]])
    arguments = (objects, tf.zeros((3, 4)), tf.constant([0, 0, 2]), tf.constant(3))
    layer(*arguments)
    layer.token.assign([0.5, -0.5])
    scenes, same = layer(*arguments)
    assert scenes.numpy().tolist() == [[11.5, 21.5], [0.5, -0.5], [5.5, 4.5]]
    np.testing.assert_array_equal(same, objects)
