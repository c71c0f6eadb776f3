"""Comma strings and config.json: any text gives values or one sentence, in a time that is bounded
by its length."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core import hparams
from core.errors import HParamError, UserError
from core.hparams import BaseHParams, hp
from core.run_folder import RunConfig
from tests.fuzz.hostile import mutated_json, refused_or


@dataclasses.dataclass(frozen=True)
class Every:
    """One field of each type."""

    count: int = hp(3, low=0)
    rate: float = hp(0.5, low=-1e9, high=1e9)
    on: bool = hp(False)
    name: str = hp("a b")
    layers: tuple[int, ...] = hp((1, 2), low=-5)
    rates: tuple[float, ...] = hp(())
    names: tuple[str, ...] = hp(("x",), choices=("x", "y", "a b"))
    limit: int | None = hp(None)
    word: str | None = hp(None)
    place: str = hp("", folder=True)


NAMES = [field.name for field in dataclasses.fields(Every)]
PIECES = st.one_of(
    st.sampled_from([*NAMES, "batch_size", "queue_size"]),
    st.sampled_from(["=", ",", "'", '"', "[", "]", " ", "none", "True", "1e5", "nan", "-inf", "٣",
                     "1_0", "\ud800", "\0", "9" * 5000, "x" * 200, "\u2028", "0x1", "one"]),
    st.text(max_size=6),
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=24).map("".join) | st.lists(
    st.tuples(st.sampled_from(NAMES), PIECES).map("=".join), max_size=5
).map(",".join)


@given(TEXTS)
@example("count=" + "9" * 5000)
@example("rate=1" + "0" * 400)
def test_any_text_is_values_or_a_sentence(text):
    try:
        read = hparams.parse(text, Every)
    except HParamError as error:
        assert str(error)
    else:
        assert isinstance(read, Every) and type(read.count) is int and read.count >= 0
        assert -1e9 <= read.rate <= 1e9
    try:
        routed = hparams.route(text, {"a": Every, "b": BaseHParams})
    except HParamError:
        pass
    else:
        assert set(routed) == {"a", "b"}


# A comma string has no word with both quotes, an argument no zero byte.
WORDS = st.text().filter(lambda text: not {"'", '"'} <= set(text) and "\0" not in text)
VALUES = st.builds(
    Every,
    count=st.integers(0, 10**30),
    rate=st.floats(-1e9, 1e9),
    on=st.booleans(),
    name=WORDS,
    layers=st.lists(st.integers(-5, 10**20), max_size=4).map(tuple),
    rates=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4).map(tuple),
    names=st.lists(st.sampled_from(["x", "y", "a b"]), max_size=4).map(tuple),
    limit=st.none() | st.integers(),
    word=st.none() | WORDS,
    place=st.just("") | st.text("/abc .,=", max_size=9).map(lambda text: str(Path("/") / text)),
)


@given(VALUES)
def test_what_is_written_reads_back_equal(values):
    assert hparams.parse(hparams.to_text(hparams.to_dict(values)), Every) == values
    through_json = json.loads(json.dumps(hparams.to_dict(values)))
    assert hparams.from_dict(Every, through_json, "file") == values


@given(mutated_json(hparams.to_dict(Every())).filter(lambda content: isinstance(content, dict)))
def test_a_saved_group_is_values_or_a_sentence(content):
    try:
        read = hparams.from_dict(Every, content, "file: hparams")
    except UserError as error:
        assert str(error).startswith("file: hparams: ")
    else:
        # What was read can be saved again.
        json.dumps(hparams.to_dict(read), ensure_ascii=False, allow_nan=False).encode()


CONFIG = {
    "schema": 1, "model": "graph-attention", "loader": "coco-tfrecord",
    "hparams": {"base": {"seed": 0}, "model": {"rate": 0.5},
                "data": {"coco-tfrecord": {"coco_dir": "/data"}, "other": {}}},
    "history": [{"step": 0, "loader": "coco-tfrecord", "command": ["train.py", "x"], "time": "now",
                 "versions": {"python": "3.11"}, "git": None, "seed": 0, "data": {},
                 "changes": {"base.seed": [0, 1]}}],
    "contents": {},
}  # fmt: skip


def test_the_config_that_is_changed_is_one(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    config = RunConfig.read(tmp_path / "config.json")
    config.write(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == CONFIG


@given(content=mutated_json(CONFIG))
def test_a_config_that_is_read_can_be_written_again(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "config.json"
    data = json.dumps(content).encode()
    path.write_bytes(data)
    config = refused_or(RunConfig.read, path, size=len(data))
    if config is not None:
        config.write(path)
        assert RunConfig.read(path) == config


LONGEST = 130_000  # Linux takes arguments of up to 128 KiB
LONG = {
    "a clause repeated": "count=1," * 16_000,
    "spaces": "count=1, " * 14_000 + " ",
    "equals": "=" * LONGEST,
    "a list": "count=[" + "1," * 60_000 + "]",
    "an open quote": "name='" + "x" * LONGEST,
    "a near name": "count" * 26_000 + "=1",
}


@pytest.mark.parametrize("what", LONG)
def test_the_longest_argument_is_read_in_a_moment(what):
    began = time.monotonic()
    with pytest.raises(HParamError):
        hparams.parse(LONG[what], Every)
    assert time.monotonic() - began < 2
