"""Pictures generated from the true layouts of photographs, against these photographs.

Asked of a model: `layouts(batch)`, labels and instances uint8 (N, S, S) of a batch's photographs,
and `generate(labels, instances)`, pictures float32 (N, S, S, 3) in [-1, 1].
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from PIL import Image

from core.evaluation import picture_grids
from core.evaluation.figures import Figure, Picture, bootstrap_interval
from core.label_maps import PALETTE
from core.registry import METRICS

SCENES = 64  # at most, spread over the split: a picture takes seconds on a slow processor


@METRICS.register("picture-error")
def _picture_error(evaluation, name: str) -> list[Figure]:
    """Mean absolute difference of pixels in 0..1, and SSIM, of generated pictures and photographs.

    Beside them what is reached by the mean colour of each label, without a network, and by the
    picture of another scene. Blurred pictures have small differences: a picture that looks real
    may well have larger ones than those mean colours.
    """
    colours, columns, before = evaluation.label_colours(), defaultdict(list), None
    for photos, labels, pictures in _generated(evaluation, SCENES):
        shown = {"": pictures, "label_colours": colours[labels]}
        others = pictures[:-1] if before is None else np.concatenate([before, pictures[:-1]])
        before = pictures[-1:]
        for kind, values in shown.items():
            _compare(columns, kind, values, photos)
        _compare(columns, "other_scene", others, photos[len(photos) - len(others) :])
    figures = []
    for measure in ("l1", "ssim"):
        values, plain, other = (
            np.concatenate(columns[measure, kind]) for kind in ("", "label_colours", "other_scene")
        )
        low, high = bootstrap_interval(values - plain, seed=evaluation.seed)
        controls = {
            "label_colours": float(plain.mean()),
            "minus_label_colours": float((values - plain).mean()),
            "minus_label_colours_low": low,
            "minus_label_colours_high": high,
        }
        if len(other):  # more than one scene
            controls["other_scene"] = float(other.mean())
        interval = bootstrap_interval(values, seed=evaluation.seed)
        figures.append(
            Figure(name, evaluation.split, float(values.mean()), len(values),
                   {"measure": measure}, interval=interval, controls=controls)
        )  # fmt: skip
    return figures


def _compare(columns: dict, kind: str, pictures: np.ndarray, photos: np.ndarray) -> None:
    columns["l1", kind].append(np.abs(pictures - photos).mean(axis=(1, 2, 3)))
    columns["ssim", kind].append(tf.image.ssim(pictures, photos, max_val=1.0).numpy())


@METRICS.register("generated-pictures")
def _generated_pictures(evaluation, name: str) -> list[Picture]:
    """Some photographs, their layouts and what is made of these."""
    rows = []
    for photos, labels, pictures in _generated(evaluation, picture_grids.ROWS):
        for photo, label, picture in zip(photos, labels, pictures):
            tiles = (_pixels(photo), PALETTE[label], _pixels(picture))
            rows.append([(Image.fromarray(tile), "") for tile in tiles])
    title = f"{picture_grids.page_title(evaluation)}: pictures of the true layouts"
    page = picture_grids.grid(rows, ["photo", "layout", "generated"], title)
    return picture_grids.save_picture(evaluation, name, picture_grids.image_bytes(page))


def _generated(evaluation, most: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Photographs float32 (n, S, S, 3), labels uint8 (n, S, S) and pictures like photographs, of at
    most so many scenes of the split; colours in 0..1."""
    model = evaluation.model
    for batch in evaluation.batches("generated pictures", min(evaluation.limit or most, most)):
        labels, instances = model.layouts(batch)
        photos = batch.images.numpy().astype(np.float32) / 255
        yield photos, labels.numpy(), (model.generate(labels, instances).numpy() + 1) / 2


def _pixels(values: np.ndarray) -> np.ndarray:
    """0..1 -> uint8."""
    return np.round(values * 255).astype(np.uint8)
