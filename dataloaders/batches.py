"""Batches as loaders give them to models, with named fields.

Letters: N scenes, O photo objects in the batch (all scenes together), Q query objects, T triples,
U pieces of background stuff, B batch size of triplets, H = W = image size, M mask side, K classes
of the vocabulary. Boxes are [x0, y0, x1, y1] in [0, 1] of the image. Images stay uint8 until they
are on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import tensorflow as tf


class TripletBatch(NamedTuple):
    """Stage 1 (paper section 3.1): a sketch, a crop of its class, a crop of another class.

    In place of images, a loader of cached features gives what a frozen encoder sees in each:
    float32 (B, C). An `ObjectEncoder` with frozen encoders takes either.
    """

    sketches: tf.Tensor  # uint8 (B, H, W, 1), 255 = white paper, 0 = line
    positives: tf.Tensor  # uint8 (B, H, W, 3), crop of the sketch's class
    negatives: tf.Tensor  # uint8 (B, H, W, 3), crop of another class
    classes: tf.Tensor  # int32 (B,), vocabulary index of sketch and positive
    negative_classes: tf.Tensor  # int32 (B,), vocabulary index of the negative, never `classes`
    # Features (B, C) of a pseudo-drawing of each positive; of images None: models draw their own.
    pseudo_sketches: tf.Tensor | None = None


class SketchBatch(NamedTuple):
    """Sketches alone, from the single-source loaders."""

    sketches: tf.Tensor  # uint8 (B, H, W, 1), 255 = white paper
    classes: tf.Tensor  # int32 (B,), index into the loader's vocabulary


class CropBatch(NamedTuple):
    """Object crops alone, from the single-source loader."""

    crops: tf.Tensor  # uint8 (B, H, W, 3)
    classes: tf.Tensor  # int32 (B,), vocabulary index
    image_ids: tf.Tensor  # int64 (B,), photograph the crop was cut from


class SceneGraph(NamedTuple):
    """One side (photo or query) of N scenes: O objects, grouped by scene, and T relations."""

    classes: tf.Tensor  # int32 (O,), vocabulary index
    boxes: tf.Tensor  # float32 (O, 4)
    obj_to_img: tf.Tensor  # int32 (O,), ascending: obj_to_img[o] = n: object o is in scene n
    triples: tf.Tensor  # int32 (T, 3), subject, predicate, object; both ends index this side


class Stuff(NamedTuple):
    """Background stuff (sky, grass ...) of N scenes: U pieces, grouped by scene."""

    classes: tf.Tensor  # int32 (U,), vocabulary index
    boxes: tf.Tensor  # float32 (U, 4)
    masks: tf.Tensor  # uint8 (U, M, M), 0 or 1, within the box
    stuff_to_img: tf.Tensor  # int32 (U,), ascending; a scene may have none


class SceneBatch(NamedTuple):
    """Stages 2 and 3: N scenes with two sides. Photo and query are separate graphs: the query has
    its own boxes and may have another number of objects, of which every scene has at least one.

    Fields of what a set lacks are None: a gallery has no queries, SketchyCOCO-SL has no masks,
    FS-COCO has no objects on either side.
    """

    image_ids: tf.Tensor  # int64 (N,), id of the photograph in its data set
    images: tf.Tensor | None = None  # uint8 (N, 256, 256, 3), what 'spade' learns to make
    photo: SceneGraph | None = None  # O objects
    crops: tf.Tensor | None = None  # uint8 (O, H, W, 3), cut from `images` by the boxes
    masks: tf.Tensor | None = None  # uint8 (O, M, M), 0 or 1, segmentation within the box
    query: SceneGraph | None = None  # Q objects
    sketches: tf.Tensor | None = None  # uint8 (Q, H, W, 1), 255 = white paper
    query_to_photo: tf.Tensor | None = None  # int32 (Q,), photo object depicted, -1 = none
    # The photo's graph again, every object replaced by one of another class (paper, section 3.5).
    negative_crops: tf.Tensor | None = None  # uint8 (O, H, W, 3)
    negative_classes: tf.Tensor | None = None  # int32 (O,)
    stuff: Stuff | None = None  # background
    # Whole drawings of sets without objects; `core.drawings.scene_drawings` has those of any set.
    drawings: tf.Tensor | None = None  # uint8 (N, 256, 256, 1), 255 = white paper
