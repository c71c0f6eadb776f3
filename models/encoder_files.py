"""Encoders from files: pretrained_e_model=saved_model,encoder=PATH.

A SavedModel of the kind that TF Hub calls an image feature vector, or a whole Keras model, from
images float32 (B, H, W, 3) in [0, 1] to vectors (B, D). Its variables lie in checkpoints like all
others; the graph stays in the file, which a run therefore needs whenever it is opened.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import tensorflow as tf

from core import provenance
from core.errors import UserError, first_line
from models.backbones import KerasBackbone, last_kernel, untrained_variables

KIND = "float32 (N, H, W, 3) in [0, 1] -> float32 (N, D)"


def read_encoder(path: str, image_size: int, trains: str) -> tf.keras.layers.Layer:
    """Return the encoder of a SavedModel's folder or a Keras file (.keras, .h5), with all its
    variables.

    trains: 'all', 'last' or 'frozen', see the hparam encoder_training. UserError when the file is
    missing, none of this kind, takes no images of that size or gives values that are not finite.
    """
    place = Path(path)
    if not place.exists():
        raise UserError(
            f"there is no encoder {path}: give its place, encoder=PATH, with the hparams of the "
            "model, or in the config.json of a run whose encoder has moved"
        )
    if place.suffix in (".keras", ".h5") and place.is_file():
        encoder = KerasFileEncoder(place, trains)
    elif (place / "saved_model.pb").is_file():
        encoder = SavedModelEncoder(place, image_size, trains)
    else:
        raise UserError(
            f"{path} is no encoder: give encoder the folder of a SavedModel, in which "
            "saved_model.pb lies, or a whole Keras model, .keras or .h5"
        )
    _try(encoder, path, image_size)
    return encoder


def _try(encoder: tf.keras.layers.Layer, path: str, side: int) -> None:
    """Raise UserError unless the encoder gives finite features of an image of that side."""
    ramp = tf.reshape(tf.linspace(0.0, 1.0, side * side * 3), (1, side, side, 3))
    try:
        features = encoder.call(ramp)  # Keras would put words of its own around an error
    except (ValueError, tf.errors.OpError) as error:
        raise UserError(
            f"the encoder {path} does not take images of {side} pixels a side "
            f"({first_line(error)}): give image_size the side it was made for"
        ) from None
    if features.shape.rank not in (2, 4):
        raise UserError(f"the encoder {path} gives {features.shape[1:]} of an image, not a vector")
    if not bool(tf.reduce_all(tf.math.is_finite(features))):
        raise UserError(
            f"the encoder {path} gives NaN or infinity of an image of {side} pixels in [0, 1]: it "
            "is damaged, or made for other inputs"
        )


class FileDigest(tf.train.experimental.PythonState):
    """The SHA-256 of an encoder's files, saved in checkpoints; restoring one of another encoder is
    a UserError, because its variables may fit and its graph be another."""

    def __init__(self, path: Path):
        self._path = path
        if path.is_file():
            self.value = provenance.sha256(path)
            return
        files = [path / "saved_model.pb", *path.glob("variables/*"), *path.glob("assets/*")]
        self.value = provenance.digest(
            {each.relative_to(path).as_posix(): provenance.sha256(each) for each in files}
        )

    def serialize(self) -> str:
        """Return what a checkpoint keeps."""
        return self.value

    def deserialize(self, saved: Any) -> None:
        """Compare with what a checkpoint has kept."""
        saved = tf.compat.as_str(saved)
        if saved != self.value:
            raise UserError(
                f"the encoder {self._path} is not the one that was trained with (SHA-256 "
                f"{self.value[:16]}, then {saved[:16]}): give encoder=PATH of that one"
            )


class _Entry(NamedTuple):
    """The function of a SavedModel that gives features."""

    features: Callable[[tf.Tensor], tf.Tensor]
    function: Any  # concrete
    images: tf.TensorSpec
    trainable: bool


class SavedModelEncoder(tf.keras.layers.Layer):
    """Images float32 (B, H, W, 3 or 1) in [0, 1] -> float32 (B, D), always as in inference:
    statistics of batch norm stay, and nothing is dropped."""

    def __init__(self, path: Path, image_size: int, trains: str, **kwargs: Any):
        super().__init__(dtype="float32", **kwargs)
        entry = _load(path, () if trains == "frozen" else None)
        side = {size for size in entry.images.shape[1:3] if size is not None}
        if side - {image_size}:
            raise UserError(
                f"the encoder {path} takes images of {max(side)} pixels a side: give "
                f"image_size={max(side)}, not {image_size}"
            )
        if trains != "frozen":
            trainable = [v for v in entry.function.variables if v.trainable]
            if not entry.trainable or not trainable:
                raise UserError(
                    f"the encoder {path} cannot be trained (it has no function of its own beside "
                    "its signature, or no trainable variables): give encoder_training=frozen"
                )
            if trains == "last":
                last = trainable[last_kernel(trainable) :]
                entry = _load(path, [v.name.partition(":")[0] for v in last])
        # Not the loaded object: its own names of them would be those in checkpoints.
        self.file_variables = list(entry.function.variables)
        self.digest = FileDigest(path)
        self._features = entry.features

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        if images.shape[-1] == 1:
            images = tf.image.grayscale_to_rgb(images)
        if tf.distribute.in_cross_replica_context():  # while a distributed model is built
            strategy = tf.distribute.get_strategy()
            results = strategy.run(self._features, (images,))
            return strategy.experimental_local_results(results)[0]
        return self._features(images)


def _load(path: Path, trained: Sequence[str] | None) -> _Entry:
    """Load a SavedModel and find its function. trained: names of the variables to train; None: all
    that the file calls trainable."""
    try:
        with contextlib.nullcontext() if trained is None else untrained_variables(trained):
            loaded = tf.saved_model.load(str(path))
    except Exception as error:  # OSError, ValueError, OpError, what its protocol buffers raise..
        raise UserError(
            f"the SavedModel {path} cannot be read ({first_line(error)}): export or copy it again"
        ) from error
    return _own_function(loaded) or _signature(loaded, path)


def _own_function(loaded: Any) -> _Entry | None:
    """Return the __call__ of a loaded SavedModel for inference, None when it is of another kind."""
    try:
        functions = loaded.__call__.concrete_functions
    except AttributeError:  # it has signatures only
        return None
    for function in functions:
        args, kwargs = function.structured_input_signature
        given = [*args, *kwargs.values()]
        images = [each for each in given if isinstance(each, tf.TensorSpec)]
        training = any(each is True for each in given)
        if len(images) == 1 and not training and _fits(images[0], function.structured_outputs):
            return _Entry(_call_as(loaded, args, kwargs), function, images[0], True)
    return None


def _call_as(loaded: Any, args: tuple, kwargs: dict[str, Any]) -> Callable:
    """Return what calls `loaded` by these arguments, of which a TensorSpec stands for images."""

    def features(pixels: tf.Tensor) -> tf.Tensor:
        def fill(argument: Any) -> Any:
            return pixels if isinstance(argument, tf.TensorSpec) else argument

        return loaded(*map(fill, args), **{name: fill(value) for name, value in kwargs.items()})

    return features


def _signature(loaded: Any, path: Path) -> _Entry:
    """Return the serving_default of a loaded SavedModel; UserError when it is of another kind."""
    function = loaded.signatures.get("serving_default")
    if function is None:
        raise UserError(
            f"the SavedModel {path} has neither a function of images nor a serving_default "
            f"signature: an encoder is {KIND}"
        )
    inputs, outputs = function.structured_input_signature[1], function.structured_outputs
    name, images = next(iter(inputs.items()), ("", None))
    out = "default" if "default" in outputs else next(iter(outputs), "")
    single = len(inputs) == 1 and (len(outputs) == 1 or out == "default")
    if not single or not _fits(images, outputs[out]):
        found = [
            ", ".join(
                f"{key} {spec.dtype.name} {spec.shape}" for key, spec in sorted(specs.items())
            )
            for specs in (inputs, outputs)
        ]
        raise UserError(
            f"the SavedModel {path} is {found[0]} -> {found[1]}; an encoder is {KIND}: export it "
            "as an image feature vector"
        )

    def features(
        pixels: tf.Tensor, owner: Any = loaded
    ) -> tf.Tensor:  # `owner` keeps what it reads
        return function(**{name: pixels})[out]

    return _Entry(features, function, images, False)


def _fits(images: Any, features: Any) -> bool:
    """Return whether a function is of `KIND`, or gives maps (N, h, w, C)."""
    if not all(isinstance(spec, tf.TensorSpec) for spec in (images, features)):
        return False
    takes, gives = images.shape, features.shape
    floats = images.dtype == features.dtype == tf.float32
    any_number = takes.rank == 4 and takes[0] is None and takes[3] in (3, None)
    return floats and any_number and gives.rank in (2, 4)


class KerasFileEncoder(KerasBackbone):
    """A whole Keras model from images in [0, 1], ending in a vector or in maps."""

    def __init__(self, path: Path, trains: str, **kwargs: Any):
        self.path = path
        super().__init__(1.0, True, trains, dtype="float32", **kwargs)
        self.load_from(self.published())
        self.digest = FileDigest(path)

    def published(self, weights: str | None = None, image_size: int | None = None) -> Any:
        """Return the model in the file, with its weights."""
        try:
            if self.path.suffix == ".h5":
                _refuse_code(self.path)
            return tf.keras.models.load_model(self.path, compile=False)
        except UserError:
            raise
        except Exception as error:  # OSError, ValueError, TypeError.. by the damage
            raise UserError(
                f"{self.path} is not a readable Keras model ({first_line(error)}): save the whole "
                "model, not its weights alone"
            ) from error


def _refuse_code(path: Path) -> None:
    """Raise UserError for Python code in a .h5 file, which Keras runs; of .keras it does not."""
    with h5py.File(path) as file:
        if '"Lambda"' in str(file.attrs["model_config"]):
            raise UserError(
                f"{path} holds Python code, a Lambda layer, which is not run: build the model "
                "without it and save it again"
            )
