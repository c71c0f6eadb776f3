"""Objects that queries show under a protocol, with scenes whose objects can be told apart."""

import dataclasses

import numpy as np
import pytest

from core.evaluation.query_protocols import QueryProtocol, standard_protocols
from dataloaders import queries

BLANK = queries.BLANK
SIZES = [1, 3, 2, 8, 1, 2, 4, 1, 5, 2]


def drawn(sizes=SIZES, ids=None):
    """Every third drawn object is not in the photograph, the others are there in reverse order."""
    rng = np.random.default_rng(0)
    obj_to_img = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    count = len(obj_to_img)
    own, photo = (np.sort(rng.random((count, 2, 2)), 1).reshape(-1, 4) for _ in "ab")
    to_photo = np.where(np.arange(count) % 3 == 2, -1, np.arange(count)[::-1])
    ids = 100 + np.arange(len(sizes)) if ids is None else ids
    return queries.DrawnScenes(
        np.array(ids), obj_to_img, own.astype(np.float32), to_photo, photo.astype(np.float32)
    )


def under(*values, sizes=SIZES, seed=0, **named):
    return queries.apply_protocol(QueryProtocol(*values, **named), drawn(sizes), seed)


def test_boxes_of_the_photograph_and_of_the_drawing():
    scenes = drawn()
    own, shared = under("own").boxes, under("shared").boxes
    np.testing.assert_array_equal(own, scenes.boxes)
    for row, photo in enumerate(scenes.query_to_photo):
        expected = scenes.photo_boxes[photo] if photo >= 0 else scenes.boxes[row]
        np.testing.assert_array_equal(shared[row], expected)


def test_jitter_moves_and_scales_each_box_by_a_share_of_itself():
    shared, jittered = under("shared").boxes, under("jittered", jitter=0.2).boxes
    size = np.tile(shared[:, 2:] - shared[:, :2], 2)
    assert (abs(jittered - shared) <= 0.3 * size + 1e-6).all()
    assert (abs(jittered - shared).max(1) > 0).all()
    assert (jittered >= 0).all() and (jittered <= 1).all()
    wider = under("jittered", jitter=0.5).boxes
    assert abs(wider - shared).mean() > abs(jittered - shared).mean()
    np.testing.assert_allclose(under("jittered", jitter=0.0).boxes, shared, atol=1e-6)


@pytest.mark.parametrize("sketches", ["real", "blank", "shuffled"])
@pytest.mark.parametrize("dropped", [0.0, 0.4])
def test_protocols_differ_in_what_they_name_alone(sketches, dropped):
    plain = under("jittered", "real", dropped=dropped)
    other = under("jittered", sketches, dropped=dropped)
    np.testing.assert_array_equal(other.rows, plain.rows)
    np.testing.assert_array_equal(other.boxes, plain.boxes)
    if not dropped:
        return
    everything = under("jittered", sketches)
    np.testing.assert_array_equal(other.boxes, everything.boxes[other.rows])
    np.testing.assert_array_equal(other.sketches, everything.sketches[other.rows])


def test_sketches():
    rows = np.arange(sum(SIZES))
    assert under().sketches.tolist() == rows.tolist()
    assert set(under(sketches="blank").sketches.tolist()) == {BLANK}
    scene = drawn().obj_to_img
    sketches = under(sketches="shuffled").sketches
    donors = [set(scene[sketches[scene == n]].tolist()) for n in range(len(SIZES))]
    assert all(len(donor) == 1 for donor in donors)  # each from a single scene
    assert sorted(donor.pop() for donor in donors) == list(range(len(SIZES)))  # each gives once
    assert (scene[sketches] != scene).all()  # never its own
    for n in range(len(SIZES)):  # in their order, from the first again
        mine = sketches[scene == n]
        first, count = mine[0], SIZES[scene[mine[0]]]
        assert first == np.flatnonzero(scene == scene[first])[0]
        assert mine.tolist() == [first + i % count for i in range(SIZES[n])]
    other = under(sketches="shuffled", seed=1).sketches
    assert other.tolist() != sketches.tolist()
    assert under(sketches="shuffled", sizes=[3]).sketches.tolist() == [0, 1, 2]  # no other scene


def test_dropped_objects():
    sizes = [4] * 300
    scene = np.repeat(np.arange(300), sizes)
    for share in (0.1, 0.5, 0.9):
        rows = under(dropped=share, sizes=sizes).rows
        assert (np.diff(rows) > 0).all()
        left = np.bincount(scene[rows], minlength=300)
        assert left.min() >= 1
        # Of four objects 4 (1 - p) stay, and one when all four would go.
        expected = 4 * (1 - share) + share**4
        assert abs(left.mean() - expected) < 4 * np.sqrt(4 * share * (1 - share) / 300)
    few, many = (set(under(dropped=p, sizes=sizes).rows.tolist()) for p in (0.7, 0.3))
    assert few < many  # who goes first does not depend on how many go


def test_draws_depend_on_the_photograph_and_not_on_the_other_scenes():
    """So neither on the batch nor on a limit."""
    whole = drawn()
    protocol = QueryProtocol("jittered", dropped=0.3)
    everything = queries.apply_protocol(protocol, whole, seed=5)
    for scene in (1, 3, 8):
        mine = np.flatnonzero(whole.obj_to_img == scene)
        alone = queries.DrawnScenes(
            whole.image_ids[[scene]], whole.obj_to_img[mine] * 0, whole.boxes[mine],
            whole.query_to_photo[mine], whole.photo_boxes,
        )  # fmt: skip
        shown = queries.apply_protocol(protocol, alone, seed=5)
        of_scene = np.isin(everything.rows, mine)
        assert (shown.rows + mine[0]).tolist() == everything.rows[of_scene].tolist()
        np.testing.assert_array_equal(shown.boxes, everything.boxes[of_scene])
    assert (queries.apply_protocol(protocol, whole, 6).boxes.shape != everything.boxes.shape) or (
        queries.apply_protocol(protocol, whole, 6).boxes != everything.boxes
    ).any()


def test_every_protocol_of_a_table_can_be_carried_out():
    for protocol in standard_protocols(own_boxes=True):
        shown = queries.apply_protocol(protocol, drawn(), 0)
        assert len(shown.rows) == len(shown.sketches) == len(shown.boxes) == sum(SIZES)
        assert shown.boxes.dtype == np.float32
        control = queries.apply_protocol(
            dataclasses.replace(protocol, sketches="blank"), drawn(), 0
        )
        np.testing.assert_array_equal(control.boxes, shown.boxes)
