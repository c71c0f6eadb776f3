"""Places of photographs: prepared sets and features files; folders are met in test_index.py."""

import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from core import cli, features
from core.errors import UserError
from core.run import Run
from dataloaders import images
from search.index import PhotoIndex
from search.photographs import photographs_in
from search.scene import Scene, SceneObject
from tests.test_experiments import STAGE2


def values_of(record):
    """The feature of an example by its name: its values."""
    found = tf.train.Example.FromString(record).features.feature
    return lambda name: list(getattr(found[name], found[name].WhichOneof("kind")).value)


def test_a_prepared_set_is_indexed_with_its_objects(world, scene_run, tmp_path):
    folder = Path(world.paired)
    PhotoIndex.build(scene_run, folder, tmp_path / "index")
    built = PhotoIndex.open(tmp_path / "index", scene_run)
    shards = sorted(folder.glob("*/*.tfrecord"))
    records = {}
    for shard in shards:
        for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
            values = values_of(record)
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


def test_a_set_that_was_prepared_again_and_one_of_crops(world, scene_run):
    place = photographs_in(Path(world.sets.scenes))
    first, second = place.files()[:2]
    for wrong in (first._replace(modified=second.modified), first._replace(size=9**9)):
        with pytest.raises(images.Skip, match="has changed: build the index again"):
            place.open(wrong)
    source = place.objects(scene_run.vocabulary, [wrong])
    with pytest.raises(UserError, match="has changed: build the index again"):
        source.find(wrong.path, None, None)
    with pytest.raises(UserError, match="is a coco-crops set where a coco-scenes"):
        photographs_in(Path(world.sets.crops)).files()


def test_a_features_file_is_indexed_without_encoding(world, scene_run, tmp_path):
    run = scene_run
    results = tmp_path / "features"
    extract = ["extract-features", "--model-name", STAGE2, "--model-id", "SD01", "-o", world.out]
    extract += ["--exp-hparams", f"save_images=True,results={results}", "--id", "f"]
    cli.run_experiment([str(word) for word in extract])
    path = next(results.glob("*_valid_feats.npz"))
    index = PhotoIndex.build(run, path, tmp_path / "index")
    arrays = np.load(path)
    ids = arrays["image_ids"].tolist()
    assert [file.path for file in index.files] == [str(each) for each in ids]
    np.testing.assert_array_equal(index.learned, arrays[f"photo_{run.model.vector_names[0]}"])
    for row, _ in enumerate(ids):
        own = arrays["photo_obj_to_img"] == row
        found = index.photographed(row)
        order = np.lexsort(found.boxes.T), np.lexsort(arrays["photo_boxes"][own].T)
        np.testing.assert_array_equal(found.boxes[order[0]], arrays["photo_boxes"][own][order[1]])
        labels = found.probabilities.argmax(axis=1)[order[0]]
        np.testing.assert_array_equal(labels, arrays["photo_classes"][own][order[1]])
    opened = PhotoIndex.open(tmp_path / "index", run)
    assert opened.picture(0, 400).size == (168, 168)
    assert [hit.rank for hit in opened.more_like(str(ids[0]), k=3)] == [1, 2, 3]

    other = Run.open(world.out / f"{STAGE2}-SD01")
    other.model.trainable_variables[0].assign_add(tf.ones_like(other.model.trainable_variables[0]))
    with pytest.raises(UserError, match="extracted with other weights"):
        PhotoIndex.build(other, path, tmp_path / "another")
    features.thumbnail_folder(path).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="save_images=True"):
        photographs_in(path).files()
