"""The graph convolution against one Python loop over triples."""

import numpy as np
import tensorflow as tf

from models.layers.graph_conv import GraphConvNet, TripleConv

DIM, HIDDEN = 6, 5


def leaky(x):
    return np.where(x > 0, x, 0.3 * x)


def dense(x, layer):
    return leaky(x @ layer.kernel.numpy() + layer.bias.numpy())


def slow_layer(layer, objects, predicates, triples):
    heard = [[] for _ in objects]
    spoken = []
    for (s, _, o), predicate in zip(triples, predicates):
        message = np.concatenate([objects[s], predicate, objects[o]])
        for d in layer.speak.dense:
            message = dense(message, d)
        heard[s].append(message[:HIDDEN])
        spoken.append(message[HIDDEN:-HIDDEN])
        heard[o].append(message[-HIDDEN:])
    out = []
    for messages in heard:
        mean = np.mean(messages, axis=0) if messages else np.zeros(HIDDEN)
        for d in layer.listen.dense:
            mean = dense(mean, d)
        out.append(mean)
    return np.array(out), np.array(spoken)


def random_graph(objects=5):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(objects, 4)).astype(np.float32)
    # object 4 hears nothing; (1, 1) is an object related to itself, as in scenes of one
    triples = np.array([[0, 1, 2], [2, 3, 1], [0, 2, 3], [1, 0, 1]], np.int32)
    return vectors, triples


def test_layer_equals_loop():
    vectors, triples = random_graph()
    predicates = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    layer = TripleConv(DIM, HIDDEN)
    objects, spoken = layer(vectors, predicates, triples)
    expected_objects, expected_spoken = slow_layer(layer, vectors, predicates, triples)
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


def test_permutations():
    """Another order of triples changes nothing, another order of objects reorders the result."""
    vectors, triples = random_graph()
    net = GraphConvNet(4, 3, DIM, HIDDEN, layers=2)
    result = net(tf.constant(vectors), tf.constant(triples)).numpy()
    np.testing.assert_allclose(net(vectors, triples[::-1]), result, rtol=1e-4, atol=1e-6)
    order = np.array([3, 0, 4, 1, 2])
    place = np.argsort(order)
    moved = np.stack([place[triples[:, 0]], triples[:, 1], place[triples[:, 2]]], 1)
    np.testing.assert_allclose(
        net(vectors[order], moved.astype(np.int32)), result[order], rtol=1e-4, atol=1e-6
    )
