"""'extract-features': the scene vectors of all photographs and sketched queries, a file a split.

for every split: model -> core.evaluation (every object once, queries under all protocols)
                       -> core.features file, and thumbnails beside it
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core import features
from core.dataset import SPLITS
from core.errors import EmptySplitError, UserError
from core.evaluation.embedded_split import EmbeddedScenes, Evaluation
from core.evaluation.picture_grids import TILE, composition
from core.evaluation.query_protocols import DrawnScenes, QueryProtocol, main_protocol
from core.experiment import Experiment, ExperimentHParams, Trained
from core.files import make_folder, write_atomic
from core.hparams import hp
from core.registry import EXPERIMENTS
from experiments import common

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtractFeaturesHParams(ExperimentHParams):
    """Of 'extract-features'."""

    save_images: bool = hp(False, "thumbnails too, which sbir-on-features-file makes pictures of")


@EXPERIMENTS.register("extract-features")
class ExtractFeatures(Experiment):
    """Writes <results>/<model id>_<loader>_<split>_feats.npz, each '-' in the name as '_'."""

    name = "extract-features"
    HParams = ExtractFeaturesHParams
    needs_model = True
    batch_type = "SceneBatch"

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
    photos, random = evaluation.photos, evaluation.photos_with_directions("random")
    drawn = evaluation.queries(QueryProtocol())
    masks = photos.masks
    arrays = {
        "image_ids": photos.image_ids,
        **_vectors("photo", photos),
        **_vectors("photo_random", random),
        "photo_classes": photos.classes,
        "photo_boxes": photos.boxes,
        "photo_obj_to_img": photos.obj_to_img,
        "photo_masks": np.zeros((len(photos.classes), 0), np.uint8) if masks is None else masks,
        "query_classes": drawn.classes,
        "query_obj_to_img": drawn.obj_to_img,
        "query_to_photo": drawn.query_to_photo,
    }
    protocols = features.feature_protocols(trained.dataset.own_boxes)
    for number, protocol in enumerate(protocols):
        queries = evaluation.queries(protocol)
        arrays.update(_vectors(f"query{number}", queries))
        arrays[f"query{number}_rows"] = queries.rows
        arrays[f"query{number}_boxes"] = queries.boxes
    metadata = features.Metadata(
        **common.origin_entries(common.origin_of(trained, evaluation)),
        weights=trained.model.weights_digest(),
        vector=evaluation.vectors[0],
        own_boxes=trained.dataset.own_boxes,
        protocols=protocols,
        mask_size=round((8 * arrays["photo_masks"].shape[1]) ** 0.5),
        vocabulary=trained.dataset.vocabulary.names,
    )
    return features.Features(metadata, arrays)


def _vectors(key: str, side: EmbeddedScenes) -> dict[str, np.ndarray]:
    """float32 (N, D or E); E is 0 for a model that was trained without a projection."""
    none = np.zeros((side.num_scenes, 0), np.float32)
    return {f"{key}_{name}": side.vectors.get(name, none) for name in features.VECTORS}


def _save_thumbnails(path: Path, dataset: Any, batch: Any) -> None:
    """The photographs of a SceneBatch and the compositions of its queries."""
    images, sketches = batch.images.numpy(), batch.sketches.numpy()
    image_ids, obj_to_img = batch.image_ids.numpy(), batch.query.obj_to_img.numpy()
    columns = (obj_to_img, batch.query.boxes, batch.query_to_photo, batch.photo.boxes)
    drawn = DrawnScenes(image_ids, *(np.asarray(each) for each in columns))
    protocol = main_protocol(dataset.own_boxes)
    shown = dataset.queries(protocol, drawn)
    for scene, image_id in enumerate(image_ids.tolist()):
        mine = np.flatnonzero(obj_to_img[shown.rows] == scene)
        photo = Image.fromarray(images[scene]).resize((TILE, TILE), Image.Resampling.LANCZOS)
        drawing = composition(sketches[shown.rows[mine]], shown.boxes[mine]).convert("L")
        for side, image, kind in (("photo", photo, "JPEG"), ("sketch", drawing, "PNG")):
            file = io.BytesIO()
            image.save(file, kind)
            write_atomic(features.thumbnail_path(path, image_id, side), file.getvalue())
