"""From the records of N scenes and their partners to a SceneBatch, in vectorised steps.

    parse     records -> objects of all scenes in one list, a partner's record for each
    decode    encoded images -> pixels
    assemble  crops, masks, both graphs -> SceneBatch

Letters: N scenes, O photo objects, Q query objects, M mask side.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import tensorflow as tf

from dataloaders import blocks, draws, queries, records, sources
from dataloaders.batches import SceneBatch, SceneGraph
from dataloaders.negatives import negative_rows
from dataloaders.scene_graph import triples


class Parsed(NamedTuple):
    """N scenes with everything drawn; images are encoded until `decode`."""

    image_ids: tf.Tensor  # int64 (N,)
    images: tf.Tensor  # string (N,), then uint8 (N, S, S, 3)
    classes: tf.Tensor  # int32 (O,)
    boxes: tf.Tensor  # float32 (O, 4)
    obj_to_img: tf.Tensor  # int32 (O,)
    positions: tf.Tensor  # int64 (O,), position of the object's scene, for draws
    slots: tf.Tensor  # int32 (O,), place of the object in its scene, for draws
    masks: tf.Tensor  # string (N,), packed
    query_to_photo: tf.Tensor  # int32 (Q,), ascending
    sketches: tf.Tensor  # string (Q,), then uint8 (Q, S, S, 1)
    negative_crops: tf.Tensor  # string (O,), then uint8 (O, S, S, 3)
    negative_classes: tf.Tensor  # int32 (O,)


class Sides(NamedTuple):
    """Sides in pixels of the stored images."""

    scene: int
    sketch: int
    crop: int
    mask: int  # M


def parse(
    items: sources.Items,
    sketches: Optional[blocks.ClassPools],
    crops: blocks.ClassPools,
    seed: int,
    dropped: float,
) -> Parsed:
    """Reads the scenes' records and draws a sketch and a negative crop for every object.

    sketches: the query leaves out objects of a class without any. None: the scenes are paired, the
    query shows the sketch of each object. dropped: share of the query's objects left out beyond
    that.
    """
    scenes = records.SceneRecord.parse(items.records)
    obj_to_img = tf.cast(scenes.obj_idx.value_rowids(), tf.int32)
    classes = tf.cast(scenes.obj_idx.flat_values, tf.int32)
    starts = tf.cast(scenes.obj_idx.row_starts(), tf.int32)
    slots = tf.range(tf.size(classes)) - tf.gather(starts, obj_to_img)
    positions = tf.gather(items.positions, obj_to_img)

    def word(stream: int) -> tf.Tensor:
        return draws.bits(seed, stream, positions, slots)

    own = tf.gather(crops.row_of_class, classes)
    others = negative_rows(own, len(crops.classes), word(sources.NEGATIVE_CLASS))
    negatives = blocks.pick(items.pools["crops"], others, word(sources.NEGATIVE_CROP))

    if sketches is None:
        drawable, drawings = tf.range(tf.size(classes)), scenes.sketches.flat_values
    else:
        sketch_rows = tf.gather(sketches.row_of_class, classes)
        drawable = tf.cast(tf.where(sketch_rows >= 0)[:, 0], tf.int32)
        drawn = blocks.pick(
            items.pools["sketches"],
            tf.gather(sketch_rows, drawable),
            tf.gather(word(sources.SKETCH), drawable),
        )
        drawings = records.SketchRecord.parse(drawn).image
    if dropped:
        names = (tf.gather(x, drawable) for x in (positions, slots))
        kept = queries.kept(tf.gather(obj_to_img, drawable), dropped, seed, *names)
        drawable, drawings = (tf.boolean_mask(x, kept) for x in (drawable, drawings))
    return Parsed(
        image_ids=scenes.image_id,
        images=scenes.image,
        classes=classes,
        boxes=scenes.boxes.flat_values,
        obj_to_img=obj_to_img,
        positions=positions,
        slots=slots,
        masks=scenes.masks,
        query_to_photo=drawable,
        sketches=drawings,
        negative_crops=records.CropRecord.parse(negatives).image,
        negative_classes=tf.gather(crops.classes, others),
    )


def decode(parsed: Parsed, sides: Sides) -> Parsed:
    """Encoded images to uint8."""
    return parsed._replace(
        images=blocks.decode_images(parsed.images, sides.scene, 3, "jpeg"),
        sketches=blocks.decode_images(parsed.sketches, sides.sketch, 1, "png"),
        negative_crops=blocks.decode_images(parsed.negative_crops, sides.crop, 3, "jpeg"),
    )


def assemble(
    parsed: Parsed, sides: Sides, image_size: int, seed: int, training: bool, jitter: float
) -> SceneBatch:
    """The finished batch. training: the direction of each pair of each side is drawn anew; the
    query side never learns the photo side's directions. jitter: of the query's boxes."""

    def word(stream: int) -> tf.Tensor:
        return draws.bits(seed, stream, parsed.positions, parsed.slots)

    def graph(
        classes: tf.Tensor, boxes: tf.Tensor, obj_to_img: tf.Tensor, words: tf.Tensor
    ) -> SceneGraph:
        rows = triples(boxes, obj_to_img, words if training else None)
        return SceneGraph(classes, boxes, obj_to_img, rows)

    query_boxes = parsed.boxes
    if jitter:
        names = parsed.positions, parsed.slots
        query_boxes = queries.jittered(parsed.boxes, jitter, seed, *names)
    members = parsed.query_to_photo
    return SceneBatch(
        image_ids=parsed.image_ids,
        images=parsed.images,
        photo=graph(parsed.classes, parsed.boxes, parsed.obj_to_img, word(sources.PHOTO_DIRECTION)),
        crops=blocks.resize_images(
            blocks.crop_images(parsed.images, parsed.boxes, parsed.obj_to_img, sides.crop),
            image_size,
        ),
        masks=records.unpack_masks(parsed.masks, sides.mask),
        query=graph(
            *(tf.gather(x, members) for x in (parsed.classes, query_boxes, parsed.obj_to_img)),
            tf.gather(word(sources.QUERY_DIRECTION), members),
        ),
        sketches=blocks.resize_images(parsed.sketches, image_size),
        query_to_photo=members,
        negative_crops=blocks.resize_images(parsed.negative_crops, image_size),
        negative_classes=parsed.negative_classes,
    )
