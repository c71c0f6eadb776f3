"""The triplets of stage 1. Images are marked, so that a batch says which records it is made of."""

import logging
import types

import numpy as np
import pytest

from core.errors import UsageError, UserError
from core.registry import LOADERS
from dataloaders import throughput
from dataloaders.batches import TripletBatch
from tests.dataloaders import tiny_sets
from tests.dataloaders.scene_checks import collect, equal

CLASSES = list(tiny_sets.SKETCH_CLASSES)


def make(qdraw_dir, crops_dir, batch_size=8, seed=0, image_size=96, **attributes):
    loader = LOADERS["quickdraw-cococrops-tf"]
    base = types.SimpleNamespace(batch_size=batch_size)
    dataset = loader(loader.HParams(qdraw_dir, crops_dir), base, image_size, seed)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def joined(batches):
    columns = zip(*(batch[:-1] for batch in batches))  # without pseudo-drawings: None
    return TripletBatch(*map(np.concatenate, columns))


def test_a_batch_is_what_it_says(sets):
    dataset = make(sets.quickdraw, sets.crops)
    for batch in collect(dataset.train_batches(), 5):
        assert isinstance(batch, TripletBatch)
        assert batch.sketches.shape == (8, 96, 96, 1) and batch.sketches.dtype == np.uint8
        assert batch.positives.shape == batch.negatives.shape == (8, 96, 96, 3)
        names = [dataset.vocabulary.names[k] for k in batch.classes]
        drawn = [CLASSES[c] for c in tiny_sets.marks(batch.sketches, 1)[:, 0]]
        assert drawn == names
        for images, classes in (
            (batch.positives, batch.classes),
            (batch.negatives, batch.negative_classes),
        ):
            shown = tiny_sets.marks(images, 1)[:, 0] / 20  # JPEG: a level or two off
            assert (shown.round() == classes).all()
        assert (batch.classes != batch.negative_classes).all()


def test_every_sketch_and_every_negative_class_comes(sets):
    dataset = make(sets.quickdraw, sets.crops, batch_size=50)
    batch = joined(collect(dataset.train_batches(), 2))  # 100 records, each once in a pass
    marks = tiny_sets.marks(batch.sketches, 3)
    assert len({tuple(m) for m in marks.tolist()}) == 100
    assert (marks[:, 2] == 0).all()  # of the train split
    pairs = set(zip(batch.classes.tolist(), batch.negative_classes.tolist()))
    assert len(pairs) >= 18  # of 5 x 4


@pytest.mark.parametrize("start", [1, 63])
def test_resuming_gives_the_same_batches_whatever_the_parallelism(sets, start):
    dataset = make(sets.quickdraw, sets.crops, 4, parallel_calls=1, prefetch=1)
    whole = collect(dataset.train_batches(), start + 4)
    resumed = make(sets.quickdraw, sets.crops, 4, parallel_calls=8, prefetch=4)
    equal(collect(resumed.train_batches(start), 4), whole[start:])


def test_two_iterators_side_by_side_see_the_same(sets):
    dataset = make(sets.quickdraw, sets.crops)
    first, second = iter(dataset.train_batches()), iter(dataset.train_batches())
    for _ in range(3):
        a = next(first)
        next(first)
        b = next(second)
        next(second)
        np.testing.assert_array_equal(a.classes, b.classes)
        np.testing.assert_array_equal(a.negatives, b.negatives)


def test_seeds_and_steps_differ(sets):
    a = collect(make(sets.quickdraw, sets.crops).train_batches(), 2)
    b = collect(make(sets.quickdraw, sets.crops, seed=1).train_batches(), 1)
    assert (a[0].sketches != b[0].sketches).any()
    assert (a[0].sketches != a[1].sketches).any()


def test_larger_sets_are_read_in_windows(tmp_path):
    """More blocks than a window takes: the pools change from window to window."""
    sketches = tiny_sets.write_sketches(tmp_path / "q", indexed=False, per_class=90)
    crops = tiny_sets.write_crops(tmp_path / "c", per_class=90)
    dataset = make(sketches, crops, batch_size=2)  # 8 blocks; a window takes 2
    batches = collect(dataset.train_batches(), 4 * 64)
    marks = tiny_sets.marks(joined(batches).sketches, 2)
    assert len({tuple(m) for m in marks.tolist()}) == 450  # an epoch is 4 windows
    shown = tiny_sets.marks(joined(batches).positives, 2)[:, 1]
    assert shown.max() >= 85 and shown.min() <= 5  # both blocks of a class
    equal(collect(dataset.train_batches(130), 3), batches[130:133])


def test_evaluation_is_canonical_and_independent_of_batch_size_and_limit(sets):
    whole = joined(collect(make(sets.quickdraw, sets.crops, 50).eval_batches("valid")))
    assert len(whole.classes) == 50
    marks = tiny_sets.marks(whole.sketches, 3)
    assert marks[:, 0].tolist() == np.repeat(range(5), 10).tolist()  # file order
    assert (marks[:, 2] == 1).all()  # of the valid split
    sevens = collect(make(sets.quickdraw, sets.crops, 7).eval_batches("valid"))
    assert [len(b.classes) for b in sevens] == [7] * 7 + [1]
    equal([joined(sevens)], [whole])
    few = joined(collect(make(sets.quickdraw, sets.crops, 7).eval_batches("valid", limit=10)))
    assert sorted(set(few.classes.tolist())) == list(range(5))  # spread over the split
    places = [marks.tolist().index(m) for m in tiny_sets.marks(few.sketches, 3).tolist()]
    assert len(places) == 10
    np.testing.assert_array_equal(few.negatives, whole.negatives[places])
    np.testing.assert_array_equal(few.positives, whole.positives[places])


def test_missing_classes_are_reported_once_and_sampled_around(tmp_path, sets, caplog):
    crops = tiny_sets.write_crops(tmp_path / "c", absent={"train": ("dog", "bus")})
    with caplog.at_level(logging.WARNING):
        dataset = make(sets.quickdraw, crops, batch_size=50)
        batch = joined(collect(dataset.train_batches(), 3))
        collect(dataset.train_batches(), 1)
    names = {dataset.vocabulary.names[k] for k in (*batch.classes, *batch.negative_classes)}
    assert names == {"person", "cat", "traffic light"}
    mentions = [m for m in caplog.messages if "bus, dog" in m]
    assert len(mentions) == 1 and "train split" in mentions[0]


def test_unknown_sketch_classes_are_reported_and_ignored(tmp_path, sets, caplog):
    classes = {"cat": ("cat",), "moon": ("moon",), "dog": ("dog",)}
    sketches = tiny_sets.write_sketches(tmp_path / "q", indexed=False, classes=classes)
    with caplog.at_level(logging.WARNING):
        dataset = make(sketches, sets.crops, batch_size=30)
        batch = joined(collect(dataset.train_batches(), 2))
    assert {dataset.vocabulary.names[k] for k in batch.classes} == {"cat", "dog"}
    assert any("moon" in m for m in caplog.messages)


def test_other_image_sizes_are_resized(sets):
    batch = next(iter(make(sets.quickdraw, sets.crops, image_size=48).train_batches()))
    assert batch.sketches.shape == (8, 48, 48, 1) and batch.positives.shape == (8, 48, 48, 3)


def test_folders_that_do_not_fit(tmp_path, sets):
    (tmp_path / "empty").mkdir()
    strangers = tiny_sets.write_sketches(
        tmp_path / "q", indexed=False, classes={"moon": ("moon",), "sun": ("sun",)}
    )
    one_class = tiny_sets.write_crops(
        tmp_path / "c", absent={"train": tuple(n for n in tiny_sets.THINGS if n != "cat")}
    )
    with pytest.raises(UserError, match="nowhere"):
        make(str(tmp_path / "nowhere"), sets.crops)
    with pytest.raises(UserError, match=r"meta\.json"):
        make(str(tmp_path / "empty"), sets.crops)
    with pytest.raises(UserError, match="coco-crops"):
        make(sets.quickdraw, sets.quickdraw)
    with pytest.raises(UserError, match="no class in common"):
        make(strangers, sets.crops)
    with pytest.raises(UserError, match="at least two"):
        make(sets.quickdraw, one_class).train_batches()


def test_wrong_use(sets):
    with pytest.raises(UsageError, match="dev"):
        make(sets.quickdraw, sets.crops).eval_batches("dev")
    with pytest.raises(UsageError, match="limit"):
        make(sets.quickdraw, sets.crops).eval_batches("valid", 0)
    with pytest.raises(UsageError, match="batch_size"):
        make(sets.quickdraw, sets.crops, batch_size=0)


def test_throughput_without_folders_is_one_sentence(capsys, tmp_path):
    assert throughput.main("quickdraw-cococrops-tf", "triplets", []) == 2
    message = capsys.readouterr().err.strip()
    assert "qdraw_dir" in message and "--data-hparams" in message and "\n" not in message
    argv = ["--data-hparams", f"qdraw_dir={tmp_path / 'no'},crops_dir={tmp_path}"]
    assert throughput.main("quickdraw-cococrops-tf", "triplets", argv) == 1
    for wrong in ("--batch-size=0", "--image-size=0", "--seed=-1", "--seconds=nan", "--sconds=1"):
        assert throughput.main("quickdraw-cococrops-tf", "triplets", [*argv, wrong]) == 2
