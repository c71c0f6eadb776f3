"""The files and records of a prepared set, for tests."""

from pathlib import Path

import tensorflow as tf

from dataloaders import records


def contents(folder: Path) -> dict:
    """Every file with its bytes; the lock and other hidden files are no part of a set."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def serialized(folder: Path, split: str) -> list:
    """All records of a split in the order of the index."""
    shards = [str(folder / shard) for shard in records.read_index(folder, split).shards]
    return list(tf.data.TFRecordDataset(shards).as_numpy_iterator())


def scenes(folder: Path, split: str) -> records.Scenes:
    """All scenes of a split."""
    return records.SceneRecord.parse(tf.constant(serialized(folder, split)))
