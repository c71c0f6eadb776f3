"""Vocabulary and query protocols."""

import pytest

from core.dataset import QueryProtocol, Vocabulary
from core.errors import UsageError


def test_vocabulary_counts_its_names():
    assert Vocabulary(("cat", "dog", "__image__"), objects=(0, 1)).num_classes == 3


def test_protocol_reads_as_its_row_of_a_table():
    assert str(QueryProtocol()) == "boxes=shared sketches=real"
    assert str(QueryProtocol("jittered", "blank")) == "boxes=jittered sketches=blank"
    assert len({QueryProtocol(), QueryProtocol(), QueryProtocol("jittered")}) == 2  # hashable


@pytest.mark.parametrize("bad", [{"boxes": "own"}, {"sketches": "none"}, {"jitter": 1.0}])
def test_protocol_refuses_what_it_does_not_know(bad):
    with pytest.raises(UsageError):
        QueryProtocol(**bad)
