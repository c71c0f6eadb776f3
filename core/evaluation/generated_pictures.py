"""Pictures that a `LayoutModel` makes of the true layouts, against the photographs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from PIL import Image

from core.evaluation import picture_grids
from core.evaluation.figures import Figure, Picture, mean_difference, mean_figure
from core.label_colours import coco_names
from core.registry import METRICS

if TYPE_CHECKING:
    from core.evaluation.embedded_split import Evaluation

MOST_SCENES = 64  # spread over the split: a picture takes seconds on a slow processor


@METRICS.register("picture-error")
def _picture_error(evaluation: Evaluation, name: str) -> list[Figure]:
    """Return the mean absolute difference (L1) and SSIM of generated pictures and photographs.

    Controls are the mean colour of each label, without a network, and the generated picture of
    another scene. Blurred pictures have small differences: a picture that looks real may well have
    larger ones than those mean colours.
    """
    colours, columns, previous = evaluation.label_colours(), defaultdict(list), None
    for photos, labels, pictures in _generate(evaluation, MOST_SCENES):
        others = pictures[:-1] if previous is None else np.concatenate([previous, pictures[:-1]])
        previous = pictures[-1:]
        _compare(columns, "generated", pictures, photos)
        _compare(columns, "label_colours", colours[labels], photos)
        _compare(columns, "other_scene", others, photos[len(photos) - len(others) :])
    figures = []
    for measure in ("l1", "ssim"):
        values, plain, other = (
            np.concatenate(columns[measure, kind])
            for kind in ("generated", "label_colours", "other_scene")
        )
        seed, controls = evaluation.seed, {"label_colours": float(plain.mean())}
        controls |= mean_difference("label_colours", values - plain, seed=seed)
        if len(other):  # more than one scene
            controls["other_scene"] = float(other.mean())
        labels = {"measure": measure}
        figures.append(
            mean_figure(name, evaluation.split, values, labels, seed=seed, controls=controls)
        )
    return figures


def _compare(columns: dict, kind: str, pictures: np.ndarray, photos: np.ndarray) -> None:
    columns["l1", kind].append(np.abs(pictures - photos).mean(axis=(1, 2, 3)))
    columns["ssim", kind].append(tf.image.ssim(pictures, photos, max_val=1.0).numpy())


@METRICS.register("generated-pictures")
def _generated_pictures(evaluation: Evaluation, name: str) -> list[Picture]:
    """Draw some photographs, their layouts and the pictures made of these."""
    rows, names = [], coco_names(evaluation.dataset.vocabulary)
    for photos, labels, pictures in _generate(evaluation, picture_grids.ROWS):
        for photo, label, picture in zip(photos, labels, pictures):
            photo, picture = (Image.fromarray(_pixels(each)) for each in (photo, picture))
            tiles = (photo, picture_grids.layout(label, names), picture)
            rows.append([(tile, "") for tile in tiles])
    title = f"{picture_grids.page_title(evaluation)}: pictures of the true layouts"
    page = picture_grids.grid(rows, ["photo", "layout", "generated"], title)
    return picture_grids.save_picture(evaluation, name, picture_grids.image_bytes(page))


def _generate(
    evaluation: Evaluation, most: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield photographs float32 (n, S, S, 3) in [0, 1], their labels uint8 (n, S, S) and generated
    pictures as photographs, of at most `most` scenes of the split."""
    model = evaluation.model
    for batch in evaluation.batches("generated pictures", min(evaluation.limit or most, most)):
        labels, instances = model.layouts(batch)
        photos = batch.images.numpy().astype(np.float32) / 255
        yield photos, labels.numpy(), (model.generate(labels, instances).numpy() + 1) / 2


def _pixels(values: np.ndarray) -> np.ndarray:
    """Return values in [0, 1] as uint8."""
    return np.round(values * 255).astype(np.uint8)
