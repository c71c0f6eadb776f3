"""The paired scenes of stage 3. They share code with those of stage 2, whose tests hold the two
sides, crops and negatives; here both loaders read the same scenes and are compared."""

import types
from pathlib import Path

import numpy as np
import pytest

from core.errors import HParamError, UserError
from core.hparams import parse
from core.registry import LOADERS
from dataloaders import records, throughput
from dataloaders.batches import SceneBatch
from tests.dataloaders import tiny_sets
from tests.dataloaders.scene_checks import (
    check_graph,
    collect,
    equal,
    stored,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    """The scenes of `sets`, with a sketch of each object."""
    folder = tmp_path_factory.mktemp("paired")
    return tiny_sets.write_scenes(folder, scenes=24, mask_side=16, paired=True)


def make(folders, name="sketchycoco-tf", batch_size=4, seed=0, image_size=96, **attributes):
    loader = LOADERS[name]
    base = types.SimpleNamespace(batch_size=batch_size)
    dataset = loader(loader.HParams(*folders), base, image_size, seed)
    for key, value in attributes.items():
        setattr(dataset, key, value)
    return dataset


def check_sketches(batch, folder, split):
    """Every query object shows the sketch that its scene's record holds for it."""
    scenes = stored(folder, split)
    np.testing.assert_array_equal(batch.query_to_photo, np.arange(len(batch.photo.classes)))
    first = {n: np.argmax(batch.query.obj_to_img == n) for n in range(len(batch.image_ids))}
    expected = [
        (batch.image_ids[n], q - first[n], batch.query.classes[q])
        for q, n in enumerate(batch.query.obj_to_img)
    ]
    np.testing.assert_array_equal(tiny_sets.marks(batch.sketches, 3), expected)
    for image_id, number, class_ in expected:
        assert scenes[image_id]["obj_idx"].int64_list.value[number] == class_


def test_every_object_comes_with_its_own_sketch(sets, paired):
    for batch in collect(make((paired, sets.crops)).train_batches(), 4):
        assert isinstance(batch, SceneBatch)
        check_graph(batch.photo, 4, canonical=False)
        check_graph(batch.query, 4, canonical=False)
        check_sketches(batch, paired, "train")
    for batch in collect(make((paired, sets.crops)).eval_batches("test")):
        check_graph(batch.photo, len(batch.image_ids), canonical=True)
        check_graph(batch.query, len(batch.image_ids), canonical=True)
        check_sketches(batch, paired, "test")


def test_all_but_the_sketches_is_as_in_stage_2(sets, paired):
    """Scenes, crops, masks, negatives, both graphs and their directions, dtypes and shapes."""
    mine = make((paired, sets.crops), seed=3)
    other = make((sets.scenes, sets.indexed, sets.crops), "coco-tfrecord", seed=3)
    assert mine.vocabulary == other.vocabulary
    assert mine.sizes.mask == other.sizes.mask == 16
    assert mine.train_batches().element_spec == other.train_batches().element_spec
    pairs = [(mine.train_batches().take(3), other.train_batches().take(3))]
    pairs.append((mine.eval_batches("valid"), other.eval_batches("valid")))
    for first, second in pairs:
        first, second = collect(first), collect(second)
        equal(
            [batch._replace(sketches=0) for batch in first],
            [batch._replace(sketches=0) for batch in second],
        )
        for a, b in zip(first, second):
            assert (a.sketches.shape, a.sketches.dtype) == (b.sketches.shape, b.sketches.dtype)


def test_the_seed_does_not_change_the_sketches(sets, paired):
    first, second = (
        collect(make((paired, sets.crops), seed=seed).eval_batches("valid"))[0] for seed in (0, 1)
    )
    np.testing.assert_array_equal(first.sketches, second.sketches)
    assert (first.negative_crops != second.negative_crops).any()


def test_other_sides_of_images(sets, paired):
    batch = collect(make((paired, sets.crops), image_size=48).train_batches(), 1)[0]
    assert batch.sketches.shape[1:] == (48, 48, 1)
    assert batch.crops.shape[1:] == batch.negative_crops.shape[1:] == (48, 48, 3)
    shown = batch.sketches[:, 2:6, 2:6, 0].mean((1, 2)).round()
    np.testing.assert_array_equal(shown, batch.image_ids[batch.query.obj_to_img])


# ---- bad input -------------------------------------------------------------------------------


def test_sets_of_another_kind_are_named(sets, paired, tmp_path):
    with pytest.raises(UserError, match="coco-scenes set where a sketchycoco-scenes set was exp"):
        make((sets.scenes, sets.crops))
    with pytest.raises(UserError, match="sketchycoco-scenes set where a coco-scenes set was exp"):
        make((paired, sets.indexed, sets.crops), "coco-tfrecord")
    with pytest.raises(UserError, match="quickdraw-indexed set where a coco-crops set was exp"):
        make((paired, sets.indexed))
    with pytest.raises(UserError, match="not a folder"):
        make((str(tmp_path / "nowhere"), sets.crops))


def test_missing_hparams(paired, capsys):
    argv = ["--data-hparams", f"sketchycoco_dir={paired}"]
    assert throughput.main("sketchycoco-tf", "scenes", argv) == 2
    assert "crops_dir" in capsys.readouterr().err
    with pytest.raises(HParamError, match="qdraw_dir"):
        parse(f"sketchycoco_dir={paired},qdraw_dir=x", LOADERS["sketchycoco-tf"].HParams)


def test_as_many_sketches_as_objects():
    with pytest.raises(ValueError, match="1 sketches of 2 objects"):
        records.SceneRecord.encode(b"", 1, [3, 4], [0.0] * 8, b"", [7, 8], [], [], b"", [b"png"])


# ---- the command -----------------------------------------------------------------------------
