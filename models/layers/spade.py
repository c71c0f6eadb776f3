"""The generator of SPADE (Park et al. 2019, "Semantic Image Synthesis with Spatially-Adaptive
Normalization"): a semantic map in, a photograph out.

    every 32nd pixel of the map -> conv 3x3                     (B, H/32, W/32, 16 w)
    head_0, up, G_middle_0, G_middle_1, up, up_0, up, up_1, up, up_2, up, up_3     (B, H, W, w)
    leaky ReLU -> conv 3x3 -> tanh                              (B, H, W, 3)

w is 64 in the paper; `up` is nearest-neighbour x2. Every block sees the map again, subsampled to
its own size, through its SPADE norms.
"""

from __future__ import annotations

import functools
import operator

import tensorflow as tf

from models.layers.normalization import (
    MOMENTUM,
    SAME_ON_REPLICAS,
    SpectralConv,
    moments,
    xavier_small,
)
from models.layers.semantic import (
    CHANNELS,
    CLASSES,
    OUTSIDE,
    SemanticMaps,
    Surroundings,
    surroundings,
)

EPSILON = 1e-5
# name -> width in, width out (times w), upsampled before
BLOCKS = {
    "head_0": (16, 16, False),
    "G_middle_0": (16, 16, True),
    "G_middle_1": (16, 16, False),
    "up_0": (16, 8, True),
    "up_1": (8, 4, True),
    "up_2": (4, 2, True),
    "up_3": (2, 1, True),
}
SCALE = 2 ** sum(up for _, _, up in BLOCKS.values())  # 32: sides must be multiples of it


class SpadeNorm(tf.keras.layers.Layer):
    """Batch norm without parameters, then a scale 1 + gamma and an offset beta of each pixel.

    gamma and beta are convolutions (3x3, `hidden`, ReLU, then 3x3) of the semantic map, so they
    depend on nothing but the 5x5 classes and edges around a pixel. They are computed once for each
    distinct surroundings, not for each pixel; and the first convolution, of a one-hot map, is a sum
    of nine looked-up rows.

    Mixed precision is for the second convolutions alone: what pixels look up is float32,
    because its gradient sums over all of them.
    """

    def __init__(self, hidden: int, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.hidden = hidden

    def build(self, input_shape):
        channels = input_shape[-1]
        weight = functools.partial(self.add_weight, experimental_autocast=False)

        def conv(name: str, inputs: int, outputs: int):
            shape = (3, 3, inputs, outputs)
            kernel = weight(f"{name}_kernel", shape, initializer=xavier_small())
            return kernel, weight(f"{name}_bias", (outputs,), initializer="zeros")

        self.shared_kernel, self.shared_bias = conv("shared", CHANNELS, self.hidden)
        self.gamma_kernel, self.gamma_bias = conv("gamma", self.hidden, channels)
        self.beta_kernel, self.beta_bias = conv("beta", self.hidden, channels)
        statistic = functools.partial(weight, trainable=False, **SAME_ON_REPLICAS)
        self.mean = statistic("mean", (channels,), initializer="zeros")
        self.variance = statistic("variance", (channels,), initializer="ones")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, around: Surroundings, training: bool = False) -> tf.Tensor:
        """Return the modulated maps, in the inputs' shape and dtype.

        inputs: (B, h, w, C). around: of the semantic map at (h, w). training: normalise by the
        batch's statistics, and move the running ones; else by the running ones."""
        maps = tf.cast(inputs, tf.float32)
        mean, variance = self._statistics(maps) if training else (self.mean, self.variance)
        hidden = self._hidden(around.near)
        rows = tf.reshape(tf.gather(hidden, around.around), [-1, 9 * self.hidden])  # (V, 9 hidden)
        gamma = self._convolve(rows, self.gamma_kernel, self.gamma_bias)  # (V, C)
        beta = self._convolve(rows, self.beta_kernel, self.beta_bias)
        scale = (1.0 + gamma) * tf.math.rsqrt(variance + EPSILON)
        offset = beta - mean * scale
        outputs = maps * tf.gather(scale, around.index) + tf.gather(offset, around.index)
        return tf.cast(outputs, inputs.dtype)

    def _statistics(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean, variance, count = moments(inputs)
        unbiased = variance * count / tf.maximum(count - 1.0, 1.0)
        for running, value in ((self.mean, mean), (self.variance, unbiased)):
            running.assign_add((1.0 - MOMENTUM) * (value - running))
        return mean, variance

    def _hidden(self, near: tf.Tensor) -> tf.Tensor:
        """Return the hidden maps of the windows near, int32 (U, 9): float32 (U + 1, hidden), the
        last row zeros, for what lies outside the picture."""
        taps = tf.reshape(self.shared_kernel, [9, CHANNELS, self.hidden])
        plain, edge = taps[:, :CLASSES], taps[:, CLASSES:]
        by_code = tf.concat([plain, plain + edge, tf.zeros_like(edge)], axis=1)
        rows = near + tf.range(9) * (OUTSIDE + 1)
        terms = tf.gather(tf.reshape(by_code, [-1, self.hidden]), rows)  # (U, 9, hidden)
        hidden = tf.nn.relu(tf.reduce_sum(terms, axis=1) + self.shared_bias)
        return tf.pad(hidden, [[0, 1], [0, 0]])

    def _convolve(self, rows: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        kernel = tf.reshape(kernel, [9 * self.hidden, -1])
        rows, kernel = (tf.cast(each, self.compute_dtype) for each in (rows, kernel))
        return tf.cast(tf.matmul(rows, kernel), tf.float32) + bias


class SpadeBlock(tf.keras.layers.Layer):
    """Residual block: twice SPADE norm, leaky ReLU, conv 3x3; a 1x1 shortcut where the width
    changes. Spectral norm on the three convolutions."""

    def __init__(self, inputs: int, outputs: int, hidden: int, spectral_norm: bool, **kwargs):
        super().__init__(**kwargs)
        conv = functools.partial(SpectralConv, normalize=spectral_norm, initializer=xavier_small)
        self.norm_0 = SpadeNorm(hidden, name="norm_0")
        self.conv_0 = conv(min(inputs, outputs), name="conv_0")
        self.norm_1 = SpadeNorm(hidden, name="norm_1")
        self.conv_1 = conv(outputs, name="conv_1")
        self.widens = inputs != outputs
        if self.widens:
            self.norm_s = SpadeNorm(hidden, name="norm_s")
            self.conv_s = conv(outputs, kernel_size=1, use_bias=False, name="conv_s")

    @property
    def convs(self) -> dict[str, SpectralConv]:
        """Return the convolutions by name."""
        convs = {"conv_0": self.conv_0, "conv_1": self.conv_1}
        return {**convs, "conv_s": self.conv_s} if self.widens else convs

    def call(self, inputs: tf.Tensor, around: Surroundings, training: bool = False) -> tf.Tensor:
        """Return maps (B, h, w, out) of maps (B, h, w, in)."""
        maps = tf.nn.leaky_relu(self.norm_0(inputs, around, training=training), 0.2)
        maps = self.conv_0(maps, training=training)
        maps = tf.nn.leaky_relu(self.norm_1(maps, around, training=training), 0.2)
        maps = self.conv_1(maps, training=training)
        if not self.widens:
            return inputs + maps
        shortcut = self.norm_s(inputs, around, training=training)
        return self.conv_s(shortcut, training=training) + maps


class SpadeGenerator(tf.keras.layers.Layer):
    """Generator of photographs float32 (B, H, W, 3) in [-1, 1] from semantic maps (B, H, W), whose
    sides are multiples of 32."""

    def __init__(self, width: int = 64, hidden: int = 128, spectral_norm: bool = True, **kwargs):
        """width: channels of the last block; hidden: of the SPADE norms. spectral_norm: False for
        weights that are divided by it already."""
        super().__init__(**kwargs)
        self.width = width
        self.hidden = hidden
        plain_conv = functools.partial(tf.keras.layers.Conv2D, kernel_size=3, padding="same")
        self.fc = plain_conv(16 * width, kernel_initializer=xavier_small(), name="fc")
        for name, (inputs, outputs, _) in BLOCKS.items():
            block = SpadeBlock(inputs * width, outputs * width, hidden, spectral_norm, name=name)
            setattr(self, name, block)
        self.conv_img = plain_conv(3, kernel_initializer=xavier_small(), name="conv_img")

    def call(self, maps: SemanticMaps, training: bool = False) -> tf.Tensor:
        step = SCALE
        features = self.fc(maps.every(step).one_hot())
        around = surroundings(maps.every(step))
        for name, (_, _, upsampled) in BLOCKS.items():
            if upsampled:
                step //= 2
                features = _upsample(features)
                around = surroundings(maps.every(step))
            features = getattr(self, name)(features, around, training=training)
        pixels = self.conv_img(tf.nn.leaky_relu(features, 0.2))
        return tf.nn.tanh(tf.cast(pixels, tf.float32))

    def make_variables(self) -> None:
        """Make the variables, by a pass of a small map."""
        blank = tf.zeros((1, SCALE, SCALE), tf.int32)
        self(SemanticMaps(blank, blank > 0))

    def parameters(self) -> dict[str, tf.Variable]:
        """Return the variables that inference needs, by the names of parameter_shapes."""
        names = parameter_shapes(self.width, self.hidden)
        return {name: operator.attrgetter(name)(self) for name in names}

    def folded(self) -> dict[str, tf.Tensor]:
        """Return the values of `parameters` with kernels divided by their spectral norms: a
        generator without spectral norm computes the same pictures from them."""
        values = {name: tf.convert_to_tensor(v) for name, v in self.parameters().items()}
        for name in BLOCKS:
            for conv_name, conv in getattr(self, name).convs.items():
                values[f"{name}.{conv_name}.kernel"] = conv.normalized_kernel(training=False)
        return values


def _upsample(maps: tf.Tensor) -> tf.Tensor:
    """Upsample by nearest neighbours x2."""
    return tf.repeat(tf.repeat(maps, 2, axis=1), 2, axis=2)


def parameter_shapes(width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a generator's parameters, without making one."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, size: int, inputs: int, outputs: int, bias: str = "bias") -> None:
        shapes[name] = (size, size, inputs, outputs)
        if bias:
            shapes[name.removesuffix("kernel") + "bias"] = (outputs,)

    conv("fc.kernel", 3, CHANNELS, 16 * width)
    for name, (inputs, outputs, _) in BLOCKS.items():
        inputs, outputs = inputs * width, outputs * width
        middle = min(inputs, outputs)
        norms = {"norm_0": inputs, "norm_1": middle}
        conv(f"{name}.conv_0.kernel", 3, inputs, middle)
        conv(f"{name}.conv_1.kernel", 3, middle, outputs)
        if inputs != outputs:
            norms["norm_s"] = inputs
            conv(f"{name}.conv_s.kernel", 1, inputs, outputs, bias="")
        for norm, channels in norms.items():
            conv(f"{name}.{norm}.shared_kernel", 3, CHANNELS, hidden)
            conv(f"{name}.{norm}.gamma_kernel", 3, hidden, channels)
            conv(f"{name}.{norm}.beta_kernel", 3, hidden, channels)
            shapes[f"{name}.{norm}.mean"] = shapes[f"{name}.{norm}.variance"] = (channels,)
    conv("conv_img.kernel", 3, width, 3)
    return shapes
