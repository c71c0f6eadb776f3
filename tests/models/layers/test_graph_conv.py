"""The graph convolution against one Python loop over triples."""

import numpy as np
import pytest
import tensorflow as tf

from models.layers.graph_conv import GraphConvNet, TripleConv, box_attributes

DIM, HIDDEN = 6, 5


def leaky(x):
    return np.where(x > 0, x, 0.3 * x)


def dense(x, layer, activation):
    return activation(x @ layer.kernel.numpy() + layer.bias.numpy())


def slow_layer(layer, objects, predicates, triples, pool=np.mean, activation=leaky):
    heard = [[] for _ in objects]
    spoken = []
    for (s, _, o), predicate in zip(triples, predicates):
        message = np.concatenate([objects[s], predicate, objects[o]])
        for d in layer.edge_mlp.dense:
            message = dense(message, d, activation)
        heard[s].append(message[:HIDDEN])
        spoken.append(message[HIDDEN:-HIDDEN])
        heard[o].append(message[-HIDDEN:])
    out = []
    for messages in heard:
        pooled = pool(messages, axis=0) if messages else np.zeros(HIDDEN)
        for d in layer.node_mlp.dense:
            pooled = dense(pooled, d, activation)
        out.append(pooled)
    return np.array(out), np.array(spoken)


def random_graph(objects=5):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(objects, 4)).astype(np.float32)
    # object 4 hears nothing; (1, 1) is an object related to itself, as in scenes of one
    triples = np.array([[0, 1, 2], [2, 3, 1], [0, 2, 3], [1, 0, 1]], np.int32)
    return vectors, triples


@pytest.mark.parametrize(
    ("options", "slow"),
    [
        ({}, {}),
        ({"pooling": "sum"}, {"pool": np.sum}),
        ({"activation": "relu"}, {"activation": lambda x: np.maximum(x, 0)}),
    ],
)
def test_layer_equals_loop(options, slow):
    vectors, triples = random_graph()
    predicates = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    layer = TripleConv(DIM, HIDDEN, **options)
    objects, spoken = layer(vectors, predicates, triples)
    expected_objects, expected_spoken = slow_layer(layer, vectors, predicates, triples, **slow)
    np.testing.assert_allclose(objects, expected_objects, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(spoken, expected_spoken, rtol=1e-4, atol=1e-6)


def test_net_equals_loop():
    vectors, triples = random_graph()
    net = GraphConvNet(num_predicates=4, predicate_dim=3, dim=DIM, hidden=HIDDEN, layers=3)
    result = net(tf.constant(vectors), tf.constant(triples))
    objects, predicates = vectors, net.predicates.embeddings.numpy()[triples[:, 1]]
    for layer in net.layers:
        objects, predicates = slow_layer(layer, objects, predicates, triples)
    np.testing.assert_allclose(result, objects, rtol=1e-4, atol=1e-6)


def test_batch_norm_before_every_activation():
    """In training, each Dense's outputs are normalised over the rows that meet it: with two layers
    a net, undone by hand (eps 1e-3; gamma 1, beta 0 at the start)."""
    rows = np.random.default_rng(0).normal(size=(7, 11)).astype(np.float32)
    layer = TripleConv(DIM, HIDDEN, norm="batch")
    vectors, triples = random_graph()
    layer(vectors, rows[:4, :3], triples)
    spoken = layer.edge_mlp(rows, training=True)
    expected = rows
    for d in layer.edge_mlp.dense:
        assert d.bias is None
        expected = expected @ d.kernel.numpy()
        expected = leaky((expected - expected.mean(0)) / np.sqrt(expected.var(0) + 1e-3))
    np.testing.assert_allclose(spoken, expected, rtol=1e-3, atol=1e-4)


def test_training_reaches_the_norms():
    vectors, triples = random_graph()
    net = GraphConvNet(4, 3, DIM, HIDDEN, layers=2, norm="batch")
    net(vectors, triples)
    statistics = [v for v in net.variables if not v.trainable]
    assert len(statistics) == 2 * 2 * 2 * 2  # layers x MLPs x Dense x (mean, variance)
    before = [v.numpy() for v in statistics]
    net(vectors, triples)
    assert all(np.array_equal(v, old) for v, old in zip(statistics, before))
    net(vectors, triples, training=True)
    assert all(np.any(v != old) for v, old in zip(statistics, before))


def test_box_attributes_by_hand():
    """Rounding is half to even."""
    boxes = tf.constant(
        [
            [0.1, 0.2, 0.6, 0.8],  # 9 x 0.5 x 0.6 = 2.7 -> 3; centre 0.35, 0.5: 1.4 -> 1, 2
            [0.0, 0.0, 1.0, 0.5],  # 4.5 -> 4; centre 0.5, 0.25: 2, 1
            [0.0, 0.0, 0.25, 0.25],  # 0.5625 -> 1; centre 0.125: 0.5 -> 0, 0
            [0.25, 0.25, 0.5, 0.5],  # 1; centre 0.375: 1.5 -> 2, 2
            [0.0, 0.0, 1.0, 1.0],  # 9; 2, 2
        ]
    )
    attributes = box_attributes(boxes).numpy()
    assert attributes.shape == (5, 35)
    ones = [np.flatnonzero(row).tolist() for row in attributes]
    # size, then 10 + column + 5 x row
    assert ones == [[3, 10 + 11], [4, 10 + 7], [1, 10], [1, 10 + 12], [9, 10 + 12]]
    assert set(np.unique(attributes)) == {0, 1}
