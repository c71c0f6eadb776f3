"""Features of a prepared set: what frozen encoders see in its images, computed once.

    features-<digest>/<split>/<shard of the set>     a record's `image` is float16 (i, V, C)
    features-<digest>/<split>.index.npz              written last: the split is complete

A cache is laid out as its set, with features in place of encoded images, so what reads the set
reads its cache: the same blocks, the same draws. The digest is of the set's files and of the
encoders, so a cache of another encoder has another name.

Letters: n records of m images (each has i: one, or a scene its objects' crops), V views of an image
(a crop, its pseudo-drawings), C features of a view.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from core.dataset import SPLITS, DataSizes
from core.errors import UserError
from core.files import make_folder
from core.model import FrozenEncoder
from core.progress import progress
from core.provenance import data_files, digest
from dataloaders import prepared_sets, records
from dataloaders.image_ops import decode_images, resize_images

BATCH = 64  # records that are decoded, images that are encoded at a time


class Images(NamedTuple):
    """The m images of n records."""

    views: tuple[tf.Tensor, ...]  # V of each: uint8 (m, H, W, c)
    counts: tf.Tensor | None = None  # int (n,), images of each record; None: one


def complete(
    source: Path,
    parent: Path,
    decode: Callable[[tf.Tensor], Images],
    encoders: Sequence[FrozenEncoder],
    splits: Sequence[str] = SPLITS,
) -> Path:
    """Make what is missing of the cache of the set `source`, and return its folder in `parent`.

    decode: from serialized records, string (n,). encoders: of each view. UserError when the folder
    cannot be written or a cache is damaged.
    """
    parts = (digest(data_files(source, prepared_sets.FILES)), *(each.digest for each in encoders))
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = parent / f"{prepared_sets.CACHE}{name}"
    missing = [split for split in splits if not _is_complete(folder, split)]
    if missing:
        remedy = "name another folder for features by the data hparam cache_dir"
        make_folder(folder, "the folder of features", remedy)
    for split in missing:
        _complete_split(source, folder, split, decode, encoders)
    return folder


def _is_complete(folder: Path, split: str) -> bool:
    if not (folder / f"{split}.index.npz").is_file():
        return False
    try:
        prepared_sets.read_index(folder, split)
    except UserError as error:
        reason = f"features are damaged: delete {folder}, and it is made anew ({error})"
        raise UserError(reason) from None
    return True


def _complete_split(
    source: Path,
    folder: Path,
    split: str,
    decode: Callable[[tf.Tensor], Images],
    encoders: Sequence[FrozenEncoder],
) -> None:
    index = prepared_sets.read_index(source, split)
    shards = index.shards.tolist()
    sizes = np.bincount(index.block_shard, index.block_records, len(shards)).astype(int).tolist()
    missing = [(shard, size) for shard, size in zip(shards, sizes) if not (folder / shard).exists()]
    (folder / split).mkdir(exist_ok=True)
    encoded = _encoded(_batches([source / shard for shard, _ in missing], decode), encoders)
    with progress(
        total=sum(size for _, size in missing), what=f"{split}: features", unit="records"
    ) as bar:
        for shard, size in missing:
            with records.new_shard(folder / shard) as write:
                for record in itertools.islice(encoded, size):
                    write(record)
                    bar.update()
    classes = np.full(len(shards), -1)
    classes[index.block_shard] = index.block_class
    prepared_sets.write_index(folder, split, shards, index.classes.tolist(), classes.tolist())


def _batches(shards: Sequence[Path], decode: Callable) -> tf.data.Dataset:
    """Return (records, their `Images`), at most BATCH records of one shard at a time, so that what
    is encoded together does not depend on where a killed run had come to."""
    files = tf.data.Dataset.from_tensor_slices(tf.constant([str(s) for s in shards], tf.string))
    batches = files.flat_map(lambda file: tf.data.TFRecordDataset(file).batch(BATCH))
    decode = tf.autograph.experimental.do_not_convert(decode)
    decoded = batches.map(lambda r: (r, decode(r)), num_parallel_calls=2, deterministic=True)
    return decoded.prefetch(2)


def _encoded(batches: tf.data.Dataset, encoders: Sequence[FrozenEncoder]) -> Iterator[bytes]:
    """Yield the records of a cache, serialized."""
    for serialized, images in batches:
        parts = [
            tf.stack([e.encode(v[i : i + BATCH]) for e, v in zip(encoders, images.views)], axis=1)
            for i in range(0, len(images.views[0]), BATCH)
        ]
        features = tf.cast(tf.concat(parts, axis=0), tf.float16).numpy()  # (m, V, C)
        if not np.isfinite(features).all():
            raise UserError(
                "the encoder's features are not all finite numbers of float16 (below 65,504): "
                "take another encoder"
            )
        counts = np.ones(len(serialized), int) if images.counts is None else images.counts.numpy()
        for record, rows in zip(serialized.numpy(), np.split(features, counts.cumsum()[:-1])):
            yield records.with_image(record, rows.tobytes())


def crops(serialized: tf.Tensor, sizes: DataSizes, image_size: int) -> Images:
    """Return what a model of that image size sees of crop records."""
    images = decode_images(records.CropRecord.parse(serialized).image, sizes.crop, 3, "jpeg")
    return Images((resize_images(images, image_size),))


def sketches(serialized: tf.Tensor, sizes: DataSizes, image_size: int) -> Images:
    """Return what a model of that image size sees of sketch records."""
    images = decode_images(records.SketchRecord.parse(serialized).image, sizes.sketch, 1, "png")
    return Images((resize_images(images, image_size),))


def read(content: tf.Tensor, width: int, view: tf.Tensor | int = 0) -> tf.Tensor:
    """Return one view of each record's features: float32 (n, C).

    content: string (n,), `image` of the records of a cache of one image each. width: C. view: int32
    (n,), or one number for all.
    """
    size = 2 * width  # bytes
    first = tf.broadcast_to(view * size, tf.shape(content))
    return read_all(tf.strings.substr(content, first, tf.fill(tf.shape(content), size)), width)


def read_all(content: tf.Tensor, width: int) -> tf.Tensor:
    """Return all features of the records `content`, string (n,), of any number of images each:
    float32 (m, C)."""
    raw = tf.io.decode_raw(tf.strings.reduce_join(content), tf.float16)
    return tf.cast(tf.reshape(raw, [-1, width]), tf.float32)
