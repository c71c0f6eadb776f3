"""A tiny model and dataset for tests of the machinery: no files to read, a step in microseconds."""

import contextlib
import os
import resource
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from core.dataset import DataSizes, Vocabulary
from core.errors import HParamError, UserError
from core.evaluation.figures import Figure, Picture
from core.hparams import hp
from core.model import PLAIN, Model
from core.registry import LOADERS, METRICS, MODELS


@contextlib.contextmanager
def file_size_limit(size):
    """As a full disk: no file grows past `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class FakeBatch(NamedTuple):
    """number: int64 (), t of the batch. features: float32 (B, 4)."""

    number: tf.Tensor
    features: tf.Tensor


@dataclass(frozen=True)
class FakeData:
    folder: str = hp("", "any text but 'missing'")
    set_dir: str = hp("", "a folder whose contents count", folder=True)
    end: int = hp(-1, "number of batches, -1: endless")


class FakeDataset:
    """A stand-in for a `core.dataset.Dataset`, which is bound to real records."""

    name = "fake-loader"
    HParams = FakeData
    batch_type = FakeBatch
    has_objects = True
    sizes = DataSizes()

    def __init__(self, hparams, base, image_size, seed):
        self.hparams, self.seed, self.batch_size = hparams, seed, base.batch_size
        if hparams.folder == "missing":
            raise UserError("the folder missing is not there; prepare it")

    @property
    def vocabulary(self):
        return Vocabulary(("cat", "dog", "__image__"))

    def prepare_for(self, model):
        pass

    def train_batches(self, start_step=0):
        def batch(t):
            # The size varies, so that a step that traces anew for each size is found out.
            size = self.batch_size + t % 3
            features = tf.random.stateless_normal((size, 4), tf.stack([self.seed, t]))
            return FakeBatch(t, features)

        end = self.hparams.end if self.hparams.end >= 0 else 2**40
        return tf.data.Dataset.range(start_step, end).map(batch)

    def eval_batches(self, split, limit=None):
        return self.train_batches(0).take(2)


@dataclass(frozen=True)
class FakeHParams:
    learning_rate: float = hp(0.1, "of both optimizers")
    width: int = hp(3, "of the hidden layer", low=1)
    image_size: int = hp(96, "pixels")
    nan_at: int = hp(-1, "step (from 0) at which a loss is nan")
    signal_at: int = hp(-1, "step (from 0) in which the process gets the signal")
    signal: int = hp(15, "its number")


class FakeModel(Model):
    """Two layers, two optimizers, dropout from (seed, step)."""

    name = "fake-model"
    HParams = FakeHParams
    batch_type = "FakeBatch"
    metrics = ("fake-metric",)
    traces = 0

    def __init__(self, hparams, vocabulary, iterations, mask_size=64, numerics=PLAIN):
        super().__init__(hparams, vocabulary, iterations, mask_size, numerics)
        self.hidden = tf.keras.layers.Dense(hparams.width, name="hidden")
        self.hidden.build((None, 4))
        self.out = tf.keras.layers.Dense(1, name="out")
        self.out.build((None, hparams.width))
        self.steps_seen = tf.Variable(0, dtype=tf.int64, trainable=False, name="steps_seen")
        first = tf.keras.optimizers.Adam(hparams.learning_rate, jit_compile=False)
        first.build(self.hidden.trainable_variables)
        second = tf.keras.optimizers.Adam(hparams.learning_rate, jit_compile=False)
        second.build(self.out.trainable_variables)
        self.optimizers = {"first": first, "second": second}
        self.pretrained = False

    def load_pretrained(self):
        self.pretrained = True

    def warm_start_parts(self):
        return {"hidden": self.hidden}

    def train_step(self, batch, step, seed):
        type(self).traces += 1
        with tf.GradientTape(persistent=True) as tape:
            hidden = self.hidden(batch.features)
            noise = tf.random.stateless_uniform(
                tf.shape(hidden), tf.stack([seed, tf.cast(step, tf.int32)])
            )
            out = self.out(tf.where(noise < 0.5, 0.0, 2.0 * hidden))
            loss = tf.reduce_mean((out[:, 0] - tf.reduce_sum(batch.features, 1)) ** 2)
            norm = tf.reduce_mean(hidden**2)
        for name, layer in (("first", self.hidden), ("second", self.out)):
            variables = layer.trainable_variables
            gradients = tape.gradient(loss, variables)
            self.optimizers[name].apply_gradients(zip(gradients, variables))
        self.steps_seen.assign_add(1)
        if self.hparams.signal_at >= 0:
            tf.numpy_function(self._signal, [step], [])
        bad = tf.equal(step, self.hparams.nan_at)
        return {
            "fit_loss": loss,
            "norm_loss": tf.where(bad, float("nan"), norm),
            "batch": tf.cast(batch.number, tf.float32),
        }

    def _signal(self, step):
        if step == self.hparams.signal_at:
            os.kill(os.getpid(), self.hparams.signal)


@dataclass(frozen=True)
class FakeSecondHParams(FakeHParams):
    start_id: str = hp("", "id of the fake-model run to start from")


class FakeSecond(FakeModel):
    """Starts from a fake-model run, as stage 2 does from stage 1."""

    name = "fake-second"
    HParams = FakeSecondHParams
    warm_start_may_differ = ("learning_rate", "signal_at", "nan_at")

    @classmethod
    def warm_start_from(cls, hparams):
        if not hparams.start_id:
            raise HParamError("fake-second needs start_id=<id of a fake-model run>")
        return ("fake-model", hparams.start_id)


def fake_metric(evaluation, name):
    """Return the size of the hidden layer on the split, and a picture of one colour."""
    batches = evaluation.batches(name)
    size = float(
        np.mean([tf.reduce_mean(abs(evaluation.model.hidden(b.features))) for b in batches])
    )
    path = evaluation.folder / f"{name}-step-{evaluation.step}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)
    return [
        Figure(name, evaluation.split, size, 2, chance=0.5),
        Picture(name, evaluation.split, path),
    ]


def install(set_item, set_attribute):
    """Put the fakes into the registries, alone; the arguments are pytest's monkeypatch.setitem and
    setattr, or anything like them."""
    for registry, classes in (
        (MODELS, {"fake-model": FakeModel, "fake-second": FakeSecond}),
        (LOADERS, {"fake-loader": FakeDataset}),
        (METRICS, {"fake-metric": fake_metric, "other-metric": fake_metric}),
    ):
        set_attribute(registry, "_imported", True)
        set_attribute(registry, "_classes", classes)
