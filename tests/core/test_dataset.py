"""Vocabulary and query protocols."""

import pytest

from core.errors import UsageError
from core.evaluation.query_protocols import QueryProtocol, main_protocol, standard_protocols


def test_protocol_reads_as_its_row_of_a_table():
    assert str(QueryProtocol()) == "boxes=shared sketches=real"
    assert str(QueryProtocol("jittered", "blank")) == "boxes=jittered sketches=blank jitter=0.2"
    drawn = QueryProtocol("own", "shuffled", dropped=0.3, directions="random")
    assert str(drawn) == "boxes=own sketches=shuffled dropped=0.3 directions=random"
    assert drawn.control == QueryProtocol("own", "blank", dropped=0.3, directions="random")
    assert len({QueryProtocol(), QueryProtocol(), QueryProtocol("jittered")}) == 2  # hashable


def test_own_boxes_are_shown_where_a_set_has_them():
    both = [f"{boxes} {kind}" for boxes in ("shared", "jittered", "own")
            for kind in ("real", "blank", "shuffled")]  # fmt: skip
    assert [f"{p.boxes} {p.sketches}" for p in standard_protocols(own_boxes=True)] == both
    assert standard_protocols(own_boxes=False) == standard_protocols(own_boxes=True)[:6]
    assert main_protocol(own_boxes=False) == QueryProtocol("jittered", "real")
    assert main_protocol(own_boxes=True) == QueryProtocol("own", "real")


@pytest.mark.parametrize(
    ("bad", "piece"),
    [
        ({"boxes": "mine"}, "query boxes are shared, jittered, own or whole-drawing, not 'mine'"),
        ({"sketches": "none"}, "query sketches are real, blank or shuffled"),
        ({"directions": "up"}, "query directions are canonical or random"),
        ({"jitter": 1.0}, "jitter is a share"),
        ({"dropped": float("nan")}, "dropped is a share"),
    ],
)
def test_protocol_refuses_what_it_does_not_know(bad, piece):
    with pytest.raises(UsageError, match=piece):
        QueryProtocol(**bad)
