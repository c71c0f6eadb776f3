"""Print what two replicas compute of two parts, and one device of the whole: JSON on stdout, for
test_replicas. A process of its own, because a CPU can be divided only before TensorFlow uses it."""

import json

import numpy as np
import tensorflow as tf

from core import replicas
from core.distribution import Mirrored, Single
from models import losses
from models.layers.normalization import BatchNorm
from models.layers.scene_transformer import Dropout
from tests.models import helpers
from tests.models.splitting import split


def both(function, whole, parts):
    """Return what `function` gives of the whole, and on each of two replicas of its part."""
    results = tf.function(
        lambda: strategy.run(lambda: function(*parts[replicas.index()])), autograph=False
    )()
    each = [strategy.experimental_local_results(result) for result in results]
    return {
        "whole": [np.array(value).tolist() for value in tf.nest.flatten(function(*whole))],
        "parts": [[np.array(v).tolist() for v in values] for values in each],
    }


def contrastive():
    """The sum of both losses of scenes, and its gradients."""
    rng = np.random.default_rng(0)
    vectors = [tf.constant(rng.normal(0, 0.4, (6, 5)), tf.float32) for _ in range(3)]

    def function(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = losses.scene_contrastive(*inputs) + losses.icon(*inputs[:2], 0.3, 0.2)
        return (loss, *tape.gradient(loss, inputs))

    return both(function, vectors, list(zip(*(tf.split(each, 2) for each in vectors))))


def pairs():
    """Return from both: which photographs are mirrored, which drawings are made of
    edges and of how many."""
    model, batch = helpers.build("whole-scene"), helpers.scene_batch(0, [1, 2, 1, 2])
    seed = tf.constant([5, 6], tf.int64)
    return both(lambda part: model.pairs(part, seed), (batch,), [(p,) for p in split(batch, 2)])


def batch_norm():
    """Outputs, gradients of a loss and the running statistics, of 5 and 2 maps."""
    rng = np.random.default_rng(1)
    maps = tf.constant(rng.normal(30.0, 0.1, (7, 3, 3, 4)), tf.float32)
    weights = tf.constant(rng.normal(0, 1, maps.shape), tf.float32)
    with strategy.scope():
        spread = BatchNorm(momentum=0.9)
        spread.build((None, None, None, 4))
    single = BatchNorm(momentum=0.9)
    single.build((None, None, None, 4))

    def function(inputs, weights):
        layer = single if replicas.count() == 1 else spread
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
            loss = tf.reduce_sum(weights * outputs)
        running = (tf.identity(layer.moving_mean), tf.identity(layer.moving_variance))
        return (outputs, tape.gradient(loss, inputs), *running)

    return both(function, (maps, weights), [(maps[:5], weights[:5]), (maps[5:], weights[5:])])


def means():
    """Of rows of which 1, 2 and 3 count, and of none; of the places of draws."""
    values, valid = tf.constant([2.0, 9.0, 4.0, 6.0]), tf.constant([True, False, True, True])

    def function(values, valid):
        first, number = replicas.row_offset(tf.size(values))
        none = losses.mean(values, tf.zeros_like(valid))
        return (
            losses.mean(values),
            losses.mean(values, valid),
            none,
            tf.cast(first, tf.int32),
            number,
        )

    return both(function, (values, valid), [(values[:3], valid[:3]), (values[3:], valid[3:])])


def dropout():
    """Of 4 scenes, each of which is there in 3 views."""
    rng = np.random.default_rng(2)
    views = tf.constant(rng.normal(0, 1, (3, 4, 2, 5)), tf.float32)
    seed = tf.constant([3, 4])

    def function(views):
        flat = tf.reshape(views, [-1, 2, 5])
        return tf.reshape(Dropout(0.5, seed, views=3)(flat), [3, -1, 2, 5])

    return both(lambda part: (function(part),), (views,), [(views[:, :2],), (views[:, 2:],)])


def spade():
    """The losses of two steps, not traced: that would take most of the time here. Beside those of
    the second, how large the gradients were, by Adam's second moments: Adam's steps do not tell."""
    curves = []
    for spread in (Single(), Mirrored(lambda: strategy)):
        with spread.scope():
            model = helpers.build("spade", "learning_rate=1e-5")
            for variable in model.trainable_variables:
                variable.assign(50 * variable)  # from its small start, where scores are rounding
        step = spread.distribute_step(model.train_step)
        batches = [helpers.scene_batch(t, [1 + t, 2]) for t in range(2)]
        if curves:
            batches = [split(batch, 2) for batch in batches]
        losses = [step(batch, *helpers.step_args(t)) for t, batch in enumerate(batches)]
        curves.append([{key: float(value) for key, value in row.items()} for row in losses])
        for name, optimizer in model.optimizers.items():
            squares = [tf.reduce_sum(v) for v in optimizer.variables if v.name.startswith("v/")]
            curves[-1][-1][f"squares of {name}"] = float(tf.add_n(squares))
    return curves


if __name__ == "__main__":
    (cpu,) = tf.config.list_physical_devices("CPU")
    halves = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, halves)
    strategy = tf.distribute.MirroredStrategy()
    checks = (contrastive, pairs, batch_norm, means, dropout, spade)
    print(json.dumps({check.__name__: check() for check in checks}))
