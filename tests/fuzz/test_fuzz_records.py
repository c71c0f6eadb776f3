"""Prepared sets that were changed: framing, block index, meta.json. What is read lies within its
bounds, or is refused by an error of one sentence."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.dataset import Vocabulary
from dataloaders import prepared_sets, samples
from tests.dataloaders import tiny_sets
from tests.fuzz.hostile import each_replaced, mutated, refused_or


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return tiny_sets.write_all(tmp_path_factory.mktemp("sets"), scenes=2)


def framed(*lengths):
    return b"".join(struct.pack("<QI", n, 0) + b"x" * min(n, 40) + b"\0" * 4 for n in lengths)


@given(data=mutated(framed(3, 0, 40)) | st.lists(st.sampled_from(
    [0, 1, 40, 2**31, 2**63, 2**64 - 1, 2**64 - 16, 2**64 - 17]), max_size=4
).map(lambda lengths: framed(*lengths)))  # fmt: skip
def test_framing(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "shard"
    path.write_bytes(data)
    offsets = refused_or(lambda: list(prepared_sets.record_offsets(path)), size=len(data))
    assert offsets is None or (
        offsets == sorted(set(offsets)) and all(0 <= offset < len(data) for offset in offsets)
    )


@given(data=st.data())
def test_damaged_indexes(sets, data):
    """A damaged index is refused, or holds what it held."""
    path = tiny_sets.Path(sets.crops) / "valid.index.npz"
    whole, expected = path.read_bytes(), prepared_sets.read_index(sets.crops, "valid")
    try:
        path.write_bytes(data.draw(mutated(whole)))
        read = refused_or(prepared_sets.read_index, sets.crops, "valid", size=len(whole))
    finally:
        path.write_bytes(whole)
    for column, same in zip(read or (), expected):
        np.testing.assert_array_equal(column, same)


@pytest.mark.parametrize("place", ["scenes", "crops", "indexed", "quickdraw"])
def test_every_value_of_a_meta_replaced_by_each_odd_one(sets, tmp_path, place):
    """Loaders can make of it what they make of a meta.json, or there is a sentence."""
    content = json.loads((tiny_sets.Path(getattr(sets, place)) / "meta.json").read_text())
    kind = content["kind"]
    whole = prepared_sets.read_meta(getattr(sets, place), kind)
    vocabulary = Vocabulary(tiny_sets.VOCABULARY)
    for changed in each_replaced(content):
        (tmp_path / "meta.json").write_text(json.dumps(changed))
        meta = refused_or(prepared_sets.read_meta, tmp_path, kind)
        if meta is None:
            continue
        refused_or(prepared_sets.check_same_vocabulary, {"a": meta, "b": whole})
        if kind.startswith("quickdraw"):
            assert samples.sketch_classes(meta, getattr(sets, place), vocabulary).dtype == np.int32
