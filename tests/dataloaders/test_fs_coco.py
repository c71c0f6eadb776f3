"""Pairs in the published layout of FS-COCO, against files read again by simple means."""

import logging
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import EmptySplitError, UsageError, UserError
from core.evaluation.query_protocols import DrawnScenes, QueryProtocol
from core.registry import LOADERS
from dataloaders.batches import SceneBatch
from dataloaders.blocks import reading_errors_explained
from tests.dataloaders import tiny_sets
from tests.dataloaders.scene_checks import collect, equal

IDS = list(range(101, 141, 2))  # five of each of four users


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return tiny_sets.write_fs_coco(tmp_path_factory.mktemp("fs"))


@pytest.fixture()
def spoiled(published, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(published, tmp_path / "fs"))


def make(folder, batch_size=4, seed=0, **hparams):
    loader = LOADERS["fs-coco"]
    base = types.SimpleNamespace(batch_size=batch_size)
    return loader(loader.HParams(str(folder), **hparams), base, 32, seed)


def ids_of(batches):
    return [i for batch in batches for i in batch.image_ids.tolist()]


def test_pairs_are_those_of_the_files(published):
    dataset = make(published)
    assert not dataset.has_objects and not dataset.has_masks
    batches = collect(dataset.eval_batches("train"))
    assert ids_of(batches) == [i for i in IDS if i not in IDS[::3]]  # not a multiple of 4
    for batch in batches:
        assert isinstance(batch, SceneBatch)
        assert {f for f in batch._fields if getattr(batch, f) is not None} == {
            "image_ids", "images", "drawings"
        }  # fmt: skip
        for image_id, *pictures in zip(batch.image_ids, batch.images, batch.drawings):
            for kind, mode, picture in zip(("images", "raster_sketches"), ("RGB", "L"), pictures):
                (path,) = Path(published).glob(f"{kind}/*/{image_id:012d}.jpg")
                with Image.open(path) as file:
                    small = file.convert(mode).resize((256, 256), Image.Resampling.BILINEAR)
                expected = np.asarray(small).reshape(256, 256, -1)
                assert picture.dtype == np.uint8 and picture.shape == expected.shape
                assert abs(picture.astype(int) - expected).mean() < 2  # decoders differ


def test_both_partitions(published):
    normal, unseen = make(published), make(published, unseen_users=True)
    assert ids_of(collect(normal.eval_batches("valid"))) == IDS[::3]
    assert ids_of(collect(unseen.eval_batches("valid"))) == IDS[-5:]  # of the last user
    assert ids_of(collect(unseen.eval_batches("train"))) == IDS[:-5]
    with pytest.raises(EmptySplitError, match="fs-coco has no split test"):
        normal.eval_batches("test")


def test_training_is_a_function_of_seed_and_step(published):
    straight = collect(make(published).train_batches(), 6)
    equal(straight[4:], collect(make(published).train_batches(4), 2))
    train = [i for i in IDS if i not in IDS[::3]]
    assert sorted(ids_of(straight)[:13]) == train  # each once before any comes again
    other = collect(make(published, seed=1).train_batches(), 1)
    assert ids_of(other) != ids_of(straight[:1])
    some = ids_of(collect(make(published).eval_batches("valid", limit=3)))
    assert len(some) == 3 and set(some) < set(IDS[::3])


def test_queries_are_whole_pages(published):
    page = np.float32([[0, 0, 1, 1]] * 4)
    drawn = DrawnScenes(np.arange(4), np.arange(4), page, np.full(4, -1), page)
    shown = {
        kind: make(published).queries(QueryProtocol("whole-drawing", kind), drawn)
        for kind in ("real", "blank", "shuffled")
    }
    for queries in shown.values():
        np.testing.assert_array_equal(queries.boxes, page)
        assert queries.rows.tolist() == [0, 1, 2, 3]
    assert shown["real"].sketches.tolist() == [0, 1, 2, 3]
    assert shown["blank"].sketches.tolist() == [-1] * 4
    others = shown["shuffled"].sketches
    assert sorted(others) == [0, 1, 2, 3] and (others != np.arange(4)).all()
    with pytest.raises(UsageError, match="cannot have jittered boxes: boxes=whole-drawing"):
        make(published).queries(QueryProtocol("jittered"), drawn)


# ---- bad input ---------------------------------------------------------------------------------


def path_of(folder, kind, image_id):
    return next(folder.glob(f"{kind}/*/{image_id:012d}.jpg"))


def test_what_cannot_be_used_is_left_out_and_told_once(spoiled, caplog):
    path_of(spoiled, "raster_sketches", 101).unlink()
    path_of(spoiled, "images", 107).unlink()
    cut = path_of(spoiled, "images", 113)
    cut.write_bytes(cut.read_bytes()[:-200])
    path_of(spoiled, "raster_sketches", 119).write_bytes(b"")
    for kind in ("images", "raster_sketches"):
        shutil.copy(path_of(spoiled, kind, 125), spoiled / kind / "2" / "125.jpg")
    (spoiled / "images" / "2" / "notes.txt").touch()
    with (spoiled / "val_normal.txt").open("a") as file:
        file.write("\n131\n999\n")
    dataset = make(spoiled)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert ids_of(collect(dataset.eval_batches("valid"))) == [125, 131, 137]
    (told,) = [r.getMessage() for r in caplog.records if "pairs are used" in r.getMessage()]
    assert told.startswith(f"{spoiled}, valid: 3 pairs are used; left out: ")
    for reason in (
        "1 x photograph without a drawing (101)",
        "1 x drawing without a photograph (107)",
        "1 x photograph that is no whole JPEG (113)",
        "1 x drawing that is no whole JPEG (119)",
        "1 x id listed more than once (131)",
        "1 x listed id without a picture (999)",
        "3 x file that is not <number>.jpg, or has the number of another",
    ):
        assert reason in told


@pytest.mark.parametrize("gone", ["val_normal.txt", "images", "raster_sketches", "."])
def test_folders_that_are_no_such_set(spoiled, gone):
    shutil.rmtree(spoiled / gone) if (spoiled / gone).is_dir() else (spoiled / gone).unlink()
    with pytest.raises(UserError, match=r"does not hold images, .* and val_normal.txt: fs_coco_"):
        make(spoiled)


def test_lists_that_are_none(spoiled):
    (spoiled / "val_normal.txt").write_text("101\nuser 7\n")
    with pytest.raises(UserError, match=r"val_normal.txt has 'user' where each line is the number"):
        make(spoiled)
    (spoiled / "val_normal.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"cannot read .*val_normal.txt"):
        make(spoiled)


def test_nothing_left(spoiled):
    (spoiled / "val_normal.txt").write_text("7\n")
    with pytest.raises(UserError, match=r"no pair .*: 1 x listed id without a picture \(7\)"):
        make(spoiled).eval_batches("valid")


def test_a_picture_that_is_damaged_within_is_named(spoiled):
    broken = path_of(spoiled, "images", 101)
    data = broken.read_bytes()
    broken.write_bytes(data[:2] + bytes(len(data) - 4) + data[-2:])
    dataset = make(spoiled)
    with (
        pytest.raises(UserError, match=f"{broken} is damaged"),
        reading_errors_explained([spoiled]),
    ):
        collect(dataset.eval_batches("valid"))
    broken.unlink()
    with (
        pytest.raises(UserError, match=r"a picture cannot be read: .*101.jpg"),
        reading_errors_explained([spoiled]),
    ):
        collect(dataset.eval_batches("valid"))
