"""From the samples of N scenes to a SceneBatch, in vectorised steps.

    parse     samples -> objects of all scenes in one list, an encoded sketch and negative for each
    decode    encoded images -> photographs, crops, sketches (of a cached set: their features)
    assemble  masks, graphs -> SceneBatch

A loader writes its own `parse` of the functions here; a side that its set lacks stays None.

Letters: N scenes, O photo objects, Q query objects, U pieces of stuff, M mask side.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from core.dataset import DataSizes, SceneDataset, Stage
from dataloaders import feature_cache, queries, random_draws, records
from dataloaders.batches import SceneBatch, SceneGraph, Stuff
from dataloaders.class_pools import ClassPool, ClassPools
from dataloaders.image_ops import crop_images, decode_images, resize_images
from dataloaders.random_draws import Stream
from dataloaders.samples import Samples
from dataloaders.scene_graph import triples


class SceneObjects(NamedTuple):
    """The O objects of one side of N scenes, scene after scene."""

    classes: tf.Tensor  # int32 (O,)
    boxes: tf.Tensor  # float32 (O, 4)
    obj_to_img: tf.Tensor  # int32 (O,)
    positions: tf.Tensor  # int64 (O,), position of the object's scene, for draws
    places: tf.Tensor  # int32 (O,), place of the object in its scene, for draws

    @classmethod
    def of(cls, classes: tf.RaggedTensor, boxes: tf.Tensor, positions: tf.Tensor) -> SceneObjects:
        """classes: int (N, (O)). boxes: float32 (O, 4). positions: int64 (N,)."""
        obj_to_img = tf.cast(classes.value_rowids(), tf.int32)
        starts = tf.cast(classes.row_starts(), tf.int32)
        places = tf.range(tf.size(obj_to_img)) - tf.gather(starts, obj_to_img)
        indices = tf.cast(classes.flat_values, tf.int32)
        return cls(indices, boxes, obj_to_img, tf.gather(positions, obj_to_img), places)

    def words(self, seed: int, stream: Stream) -> tf.Tensor:
        """Return a random word for each object: uint64 (O,)."""
        return random_draws.bits(seed, stream, self.positions, self.places)

    def graph(self, seed: int, stream: Stream | None) -> SceneGraph:
        """Return the objects with their relations: directions drawn from `stream`, or canonical
        ones for None."""
        words = None if stream is None else self.words(seed, stream)
        rows = triples(self.boxes, self.obj_to_img, words)
        return SceneGraph(self.classes, self.boxes, self.obj_to_img, rows)


class EncodedScenes(NamedTuple):
    """N scenes with everything drawn; images are encoded until `decode`. A field that the set lacks
    is None."""

    image_ids: tf.Tensor  # int64 (N,)
    images: tf.Tensor | None = None  # string (N,), then uint8 (N, S, S, 3)
    crops: tf.Tensor | None = None  # after `decode`: uint8 (O, S, S, 3)
    photo: SceneObjects | None = None  # O objects
    masks: tf.Tensor | None = None  # string (N,), packed
    query: SceneObjects | None = None  # Q objects
    query_to_photo: tf.Tensor | None = None  # int32 (Q,), -1 = none
    sketches: tf.Tensor | None = None  # string (Q,), then uint8 (Q, S, S, 1)
    negative_crops: tf.Tensor | None = None  # string (O,), then uint8 (O, S, S, 3)
    negative_classes: tf.Tensor | None = None  # int32 (O,)
    stuff: Stuff | None = None  # masks: string (N,), packed


# ---- parse -----------------------------------------------------------------------------------


def parse_scenes(samples: Samples) -> EncodedScenes:
    """Parse scene records: the photographs' side, and the sketches that lie with them."""
    scenes = records.SceneRecord.parse(samples.records)
    return EncodedScenes(
        image_ids=scenes.image_id,
        images=scenes.image,
        photo=SceneObjects.of(scenes.obj_idx, scenes.boxes.flat_values, samples.positions),
        masks=scenes.masks,
        sketches=scenes.sketches.flat_values,
        stuff=Stuff(
            tf.cast(scenes.stuff_idx.flat_values, tf.int32),
            scenes.stuff_boxes.flat_values,
            scenes.stuff_masks,
            tf.cast(scenes.stuff_idx.value_rowids(), tf.int32),
        ),
    )


def add_paired_queries(scenes: EncodedScenes) -> EncodedScenes:
    """Add queries that show each photographed object by the sketch that lies with it."""
    every = tf.range(tf.size(scenes.photo.classes))
    return scenes._replace(query=scenes.photo, query_to_photo=every)


def add_random_queries(
    scenes: EncodedScenes, pool: ClassPool, pools: ClassPools, seed: int
) -> EncodedScenes:
    """Add queries that show each photographed object by a random sketch of its class. Objects of a
    class without sketches are left out."""
    rows = tf.gather(pools.row_of_class, scenes.photo.classes)
    drawable = tf.cast(tf.where(rows >= 0)[:, 0], tf.int32)
    words = tf.gather(scenes.photo.words(seed, Stream.SKETCH), drawable)
    drawn = pool.pick(tf.gather(rows, drawable), words)
    return scenes._replace(
        query=SceneObjects(*(tf.gather(column, drawable) for column in scenes.photo)),
        query_to_photo=drawable,
        sketches=records.SketchRecord.parse(drawn).image,
    )


def add_negatives(
    scenes: EncodedScenes, pool: ClassPool, pools: ClassPools, seed: int
) -> EncodedScenes:
    """Add a crop of another class for each photographed object (paper, section 3.5)."""
    photo = scenes.photo
    own = tf.gather(pools.row_of_class, photo.classes)
    others = pools.other_rows(own, photo.words(seed, Stream.NEGATIVE_CLASS))
    drawn = pool.pick(others, photo.words(seed, Stream.NEGATIVE_CROP))
    return scenes._replace(
        negative_crops=records.CropRecord.parse(drawn).image,
        negative_classes=tf.gather(pools.classes, others),
    )


# ---- from parsed scenes to a batch -----------------------------------------------------------


def stages(
    dataset: SceneDataset,
    parse: Callable[[Samples], EncodedScenes],
    training: bool,
    jitter: float = 0.0,
    dropped: float = 0.0,
    width: int | None = None,
) -> tuple[Stage, ...]:
    """Return the stages of a loader of scenes, for `Dataset.stages`.

    training: the direction of each pair of each side is drawn anew; the query side never learns the
    photo side's directions. In training alone the queries' boxes are jittered by `jitter`, and each
    of their objects is left out with the probability `dropped`. width: C, for records of
    `feature_cache`; then crops and sketches of a batch are float32 (n, C), and it has no images.
    """
    # Paper: a query in training shows all objects in the photograph's own boxes; here: so by
    # default, and hparams can jitter its boxes and drop objects, because people draw so.
    seed, sizes = dataset.seed, dataset.sizes
    jitter, dropped = (jitter, dropped) if training else (0.0, 0.0)

    def decode(scenes: EncodedScenes) -> EncodedScenes:
        if width is not None:
            return _read_features(scenes, width)
        return _decode(scenes, sizes, dataset.image_size)

    return (
        ("parse", lambda samples: _change_queries(parse(samples), seed, jitter, dropped)),
        ("decode", decode),
        ("assemble", lambda scenes: _assemble(scenes, sizes.mask, seed, training)),
    )


def _change_queries(
    scenes: EncodedScenes, seed: int, jitter: float, dropped: float
) -> EncodedScenes:
    query = scenes.query
    if query is not None and dropped:
        shown = queries.choose_shown(query.obj_to_img, dropped, seed, query.positions, query.places)
        query = SceneObjects(*(tf.boolean_mask(column, shown) for column in query))
        scenes = scenes._replace(
            query_to_photo=tf.boolean_mask(scenes.query_to_photo, shown),
            sketches=tf.boolean_mask(scenes.sketches, shown),
        )
    if query is not None and jitter:
        boxes = queries.jitter_boxes(query.boxes, jitter, seed, query.positions, query.places)
        query = query._replace(boxes=boxes)
    return scenes._replace(query=query)


def _decode(scenes: EncodedScenes, sizes: DataSizes, image_size: int) -> EncodedScenes:
    columns = {
        "images": (sizes.photo, 3, "jpeg"),
        "sketches": (sizes.sketch, 1, "png"),
        "negative_crops": (sizes.crop, 3, "jpeg"),
    }
    encoded = scenes._asdict()
    decoded = {
        name: decode_images(encoded[name], *how)
        for name, how in columns.items()
        if encoded[name] is not None
    }
    if scenes.photo is not None:
        photo = scenes.photo
        decoded["crops"] = crop_images(decoded["images"], photo.boxes, photo.obj_to_img, sizes.crop)
    for name in decoded.keys() - {"images"}:
        decoded[name] = resize_images(decoded[name], image_size)
    return scenes._replace(**decoded)


def crops_to_cache(
    serialized: tf.Tensor, sizes: DataSizes, image_size: int
) -> feature_cache.Images:
    """Return what a model of that image size sees of the objects of scene records."""
    positions = tf.range(tf.size(serialized), dtype=tf.int64)
    scenes = parse_scenes(Samples(positions, serialized, {}))._replace(sketches=None)
    rows = scenes.photo.obj_to_img
    counts = tf.math.bincount(rows, minlength=tf.size(serialized))
    return feature_cache.Images((_decode(scenes, sizes, image_size).crops,), counts)


def _read_features(scenes: EncodedScenes, width: int) -> EncodedScenes:
    read = functools.partial(feature_cache.read_all, width=width)
    return scenes._replace(
        images=None,
        crops=read(scenes.images),
        sketches=read(scenes.sketches),
        negative_crops=read(scenes.negative_crops),
    )


def _assemble(scenes: EncodedScenes, mask_size: int, seed: int, training: bool) -> SceneBatch:
    batch = SceneBatch(
        image_ids=scenes.image_ids,
        images=scenes.images,
        crops=scenes.crops,
        sketches=scenes.sketches,
        query_to_photo=scenes.query_to_photo,
        negative_crops=scenes.negative_crops,
        negative_classes=scenes.negative_classes,
    )
    if scenes.photo is not None:
        graph = scenes.photo.graph(seed, Stream.PHOTO_DIRECTION if training else None)
        batch = batch._replace(photo=graph)
    if scenes.masks is not None:
        batch = batch._replace(masks=records.unpack_masks(scenes.masks, mask_size))
    if scenes.query is not None:
        graph = scenes.query.graph(seed, Stream.QUERY_DIRECTION if training else None)
        batch = batch._replace(query=graph)
    if scenes.stuff is not None:
        masks = records.unpack_masks(scenes.stuff.masks, mask_size)
        batch = batch._replace(stuff=scenes.stuff._replace(masks=masks))
    return batch
