"""Places of photographs: folders are met in test_index.py, prepared sets here."""

import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core.errors import UserError
from core.run import Run
from dataloaders import images
from search.index import PhotoIndex
from search.photographs import photographs_in
from search.scene import Scene, SceneObject
from tests.test_experiments import STAGE2


def features(record):
    """The feature of an example by its name: its values."""
    found = tf.train.Example.FromString(record).features.feature
    return lambda name: list(getattr(found[name], found[name].WhichOneof("kind")).value)


def test_a_prepared_set_is_indexed_with_its_objects(world, tmp_path):
    folder = Path(world.paired)
    run = Run.open(world.out / f"{STAGE2}-SD01")
    PhotoIndex.build(run, folder, tmp_path / "index")
    built = PhotoIndex.open(tmp_path / "index", run)
    shards = sorted(folder.glob("*/*.tfrecord"))
    records = {}
    for shard in shards:
        for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
            values = features(record)
            records[f"{shard.parent.name}/{shard.name}/{values('image_id')[0]}"] = values
    assert sorted(file.path for file in built.files) == sorted(records) and len(records) > 20
    for row in range(0, len(built), 7):
        values = records[built.files[row].path]
        found = built.photographed(row)
        boxes = np.reshape(values("boxes"), (-1, 4))
        order = np.lexsort(found.boxes.T), np.lexsort(boxes.T)
        np.testing.assert_allclose(found.boxes[order[0]], boxes[order[1]], atol=1e-6)
        classes = found.probabilities.argmax(axis=1)[order[0]]
        assert classes.tolist() == np.array(values("obj_idx"))[order[1]].tolist()
        picture = Image.open(io.BytesIO(values("image")[0])).convert("RGB")
        np.testing.assert_array_equal(np.asarray(built.picture(row, 400)), np.asarray(picture))
    assert len(built.search(Scene([SceneObject([np.array([[0, 0], [1, 1]])])]), k=5)) == 5


def test_a_set_that_was_prepared_again_and_one_of_crops(world):
    place = photographs_in(Path(world.sets.scenes))
    first, second = place.files()[:2]
    for wrong in (first._replace(modified=second.modified), first._replace(size=9**9)):
        with pytest.raises(images.Skip, match="has changed: build the index again"):
            place.open(wrong)
    with pytest.raises(UserError, match="is a coco-crops set where a coco-scenes"):
        photographs_in(Path(world.sets.crops)).files()
