"""Backbones by name, from images float32 (B, H, W, 3 or 1) to maps (B, h, w, C), and their
published weights."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import tensorflow as tf

from core.errors import UserError, first_line
from models.layers.normalization import MOMENTUM, BatchNorm, ConvBatchNorm


@contextlib.contextmanager
def untrained_variables(but: Collection[str] = ()) -> Iterator[None]:
    """Make variables within the block that are not trainable, all but those of the names `but`: no
    optimizer holds a slot for them, and no tape records what is computed of them alone."""

    def make(next_creator: Any, **kwargs: Any) -> tf.Variable:
        trainable = kwargs.get("trainable") is not False and kwargs.get("name") in but
        return next_creator(**{**kwargs, "trainable": trainable})

    with tf.variable_creator_scope(make):
        yield


def last_kernel(variables: Sequence[tf.Variable]) -> int:
    """Return the index of the last kernel, a variable of two or more axes. What stands after it is
    its bias and batch norm."""
    return max(i for i, variable in enumerate(variables) if variable.shape.rank >= 2)


class ConvBackbone(tf.keras.layers.Layer):
    """A backbone of `ConvBatchNorm` layers; `trains`: 'all', 'last' or 'frozen'."""

    def _build_untrained(self, trains: str, last: ConvBatchNorm) -> None:
        """Make the variables that are not to be trained; those that are come at the first call."""
        if trains == "all":
            return
        if trains == "last":
            last.build(None)
        with untrained_variables():
            self(tf.zeros((1, self.smallest, self.smallest, 3)))
        self.trainable = False  # or Keras lists what it called trainable a second time
        last.trainable = trains == "last"


class Shallow(ConvBackbone):
    """Four 3x3 convolutions of stride 2: quick to train from scratch on simple drawings."""

    smallest = 16
    widths_vary = True

    def __init__(self, alpha: float, freeze_statistics: bool, trains: str = "all", **kwargs: Any):
        super().__init__(**kwargs)
        widths = [3, *(max(8, int(width * alpha)) for width in (32, 64, 128, 256))]
        self.convs = [
            ConvBatchNorm(
                narrow, wide, stride=2, activation=tf.nn.relu, freeze_statistics=freeze_statistics
            )
            for narrow, wide in zip(widths, widths[1:])
        ]
        self._build_untrained(trains, self.convs[-1])

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        for conv in self.convs:
            images = conv(images, training=training)
        return images


class MobileNetV2(ConvBackbone):
    """MobileNetV2 (Sandler et al. 2018) up to and with Keras' `block_16_project_BN`.

    The same function as tf.keras.applications.MobileNetV2 cut there, for any image size. Written
    out so that frozen batch norm can be folded into the convolutions, which takes about half of
    the memory and of the passes over it.
    """

    smallest = 16
    widths_vary = True
    # filters, repeats, stride of the first; paper table 2
    GROUPS = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))

    def __init__(self, alpha: float, freeze_statistics: bool, trains: str = "all", **kwargs: Any):
        super().__init__(**kwargs)
        self.alpha = alpha
        self.title = f"MobileNetV2 (alpha {alpha})"
        conv = functools.partial(ConvBatchNorm, freeze_statistics=freeze_statistics)
        width = _divisible(32 * alpha)
        self.stem = conv(3, width, stride=2, activation=tf.nn.relu6)
        self.keras_names = [("Conv1", "bn_Conv1")]  # of self.convs(), in order
        self.blocks: list[list[ConvBatchNorm]] = []
        for filters, repeats, stride in self.GROUPS:
            for i in range(repeats):
                wide = width if not self.blocks else 6 * width
                block = [] if not self.blocks else [conv(width, wide, 1, activation=tf.nn.relu6)]
                block.append(
                    conv(wide, None, stride=stride if i == 0 else 1, activation=tf.nn.relu6)
                )
                width = _divisible(filters * alpha)
                block.append(conv(wide, width, 1))
                self._name_block(len(self.blocks))
                self.blocks.append(block)
        self._build_untrained(trains, self.blocks[-1][-1])

    def _name_block(self, index: int) -> None:
        prefix = f"block_{index}" if index else "expanded_conv"
        for part in ("expand", "depthwise", "project") if index else ("depthwise", "project"):
            self.keras_names.append((f"{prefix}_{part}", f"{prefix}_{part}_BN"))

    def convs(self) -> list[ConvBatchNorm]:
        """Return all convolutions, in the order of the data."""
        return [self.stem, *(conv for block in self.blocks for conv in block)]

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        maps = self.stem(images, training=training)
        for block in self.blocks:
            before = maps
            for conv in block:
                maps = conv(maps, training=training)
            if before.shape[-1] == maps.shape[-1] and block[-2].stride == 1:
                maps += before
        return maps

    def published(self, weights: str | None, image_size: int) -> tf.keras.Model:
        """Return Keras' own. Its ImageNet weights differ by image size; others take those of 96."""
        side = image_size if image_size in (96, 128, 160, 192, 224) else 96
        return tf.keras.applications.MobileNetV2(
            input_shape=(side, side, 3), alpha=self.alpha, include_top=False, weights=weights
        )

    def load_from(self, keras_model: tf.keras.Model) -> None:
        """Copy the variables of tf.keras.applications.MobileNetV2 of the same alpha."""
        for conv, (conv_name, norm_name) in zip(self.convs(), self.keras_names):
            conv.kernel.assign(keras_model.get_layer(conv_name).get_weights()[0])
            conv.norm.set_weights(keras_model.get_layer(norm_name).get_weights())


def _divisible(width: float) -> int:
    """Return the nearest multiple of 8 that is at least 8 and not more than 10 % below `width`."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8


class KerasBackbone(tf.keras.layers.Layer):
    """A network of tf.keras.applications without its top; a subclass says which.

    Frozen statistics: it always runs as in inference, where gamma, beta and weights have gradients
    all the same.
    """

    title: str  # of the function in tf.keras.applications
    smallest: int  # side of images, pixels
    widths_vary = False

    def __init__(self, alpha: float, freeze_statistics: bool, trains: str = "all", **kwargs: Any):
        """alpha: 1, there is no other width. trains: 'all', 'last' or 'frozen'."""
        super().__init__(**kwargs)
        self.freeze_statistics = freeze_statistics
        source = self.published(None)
        trained = _last_layers(source) if trains == "last" else {}
        with contextlib.nullcontext() if trains == "all" else untrained_variables():
            self.net = tf.keras.models.clone_model(
                source, clone_function=lambda layer: trained.get(layer.name) or _clone_layer(layer)
            )
        for layer in self.net.layers:
            layer.trainable = trains == "all" or layer.name in trained

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        if images.shape[-1] == 1:
            images = tf.image.grayscale_to_rgb(images)
        return self.net(images, training=training and not self.freeze_statistics)

    def published(self, weights: str | None, image_size: int | None = None) -> tf.keras.Model:
        """Return Keras' own, for images of any size."""
        build = getattr(tf.keras.applications, self.title)
        return build(input_shape=(None, None, 3), include_top=False, weights=weights)

    def load_from(self, keras_model: tf.keras.Model) -> None:
        """Copy the variables of a `published` model."""
        self.net.set_weights(keras_model.get_weights())


def _clone_layer(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
    """Return a layer like it, without weights yet; for a batch norm, one of ours."""
    config = layer.get_config()
    if isinstance(layer, tf.keras.layers.BatchNormalization):
        return BatchNorm.from_config({**config, "momentum": MOMENTUM})
    return type(layer).from_config(config)


def _last_layers(model: tf.keras.Model) -> dict[str, tf.keras.layers.Layer]:
    """Return clones, with variables, of a model's last layer with a kernel and all after it that
    have variables, by name."""
    layers = [layer for layer in model.layers if layer.weights]
    kernels = [i for i, layer in enumerate(layers) if any(w.shape.rank > 1 for w in layer.weights)]
    clones = {layer.name: _clone_layer(layer) for layer in layers[kernels[-1] :]}
    for name, clone in clones.items():
        clone.build(model.get_layer(name).input_shape)
    return clones


class ResNet50V2(KerasBackbone):
    """He et al. 2016; C = 2048."""

    title = "ResNet50V2"
    smallest = 32


class InceptionV3(KerasBackbone):
    """Szegedy et al. 2016; C = 2048. Its batch norm has no gamma."""

    title = "InceptionV3"
    smallest = 75


BACKBONES = {
    "mobilenet2": MobileNetV2,
    "resnet": ResNet50V2,
    "inception": InceptionV3,
    "shallow": Shallow,
}


class Published(Protocol):
    """A backbone with published weights."""

    title: str

    def published(self, weights: str | None, image_size: int) -> tf.keras.Model:
        """Return the Keras model with its initial (None) or ImageNet ('imagenet') weights."""


def read_weights(
    backbone: Published, weights: str, image_size: int, hparam: str = "pretrained_weights"
) -> tf.keras.Model:
    """Return the backbone's Keras model (without top) with weights 'imagenet' or of a file.

    hparam: the name of the one that holds `weights`. Raises UserError, which names the
    alternatives, when the weights cannot be had or do not fit.
    """
    others = f"Give {hparam} another value: imagenet, a path to a weights file, or none"
    if weights == "imagenet":
        try:
            return backbone.published("imagenet", image_size)
        except Exception as error:  # Keras wraps whatever urllib raises in a bare Exception
            raise UserError(
                f"the ImageNet weights of {backbone.title} could not be downloaded "
                f"({first_line(error)}). {others}"
            ) from error
    if not Path(weights).is_file():
        raise UserError(f"there is no weights file {weights}. {others}")
    model = backbone.published(None, image_size)
    try:
        model.load_weights(weights)
    except Exception as error:  # h5py and Keras raise OSError, ValueError, KeyError, RuntimeError..
        raise UserError(
            f"{weights} is not a readable weights file of {backbone.title} without top "
            f"({first_line(error)}). {others}"
        ) from error
    for variable in model.variables:
        if not bool(tf.reduce_all(tf.math.is_finite(variable))):
            raise UserError(f"{weights}: {variable.name} holds NaN or infinity. {others}")
    return model
