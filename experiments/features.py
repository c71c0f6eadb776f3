"""'extract-features': the scene vectors of all photographs and sketched queries, a file a split.

for every split: model -> core.evaluation (photographs once, queries under four protocols)
                       -> core.features file, and thumbnails beside it
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
from PIL import Image

from core import features
from core.dataset import SPLITS, QueryProtocol
from core.errors import EmptySplitError, UserError
from core.evaluation import Evaluation, Side
from core.experiment import Experiment, ExperimentHParams, Trained
from core.files import make_folder, write_atomic
from core.hparams import hp
from core.metrics.visual import TILE, composition
from core.registry import EXPERIMENTS

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

    def run(self, trained: Optional[Trained]) -> None:
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
        run_id, loader = trained.run_id, trained.dataset.name
        path = self.results / f"{run_id}_{loader}_{split}{features.SUFFIX}".replace("-", "_")
        evaluation = Evaluation(trained.model, trained.dataset, split, step=trained.step)
        if self.hparams.save_images:
            folder = features.thumbnails(path)
            make_folder(folder, "the folder of thumbnails", "choose another results")
            evaluation.gather(features.PICTURED, lambda batch: _save_thumbnails(path, batch))
        features.write(path, _features(evaluation, trained))
        log.info("%s: %d scenes", path, evaluation.photos.scenes)
        return path


def _features(evaluation: Evaluation, trained: Trained) -> features.Features:
    photos = evaluation.photos
    arrays = {
        "image_ids": photos.image_ids,
        **{f"photo_{vector}": _vectors(photos, vector) for vector in features.VECTORS},
        "photo_classes": photos.classes,
        "photo_boxes": photos.boxes,
        "photo_obj_to_img": photos.obj_to_img,
        "photo_masks": photos.masks,
    }
    for protocol in features.PROTOCOLS:
        queries = evaluation.queries(protocol)
        for vector in features.VECTORS:
            arrays[features.query_key(protocol, vector)] = _vectors(queries, vector)
        # Blank sketches change neither boxes nor what is depicted, jitter only the boxes.
        arrays[f"query_{protocol.boxes}_boxes"] = queries.boxes
        arrays["query_classes"] = queries.classes
        arrays["query_obj_to_img"] = queries.obj_to_img
        arrays["query_to_photo"] = queries.query_to_photo
    metadata = {
        "schema": features.SCHEMA,
        "model": trained.model.name,
        "run": trained.run_id,
        "step": trained.step,
        "loader": trained.dataset.name,
        "split": evaluation.split,
        "seed": evaluation.seed,
        "vector": evaluation.vectors[0],
        "jitter": QueryProtocol().jitter,
        "mask_size": round((8 * photos.masks.shape[1]) ** 0.5),
        "vocabulary": list(trained.dataset.vocabulary.names),
    }
    return features.Features(metadata, arrays)


def _vectors(side: Side, name: str) -> np.ndarray:
    """float32 (N, D or E); E is 0 for a model that was trained without a projection."""
    return side.vectors.get(name, np.zeros((side.scenes, 0), np.float32))


def _save_thumbnails(path: Path, batch: Any) -> None:
    """The photographs of a SceneBatch and the compositions of its sketches."""
    images, sketches = batch.images.numpy(), batch.sketches.numpy()
    boxes, obj_to_img = batch.query.boxes.numpy(), batch.query.obj_to_img.numpy()
    for scene, image_id in enumerate(batch.image_ids.numpy().tolist()):
        own = np.flatnonzero(obj_to_img == scene)
        photo = Image.fromarray(images[scene]).resize((TILE, TILE), Image.Resampling.LANCZOS)
        drawing = composition(sketches[own], boxes[own]).convert("L")
        for side, image, kind in (("photo", photo, "JPEG"), ("sketch", drawing, "PNG")):
            file = io.BytesIO()
            image.save(file, kind)
            write_atomic(features.thumbnail(path, image_id, side), file.getvalue())
