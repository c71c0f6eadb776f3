"""'extract-features': the scene vectors of all photographs and sketched queries, a file a split.

for every split: model -> core.evaluation (every object once, queries under all protocols)
                       -> core.features file, and thumbnails beside it
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core import features
from core.dataset import SPLITS
from core.drawings import compose_drawings
from core.errors import EmptySplitError, UserError
from core.evaluation.embedded_split import EmbeddedScenes, Evaluation
from core.evaluation.picture_grids import TILE, image_bytes
from core.evaluation.query_protocols import DrawnScenes, QueryProtocol, main_protocol
from core.experiment import Experiment, ExperimentHParams, Trained
from core.files import make_folder, write_atomic
from core.hparams import hp
from core.model import SceneModel
from core.registry import EXPERIMENTS
from experiments import common

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtractFeaturesHParams(ExperimentHParams):
    """Hparams of 'extract-features'."""

    save_images: bool = hp(False, "thumbnails too, which sbir-on-features-file makes pictures of")


@EXPERIMENTS.register("extract-features")
class ExtractFeatures(Experiment):
    """Writes <results>/<model id>_<loader>_<split>_feats.npz, each '-' in the name as '_'."""

    name = "extract-features"
    HParams = ExtractFeaturesHParams
    needs_model = True
    model_type = SceneModel

    def run(self, trained: Trained | None) -> None:
        written = []
        for split in SPLITS:
            try:
                written.append(self._extract(trained, split))
            except EmptySplitError as error:
                log.info("no features of %s: %s", split, error)
        if not written:
            raise UserError(f"no split of {trained.dataset.name} has anything to extract")
        for path in written:
            print(f"saved: {path}")

    def _extract(self, trained: Trained, split: str) -> Path:
        evaluation = Evaluation(trained.model, trained.dataset, split, step=trained.step)
        path = self.results / common.file_name(trained, split, features.SUFFIX)
        if self.hparams.save_images:
            folder = features.thumbnail_folder(path)
            make_folder(folder, "the folder of thumbnails", "choose another results")
            evaluation.embed(lambda batch: _save_thumbnails(path, trained.dataset, batch))
        features.write(path, _features(evaluation, trained))
        log.info("%s: %d scenes", path, evaluation.photos.num_scenes)
        return path


def _features(evaluation: Evaluation, trained: Trained) -> features.Features:
    dataset, photos = trained.dataset, evaluation.photos
    masks = photos.masks
    arrays = {
        "image_ids": photos.image_ids,
        **_vectors("photo", photos),
        **_vectors("photo_random", evaluation.photos_with_directions("random")),
        "photo_classes": photos.classes,
        "photo_boxes": photos.boxes,
        "photo_obj_to_img": photos.obj_to_img,
        "photo_masks": np.zeros((len(photos.classes), 0), np.uint8) if masks is None else masks,
    }
    protocols = features.feature_protocols(dataset.own_boxes) if dataset.has_queries else ()
    if protocols:
        drawn = evaluation.queries(QueryProtocol())
        arrays["query_classes"] = drawn.classes
        arrays["query_obj_to_img"] = drawn.obj_to_img
        arrays["query_to_photo"] = drawn.query_to_photo
    for number, protocol in enumerate(protocols):
        queries = evaluation.queries(protocol)
        arrays.update(_vectors(f"query{number}", queries))
        arrays[f"query{number}_rows"] = queries.rows
        arrays[f"query{number}_boxes"] = queries.boxes
    metadata = features.Metadata(
        **common.origin_entries(common.origin_of(trained, evaluation)),
        weights=trained.model.weights_digest(),
        vectors=trained.model.vector_names,
        vector=evaluation.vectors[0],
        own_boxes=dataset.own_boxes,
        protocols=protocols,
        mask_size=round((8 * arrays["photo_masks"].shape[1]) ** 0.5),
        vocabulary=dataset.vocabulary.names,
    )
    return features.Features(metadata, arrays)


def _vectors(key: str, side: EmbeddedScenes) -> dict[str, np.ndarray]:
    """Return the scene vectors of a side by the names of their arrays: float32 (N, D)."""
    return {f"{key}_{name}": vectors for name, vectors in side.vectors.items()}


def _save_thumbnails(path: Path, dataset: Any, batch: Any) -> None:
    """Save the photographs of a `SceneBatch`, and its queries as drawings."""
    images, ids = batch.images.numpy(), batch.image_ids.numpy().tolist()
    for image_id, image in zip(ids, images):
        photo = Image.fromarray(image).resize((TILE, TILE), Image.Resampling.LANCZOS)
        jpeg = image_bytes(photo, "JPEG")
        write_atomic(features.thumbnail_path(path, image_id, "photo"), jpeg)
    if not dataset.has_queries:
        return
    graph = batch.query
    columns = (batch.image_ids, graph.obj_to_img, graph.boxes, batch.query_to_photo)
    drawn = DrawnScenes(*(each.numpy() for each in (*columns, batch.photo.boxes)))
    shown = dataset.queries(main_protocol(dataset.own_boxes), drawn)
    sketches, obj_to_img = batch.sketches.numpy()[shown.rows], drawn.obj_to_img[shown.rows]
    drawings = compose_drawings(sketches, shown.boxes, obj_to_img, len(ids), TILE).numpy()
    for image_id, drawing in zip(ids, drawings[..., 0]):
        png = image_bytes(Image.fromarray(drawing))
        write_atomic(features.thumbnail_path(path, image_id, "sketch"), png)
