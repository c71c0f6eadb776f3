"""core.contents: hashes of files, computed once and noticed when they change."""

import hashlib
import json
import os
import shutil

import pytest

from core import contents
from core.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """A prepared set of two shards."""
    folder = tmp_path / "set"
    (folder / "train").mkdir(parents=True)
    for name in ("meta.json", "train/a", "train/b", "prep.json", "report.json", ".lock"):
        (folder / name).write_text(name)
    return folder


def expected(*names):
    return {name: hashlib.sha256(name.encode()).hexdigest() for name in names}


WHOLE = expected("meta.json", "train/a", "train/b")


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files whose bytes were read."""
    names, sha256 = [], contents.sha256
    monkeypatch.setattr(contents, "sha256", lambda path: names.append(path.name) or sha256(path))
    return names


def test_bytes_are_read_once(folder, hashed):
    assert contents.read(folder) == WHOLE
    assert sorted(hashed) == ["a", "b", "meta.json"]
    assert contents.read(folder) == WHOLE
    folder = folder.rename(folder.with_name("moved"))
    assert contents.read(folder) == WHOLE
    assert len(hashed) == 3
    shutil.copytree(folder, folder.with_name("copy"))
    assert contents.read(folder.with_name("copy")) == WHOLE
    assert len(hashed) == 6


def test_a_change_that_keeps_size_and_time_is_noticed(folder, hashed):
    contents.read(folder)
    path = folder / "train/b"
    before = path.stat()
    path.write_text("train/B")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    hashed.clear()
    found = contents.read(folder)
    assert hashed == ["b"]
    assert found == {**WHOLE, "train/b": hashlib.sha256(b"train/B").hexdigest()}
    assert contents.difference(WHOLE, found) == ("train/b", "has other bytes")


@pytest.mark.parametrize(
    "kept", ["{", "[]", '{"train/a": 3}', '{"train/a": [1, 2, 3]}', '{"train/a": [7, 0, 0, "x"]}']
)
def test_what_is_kept_may_be_anything(folder, kept):
    (folder / contents.KEPT).write_text(kept)
    assert contents.read(folder) == WHOLE
    assert set(json.loads((folder / contents.KEPT).read_text())) == set(WHOLE)


def test_where_nothing_can_be_kept(folder, hashed, caplog):
    caplog.set_level("INFO")
    (folder / contents.KEPT).mkdir()  # root may write to any folder, but not this
    assert contents.read(folder) == contents.read(folder) == WHOLE
    assert len(hashed) == 6
    assert "are computed again next time" in caplog.text


def test_a_published_set_is_not_written_to(folder):
    (folder / "meta.json").unlink()
    before = sorted(folder.rglob("*"))
    assert contents.read(folder) == expected("train/a", "train/b")
    assert sorted(folder.rglob("*")) == before


def test_links_pipes_and_names_that_are_no_text(folder):
    os.mkfifo(folder / "train/pipe")
    (folder / "train/again").symlink_to(folder)  # would go round for ever
    (folder / "train/nothing").symlink_to("nowhere")
    (folder / os.fsdecode(b"\xff")).write_text("x")
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere/c").write_text("valid/c")
    (folder / "valid").symlink_to(folder.parent / "elsewhere")
    assert contents.read(folder) == {**WHOLE, **expected("valid/c")}


def test_not_more_than_is_allowed(folder):
    assert contents.read(folder, at_most=22) is None  # 9 + 7 + 7 bytes
    assert contents.read(folder, at_most=23) == WHOLE
    assert contents.read(folder, at_most=0) == WHOLE  # nothing is left to read


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nothing: No such file"):
        contents.sha256(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"cannot read .*nothing: No such file"):
        contents.read(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ({"a": "1"}, {"a": "1"}, None),
        ({"a": "1", "b": "1"}, {"a": "2", "b": "1"}, ("a", "has other bytes")),
        ({"a": "1", "b": "1"}, {"b": "1"}, ("a", "is not there")),
        ({"b": "1"}, {"a": "1", "b": "1"}, ("a", "is new")),
        ({"a": "1", "b": "1"}, {"b": "2"}, ("b", "has other bytes (and 1 other file differ)")),
    ],
)
def test_differences(before, now, found):
    assert contents.difference(before, now) == found
