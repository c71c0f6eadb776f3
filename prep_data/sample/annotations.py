"""Annotations of the sample's objects and stuff, in COCO's form."""

from __future__ import annotations

from typing import Any

import contourpy
import numpy as np
from pycocotools import mask as coco_mask

from prep_data.sample.pen import simplify
from prep_data.sample.scenes import Object

_MIN_AREA = 20  # pixels: less can hardly be seen


def polygons(coverage: np.ndarray) -> list[list[float]]:
    """Return the outlines of what is covered by half or more, as COCO writes them.

    coverage: float32 (h, w) in [0, 1]. An outline is [x0, y0, x1, y1, ..] in pixels (pixel k spans
    [k, k + 1]); a hole is joined to its outline by a slit.
    """
    padded = np.pad(coverage, 1)
    generator = contourpy.contour_generator(z=padded, fill_type=contourpy.FillType.OuterOffset)
    pieces, offsets = generator.filled(0.5, 2.0)
    outlines = []
    for points, cuts in zip(pieces, offsets):
        rings = [simplify(points[a:b], 0.3) for a, b in zip(cuts[:-1], cuts[1:])]
        rings = [ring for ring in rings if len(ring) > 3 and _ring_area(ring) > 3]
        if not rings:
            continue
        outline = rings[0]
        for hole in rings[1:]:
            distance = np.hypot(*(outline[:, None] - hole[None]).transpose(2, 0, 1))
            i, j = np.unravel_index(distance.argmin(), distance.shape)
            around = np.concatenate([hole[j:-1], hole[: j + 1]])
            outline = np.concatenate([outline[: i + 1], around, outline[i:]])
        # A sample of `padded` is the middle of a pixel, half a pixel from its corner.
        corners = np.clip(outline[:-1] - 0.5, 0, coverage.shape[::-1])
        outlines.append([round(value, 2) for value in corners.reshape(-1).tolist()])
    return outlines


def _ring_area(ring: np.ndarray) -> float:
    x, y = ring.T
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))) / 2


def annotate_thing(annotation_id: int, image_id: int, thing: Object) -> dict[str, Any] | None:
    """Return an annotation of instances_*.json; None when hardly anything can be seen."""
    height, width = thing.coverage.shape
    is_crowd = len(thing.individuals) > 1
    if is_crowd:  # uncompressed RLE, as officially
        flat = (thing.coverage >= 0.5).reshape(-1, order="F")
        changes = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
        counts = [0, *counts] if flat[0] else counts
        segmentation: Any = {"counts": counts, "size": [height, width]}
        rle = coco_mask.frPyObjects(segmentation, height, width)
        bbox = coco_mask.toBbox(rle).tolist()
        annotation_id = int(f"9001{image_id:08d}")
    else:
        segmentation = polygons(thing.coverage)
        if not segmentation:
            return None
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        corners = np.concatenate([np.reshape(outline, (-1, 2)) for outline in segmentation])
        low, high = corners.min(axis=0), corners.max(axis=0)
        bbox = [round(value, 2) for value in (*low.tolist(), *(high - low).tolist())]
    area = int(coco_mask.area(rle))
    if area < _MIN_AREA:
        return None
    return {
        "segmentation": segmentation,
        "area": area,
        "iscrowd": int(is_crowd),
        "image_id": image_id,
        "bbox": bbox,
        "category_id": thing.cls.category_id,
        "id": annotation_id,
    }


def annotate_stuff(first_id: int, image_id: int, labels: np.ndarray) -> list[dict[str, Any]]:
    """Return annotations of stuff_*.json: a compressed RLE for each category of the image.

    labels: uint8 (h, w), the category id of each pixel.
    """
    annotations = []
    for category in np.unique(labels).tolist():
        rle = coco_mask.encode(np.asfortranarray(labels == category))
        area = int(coco_mask.area(rle))
        if area < _MIN_AREA:
            continue
        annotations.append(
            {
                "segmentation": {"counts": rle["counts"].decode("ascii"), "size": rle["size"]},
                "area": float(area),
                "iscrowd": 0,
                "image_id": image_id,
                "bbox": coco_mask.toBbox(rle).tolist(),
                "category_id": category,
                "id": first_id + len(annotations),
            }
        )
    return annotations
