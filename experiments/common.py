"""The parts that experiments share: the split they look at, their metrics, and their results."""

from __future__ import annotations

import abc
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.dataset import SPLITS, SceneDataset
from core.errors import EmptySplitError
from core.evaluation import picture_grids
from core.evaluation.embedded_split import EmbeddedPhotos, EmbeddedQueries, Evaluation
from core.evaluation.figure_files import EXPERIMENT_SCHEMA, Origin
from core.evaluation.figures import Figure, table
from core.evaluation.query_protocols import QueryProtocol, main_protocol
from core.experiment import Experiment, ExperimentHParams, Trained
from core.files import write_atomic, write_json, write_npz
from core.hparams import hp
from core.model import SceneGraphModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitHParams(ExperimentHParams):
    """Hparams of experiments that look at one split of a model's data."""

    split: str | None = hp(
        None, "split to look at; none: test, or valid where test is empty", choices=SPLITS
    )


class SplitExperiment(Experiment):
    """An experiment on one split of a trained model's data, encoded. origin: of its figures. path:
    of its JSON file, <results>/<model id>_<loader>_<split><ending>.json."""

    HParams = SplitHParams
    needs_model = True
    model_type = SceneGraphModel
    ending: str

    def run(self, trained: Trained | None) -> None:
        self.check_data(trained.dataset)
        evaluation = self._embed(trained, self.hparams.split)
        self.run_on(evaluation)

    def check_data(self, dataset: SceneDataset) -> None:
        """Raise UserError for data that the experiment cannot look at."""

    def check_results(self, evaluation: Evaluation) -> None:
        """Raise UserError for results there that this run would destroy; nothing is computed."""

    @abc.abstractmethod
    def run_on(self, evaluation: Evaluation) -> None:
        """Compute, print and save. Raises UserError for what a user can mend."""

    def _embed(self, trained: Trained, split: str | None) -> Evaluation:
        """Encode the objects of a split. EmptySplitError when it has no scenes."""
        evaluation = Evaluation(trained.model, trained.dataset, split or "test", step=trained.step)
        self.origin = origin_of(trained, evaluation)
        self.path = self.results / file_name(trained, evaluation.split, f"{self.ending}.json")
        self.check_results(evaluation)
        try:
            evaluation.embed()
        except EmptySplitError as error:
            if split:
                raise
            log.warning("looking at the split valid, because %s", error)
            return self._embed(trained, "valid")
        return evaluation


def compared_protocols(own_boxes: bool) -> tuple[QueryProtocol, ...]:
    """Return the protocols of experiments that show few: the paper's boxes, and boxes that do not
    give the answer away, each with real and blank sketches. own_boxes: whether the set has them."""
    both = QueryProtocol(), main_protocol(own_boxes)
    return tuple(protocol for real in both for protocol in (real, real.control))


def drawn_protocol(own_boxes: bool) -> QueryProtocol:
    """Return the protocol of queries in the boxes they were drawn in, where nothing is looked for,
    so that no box gives an answer away."""
    return QueryProtocol("own" if own_boxes else "shared")


def recall_metrics(*ks: int) -> dict[str, str]:
    """Return metric name -> kind for recall at each k, as `retrieval.scene_figures` takes them."""
    return {f"sbir-top{k}": f"top{k}" for k in ks}


def origin_of(trained: Trained, evaluation: Evaluation) -> Origin:
    """Return where the figures and features of an evaluation come from."""
    ids = (trained.model.name, trained.run_id, trained.step, trained.dataset.name)
    return Origin(*ids, evaluation.split, evaluation.seed)


def file_name(trained: Trained, split: str, ending: str) -> str:
    """Return <model id>_<loader>_<split><ending>, each '-' as '_'."""
    return f"{trained.run_id}_{trained.dataset.name}_{split}{ending}".replace("-", "_")


def scene_arrays(photos: EmbeddedPhotos, queries: EmbeddedQueries) -> dict[str, np.ndarray]:
    """Return the arrays that say which objects are in which scenes, by their names in a file."""
    arrays = {"image_ids": photos.image_ids, "query_to_photo": queries.query_to_photo}
    for key, side in (("photo", photos), ("query", queries)):
        arrays[f"{key}_classes"] = side.classes
        arrays[f"{key}_obj_to_img"] = side.obj_to_img
        arrays[f"{key}_boxes"] = side.boxes
    return arrays


def save_arrays(
    path: Path, origin: Origin, arrays: Mapping[str, np.ndarray], **entries: Any
) -> None:
    """Write an experiment's .npz atomically. entries: of its metadata, beside the origin."""
    write_npz(path, {"schema": EXPERIMENT_SCHEMA, **origin_entries(origin), **entries}, arrays)


def save_jpeg(path: Path, image: Image.Image) -> None:
    """Write a page atomically. UserError when that fails."""
    write_atomic(path, picture_grids.image_bytes(image, "JPEG", quality=90))


def save_pages(
    path: Path,
    rows: Sequence[list[tuple[Image.Image, str]]],
    heads: list[str],
    title: str,
    tile: int = picture_grids.TILE,
) -> list[Path]:
    """Save rows of tiles with captions as pages <stem of path>_1.jpg, ...; return their paths."""
    pages = []
    for start in range(0, len(rows), picture_grids.ROWS):
        pages.append(path.with_name(f"{path.stem}_{len(pages) + 1}.jpg"))
        image = picture_grids.grid(rows[start : start + picture_grids.ROWS], heads, title, tile)
        save_jpeg(pages[-1], image)
    return pages


def save_report(
    path: Path,
    origin: Origin | None,
    gallery: str | None,
    tables: Sequence[Sequence[Figure]],
    notes: Sequence[str] = (),
    pictures: Sequence[Path] = (),
    **entries: Any,
) -> None:
    """Print figures, each of `tables` as a table, and save them as JSON.

    origin: None for features of another system. gallery: what queries were searched in, None: in
    nothing. notes: sentences on how to read the figures. pictures: files saved already. entries:
    further entries of the JSON file."""
    content = {
        "schema": EXPERIMENT_SCHEMA,
        **entries,
        **(origin_entries(origin) if origin else {}),
        "gallery": gallery,
        "notes": list(notes),
        "pictures": [picture.name for picture in pictures],
        "results": [figure.to_json() for figures in tables for figure in figures],
    }
    write_json(path, content)
    for line in (*([f"gallery: {gallery}"] if gallery else []), *notes):
        print(line)
    for figures in tables:
        print(f"\n{table(figures)}")
    print()
    for saved in (*pictures, path):
        print(f"saved: {saved}")


def origin_entries(origin: Origin) -> dict[str, Any]:
    """Return an origin, which may be a features file's metadata, as entries of a JSON file."""
    return {name: getattr(origin, name) for name in Origin.__struct_fields__}
