"""A fake loader of scenes and a fake model, whose answers can be worked out by hand."""

import dataclasses
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from core.dataset import DataSizes, SceneDataset, Vocabulary
from core.errors import UsageError
from core.evaluation import report
from core.model import SceneGraphModel
from dataloaders import queries
from dataloaders.batches import SceneBatch, SceneGraph

SIDE = 16
SCENE_METRICS = (
    "sbir-mAP", "sbir-top1", "sbir-top5", "sbir-top10", "sbir-ndcg@10",
    "obj-sbir-mAP", "obj-sbir-top1", "embedding-obj-accuracy", "embedding-skt-accuracy",
    "mask-iou", "sbir-on-valid", "generated-masks", "common-embedding-tsne",
)  # fmt: skip


class Outputs(NamedTuple):
    vectors: dict
    masks: tf.Tensor
    boxes: tf.Tensor = None


class FakeScenes(SceneDataset):
    """Scenes of 1-3 objects. Crop and sketch of an object show its number as a grey level, its
    class is number % 5, its mask the upper rows; the query leaves out every third object of
    scenes that have others, and turns the order round."""

    name, seed = "fake-scenes", 0
    batch_type = SceneBatch
    sizes = DataSizes(mask=SIDE)
    source = stages = None
    vocabulary = Vocabulary(("a", "b", "c", "d", "e", "__image__"))

    def __init__(self, scenes=20, batch_size=6):
        self.scenes, self.batch_size, self.passes = scenes, batch_size, []
        self.counts = [1 + n % 3 for n in range(scenes)]
        self.boxes = np.sort(np.random.default_rng(0).random((sum(self.counts), 2, 2)), axis=1)
        self.boxes = self.boxes.reshape(-1, 4).astype(np.float32)

    def eval_batches(self, split, limit=None):
        self.passes.append(split)
        total = 0 if split == "empty" else min(self.scenes, limit or self.scenes)
        for start in range(0, total, self.batch_size):
            yield self.batch(range(start, min(total, start + self.batch_size)))

    def queries(self, protocol, drawn):
        """Jittered: moved by 0.01. Everything else by the real thing."""
        shown = queries.apply_protocol(protocol, drawn, self.seed)
        if protocol.boxes == "jittered":
            boxes = dataclasses.replace(protocol, boxes="shared")
            shown = shown._replace(boxes=queries.apply_protocol(boxes, drawn, 0).boxes + 0.01)
        return shown

    def relations(self, boxes, obj_to_img, image_ids, directions, side):
        assert len(boxes) == len(obj_to_img) and obj_to_img.max() == len(image_ids) - 1
        return np.zeros((0, 3), np.int32)

    def batch(self, scenes):
        first = sum(self.counts[: scenes[0]])
        photo_img = np.repeat(np.arange(len(scenes)), [self.counts[n] for n in scenes])
        numbers = first + np.arange(len(photo_img))
        boxes = self.boxes[numbers]
        kept = [
            int(o)
            for n in range(len(scenes))
            for o in np.flatnonzero(photo_img == n)[::-1]
            if (first + o) % 3 or (photo_img == n).sum() == 1
        ]
        grey = np.broadcast_to(numbers[:, None, None, None], (len(numbers), 8, 8, 1))
        grey = np.ascontiguousarray(grey).astype(np.uint8)
        masks = np.zeros((len(numbers), SIDE, SIDE), np.uint8)
        for mask, number in zip(masks, numbers):
            mask[: 4 + number % 8] = 1
        return SceneBatch(
            image_ids=tf.constant(np.array(scenes, np.int64) + 100),
            images=tf.fill((len(scenes), 64, 64, 3), np.uint8(10 * scenes[0])),
            photo=graph(numbers % 5, boxes, photo_img),
            crops=tf.constant(grey.repeat(3, axis=3)),
            masks=tf.constant(masks),
            query=graph(numbers[kept] % 5, boxes[kept], photo_img[kept]),
            sketches=tf.constant(grey[kept]),
            query_to_photo=tf.constant(np.array(kept, np.int32)),
            negative_crops=tf.constant(grey.repeat(3, axis=3)),
            negative_classes=tf.constant((numbers % 5).astype(np.int32)),
        )


def graph(classes, boxes, obj_to_img):
    return SceneGraph(
        classes=tf.constant(classes.astype(np.int32)),
        boxes=tf.constant(boxes.astype(np.float32)),
        obj_to_img=tf.constant(obj_to_img.astype(np.int32)),
        triples=tf.zeros((0, 3), tf.int32),
    )


class Gallery(FakeScenes):
    """Photographs alone."""

    has_queries = False

    def batch(self, scenes):
        return super().batch(scenes)._replace(query=None, sketches=None, query_to_photo=None)


class Drawings(FakeScenes):
    """Queries alone."""

    has_photos = False
    nothing = dict.fromkeys(("photo", "images", "crops", "masks", "query_to_photo"))

    def batch(self, scenes):
        return super().batch(scenes)._replace(**self.nothing)


class FakeModel(SceneGraphModel):
    """Reads the object's number off its pixels. 'sees': the scene vector is made of the numbers;
    'boxes': of the boxes; 'collapsed': constant; 'broken': NaN."""

    name = "fake-model"
    batch_type = "SceneBatch"
    vector_names = ("projection", "token")
    metrics = SCENE_METRICS
    mask_size = SIDE

    def __init__(self, kind="sees"):
        self.kind, self.photos_encoded, self.queries_encoded, self.masks_made = kind, 0, 0, 0

    def weights_digest(self):
        return "5e" * 32

    def embed_photos(self, crops):
        self.photos_encoded += len(crops)
        return self._embed(crops[:, 0, 0, 0])

    def embed_sketches(self, sketches):
        self.queries_encoded += len(sketches)
        return self._embed(sketches[:, 0, 0, 0])

    def _embed(self, numbers):
        numbers = tf.cast(numbers, tf.float32).numpy()
        predicted = np.where(numbers == 255, 0, numbers % 5).astype(int)
        return SimpleNamespace(
            vector=numbers[:, None],
            embedding=np.stack([np.cos(numbers / 60), np.sin(numbers / 60)], 1),
            logits=tf.one_hot(predicted, 6),
        )

    def contextualise(self, scenes, with_masks=True):
        vectors, boxes, obj_to_img, _, num_scenes = scenes
        numbers = vectors[:, 0]
        self.masks_made += len(numbers) if with_masks else 0
        rows = {
            "sees": np.stack([numbers // 6, 0 * numbers], 1),
            "boxes": boxes,
            "collapsed": np.ones((len(numbers), 2)),
            "broken": np.full((len(numbers), 2), np.nan),
        }[self.kind]
        vector = np.stack([rows[obj_to_img == n].max(0) for n in range(num_scenes)])
        masks = np.zeros((len(numbers), SIDE, SIDE), np.float32)
        for mask, number in zip(masks, numbers):
            mask[: 4 + int(number) % 8, : SIDE // 2] = 0.9  # the left half of the true mask
        vectors = {"projection": vector, "token": vector * 0 + 1.0}
        return Outputs(vectors, masks if with_masks else None, boxes)

    def attention(self, scenes):
        raise UsageError("abbl_skip_transformer")

    def train_step(self, batch, step, seed):
        raise NotImplementedError

    def warm_start_parts(self):
        return {}


def evaluate(model, names, tmp_path, dataset=None, **options):
    dataset = dataset or FakeScenes()
    return report.run(model, dataset, tmp_path, names, 7, **options)


def by_label(figures, **labels):
    found = [f for f in figures if labels.items() <= f.labels.items()]
    assert len(found) == 1
    return found[0]
