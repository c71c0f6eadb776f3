"""The files and records of a prepared set, for tests."""

from pathlib import Path

import tensorflow as tf

from dataloaders import records
from tests.dataloaders.tiny_sets import read_split


def contents(folder: Path) -> dict:
    """Every file with its bytes; hidden files and folders are no part of a set."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if not any(part.startswith(".") for part in Path(name).parts)
    }


def scenes(folder: Path, split: str) -> records.Scenes:
    """All scenes of a split."""
    return records.SceneRecord.parse(tf.constant(read_split(folder, split)))
