"""What workers do with one photograph of COCO: decode, resize, cut masks and crops, encode.

Pure functions of their arguments and the files these name. No TensorFlow here: workers import
this module (see prep_data.common).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from dataloaders.images import (
    CROP_QUALITY,
    MAX_PHOTO_SIDE,
    SCENE_QUALITY,
    Skip,
    encode_jpeg,
    load_photo,
)
from prep_data.coco_annotations import CocoHParams, Photo, Region
from prep_data.common import Done, Problem

# ---- crops -----------------------------------------------------------------------------------


def bilinear_crop(pixels: np.ndarray, box: Sequence[float], side: int) -> np.ndarray:
    """Cuts `box` ([0, 1]) out of uint8 (H, W, 3) as uint8 (side, side, 3).

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


# ---- segmentations ---------------------------------------------------------------------------

# Length of the outline of all polygons of an object, by width + height of its photograph; of 5,000
# of COCO the longest has 4. pycocotools follows it pixel by pixel, in memory it does not check.
_LONGEST_OUTLINE = 100


def decode_segmentation(segmentation: Any, width: int, height: int) -> np.ndarray:
    """COCO polygons, or RLE compressed or not, as uint8 0/1 (height, width).

    Raises Skip when it is missing or does not describe a mask of that size.
    """
    try:
        if isinstance(segmentation, list):
            polygons = [p for p in segmentation if _is_polygon(p, width, height)]
            if not polygons or sum(map(_outline, polygons)) > _LONGEST_OUTLINE * (width + height):
                raise Skip("segmentation empty or degenerate")
            return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
        if not isinstance(segmentation, dict):
            raise Skip("segmentation missing")
        if segmentation.get("size") != [height, width]:
            raise Skip("segmentation of another size than its image")
        # Not by pycocotools, which leaves memory as it was where runs fall short of the size.
        counts = segmentation.get("counts")
        if isinstance(counts, list):
            return _runs_to_mask(np.array(counts), width, height)
        if isinstance(counts, str):
            return _runs_to_mask(_string_to_runs(counts), width, height)
    except (ValueError, TypeError, OverflowError) as error:
        raise Skip("segmentation empty or degenerate") from error
    raise Skip("segmentation empty or degenerate")


def _is_polygon(points: Any, width: int, height: int) -> bool:
    """Three points or more, none so far away that rasterising it would take for ever."""
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
        return False
    far = 10 * max(width, height)
    return all(type(v) in (int, float) and -far <= v <= far for v in points)


def _outline(points: list) -> float:
    """Pixels from each point to the next and back to the first."""
    corners = np.array(points, np.float64).reshape(-1, 2)
    return float(np.abs(np.roll(corners, -1, axis=0) - corners).max(axis=1).sum())


def _runs_to_mask(runs: np.ndarray, width: int, height: int) -> np.ndarray:
    """runs: lengths, column by column, zeros first."""
    area = width * height
    # Each run by itself first: a sum of hostile ones can wrap around to the right number.
    if runs.dtype.kind not in "iu" or ((runs < 0) | (runs > area)).any() or len(runs) > area + 1:
        raise Skip("segmentation empty or degenerate")
    if runs.sum() != area:
        raise Skip("segmentation empty or degenerate")
    values = np.arange(len(runs)) % 2
    return np.repeat(values.astype(np.uint8), runs).reshape(width, height).T


def _string_to_runs(counts: str) -> np.ndarray:
    """COCO's compressed runs as int64 (R,).

    Each number is a group of characters of 5 bits, lowest first, code minus 48, bit 0x20 on all
    but a group's last, bit 0x10 of the last is the sign; from the fourth number on, it is the
    difference to the number two before. Raises ValueError when malformed.
    """
    codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    more = (codes & 0x20) != 0
    if not len(codes) or (codes < 0).any() or (codes > 63).any() or more[-1]:
        raise ValueError("malformed RLE")
    last = np.flatnonzero(~more)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() > 6:  # no run of an image needs more than 35 bits
        raise ValueError("malformed RLE")
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    runs = np.add.reduceat((codes & 0x1F) << (5 * place), first)
    runs -= np.where(codes[last] & 0x10, np.int64(1) << (5 * (last - first + 1)), 0)
    for start in (1, 2):
        runs[start::2] = np.cumsum(runs[start::2])
    return runs


def rounded_box(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Pixels x0, y0, x1, y1 (the latter two exclusive), at least one pixel each way."""
    x0, y0, x1, y1 = (round(v) for v in box)
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def mask_in_box(mask: np.ndarray, box: Sequence[float], side: int) -> np.ndarray:
    """The part of uint8 0/1 (height, width) within the rounded box (pixels), resized with
    antialiasing (triangle filter) to uint8 0/1 (side, side), 1 where at least one half."""
    x0, y0, x1, y1 = rounded_box(box, mask.shape[1], mask.shape[0])
    part = Image.fromarray(np.ascontiguousarray(mask[y0:y1, x0:x1]) * np.uint8(255))
    resized = part.resize((side, side), Image.Resampling.BILINEAR)
    return (np.asarray(resized) >= 128).astype(np.uint8)


# ---- regions ---------------------------------------------------------------------------------


class Cut(NamedTuple):
    """A region with its mask."""

    region: Region
    box: tuple[float, float, float, float]  # [0, 1]
    mask: np.ndarray  # uint8 0/1 (mask_size, mask_size), within the rounded box
    crop_mask: np.ndarray | None  # the same of another size, for a masked crop


def cut_regions(
    photo: Photo,
    regions: Sequence[Region],
    side: int,
    problems: list[Problem],
    crop_side: int | None = None,
) -> list[Cut]:
    """Reads the segmentations of `regions` and cuts their masks, also with the side of a crop when
    that is given; adds unusable ones to `problems`."""
    cuts = []
    for region in regions:
        try:
            whole = decode_segmentation(_segmentation(photo, region), photo.width, photo.height)
            mask = mask_in_box(whole, region.box, side)
            if not whole.any():
                raise Skip("segmentation empty or degenerate")
            if not mask.any():
                raise Skip("segmentation outside its box or too thin for a mask")
        except Skip as reason:
            name = f"{region.annotation_id} of {photo.path.parent.name}/{photo.path.name}"
            problems.append(Problem(str(reason), name))
            continue
        x0, y0, x1, y1 = region.box
        width, height = photo.width, photo.height
        box = (x0 / width, y0 / height, x1 / width, y1 / height)
        cuts.append(Cut(region, box, mask, crop_side and mask_in_box(whole, region.box, crop_side)))
    return cuts


def _segmentation(photo: Photo, region: Region) -> Any:
    with photo.sources[region.source].open("rb") as file:
        file.seek(region.offset)
        # Its structure is ASCII; whatever stands in a text is no matter of ours.
        text = file.read(region.length).decode("latin-1")
    try:
        return json.loads(text).get("segmentation")
    except RecursionError:  # the parent, which reads it first, may have more of the stack left
        raise Skip("segmentation empty or degenerate") from None


def _objects(
    photo: Photo, hparams: CocoHParams, problems: list[Problem], crop_side: int | None = None
) -> list[Cut]:
    """The photograph's objects with their masks; raises Skip when there are too few or many."""
    if max(photo.width, photo.height) > MAX_PHOTO_SIDE:  # masks are as large as it is said to be
        raise Skip(f"photograph of more than {MAX_PHOTO_SIDE} pixels a side")
    if len(photo.objects) < hparams.min_objects_per_image:
        raise Skip(f"image with fewer than {hparams.min_objects_per_image} kept objects")
    cuts = cut_regions(photo, photo.objects, hparams.mask_size, problems, crop_side)
    if len(cuts) < hparams.min_objects_per_image:
        raise Skip(f"image with fewer than {hparams.min_objects_per_image} kept objects")
    if len(cuts) > hparams.max_objects_per_image:
        raise Skip(f"image with more than {hparams.max_objects_per_image} kept objects")
    return cuts


def _skipped(photo: Photo, reason: Skip, problems: list[Problem]) -> Done:
    name = f"{photo.path.parent.name}/{photo.path.name}"
    return Done([], [*problems, Problem(str(reason), name)])


def make_scene(photo: Photo, hparams: CocoHParams) -> Done:
    """One payload for SceneRecord.encode (as keywords), or none; counts `objects`."""
    problems: list[Problem] = []
    try:
        objects = _objects(photo, hparams, problems)
        pixels = load_photo(photo.path, hparams.image_size, (photo.width, photo.height)).pixels
    except Skip as reason:
        return _skipped(photo, reason, problems)
    stuff = cut_regions(photo, photo.stuff, hparams.mask_size, problems)
    payload = {
        "image": encode_jpeg(pixels, SCENE_QUALITY),
        "image_id": photo.image_id,
        "obj_idx": [cut.region.obj_idx for cut in objects],
        "boxes": [v for cut in objects for v in cut.box],
        "masks": _packed(objects),
        "annotation_ids": [cut.region.annotation_id for cut in objects],
        "stuff_idx": [cut.region.obj_idx for cut in stuff],
        "stuff_boxes": [v for cut in stuff for v in cut.box],
        "stuff_masks": _packed(stuff),
    }
    return Done([payload], problems, {"objects": len(objects)})


def _packed(cuts: Sequence[Cut]) -> bytes:
    # As dataloaders.records.pack_masks, which cannot be imported here without TensorFlow.
    return b"".join(np.packbits(cut.mask.reshape(-1)).tobytes() for cut in cuts)


def make_crops(photo: Photo, hparams: CocoHParams, names: Sequence[str], masked: bool) -> Done:
    """A (class name, payload for CropRecord.encode) pair for each object; counts `objects`.

    names: of the vocabulary. masked: what is outside the object becomes black.
    """
    problems: list[Problem] = []
    try:
        objects = _objects(photo, hparams, problems, hparams.crop_size if masked else None)
        pixels = load_photo(photo.path, hparams.image_size, (photo.width, photo.height)).pixels
    except Skip as reason:
        return _skipped(photo, reason, problems)
    records = []
    for cut in objects:
        crop = bilinear_crop(pixels, cut.box, hparams.crop_size)
        if cut.crop_mask is not None:
            crop *= cut.crop_mask[:, :, None]
        payload = {
            "image": encode_jpeg(crop, CROP_QUALITY),
            "obj_idx": cut.region.obj_idx,
            "image_id": photo.image_id,
            "annotation_id": cut.region.annotation_id,
        }
        records.append((names[cut.region.obj_idx], payload))
    return Done(records, problems, {"objects": len(objects)})
