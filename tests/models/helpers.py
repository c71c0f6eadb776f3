"""Small models and batches for the tests of this folder and of tests/conformance."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from core.dataset import Vocabulary
from core.hparams import parse
from core.model import PLAIN, Numerics, ObjectScenes
from core.registry import MODELS
from dataloaders.batches import SceneBatch, SceneGraph, Stuff, TripletBatch

SIDE, MASK, CLASSES = 32, 16, 7
PREDICATES = ("__in_image__", "left of", "right of", "above", "below", "inside", "surrounding")
SMALL = {
    "image_size": SIDE,
    "pretrained_e_model": "shallow",
    "pretrained_weights": "none",
    "backbone_alpha": 0.25,
    "batch_norm": "frozen",
}
SMALL_SCENES = {
    **SMALL,
    "mask_width": 16,
    "layout_d_arch": "verysmall",
    "gconv_num_layers": 2,
    "g_enc_n_layers": 1,
    "gconv_dim": 64,
    "gconv_hidden_dim": 64,
}

SMALL_SPADE = {
    "generator_width": 2,
    "spade_hidden": 8,
    "discriminator_width": 4,
    "learning_rate": 1e-3,
}
# Of the registered models.
SIZES = {
    "graph-attention": SMALL_SCENES,
    "multidomain-representation": SMALL,
    "object-alignment": {**SMALL, "encoder_training": "all", "adapter_size": 0},
    "spade": SMALL_SPADE,
    "whole-scene": SMALL,
}


def build(name: str, options: str = "", numerics: Numerics = PLAIN, **changes):
    """A small model of that registered name, the same at every call. options: a comma string of
    hparams over `changes`."""
    tf.keras.utils.set_random_seed(0)
    cls = MODELS[name]
    names = tuple(f"class {i}" for i in range(CLASSES))
    vocabulary = Vocabulary(names, PREDICATES, ids=tuple(range(1, CLASSES + 1)))
    hparams = parse(options, cls.HParams, **{**SIZES.get(name, {}), **changes})
    return cls(hparams, vocabulary, iterations=100, mask_size=MASK, numerics=numerics)


def batch_for(model, seed: int = 0):
    """A batch of the model's type; sizes change with the seed."""
    if model.batch_type == "TripletBatch":
        return triplet_batch(seed, 3 + seed, model.hparams.image_size)
    return scene_batch(seed, [1 + (seed + i) % 4 for i in range(3)])


def images(rng, count: int, channels: int, side: int = SIDE) -> tf.Tensor:
    """uint8 (count, side, side, channels), blocky noise."""
    noise = rng.integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)
    blocks = -(-side // 8)
    return tf.constant(noise.repeat(blocks, 1).repeat(blocks, 2)[:, :side, :side])


def triplet_batch(seed: int, size: int, side: int = SIDE) -> TripletBatch:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, CLASSES, size)
    return TripletBatch(
        images(rng, size, 1, side),
        images(rng, size, 3, side),
        images(rng, size, 3, side),
        tf.constant(classes, tf.int32),
        tf.constant((classes + 1) % CLASSES, tf.int32),
    )


def random_boxes(rng, count: int) -> np.ndarray:
    """float32 (count, 4), inside the image, sides 0.1 to 0.5."""
    size = rng.uniform(0.1, 0.5, (count, 2))
    near = rng.uniform(0, 1 - size)
    return np.concatenate([near, near + size], axis=1).astype(np.float32)


def scene_graph(rng, counts: list[int]) -> SceneGraph:
    """Scenes of counts[n] objects with all pairs related."""
    triples, first = [], 0
    for count in counts:
        pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
        triples += [(first + i, rng.integers(1, 7), first + j) for i, j in pairs]
        if count == 1:
            triples.append((first, 0, first))
        first += count
    return SceneGraph(
        tf.constant(rng.integers(0, CLASSES, sum(counts)), tf.int32),
        tf.constant(random_boxes(rng, sum(counts))),
        tf.constant(np.repeat(np.arange(len(counts)), counts), tf.int32),
        tf.constant(triples, tf.int32),
    )


def scene_batch(seed: int, counts: list[int], query_counts: list[int] | None = None) -> SceneBatch:
    """counts: photo objects of each scene. query_counts: of its query; by default one more than
    the photo, the last of which depicts nothing in the photo."""
    rng = np.random.default_rng(seed)
    query_counts = query_counts or [count + 1 for count in counts]
    photo, query = scene_graph(rng, counts), scene_graph(rng, query_counts)
    starts = np.cumsum([0, *counts])
    depicted = [
        starts[n] + i if i < counts[n] else -1
        for n, count in enumerate(query_counts)
        for i in range(count)
    ]
    objects, queries = sum(counts), sum(query_counts)
    pieces = np.arange(len(counts)).repeat([(seed + n) % 3 for n in range(len(counts))])
    return SceneBatch(
        tf.range(len(counts), dtype=tf.int64),
        images(np.random.default_rng(seed), len(counts), 3, 64),
        photo,
        images(rng, objects, 3),
        tf.constant(rng.integers(0, 2, (objects, MASK, MASK)), tf.uint8),
        query,
        images(rng, queries, 1),
        tf.constant(depicted, tf.int32),
        images(rng, objects, 3),
        (photo.classes + 1) % CLASSES,
        Stuff(
            tf.constant(pieces % CLASSES, tf.int32),
            tf.constant(random_boxes(rng, len(pieces))),
            tf.constant(rng.integers(0, 2, (len(pieces), MASK, MASK)), tf.uint8),
            tf.constant(pieces, tf.int32),
        ),
    )


def step_args(step: int = 0, seed: int = 0) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.constant(step, tf.int64), tf.constant(seed, tf.int32)


def signature_of(batch):
    """The batch's TensorSpecs with every leading size unknown, as a loader's element_spec has."""
    nothing = tf.data.Dataset.from_tensors((0, None)).element_spec[1]

    def spec(tensor):
        return nothing if tensor is None else tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)

    return tf.nest.map_structure(spec, batch)


def compiled_step(model, batch):
    """model.train_step as the training loop wraps it."""
    scalars = [tf.TensorSpec((), tf.int64), tf.TensorSpec((), tf.int32)]
    return tf.function(model.train_step, input_signature=[signature_of(batch), *scalars])


def photo_side(model, crops, graph, num_scenes=None, with_masks=True):
    """Return the model's outputs for scenes of crops."""
    return _side(model, model.embed_photos(crops), graph, num_scenes, with_masks)


def query_side(model, sketches, graph, num_scenes=None, with_masks=True):
    """Return the model's outputs for scenes of sketches."""
    return _side(model, model.embed_sketches(sketches), graph, num_scenes, with_masks)


def _side(model, encoded, graph, num_scenes, with_masks):
    scenes = num_scenes or int(graph.obj_to_img[-1]) + 1
    rows = graph.boxes, graph.obj_to_img, graph.triples
    return model.contextualise(ObjectScenes(encoded.vector, *rows, scenes), with_masks)
