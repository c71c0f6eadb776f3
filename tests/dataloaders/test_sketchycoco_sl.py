"""Pairs in the published layout of SketchyCOCO-SL, against files read again by simple means."""

import csv
import itertools
import logging
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import EmptySplitError, UserError
from core.evaluation.query_protocols import DrawnScenes, QueryProtocol
from core.registry import LOADERS
from dataloaders import images, sl_pairs
from dataloaders.batches import SceneBatch
from dataloaders.sl_pairs import PictureObjects
from tests.dataloaders import tiny_sets
from tests.dataloaders.scene_checks import by_scene, check_graph, collect, equal, equal_scenes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def crops(sets):
    return sets.crops


@pytest.fixture
def spoiled(pairs, tmp_path):
    """A copy of the test part that a test may damage."""
    shutil.copytree(Path(pairs) / "test", tmp_path / "sl" / "test")
    return tmp_path / "sl"


def make(sl_dir, crops, batch_size=4, seed=0, image_size=96, **hparams):
    loader = LOADERS["sketchycoco-sl"]
    base = types.SimpleNamespace(batch_size=batch_size)
    return loader(loader.HParams(str(sl_dir), crops, **hparams), base, image_size, seed)


@pytest.fixture(scope="module")
def trained(sets, pairs):
    """Nine batches of training."""
    return collect(make(pairs, sets.crops).train_batches(), 9)


@pytest.fixture(scope="module")
def evaluated(sets, pairs):
    """All batches of evaluation."""
    return collect(make(pairs, sets.crops).eval_batches("test"))


def tables(sl_dir, split, side):
    """Image id -> (class names, boxes in shares of the picture), file by file."""
    names = {number: name for name, number in tiny_sets.SL_NUMBERS.items()}
    found = {}
    for path in (Path(sl_dir) / split / side / "Image").iterdir():
        with Image.open(path) as picture:
            width, height = picture.size
        table = path.parents[1] / "GraphFeatures" / f"{int(path.stem)}.csv"
        rows = list(csv.DictReader(table.read_text().splitlines()))
        boxes = [
            [float(r["bboxleft"]) / width, float(r["bboxtop"]) / height,
             float(r["bboxright"]) / width, float(r["bboxbottom"]) / height] for r in rows
        ]  # fmt: skip
        found[int(path.stem)] = [names[int(r["className"])] for r in rows], np.array(boxes)
    return found


def cut(sl_dir, split, image_id, box):
    """A sketch cut out of its drawing; all else is white."""
    path = Path(sl_dir) / split / "sketch" / "Image" / f"{image_id:012d}.png"
    page = np.asarray(Image.open(path).convert("L"))
    x0, y0, x1, y1 = (round(float(v)) for v in box * (page.shape[::-1] * 2))
    alone = np.full_like(page, 255)
    alone[y0:y1, x0:x1] = page[y0:y1, x0:x1]
    return images.normalise_drawing(alone, 96)


def least(photo, query):
    """The total distance of the best one-to-one match of a class, by trying all of them."""
    few, many = sorted((photo, query), key=len)
    return min(
        sum(np.hypot(*(a - b)) for a, b in zip(few, chosen))
        for chosen in itertools.permutations(many, len(few))
    )


def test_evaluation_batches_are_what_the_files_say(pairs, crops, evaluated):
    dataset = make(pairs, crops)
    assert (dataset.own_boxes, dataset.has_masks, dataset.sizes.mask) == (True, False, 64)
    names = dataset.vocabulary.names
    assert names == tiny_sets.VOCABULARY
    photos, drawings = (tables(pairs, "test", side) for side in ("image", "sketch"))
    assert [len(b.image_ids) for b in evaluated] == [4, 4, 1]
    assert [i for b in evaluated for i in b.image_ids] == sorted(photos)
    seen = 0
    for batch in evaluated:
        assert isinstance(batch, SceneBatch) and batch.masks is None and batch.stuff is None
        for graph in (batch.photo, batch.query):
            check_graph(graph, len(batch.image_ids), canonical=True)
        assert (batch.negative_classes != batch.photo.classes).all()
        for n, image_id in enumerate(batch.image_ids):
            centres = {}
            for graph, truth in ((batch.photo, photos), (batch.query, drawings)):
                classes, boxes = truth[image_id]
                mine = graph.obj_to_img == n
                assert [names[k] for k in graph.classes[mine]] == classes
                np.testing.assert_allclose(graph.boxes[mine], boxes, atol=1e-6)
                centres[graph is batch.query] = (boxes[:, :2] + boxes[:, 2:]) / 2
            mine = np.flatnonzero(batch.query.obj_to_img == n)
            for sketch, box in zip(batch.sketches[mine], drawings[image_id][1]):
                alone = cut(pairs, "test", image_id, box).astype(int)
                assert abs(sketch[..., 0] - alone).max() <= 9  # 16 greys, and both were rounded
            # Partners: of the same class and scene, one to one, as near as can be in sum.
            first = int(np.argmax(batch.photo.obj_to_img == n))
            partners = batch.query_to_photo[mine]
            there = partners >= 0
            assert len(set(partners[there])) == there.sum()
            assert (batch.photo.obj_to_img[partners[there]] == n).all()
            assert (batch.photo.classes[partners] == batch.query.classes[mine])[there].all()
            for name in set(drawings[image_id][0]):
                theirs, ours = (
                    np.array([name == c for c in truth[image_id][0]])
                    for truth in (photos, drawings)
                )
                assert (there & ours).sum() == min(theirs.sum(), ours.sum())
                gaps = centres[True][there & ours] - centres[False][partners[there & ours] - first]
                best = least(centres[False][theirs], centres[True][ours])
                assert np.hypot(*gaps.T).sum() == pytest.approx(best, abs=1e-6)
            seen += len(mine)
    assert seen == sum(len(classes) for classes, _ in drawings.values())
    assert any((b.query_to_photo < 0).any() for b in evaluated)  # the set tries that too


def test_photographs_are_resized_as_prepared_ones(pairs, evaluated):
    batch = evaluated[0]
    for image, image_id in zip(batch.images, batch.image_ids):
        path = Path(pairs) / "test" / "image" / "Image" / f"{image_id:012d}.jpg"
        with Image.open(path) as picture:
            small = picture.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
        assert abs(image.astype(int) - np.asarray(small)).mean() < 2  # stored as JPEG


def test_evaluation_depends_on_neither_batch_size_nor_limit(pairs, crops, evaluated):
    whole = by_scene(evaluated)
    equal_scenes(whole, by_scene(collect(make(pairs, crops, 3).eval_batches("test"))))
    some = by_scene(collect(make(pairs, crops).eval_batches("test", limit=3)))
    assert len(some) == 3
    equal_scenes({k: whole[k] for k in some}, some)


def test_training_is_a_function_of_seed_and_step(pairs, crops, trained):
    equal(trained[5:], collect(make(pairs, crops).train_batches(5), 4))
    other = collect(make(pairs, crops, seed=1).train_batches(), 2)
    assert [b.image_ids.tolist() for b in other] != [b.image_ids.tolist() for b in trained[:2]]
    order = np.concatenate([b.image_ids for b in trained])
    for k in range(0, 28, 7):  # every pair once before any comes again
        assert sorted(order[k : k + 7]) == sorted(tables(pairs, "train", "image"))
    for batch in trained:
        assert batch.masks is None
        for graph in (batch.photo, batch.query):
            check_graph(graph, len(batch.image_ids), canonical=False)


def test_queries_in_training(pairs, crops, trained, evaluated):
    plain = trained[:6]
    moved = collect(make(pairs, crops, query_jitter=0.3).train_batches(), 6)
    for a, b in zip(plain, moved):
        assert (a.query.boxes != b.query.boxes).any(axis=1).mean() > 0.9
        equal([a._replace(query=None)], [b._replace(query=None)])
    thin = collect(make(pairs, crops, query_dropped=0.6).train_batches(), 6)
    for a, b in zip(plain, thin):
        check_graph(b.query, len(b.image_ids), canonical=False)
        named = [
            np.concatenate([g.query.obj_to_img[:, None], g.query.boxes], axis=1) for g in (a, b)
        ]
        rows = [np.flatnonzero((named[0] == name).all(axis=1))[0] for name in named[1]]
        np.testing.assert_array_equal(b.sketches, a.sketches[rows])
        np.testing.assert_array_equal(b.query_to_photo, a.query_to_photo[rows])
    assert sum(len(b.sketches) for b in thin) < 0.7 * sum(len(a.sketches) for a in plain)
    # Evaluation looks at the drawings as they are.
    changed = make(pairs, crops, query_jitter=0.3, query_dropped=0.6)
    equal(evaluated, collect(changed.eval_batches("test")))


def test_own_boxes_are_a_protocol(pairs, crops, evaluated):
    dataset = make(pairs, crops)
    batch = evaluated[0]
    drawn = DrawnScenes(
        batch.image_ids,
        batch.query.obj_to_img,
        batch.query.boxes,
        batch.query_to_photo,
        batch.photo.boxes,
    )
    own = dataset.queries(QueryProtocol("own"), drawn)
    np.testing.assert_array_equal(own.boxes, batch.query.boxes)
    shared = dataset.queries(QueryProtocol("shared"), drawn)
    there = batch.query_to_photo >= 0
    expected = batch.photo.boxes[batch.query_to_photo[there]]
    np.testing.assert_array_equal(shared.boxes[there], expected)


# ---- by hand -----------------------------------------------------------------------------------


def test_match_by_hand():
    # Centres on a line of 100 pixels. Query 10 is nearest to photo 12, and so is 13; in sum
    # 10-12 and 13-30 (2 + 17) beat 13-12 and 10-30 (1 + 20). Class 5 is not in the photo.
    def side(classes, centres):
        boxes = [[x - 1, 0, x + 1, 2] for x in centres]
        return PictureObjects(np.array(classes, np.int32), np.array(boxes, float), 100, 100)

    photo = side([3, 3, 4, 4], [30, 12, 11, 50])
    query = side([3, 5, 3, 4], [10, 12, 13, 49])
    assert sl_pairs.match_objects(photo, query).tolist() == [1, -1, 0, 3]


def test_sides_by_hand(tmp_path):
    """A picture of 100 x 50: boxes are cut to it, the 8 largest stay in their order."""
    rows = [(7, [-10, -10, 20, 60]), (7, [90, 40, 200, 200]), (99, [0, 0, 9, 9])]
    rows += [(7, [60, 10, 60.5, 30]), (8, [200, 0, 300, 20]), (8, [30, 20, 20, 30])]
    rows += [(8, [0, 0, 10 + k, 4]) for k in range(8)]
    table = tmp_path / "test" / "image" / "GraphFeatures" / "5.csv"
    tiny_sets.sl_table(table, rows)
    with table.open("a") as file:
        file.write("14,7,1,2,nan,4\n15,seven,1,2,3,4\n16,7,1,2\n\n")
    problems = []
    side = sl_pairs.read_objects(table, 100, 50, {7: 2, 8: 3}, problems)
    assert side.classes.tolist() == [2, 2, 3, 3, 3, 3, 3, 3]  # of class 8, areas 48 to 68
    assert side.boxes[:3].tolist() == [[0, 0, 20, 50], [90, 40, 100, 50], [0, 0, 12, 4]]
    np.testing.assert_allclose(side.relative_boxes[1], [0.9, 0.8, 1, 1])
    assert sl_pairs.summary(problems) == (
        "1 x object of class 99, which the crops do not know (test/image/GraphFeatures/5.csv); "
        "3 x object with a box that is empty or outside the picture "
        "(test/image/GraphFeatures/5.csv); 3 x row that is no object "
        "(test/image/GraphFeatures/5.csv); 2 x object beyond the 8 largest of its picture "
        "(test/image/GraphFeatures/5.csv)"
    )


# ---- bad input ---------------------------------------------------------------------------------


def test_what_cannot_be_used_is_left_out_and_told_once(spoiled, crops, caplog):
    image, sketch = spoiled / "test" / "image", spoiled / "test" / "sketch"
    names = sorted(path.stem for path in (image / "Image").iterdir())
    truncated = image / "Image" / f"{names[0]}.jpg"
    truncated.write_bytes(truncated.read_bytes()[:-300])
    (sketch / "Image" / f"{names[1]}.png").write_bytes(b"")
    (sketch / "Image" / f"{names[2]}.png").unlink()
    (image / "GraphFeatures" / f"{int(names[3])}.csv").unlink()
    (sketch / "GraphFeatures" / f"{int(names[4])}.csv").write_text("id,class\n0,7\n")
    (sketch / "GraphFeatures" / f"{int(names[5])}.csv").write_bytes(b"")
    tiny_sets.sl_table(sketch / "GraphFeatures" / f"{int(names[6])}.csv", [(7, [0, 0, 1, 1])])
    (image / "Image" / "notes.txt").write_text("mine")
    (image / "Image" / ".hidden").write_text("")
    with Image.open(sketch / "Image" / f"{names[7]}.png") as drawing:
        drawing.resize((images.MAX_SIDE + 1, 8)).save(sketch / "Image" / f"{names[7]}.png")
    dataset = make(spoiled, crops)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            batches = collect(dataset.eval_batches("test"))
    assert [b.image_ids.tolist() for b in batches] == [[int(names[8])]]
    told = [r.getMessage() for r in caplog.records if "pairs are used" in r.getMessage()]
    assert len(told) == 1 and f"{spoiled / 'test'}: 1 pairs are used" in told[0]
    for reason in (
        f"1 x photograph broken (test/{int(names[0])})",
        f"1 x sketch broken (test/{int(names[1])})",
        f"1 x photograph without a drawing (test/{int(names[2])})",
        f"1 x features file missing (test/{int(names[3])})",
        "1 x features file with columns other than id,className,bboxleft",
        f"1 x features file cannot be read (test/{int(names[5])})",
        f"1 x sketch shows nothing (test/sketch/{names[6]}.png)",
        f"1 x pair without objects on both sides (test/{int(names[6])})",
        f"1 x sketch of more than 2048 pixels a side (test/{int(names[7])})",
        "has the number of another (test/image/Image/notes.txt)",
    ):
        assert reason in told[0], reason
    assert ".hidden" not in told[0]


def test_tables_with_leading_zeros(evaluated, spoiled, crops):
    for side in ("image", "sketch"):
        for table in list((spoiled / "test" / side / "GraphFeatures").iterdir()):
            table.rename(table.with_name(f"{int(table.stem):012d}.csv"))
    equal(evaluated, collect(make(spoiled, crops).eval_batches("test")))


def test_nothing_left(spoiled, crops):
    for path in (spoiled / "test" / "image" / "Image").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no pair of .* can be used: 9 x photograph broken"):
        make(spoiled, crops).eval_batches("test")
    shutil.rmtree(spoiled / "test" / "image")
    with pytest.raises(UserError, match="9 x drawing without a photograph"):
        make(spoiled, crops).eval_batches("test")


def test_splits_that_are_not_there(spoiled, crops):
    dataset = make(spoiled, crops)
    with pytest.raises(EmptySplitError, match=r"valid is not there.*NAME-test"):
        dataset.eval_batches("valid")
    with pytest.raises(UserError, match=f"{spoiled}/train is not there: training needs pairs"):
        dataset.train_batches()


def test_folders_that_do_not_fit(pairs, crops, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} holds neither test/ nor train/"):
        make(tmp_path, crops)
    with pytest.raises(UserError, match="not a prepared coco-crops set"):
        make(pairs, pairs)
    alone = tiny_sets.write_crops(
        tmp_path, absent=dict.fromkeys(("train", "valid", "test"), tiny_sets.THINGS[1:])
    )
    with pytest.raises(UserError, match="crops of one class only"):
        make(pairs, alone).eval_batches("test")


# ---- the command, real pairs -------------------------------------------------------------------


def test_real_pairs(real_data, tmp_path, caplog):
    """40 published pairs: all are used, sketches are line drawings that fill their canvas, and no
    query has the photograph's boxes."""
    things = {"bicycle", "dog", "horse", "sheep", "cow", "elephant", "zebra", "giraffe"}
    vocabulary = (*sorted(things), "__image__")
    tiny = tiny_sets.write_crops(tmp_path, vocabulary=vocabulary, things=tuple(sorted(things)))
    dataset = make(real_data / "sketchycoco-sl", tiny, batch_size=16)
    with caplog.at_level(logging.WARNING):
        batches = collect(dataset.eval_batches("test"))
    assert sum(len(b.image_ids) for b in batches) == 40
    assert sum(len(b.sketches) for b in batches) == 99
    told = [r.getMessage() for r in caplog.records if "pairs are used" in r.getMessage()]
    assert len(told) == 1 and "left out: 12 x object beyond the 8 largest" in told[0]
    for batch in batches:
        for sketch in batch.sketches[..., 0]:
            rows, columns = (np.flatnonzero((sketch < 200).any(axis)) for axis in (1, 0))
            assert max(np.ptp(rows), np.ptp(columns)) > 84
            assert sketch.min() == 0 and 0.04 < (sketch < 255).mean() < 0.8
        shared = batch.photo.boxes[np.maximum(batch.query_to_photo, 0)]
        assert (batch.query.boxes != shared).any(axis=1).all()
        # Who depicts whom: centres nearly coincide in the published pairs.
        assert (batch.query_to_photo >= 0).all()
        gaps = (batch.query.boxes - shared)[:, :2] + (batch.query.boxes - shared)[:, 2:]
        assert np.median(abs(gaps) / 2) < 0.01
