"""From the records of N scenes and their partners to a SceneBatch, in vectorised steps.

    parse     records -> objects of all scenes in one list, a partner's record for each
    decode    encoded images -> pixels
    assemble  crops, masks, both graphs -> SceneBatch

Letters: N scenes, O photo objects, Q query objects, U pieces of stuff, M mask side.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from core.dataset import DataSizes
from dataloaders import blocks, queries, random_draws, records, sources
from dataloaders.batches import SceneBatch, SceneGraph, Stuff
from dataloaders.negatives import negative_rows
from dataloaders.scene_graph import triples


class Objects(NamedTuple):
    """The O objects of one side of N scenes, scene after scene."""

    classes: tf.Tensor  # int32 (O,)
    boxes: tf.Tensor  # float32 (O, 4)
    obj_to_img: tf.Tensor  # int32 (O,)
    positions: tf.Tensor  # int64 (O,), position of the object's scene, for draws
    slots: tf.Tensor  # int32 (O,), place of the object in its scene, for draws

    @classmethod
    def of(cls, classes: tf.RaggedTensor, boxes: tf.Tensor, positions: tf.Tensor) -> Objects:
        """classes: int (N, (O)). boxes: float32 (O, 4). positions: int64 (N,)."""
        obj_to_img = tf.cast(classes.value_rowids(), tf.int32)
        starts = tf.cast(classes.row_starts(), tf.int32)
        slots = tf.range(tf.size(obj_to_img)) - tf.gather(starts, obj_to_img)
        indices = tf.cast(classes.flat_values, tf.int32)
        return cls(indices, boxes, obj_to_img, tf.gather(positions, obj_to_img), slots)

    def words(self, seed: int, stream: int) -> tf.Tensor:
        """A random word for each object: uint64 (O,)."""
        return random_draws.bits(seed, stream, self.positions, self.slots)

    def graph(self, seed: int, stream: int | None) -> SceneGraph:
        """With directions drawn from `stream`, or canonical ones for None."""
        words = None if stream is None else self.words(seed, stream)
        rows = triples(self.boxes, self.obj_to_img, words)
        return SceneGraph(self.classes, self.boxes, self.obj_to_img, rows)


class Parsed(NamedTuple):
    """N scenes with everything drawn; images are encoded until `decode`."""

    image_ids: tf.Tensor  # int64 (N,)
    images: tf.Tensor  # string (N,), then uint8 (N, S, S, 3)
    photo: Objects  # O objects
    masks: tf.Tensor | None  # string (N,), packed; None: the set has none
    query: Objects  # Q objects
    query_to_photo: tf.Tensor  # int32 (Q,), -1 = none
    sketches: tf.Tensor  # string (Q,), then uint8 (Q, S, S, 1)
    negative_crops: tf.Tensor  # string (O,), then uint8 (O, S, S, 3)
    negative_classes: tf.Tensor  # int32 (O,)
    stuff: Stuff | None  # masks: string (N,), packed; None: the set has none


def parse(
    items: sources.Items,
    sketches: blocks.ClassPools | None,
    crops: blocks.ClassPools,
    seed: int,
) -> Parsed:
    """Reads the scenes' records and draws a sketch and a negative crop for every object.

    sketches: the query leaves out objects of a class without any. None: the scenes are paired, the
    query shows the sketch of each object.
    """
    scenes = records.SceneRecord.parse(items.records)
    photo = Objects.of(scenes.obj_idx, scenes.boxes.flat_values, items.positions)
    if sketches is None:
        drawable, drawings = tf.range(tf.size(photo.classes)), scenes.sketches.flat_values
    else:
        sketch_rows = tf.gather(sketches.row_of_class, photo.classes)
        drawable = tf.cast(tf.where(sketch_rows >= 0)[:, 0], tf.int32)
        drawn = blocks.pick(
            items.pools["sketches"],
            tf.gather(sketch_rows, drawable),
            tf.gather(photo.words(seed, sources.SKETCH), drawable),
        )
        drawings = records.SketchRecord.parse(drawn).image
    negative_crops, negative_classes = negatives(photo, items.pools["crops"], crops, seed)
    return Parsed(
        image_ids=scenes.image_id,
        images=scenes.image,
        photo=photo,
        masks=scenes.masks,
        query=Objects(*(tf.gather(column, drawable) for column in photo)),
        query_to_photo=drawable,
        sketches=drawings,
        negative_crops=negative_crops,
        negative_classes=negative_classes,
        stuff=Stuff(
            tf.cast(scenes.stuff_idx.flat_values, tf.int32),
            scenes.stuff_boxes.flat_values,
            scenes.stuff_masks,
            tf.cast(scenes.stuff_idx.value_rowids(), tf.int32),
        ),
    )


def negatives(
    photo: Objects, pool: blocks.Pool, crops: blocks.ClassPools, seed: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """A crop of another class for each object: encoded string (O,), class int32 (O,)."""
    own = tf.gather(crops.row_of_class, photo.classes)
    others = negative_rows(own, len(crops.classes), photo.words(seed, sources.NEGATIVE_CLASS))
    drawn = blocks.pick(pool, others, photo.words(seed, sources.NEGATIVE_CROP))
    return records.CropRecord.parse(drawn).image, tf.gather(crops.classes, others)


def thin_out(parsed: Parsed, seed: int, dropped: float) -> Parsed:
    """Leaves out each query object with the probability `dropped`; one of a scene stays."""
    if not dropped:
        return parsed
    query = parsed.query
    kept = queries.kept(query.obj_to_img, dropped, seed, query.positions, query.slots)
    return parsed._replace(
        query=Objects(*(tf.boolean_mask(column, kept) for column in query)),
        query_to_photo=tf.boolean_mask(parsed.query_to_photo, kept),
        sketches=tf.boolean_mask(parsed.sketches, kept),
    )


def decode(parsed: Parsed, sizes: DataSizes) -> Parsed:
    """Encoded images to uint8."""
    return parsed._replace(
        images=blocks.decode_images(parsed.images, sizes.photo, 3, "jpeg"),
        sketches=blocks.decode_images(parsed.sketches, sizes.sketch, 1, "png"),
        negative_crops=blocks.decode_images(parsed.negative_crops, sizes.crop, 3, "jpeg"),
    )


def assemble(
    parsed: Parsed, sizes: DataSizes, image_size: int, seed: int, training: bool, jitter: float
) -> SceneBatch:
    """The finished batch. training: the direction of each pair of each side is drawn anew; the
    query side never learns the photo side's directions. jitter: of the query's boxes."""
    photo, query, stuff = parsed.photo, parsed.query, parsed.stuff
    if jitter:
        names = query.positions, query.slots
        query = query._replace(boxes=queries.jittered(query.boxes, jitter, seed, *names))
    return SceneBatch(
        image_ids=parsed.image_ids,
        images=parsed.images,
        photo=photo.graph(seed, sources.PHOTO_DIRECTION if training else None),
        crops=blocks.resize_images(
            blocks.crop_images(parsed.images, photo.boxes, photo.obj_to_img, sizes.crop),
            image_size,
        ),
        masks=None if parsed.masks is None else records.unpack_masks(parsed.masks, sizes.mask),
        query=query.graph(seed, sources.QUERY_DIRECTION if training else None),
        sketches=blocks.resize_images(parsed.sketches, image_size),
        query_to_photo=parsed.query_to_photo,
        negative_crops=blocks.resize_images(parsed.negative_crops, image_size),
        negative_classes=parsed.negative_classes,
        stuff=stuff and stuff._replace(masks=records.unpack_masks(stuff.masks, sizes.mask)),
    )
