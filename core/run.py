"""A trained run, opened from its own files: model, hparams, vocabulary and sizes, without its data.

    run = Run.open("runs/graph-attention-SD01")
    photo = run.encode_photo(image, boxes)
    query = run.encode_sketches(sketches, boxes)

The scripts, experiments, SPADE's export and notebooks all go through this one door. docs/python.md
shows it at work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image
from scipy.spatial.distance import cdist

from core import checkpoints, hparams, scene_inputs
from core.checkpoints import Checkpoints, CheckpointState
from core.dataset import Dataset, DataSizes, Vocabulary
from core.drawings import compose_drawings
from core.errors import UsageError, UserError
from core.model import (
    Model,
    Numerics,
    ObjectEncoder,
    ObjectScenes,
    SceneGraphModel,
    SceneModel,
    WholeSceneModel,
)  # fmt: skip
from core.registry import MODELS
from core.run_folder import RunConfig, RunFolder
from core.run_settings import HParamFlags, Settings
from core.scene_inputs import ImageLike
from dataloaders import image_ops
from dataloaders.scene_graph import triples

log = logging.getLogger(__name__)

BLOCK = 64  # scenes encoded at a time


@dataclass(frozen=True, repr=False)
class EncodedScene:
    """A photograph or a sketched scene of n objects, encoded. All arrays are float32.

    boxes: (n, 4). vectors: (n, D), of which the scene is made. embeddings: (n, E), L2 norm 1, the
    space common to crops and sketches. class_probabilities: (n, K). scene_vectors: name -> (D,),
    empty of a model of single objects. A model that sees whole pictures has no object's arrays.
    """

    boxes: np.ndarray | None
    vectors: np.ndarray | None = None
    embeddings: np.ndarray | None = None
    class_probabilities: np.ndarray | None = None
    scene_vectors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        objects = 0 if self.vectors is None else len(self.vectors)
        return f"EncodedScene({objects} objects; scene vectors: {', '.join(self.scene_vectors)})"

    @property
    def token(self) -> np.ndarray | None:
        """The Transformer's scene token, (D,); None of a model without."""
        return self.scene_vectors.get("token")

    @property
    def projection(self) -> np.ndarray | None:
        """The token's projection, (D,), L2 norm 1; None of a model without."""
        return self.scene_vectors.get("projection")


class Run:
    """A model with all that was known when it was trained.

    model: a `core.model.Model`. settings: its hparams. vocabulary: names, ids and predicates of
    classes. sizes: of the pictures and masks of its data. step: steps it was trained. folder: that
    it was opened from, or None.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        sizes: DataSizes,
        step: int,
        folder: Path | None = None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.sizes = sizes
        self.step = step
        self.folder = folder
        resize = functools.partial(image_ops.resize_images, side=self.image_size)
        # Of any number of pictures, traced once.
        self._resize = tf.function(resize, autograph=False, reduce_retracing=True)
        signature = [tf.TensorSpec((None, 4)), tf.TensorSpec((None,), tf.int32)]
        self._triples = tf.function(triples, input_signature=signature, autograph=False)
        self._cut = tf.function(
            lambda *scene: resize(image_ops.crop_images(*scene, sizes.crop)),
            autograph=False,
            reduce_retracing=True,
        )

    @classmethod
    def open(
        cls, folder: str | Path, checkpoint: str | Path = "latest", model_hparams: str = ""
    ) -> Run:
        """Open the run in `folder` (<output dir>/<model>-<id>) at a checkpoint.

        checkpoint: 'latest' (the newest that is not damaged; a warning is logged when it is not
        the newest), or the folder of one. model_hparams: a comma string over those of the run, as
        'encoder=PATH' of one that has moved. UserError when the folder is no run, has no
        checkpoint, or was written by another version of the program that this one cannot read.
        """
        config = Path(folder) / "config.json"
        if not config.is_file():
            raise UserError(
                f"{folder} is no run: it has no config.json; name a folder like "
                "<output dir>/graph-attention-SD01"
            )
        path = checkpoints.find(str(checkpoint), Checkpoints(Path(folder) / "checkpoints"))
        if path is None:
            raise UserError(
                f"the run {folder} has no checkpoint yet: train it until one is saved "
                "(safety_save, or Ctrl-C)"
            )
        name = RunConfig.read(config).model
        run = cls.load(Settings.merge(name, None, HParamFlags(model=model_hparams), config), path)
        run.folder = Path(folder).absolute()
        return run

    @classmethod
    def load(cls, settings: Settings, checkpoint: Path) -> Run:
        """Build the model of a checkpoint and restore it, for use."""
        state = CheckpointState.read(checkpoint)
        model = build_model(settings, state.vocabulary, state.sizes)
        checkpoints.load(model, checkpoint, settings.changed_model_hparams())
        return cls(model, settings, state.sizes, state.step)

    @classmethod
    def untrained(cls, settings: Settings, dataset: Dataset) -> Run:
        """Build a model with its pretrained weights alone, for the data of a loader."""
        model = build_model(settings, dataset.vocabulary, dataset.sizes)
        model.load_pretrained()
        return cls(model, settings, dataset.sizes, 0)

    @classmethod
    def for_training(
        cls,
        settings: Settings,
        dataset: Dataset,
        checkpoint: Path | None,
        output_dir: Path,
        scope: Callable[[], AbstractContextManager] = contextlib.nullcontext,
    ) -> Run:
        """Build a model to train on `dataset`: resumed from a checkpoint, or new (None).

        A new one is warm started from the run in `output_dir` that its hparams name, else it loads
        its pretrained weights. scope: in which its variables are made, see core.distribution.
        """
        with scope():
            model = build_model(settings, dataset.vocabulary, dataset.sizes)
        step = 0
        if checkpoint is not None:
            step = checkpoints.resume(model, checkpoint, settings.changed_model_hparams()).step
            log.info("resumed %s", checkpoint)
        elif not _warm_start(model, settings, output_dir):
            model.load_pretrained()
        return cls(model, settings, dataset.sizes, step)

    # ---- what it knows ------------------------------------------------------------------------

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes that labels index, and the predicates of scene graphs."""
        return self.model.vocabulary

    @property
    def hparams(self) -> Any:
        """The model's hparams, a frozen dataclass."""
        return self.settings.model

    @property
    def image_size(self) -> int:
        """Side in pixels of the crops and sketches that loaders give this model."""
        return self.model.crop_size(self.hparams)

    @property
    def mask_size(self) -> int:
        """M, side in pixels of the masks that the model makes."""
        return self.model.mask_size

    def dataset(self, loader: str | None = None, **data_hparams: Any) -> Dataset:
        """Open a loader for this model.

        loader: its registered name; None takes that of the last training. data_hparams: override
        those saved with the run; a loader the run was never trained with needs its folders.
        UserError or UsageError when the folders are unusable or have another vocabulary.
        """
        settings = self.settings.with_data(loader, data_hparams)
        dataset = settings.open_dataset()
        checkpoints.check_vocabulary(self.model, self.vocabulary, dataset.vocabulary, "the run")
        dataset.prepare_for(self.model)
        return dataset

    # ---- encoding -----------------------------------------------------------------------------

    def encode_photo(self, image: ImageLike, boxes: np.ndarray | None = None) -> EncodedScene:
        """Encode a photograph.

        image: uint8 (H, W, 3) or a PIL image, of any size. boxes: (n, 4), [x0, y0, x1, y1] in
        [0, 1] of it, 1 to 8 objects; a model that sees whole pictures needs none. UserError for
        anything else.
        """
        return self.encode_photos([image], None if boxes is None else [boxes])[0]

    def encode_photos(
        self,
        images: Sequence[ImageLike],
        boxes: Sequence[np.ndarray] | None = None,
    ) -> list[EncodedScene]:
        """Encode photographs, many at a time; each as `encode_photo`."""
        if isinstance(self.model, WholeSceneModel):
            embed, side = self.model.embed_photographs, self.model.scene_size
            return self._whole_scenes(
                (scene_inputs.photo_pixels(image, side, i) for i, image in enumerate(images)), embed
            )
        encoder = self._object_encoder()
        if boxes is None:
            raise UserError(f"the model {self.model.name!r} encodes objects: give their boxes")
        checked = scene_inputs.checked_boxes(boxes, len(images), "photograph")
        scenes = []
        for start in range(0, len(images), BLOCK):
            scene_boxes = checked[start : start + BLOCK]
            numbered = enumerate(images[start : start + BLOCK], start)
            side = self.sizes.photo
            photos = [scene_inputs.photo_pixels(image, side, i) for i, image in numbered]
            # Stacked: TensorFlow takes a list of arrays apart, pixel by pixel.
            photos = tf.constant(np.stack(photos))
            crops = self._cut(photos, np.concatenate(scene_boxes), _obj_to_img(scene_boxes))
            scenes += self._scenes(scene_boxes, encoder.embed_photos(crops))
        return scenes

    def encode_sketches(
        self, sketches: Sequence[ImageLike], boxes: np.ndarray, fit: bool = True
    ) -> EncodedScene:
        """Encode a sketched scene: a sketch and a box for each of its 1 to 8 objects.

        sketches: dark lines on white paper, uint8 (h, w) or (h, w, 1), or PIL images. Each is
        cropped to its lines, scaled and centred as the training data's sketches are; fit=False
        takes them as they are: `image_size` square, as in a batch, or `sizes.sketch` square, as in
        a prepared set. boxes: (n, 4), [x0, y0, x1, y1]
        in [0, 1] of the scene. UserError for anything else, and for a sketch that shows nothing.
        """
        return self.encode_sketched_scenes([sketches], [boxes], fit)[0]

    def encode_sketched_scenes(
        self,
        scenes: Sequence[Sequence[ImageLike]],
        boxes: Sequence[np.ndarray],
        fit: bool = True,
    ) -> list[EncodedScene]:
        """Encode sketched scenes, many at a time; each as `encode_sketches`."""
        checked = scene_inputs.checked_boxes(boxes, len(scenes), "sketched scene")
        scene_inputs.check_counts(scenes, checked)
        whole = isinstance(self.model, WholeSceneModel)
        encoder = None if whole else self._object_encoder()
        encoded = []
        for start in range(0, len(scenes), BLOCK):
            scene_boxes = checked[start : start + BLOCK]
            sketches = [sketch for scene in scenes[start : start + BLOCK] for sketch in scene]
            pixels = self._sketch_pixels(sketches, fit)
            if whole:
                drawings = compose_drawings(
                    pixels,
                    np.concatenate(scene_boxes),
                    _obj_to_img(scene_boxes),
                    len(scene_boxes),
                    self.model.scene_size,
                )
                encoded += self._whole_scenes(drawings.numpy(), self.model.embed_drawings)
            else:
                encoded += self._scenes(scene_boxes, encoder.embed_sketches(pixels))
        return encoded

    def replace_objects(
        self, scene: EncodedScene, rows: Sequence[int], others: Sequence[EncodedScene]
    ) -> EncodedScene:
        """Return the scene with the objects `rows` as others show them, each a scene of one object:
        a query half sketched, half cut out of photographs. Boxes stay."""
        columns = [
            np.array(each) for each in (scene.vectors, scene.embeddings, scene.class_probabilities)
        ]
        for row, other in zip(rows, others, strict=True):
            shown = (other.vectors, other.embeddings, other.class_probabilities)
            for column, values in zip(columns, shown):
                column[row] = values[0]
        return self._contextual([EncodedScene(scene.boxes, *columns)])[0]

    def encode_drawings(self, drawings: Sequence[ImageLike]) -> list[EncodedScene]:
        """Encode whole drawings, each a page with all its objects where they are drawn.

        drawings: as a sketch of `encode_sketches`; a page is scaled to a square. UsageError for a
        model that needs the objects one by one.
        """
        if not isinstance(self.model, WholeSceneModel):
            raise UsageError(
                f"the model {self.model.name!r} sees objects, not whole drawings: give each "
                "object's sketch and box to encode_sketches"
            )
        size = (self.model.scene_size, self.model.scene_size)
        pages = (Image.fromarray(scene_inputs.grey_pixels(drawing)) for drawing in drawings)
        pixels = (np.asarray(page.resize(size, Image.Resampling.BILINEAR)) for page in pages)
        return self._whole_scenes((each[..., None] for each in pixels), self.model.embed_drawings)

    def masks(self, scene: EncodedScene) -> np.ndarray:
        """Return the masks that the model makes of an encoded scene's objects: float32 (n, M, M),
        probabilities within their boxes. UsageError for a model that makes none."""
        outputs = self._contextualise([scene], with_masks=True)
        return outputs.masks.numpy()

    def ranking_vectors(self, scenes: Sequence[EncodedScene]) -> np.ndarray:
        """Return the scene vectors that photographs are ranked by: float32 (N, D). UsageError for a
        model without scene vectors."""
        if not isinstance(self.model, SceneModel):
            raise UsageError(f"the model {self.model.name!r} has no scene vectors to rank by")
        name = self.model.vector_names[0]
        if not isinstance(scenes, (list, tuple)) or not scenes:
            raise UserError(
                "give a list of one or more encoded scenes, as encode_photos returns it"
            )
        return np.stack([scene.scene_vectors[name] for scene in scenes])

    def distances(self, query: EncodedScene, gallery: Sequence[EncodedScene]) -> np.ndarray:
        """Return the distance of each scene of the gallery from the query: float64 (N,). All are
        encoded by this run: distances between vectors of two runs mean nothing."""
        return cdist(self.ranking_vectors([query]), self.ranking_vectors(gallery))[0]

    def rank(self, query: EncodedScene, gallery: Sequence[EncodedScene]) -> np.ndarray:
        """Return the gallery's indices by distance from the query, nearest first: int (N,)."""
        return np.argsort(self.distances(query, gallery), kind="stable")

    def _object_encoder(self) -> ObjectEncoder:
        if not isinstance(self.model, ObjectEncoder):
            raise UsageError(f"the model {self.model.name!r} encodes no photographs and sketches")
        return self.model

    def _sketch_pixels(self, sketches: Sequence[ImageLike], fit: bool) -> tf.Tensor:
        """Return sketches as the model sees them: uint8 (Q, H, W, 1)."""
        grey = [scene_inputs.grey_pixels(sketch) for sketch in sketches]
        if fit:
            canvases = [scene_inputs.on_canvas(sketch, self.sizes.sketch) for sketch in grey]
            return self._resize(tf.constant(np.stack(canvases)[..., None]))
        sides = (self.image_size, self.sizes.sketch)
        shapes = {sketch.shape for sketch in grey}
        if len(shapes) > 1 or shapes.isdisjoint((side, side) for side in sides):
            raise UserError(
                f"sketches are {', '.join(map(str, shapes))}: with fit=False give all of "
                f"({sides[0]}, {sides[0]}) or of ({sides[1]}, {sides[1]}) pixels"
            )
        pixels = tf.constant(np.stack(grey)[..., None])
        return pixels if shapes == {(sides[0],) * 2} else self._resize(pixels)

    def _whole_scenes(self, pictures: Iterable[np.ndarray], embed: Callable) -> list[EncodedScene]:
        """Return the scenes of whole pictures, uint8 (S, S, c) each, read some at a time."""
        scenes, pictures = [], iter(pictures)
        while block := list(itertools.islice(pictures, BLOCK)):
            vectors = embed(tf.constant(np.stack(block)))
            scenes += [EncodedScene(None, scene_vectors=row) for row in _rows(vectors)]
        return scenes

    def _scenes(self, boxes: Sequence[np.ndarray], encoded: Any) -> list[EncodedScene]:
        """Return the scenes of encoded objects. encoded: `EncodedObjects` of all their objects."""
        ends = np.cumsum([len(scene_boxes) for scene_boxes in boxes])[:-1]
        columns = (encoded.vector, encoded.embedding, tf.nn.softmax(encoded.logits))
        split = (np.split(column.numpy(), ends) for column in columns)
        scenes = [EncodedScene(*parts) for parts in zip(boxes, *split)]
        return self._contextual(scenes)

    def _contextual(self, scenes: list[EncodedScene]) -> list[EncodedScene]:
        """Return scenes with the scene vectors of their objects, of a model that has any."""
        if not isinstance(self.model, SceneGraphModel):
            return scenes
        outputs = self._contextualise(scenes, with_masks=False)
        return [
            dataclasses.replace(scene, scene_vectors=vectors)
            for scene, vectors in zip(scenes, _rows(outputs.vectors))
        ]

    def _contextualise(self, scenes: Sequence[EncodedScene], with_masks: bool) -> Any:
        if not isinstance(self.model, SceneGraphModel):
            raise UsageError(f"the model {self.model.name!r} makes no masks of scenes")
        boxes = [scene.boxes for scene in scenes]
        joined, obj_to_img = tf.constant(np.concatenate(boxes)), tf.constant(_obj_to_img(boxes))
        vectors = tf.constant(np.concatenate([scene.vectors for scene in scenes]))
        relations = self._triples(joined, obj_to_img)
        block = ObjectScenes(vectors, joined, obj_to_img, relations, len(scenes))
        return self.model.contextualise(block, with_masks)


def _obj_to_img(boxes: Sequence[np.ndarray]) -> np.ndarray:
    """Return which scene each object is in: int32 (O,)."""
    return np.repeat(np.arange(len(boxes), dtype=np.int32), [len(each) for each in boxes])


def _rows(vectors: dict[str, tf.Tensor]) -> list[dict[str, np.ndarray]]:
    """Turn vectors (N, D) by name into N dicts of vectors (D,)."""
    names, columns = zip(*((name, values.numpy()) for name, values in vectors.items()))
    return [dict(zip(names, row)) for row in zip(*columns)]


def build_model(settings: Settings, vocabulary: Vocabulary, sizes: DataSizes) -> Model:
    """Build the model of some settings, with new weights."""
    base = settings.base
    return settings.model_cls(
        settings.model,
        vocabulary,
        base.iterations,
        sizes.mask,
        Numerics(base.mixed_precision, base.clip_norm),
    )


def _warm_start(model: Model, settings: Settings, output_dir: Path) -> bool:
    """Take the weights of the run that the model's hparams name; returns whether they name one."""
    source = model.warm_start_from(settings.model)
    if source is None:
        return False
    name, run_id = source
    other = RunFolder(output_dir, name, run_id)
    newest = Checkpoints(other.checkpoints).latest()
    if newest is None:
        raise UserError(
            f"{model.name} starts from the run {other.root}, which has no checkpoint; train "
            f"{name} with --id {run_id} and the same -o first"
        )
    _check_common_hparams(model, settings, RunConfig.read(other.config), other.config)
    checkpoints.warm_start(model, newest, name)
    log.info("took the weights of %s", newest)
    return True


def _check_common_hparams(model: Model, settings: Settings, config: RunConfig, path: Path) -> None:
    """Raise UserError unless the hparams that both models have are equal, but for those that may
    differ."""
    there = hparams.to_dict(
        hparams.from_dict(MODELS[config.model].HParams, config.hparams.model, str(path))
    )
    here = hparams.to_dict(settings.model)
    differing = [
        f"{key} is {there[key]} there and {here[key]} here"
        for key in here.keys() & there.keys() - set(model.warm_start_may_differ)
        if here[key] != there[key]
    ]
    if differing:
        raise UserError(
            f"{model.name} cannot start from {path.parent}: {'; '.join(sorted(differing))}; give "
            "the same values in --hparams"
        )
