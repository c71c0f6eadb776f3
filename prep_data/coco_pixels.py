"""Turn one photograph of COCO into records: decode, resize, cut masks and crops, encode.

Pure functions of their arguments and the files these name. No TensorFlow here: workers import
this module (see prep_data.workers).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from dataloaders import sketches
from dataloaders.images import (
    CROP_QUALITY,
    MAX_PHOTO_SIDE,
    SCENE_QUALITY,
    Problem,
    Skip,
    encode_jpeg,
    load_photo,
    load_sketch,
)
from prep_data.coco_annotations import Polygons, Rle, read_segmentation
from prep_data.coco_classes import CocoHParams
from prep_data.coco_selection import Photo, Region
from prep_data.report import short_name
from prep_data.set_writer import TaskResult


def bilinear_crop(pixels: np.ndarray, box: Sequence[float], side: int) -> np.ndarray:
    """Cut `box` ([0, 1]) out of uint8 (H, W, 3) as uint8 (side, side, 3).

    The samples of tf.image.crop_and_resize, with which loaders cut crops from scenes: first and
    last sample lie on the box's borders, pixel centres at 0 and size - 1, no antialiasing.
    """
    x0, y0, x1, y1 = box

    def samples(low: float, high: float, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.clip(np.linspace(low, high, side) * (size - 1), 0, size - 1).astype(np.float32)
        lower = np.floor(at).astype(np.intp)
        return lower, np.minimum(lower + 1, size - 1), at - lower

    top, bottom, down = samples(y0, y1, pixels.shape[0])
    left, right, across = samples(x0, x1, pixels.shape[1])
    down = down[:, None, None]
    rows = pixels[top] * (1 - down) + pixels[bottom] * down  # (side, W, 3)
    across = across[:, None]
    crop = rows[:, left] * (1 - across) + rows[:, right] * across
    return np.rint(crop).astype(np.uint8)


# ---- masks -----------------------------------------------------------------------------------


def region_mask(region: Region, width: int, height: int) -> np.ndarray:
    """Return the mask of a region's polygons or RLE, compressed or not: uint8 0/1 (height, width).

    Raises Skip when it is missing, empty or of another size.
    """
    try:
        segmentation = read_segmentation(region.file, region.offset, region.length)
    except msgspec.DecodeError as error:
        raise Skip("segmentation empty or degenerate") from error
    if segmentation is None:
        raise Skip("segmentation missing")
    decode = _decode_rle if isinstance(segmentation, Rle) else _decode_polygons
    mask = decode(segmentation, width, height)
    if not mask.any():
        raise Skip("segmentation empty or degenerate")
    return mask


def _decode_polygons(polygons: Polygons, width: int, height: int) -> np.ndarray:
    # pycocotools follows outlines pixel by pixel: not one that leads far out of the image.
    far = 10 * max(width, height)
    usable = [
        points
        for points in polygons
        if len(points) >= 6 and len(points) % 2 == 0 and -far <= min(points) <= max(points) <= far
    ]
    if not usable:
        raise Skip("segmentation empty or degenerate")
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(usable, height, width)))


def _decode_rle(rle: Rle, width: int, height: int) -> np.ndarray:
    if rle.size != [height, width]:
        raise Skip("segmentation of another size than its image")
    try:
        if isinstance(rle.counts, str):
            packed = {"size": rle.size, "counts": rle.counts.encode("ascii")}
        elif min(rle.counts, default=-1) < 0 or sum(rle.counts) != width * height:
            raise ValueError("runs of another length")
        else:
            packed = coco_mask.frPyObjects(msgspec.structs.asdict(rle), height, width)
        mask = coco_mask.decode(packed)
    except ValueError as error:
        raise Skip("segmentation empty or degenerate") from error
    # Where text runs fall short of the size, pycocotools leaves memory as it was.
    if mask.sum(dtype=np.int64) != coco_mask.area(packed):
        raise Skip("segmentation empty or degenerate")
    return mask


def rounded_box(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Return pixels x0, y0, x1, y1 (the latter two exclusive), at least one pixel each way."""
    x0, y0, x1, y1 = (round(v) for v in box)
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def mask_in_box(mask: np.ndarray, box: Sequence[float], side: int) -> np.ndarray:
    """Resize the part of a mask within the rounded box (pixels), with antialiasing.

    mask: uint8 0/1 (height, width). Returns uint8 0/1 (side, side), 1 where at least one half of
    the triangle filter's weight is inside.
    """
    x0, y0, x1, y1 = rounded_box(box, mask.shape[1], mask.shape[0])
    part = Image.fromarray(np.ascontiguousarray(mask[y0:y1, x0:x1]) * np.uint8(255))
    resized = part.resize((side, side), Image.Resampling.BILINEAR)
    return (np.asarray(resized) >= 128).astype(np.uint8)


# ---- regions ---------------------------------------------------------------------------------


class MaskedRegion(NamedTuple):
    """A region with its mask."""

    region: Region
    box: tuple[float, float, float, float]  # [0, 1]
    mask: np.ndarray  # uint8 0/1 (mask_size, mask_size), within the rounded box
    crop_mask: np.ndarray | None  # of another size, for a masked crop


def _cut_masks(
    photo: Photo,
    regions: Sequence[Region],
    side: int,
    problems: list[Problem],
    crop_side: int | None = None,
) -> list[MaskedRegion]:
    """Read the segmentations of `regions` and cut their masks; add unusable ones to `problems`.

    crop_side: also cut masks of this side, for crops.
    """
    masked = []
    width, height = photo.width, photo.height
    for region in regions:
        try:
            mask = region_mask(region, width, height)
            box_mask = mask_in_box(mask, region.box, side)
            if not box_mask.any():
                raise Skip("segmentation outside its box or too thin for a mask")
        except Skip as reason:
            problems.append(Problem(str(reason), f"{region.annotation_id} of {photo.name}"))
            continue
        x0, y0, x1, y1 = region.box
        box = (x0 / width, y0 / height, x1 / width, y1 / height)
        crop_mask = crop_side and mask_in_box(mask, region.box, crop_side)
        masked.append(MaskedRegion(region, box, box_mask, crop_mask))
    return masked


def _load(
    photo: Photo, hparams: CocoHParams, problems: list[Problem], crop_side: int | None = None
) -> tuple[np.ndarray, list[MaskedRegion]]:
    """Return the photograph's pixels and its objects with their masks.

    Raises Skip when it cannot be read or has too few or too many objects.
    """
    if max(photo.width, photo.height) > MAX_PHOTO_SIDE:  # masks are as large as it is said to be
        raise Skip(f"photograph of more than {MAX_PHOTO_SIDE} pixels a side")
    objects = []
    if len(photo.objects) >= hparams.min_objects_per_image:
        objects = _cut_masks(photo, photo.objects, hparams.mask_size, problems, crop_side)
    if len(objects) < hparams.min_objects_per_image:
        raise Skip(f"image with fewer than {hparams.min_objects_per_image} kept objects")
    if len(objects) > hparams.max_objects_per_image:
        raise Skip(f"image with more than {hparams.max_objects_per_image} kept objects")
    size = (photo.width, photo.height)
    return load_photo(photo.path, hparams.image_size, size).pixels, objects


# ---- records ---------------------------------------------------------------------------------


def make_scene(photo: Photo, hparams: CocoHParams) -> TaskResult:
    """Return one payload for SceneRecord.encode (as keywords), or none.

    Counts `objects`, and as `bare` the scenes without background stuff.
    """
    problems: list[Problem] = []
    try:
        pixels, objects = _load(photo, hparams, problems)
    except Skip as reason:
        return TaskResult([], [*problems, Problem(str(reason), photo.name)])
    stuff = _cut_masks(photo, photo.stuff, hparams.mask_size, problems)
    payload = {
        "image": encode_jpeg(pixels, SCENE_QUALITY),
        "image_id": photo.image_id,
        "obj_idx": [each.region.obj_idx for each in objects],
        "boxes": [v for each in objects for v in each.box],
        "masks": _packed(objects),
        "annotation_ids": [each.region.annotation_id for each in objects],
        "stuff_idx": [each.region.obj_idx for each in stuff],
        "stuff_boxes": [v for each in stuff for v in each.box],
        "stuff_masks": _packed(stuff),
    }
    return TaskResult([payload], problems, {"objects": len(objects), "bare": not stuff})


class PairedPhoto(NamedTuple):
    """The task of a worker."""

    photo: Photo  # its objects are those that have a sketch
    sketches: tuple[Path, ...]  # of each object, in their order


def make_paired_scene(task: PairedPhoto, hparams: CocoHParams) -> TaskResult:
    """Return one payload for SceneRecord.encode (as keywords), or none; counts `objects`.

    Objects whose sketch cannot be used are left out.
    """
    problems: list[Problem] = []
    encoded: dict[int, bytes] = {}
    for region, path in zip(task.photo.objects, task.sketches):
        try:
            sketch = load_sketch(path, hparams.crop_size)
            encoded[region.annotation_id] = sketches.encode_png(sketch)
        except Skip as reason:
            problems.append(Problem(str(reason), short_name(path)))
    objects = tuple(region for region in task.photo.objects if region.annotation_id in encoded)
    scene = make_scene(task.photo._replace(objects=objects), hparams)
    for payload in scene.records:
        payload["sketches"] = [encoded[id_] for id_ in payload["annotation_ids"]]
    return scene._replace(problems=[*problems, *scene.problems])


def _packed(masked: Sequence[MaskedRegion]) -> bytes:
    # As dataloaders.records.pack_masks, which cannot be imported here without TensorFlow.
    return b"".join(np.packbits(each.mask.reshape(-1)).tobytes() for each in masked)


def make_crops(
    photo: Photo, hparams: CocoHParams, names: Sequence[str], masked: bool
) -> TaskResult:
    """Return a (class name, payload for CropRecord.encode) pair for each object; counts `objects`.

    names: of the vocabulary. masked: make what is outside the object black.
    """
    problems: list[Problem] = []
    try:
        pixels, objects = _load(photo, hparams, problems, hparams.crop_size if masked else None)
    except Skip as reason:
        return TaskResult([], [*problems, Problem(str(reason), photo.name)])
    records = []
    for each in objects:
        crop = bilinear_crop(pixels, each.box, hparams.crop_size)
        if each.crop_mask is not None:
            crop *= each.crop_mask[:, :, None]
        payload = {
            "image": encode_jpeg(crop, CROP_QUALITY),
            "obj_idx": each.region.obj_idx,
            "image_id": photo.image_id,
            "annotation_id": each.region.annotation_id,
        }
        records.append((names[each.region.obj_idx], payload))
    return TaskResult(records, problems, {"objects": len(objects)})
