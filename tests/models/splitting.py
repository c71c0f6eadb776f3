"""Splitting a batch into replicas' parts, slowly: what loaders do before anything is decoded."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from dataloaders.batches import SceneBatch, SceneGraph, Stuff, TripletBatch


def split(batch, count: int) -> tuple:
    """`count` parts of equally many scenes, or triplets: the first part has the first scenes."""
    if isinstance(batch, TripletBatch):
        columns = [np.split(column.numpy(), count) for column in batch if column is not None]
        return tuple(TripletBatch(*map(tf.constant, part)) for part in zip(*columns))
    size = len(batch.image_ids) // count
    return tuple(_scenes(batch, i * size, (i + 1) * size) for i in range(count))


def _scenes(batch: SceneBatch, first: int, end: int) -> SceneBatch:
    photo, photo_rows = _graph(batch.photo, first, end)
    query, query_rows = _graph(batch.query, first, end)
    depicted = []
    for row in query_rows:
        place = int(batch.query_to_photo[row])
        depicted.append(photo_rows.index(place) if place >= 0 else -1)

    def take(column, rows):
        return None if column is None else tf.constant(column.numpy()[rows])

    stuff = batch.stuff
    if stuff is not None:
        rows = [u for u, n in enumerate(stuff.stuff_to_img.numpy()) if first <= n < end]
        classes, boxes, masks, scenes = (take(column, rows) for column in stuff)
        stuff = Stuff(classes, boxes, masks, scenes - first)
    scenes = list(range(first, end))
    return SceneBatch(
        take(batch.image_ids, scenes),
        take(batch.images, scenes),
        photo,
        take(batch.crops, photo_rows),
        take(batch.masks, photo_rows),
        query,
        take(batch.sketches, query_rows),
        tf.constant(depicted, tf.int32),
        take(batch.negative_crops, photo_rows),
        take(batch.negative_classes, photo_rows),
        stuff,
    )


def _graph(graph: SceneGraph, first: int, end: int) -> tuple[SceneGraph, list[int]]:
    """The graph of some scenes, and which objects they have."""
    rows = [o for o, n in enumerate(graph.obj_to_img.numpy()) if first <= n < end]
    triples = [
        (rows.index(s), p, rows.index(o)) for s, p, o in graph.triples.numpy().tolist() if s in rows
    ]
    return SceneGraph(
        tf.constant(graph.classes.numpy()[rows]),
        tf.constant(graph.boxes.numpy()[rows]),
        tf.constant(graph.obj_to_img.numpy()[rows] - first),
        tf.constant(triples, tf.int32),
    ), rows
