"""Every model in bfloat16 and float16: what is computed in which type, and how near it comes."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from core import checkpoints
from core.model import Numerics, ObjectEncoder, ObjectScenes
from core.registry import MODELS
from tests.models.helpers import batch_for, build, compiled_step, step_args

NAMES = MODELS.names()
LOW = ("bfloat16", "float16")
# Half a unit in the last place, of 8 and of 11 binary digits.
ROUNDING = {"bfloat16": 2.0**-9, "float16": 2.0**-12}
each_model = pytest.mark.parametrize("name", NAMES)
each_precision = pytest.mark.parametrize("precision", LOW)


def of(name, precision, clip_norm=0.0):
    options = "batch_norm=trained" if issubclass(MODELS[name], ObjectEncoder) else ""
    return build(name, options, Numerics(precision, clip_norm))


def set_loss_scale(optimizer, value):
    optimizer._loss_scale.current_loss_scale.assign(value)


@functools.lru_cache
def trained(name, precision):
    """A model after a step, the step's losses and graph, and what the variables were before."""
    # A norm that no gradient has: nothing is clipped.
    model = of(name, precision, 0.0 if precision == "none" else 1e9)
    for optimizer in model.optimizers.values():
        set_loss_scale(optimizer, 2.0**8)  # at which all gradients are finite
    batch = batch_for(model)
    before = [variable.numpy() for variable in model.trainable_variables]
    step = compiled_step(model, batch)
    graph = step.get_concrete_function().graph
    return model, step(batch, *step_args()), graph, before


@each_model
@each_precision
def test_losses_are_float32_and_near(name, precision):
    """A loss passes about a dozen roundings of every value, one after the other: were they all of
    one sign, 12 x half a unit, 2.3 % and 0.3 %. Nothing sums up many of them."""
    exact, low = trained(name, "none")[1], trained(name, precision)[1]
    assert {value.dtype for value in low.values()} == {tf.float32}
    optimizers = trained(name, "none")[0].optimizers if precision == "float16" else ()
    assert set(low) == {*exact, *(f"{key}_loss_scale" for key in optimizers)}
    for key, value in exact.items():
        assert float(low[key]) == pytest.approx(float(value), rel=12 * ROUNDING[precision]), key
    assert float(low["total_loss"]) != float(exact["total_loss"])


@each_model
@each_precision
def test_variables_stay_float32_and_all_are_trained(name, precision):
    model, _, _, before = trained(name, precision)
    floating = [variable for variable in model.variables if variable.dtype.is_floating]
    assert {variable.dtype for variable in floating} == {tf.float32}
    for old, variable in zip(before, model.trainable_variables):
        assert np.all(np.isfinite(variable.numpy())), variable.name
        # At first all scores lie between the hinges: their common offset changes no loss.
        assert np.any(old != variable.numpy()) or "scores/bias" in variable.name, variable.name
    for key, optimizer in model.optimizers.items():
        assert int(optimizer.iterations) == 1, key


# What must not be computed in less than float32: softmax, losses, norms, sums of many.
EXACT = {
    "Softmax", "SparseSoftmaxCrossEntropyWithLogits", "SquaredDifference", "Rsqrt", "Log1p", "Tanh",
    "UnsortedSegmentSum", "Mean", "ResourceApplyAdam",
}  # fmt: skip
FAST = {"Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter", "DepthwiseConv2dNative"}


@each_model
@each_precision
def test_what_is_computed_in_which_type(name, precision):
    _, _, graph, _ = trained(name, precision)
    found = {}
    for op in graph.get_operations():
        types = {tensor.dtype for tensor in op.inputs if tensor.dtype.is_floating}
        found.setdefault(op.type, set()).update(types)
    for kind in EXACT & set(found):
        assert found[kind] <= {tf.float32}, kind
    assert set(found) & FAST >= {"Conv2D"}
    for kind in FAST & set(found):
        assert found[kind] == {tf.as_dtype(precision)}, kind


@each_precision
def test_inference_gives_float32_near_the_exact(precision):
    """Equal weights. Of a dozen layers, one after the other, inputs and weights are rounded, and
    what comes out: vectors are off by 36 x half a unit at most, 7 % and 0.9 % of their length."""
    exact, low = (of("graph-attention", each) for each in ("none", precision))
    batch = batch_for(exact)
    graph = batch.photo.boxes, batch.photo.obj_to_img, batch.photo.triples, 3
    vectors = exact.embed_photos(batch.crops).vector
    outputs = (
        tf.nest.flatten(
            [
                model.embed_photos(batch.crops),
                model.embed_sketches(batch.sketches),
                model.contextualise(ObjectScenes(vectors, *graph)),
            ]
        )
        for model in (exact, low)
    )
    for mine, theirs in zip(*outputs):
        assert theirs.dtype == tf.float32
        difference = np.linalg.norm(mine - theirs) / np.linalg.norm(mine)
        assert 0 < difference < 36 * ROUNDING[precision]


@each_precision
def test_pictures_are_float32(precision):
    layout = tf.zeros((1, 32, 32), tf.uint8)
    assert trained("spade", precision)[0].generate(layout, layout).dtype == tf.float32


def test_a_precision_ends_with_its_layers():
    """Neither a model nor an error leaves Keras computing in something else."""
    trained("multidomain-representation", "bfloat16")
    with pytest.raises(ZeroDivisionError), Numerics("float16").layers():
        assert tf.keras.layers.Dense(1).compute_dtype == "float16"
        1 / 0  # noqa: B018
    assert tf.keras.layers.Dense(1).compute_dtype == "float32"


def test_checkpoints_fit_every_precision_and_keep_the_scale(tmp_path):
    """Of float16, after a step that was skipped: the same next steps, bit for bit, and all of it in
    another precision too."""
    name = "multidomain-representation"
    model = of(name, "float16")
    batch = batch_for(model)
    set_loss_scale(model.optimizers["main"], 2.0**40)  # too large for any step
    for number in range(2):
        model.train_step(batch, *step_args(number))
    assert float(model.optimizers["main"].loss_scale) == 2.0**38
    path = checkpoints.Checkpoints(tmp_path).save(model, 2, True)
    others = [of(name, precision) for precision in ("float16", "bfloat16", "none")]
    for other in others:
        checkpoints.resume(other, path)
    for mine, theirs in zip(model.variables, others[-1].variables):
        np.testing.assert_array_equal(mine, theirs)
    same = [each.train_step(batch, *step_args(2)) for each in (model, others[0])]
    assert {k: float(v) for k, v in same[0].items()} == {k: float(v) for k, v in same[1].items()}
    assert float(others[0].optimizers["main"].loss_scale) == 2.0**37


@each_model
def test_clipping_reaches_every_optimizer(name):
    for precision, expected in (("none", None), ("bfloat16", 1e9)):
        optimizers = trained(name, precision)[0].optimizers.values()
        assert {optimizer.inner_optimizer.global_clipnorm for optimizer in optimizers} == {expected}
