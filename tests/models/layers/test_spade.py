"""The SPADE generator against dense convolutions and against PyTorch."""

import numpy as np
import pytest
import tensorflow as tf

from models.layers.semantic import SemanticMaps, surroundings
from models.layers.spade import BLOCKS, SpadeGenerator, SpadeNorm, parameter_shapes

WIDTH, HIDDEN = 2, 6


def _maps(side: int = 64, pictures: int = 2) -> SemanticMaps:
    """Blocks of classes with some noise, 183 channels and both borders of them included."""
    rng = np.random.default_rng(0)
    classes = np.kron(rng.integers(0, 183, (pictures, side // 8, side // 8)), np.ones((8, 8), int))
    noise = rng.random(classes.shape)
    classes[noise < 0.05], classes[noise > 0.95] = 182, 0
    return SemanticMaps(tf.constant(classes, tf.int32), tf.constant(rng.random(noise.shape) < 0.2))


def _randomised(layer):
    """All weights drawn, biases and statistics too; variances positive."""
    rng = np.random.default_rng(1)
    for variable in layer.variables:
        values = rng.standard_normal(variable.shape) * 0.3
        variable.assign(np.abs(values) + 0.5 if "variance" in variable.name else values)
    return layer


def _norm(channels: int) -> SpadeNorm:
    layer = SpadeNorm(HIDDEN)
    layer.build((None, None, None, channels))
    return _randomised(layer)


def _generator() -> SpadeGenerator:
    """Kernels are as large as trained ones: pictures of those it starts with are nearly plain."""
    tf.keras.utils.set_random_seed(0)
    layer = SpadeGenerator(WIDTH, HIDDEN)
    layer.make_variables()
    for variable in layer.trainable_variables:
        variable.assign(50 * variable)
    return layer


@pytest.fixture(scope="module")
def generator():
    return _generator()


def test_parameters_of_the_paper():
    # Statistics are not counted. By hand, for the norms: 3 x 3 x 184 x 128 + 128 = 212,096 of
    # `shared` each, and 2 x (3 x 3 x 128 + 1) = 2,306 a channel. Three blocks of 1024, 1024; then
    # 1024, 512, 1024; 512, 256, 512; 256, 128, 256; 128, 64, 128: 18 norms of 10,944 channels.
    norms = 18 * 212_096 + 10_944 * 2_306
    # Convolutions with bias: fc; three blocks of two 1024 -> 1024; then in -> out, out -> out and
    # the shortcut of 1 x 1 without bias, for halving widths.
    convs = 9 * 184 * 1024 + 1024 + 6 * (9 * 1024**2 + 1024)
    for out in (512, 256, 128, 64):
        convs += 9 * 2 * out * out + out + 9 * out * out + out + 2 * out * out
    convs += 9 * 64 * 3 + 3
    shapes = parameter_shapes(64, 128)
    counted = sum(
        int(np.prod(shape))
        for name, shape in shapes.items()
        if not name.endswith((".mean", ".variance"))
    )
    assert counted == norms + convs
    assert round(counted / 1e6, 2) == 97.48


def test_kernels_start_small():
    """Normal of 0.02 x sqrt(2 / (inputs + outputs)), of 3x3 taps each, as the published code's."""
    tf.keras.utils.set_random_seed(0)
    generator = SpadeGenerator(width=4, hidden=16)
    generator.make_variables()
    for kernel in (
        generator.fc.kernel,
        generator.head_0.conv_0.kernel,
        generator.up_0.conv_s.kernel,
        generator.head_0.norm_0.gamma_kernel,
    ):
        size, _, inputs, outputs = kernel.shape
        expected = 0.02 * (2 / (size**2 * (inputs + outputs))) ** 0.5
        assert np.std(kernel) == pytest.approx(expected, rel=0.05)


def test_shapes_are_those_of_the_network(generator):
    found = {name: tuple(v.shape) for name, v in generator.parameters().items()}
    assert found == parameter_shapes(WIDTH, HIDDEN)
    # Nothing is left out but the vectors of spectral norm.
    named = {id(v) for v in generator.parameters().values()}
    rest = [v.name for v in generator.variables if id(v) not in named]
    assert len(rest) == 7 * 2 + 4
    assert all(name.endswith("/u:0") for name in rest)


@pytest.mark.parametrize("training", [False, True])
def test_norm_equals_dense_convolutions(training):
    layer, maps = _norm(5), _maps(16)
    inputs = tf.random.stateless_normal((2, 16, 16, 5), (1, 2))
    mean, variance = layer.mean.numpy(), layer.variance.numpy()
    if training:
        mean, variance = inputs.numpy().mean((0, 1, 2)), inputs.numpy().var((0, 1, 2))
    hidden = tf.nn.relu(
        tf.nn.conv2d(maps.one_hot(), layer.shared_kernel, 1, "SAME") + layer.shared_bias
    )
    gamma = tf.nn.conv2d(hidden, layer.gamma_kernel, 1, "SAME") + layer.gamma_bias
    beta = tf.nn.conv2d(hidden, layer.beta_kernel, 1, "SAME") + layer.beta_bias
    expected = (inputs - mean) / np.sqrt(variance + 1e-5) * (1 + gamma) + beta
    found = layer(inputs, surroundings(maps), training=training)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_training_norm_equals_pytorch():
    """Outputs, running statistics, and gradients of all weights and of the inputs."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    layer, maps = _norm(5), _maps(16)
    values = np.random.default_rng(3).standard_normal((2, 16, 16, 5)).astype(np.float32) * 2 + 1

    def leaf(x):
        axes = (3, 2, 0, 1) if x.ndim == 4 else (0,)
        return torch.tensor(np.ascontiguousarray(x.transpose(axes)), requires_grad=True)

    theirs = {v.name: leaf(v.numpy()) for v in layer.trainable_variables}
    mean, variance = torch.tensor(layer.mean.numpy()), torch.tensor(layer.variance.numpy())
    inputs = torch.tensor(values.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    layout = torch.tensor(maps.one_hot().numpy().transpose(0, 3, 1, 2).copy())

    def conv(name, x):
        kernel, bias = (theirs[f"{name}_{end}:0"] for end in ("kernel", "bias"))
        return functional.conv2d(x, kernel, bias, padding=1)

    normalised = functional.batch_norm(inputs, mean, variance, training=True, momentum=0.1)
    hidden = functional.relu(conv("shared", layout))
    expected = normalised * (1 + conv("gamma", hidden)) + conv("beta", hidden)
    (expected**3).mean().backward()

    ours = tf.constant(values)
    with tf.GradientTape() as tape:
        tape.watch(ours)
        found = layer(ours, surroundings(maps), training=True)
        loss = tf.reduce_mean(found**3)
    gradients = tape.gradient(loss, [ours, *layer.trainable_variables])
    np.testing.assert_allclose(
        found, expected.detach().numpy().transpose(0, 2, 3, 1), atol=1e-4, rtol=1e-4
    )
    np.testing.assert_allclose(layer.mean, mean, atol=1e-5)
    np.testing.assert_allclose(layer.variance, variance, atol=1e-5)
    for gradient, leaf in zip(gradients, [inputs, *theirs.values()]):
        wanted = leaf.grad.numpy()
        if wanted.ndim == 4:
            wanted = wanted.transpose((0, 2, 3, 1) if leaf is inputs else (2, 3, 1, 0))
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(tf.convert_to_tensor(gradient), wanted, atol=1e-4 * scale)


def test_eager_equals_graph(generator):
    free = (None, None, None)
    signature = [tf.TensorSpec(free, tf.int32), tf.TensorSpec(free, tf.bool)]
    graph = tf.function(lambda *maps: generator(SemanticMaps(*maps)), input_signature=signature)
    maps = _maps()
    pictures = generator(maps)
    assert pictures.shape == (2, 64, 64, 3)
    np.testing.assert_allclose(graph(*maps), pictures, atol=1e-5)
    # A picture does not depend on the others of its batch.
    np.testing.assert_allclose(graph(*(x[1:] for x in maps)), pictures[1:], atol=1e-5)
    # Nor need it be square.
    low = SemanticMaps(*(x[:, :32] for x in maps))
    np.testing.assert_allclose(graph(*low), generator(low), atol=1e-5)


def test_training_moves_everything():
    generator = _generator()
    before = [v.numpy() for v in generator.variables]
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((generator(_maps(), training=True) - 0.5) ** 2)
    variables = generator.trainable_variables
    zeros = set()
    for gradient, variable in zip(tape.gradient(loss, variables), variables):
        if np.abs(tf.convert_to_tensor(gradient)).max() < 1e-6:
            zeros.add(variable.name.partition("/")[2])
        variable.assign_sub(gradient + 1e-3)
    # Constants over the picture, which the batch norms on all later paths take out again.
    constants = {f"{name}/conv_{i}/bias:0" for name in BLOCKS for i in (0, 1)}
    constants |= {f"up_{i}/norm_s/beta_bias:0" for i in range(3)}
    assert zeros == {"fc/bias:0", *constants} - {"up_3/conv_1/bias:0"}
    same = [v.name for v, old in zip(generator.variables, before) if np.array_equal(v, old)]
    assert not same
    assert sum("/u:0" in v.name for v in generator.variables) == 18


def test_folded_weights_make_the_same_pictures(generator):
    plain = SpadeGenerator(WIDTH, HIDDEN, spectral_norm=False)
    plain.make_variables()
    values = generator.folded()
    for name, variable in plain.parameters().items():
        variable.assign(values[name])
    maps = _maps()
    np.testing.assert_allclose(plain(maps), generator(maps), atol=1e-5)
    # Divided by the largest singular value, which one step from a random vector estimates from
    # below: so the folded one is at least 1.
    kernel = values["up_0.conv_0.kernel"].numpy().reshape(-1, 8 * WIDTH)
    assert np.linalg.svd(kernel, compute_uv=False)[0] >= 1 - 1e-5
