"""core.provenance: which program, which commit, which data."""

import hashlib
import os
import subprocess

import pytest

from core import provenance
from core.errors import UserError
from core.files import read_json, write_json


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit of one source file, in place of the program's."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "core").mkdir()
    (tmp_path / "core/a.py").write_text("a = 1\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=n", "-c", "user.email=e@x",
                                                  "commit", "-qm", "first"]):  # fmt: skip
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def test_the_commit_and_whether_files_differ_from_it(checkout, monkeypatch):
    asked = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(asked, cwd=checkout, capture_output=True, check=True, text=True)
    clean = {"commit": commit.stdout.strip(), "dirty": False}
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as within a hook
    assert provenance.git() == clean
    (checkout / "notes.txt").write_text("no part of it")
    assert provenance.git() == clean
    (checkout / "core/a.py").write_text("a = 2\n")
    assert provenance.git() == {**clean, "dirty": True}


def test_no_commit_to_tell(checkout, monkeypatch):
    inside = checkout / "inside"  # of a repository that is not the program's
    inside.mkdir()
    monkeypatch.setattr(provenance, "ROOT", inside)
    assert provenance.git() is None
    subprocess.run(["git", "init", "-q"], cwd=inside, check=True)
    assert provenance.git() is None  # no commit yet
    monkeypatch.setattr(provenance, "ROOT", checkout)
    assert provenance.git() is not None
    monkeypatch.setenv("PATH", "/nowhere")
    assert provenance.git() is None


def test_the_program_is_its_source_files(checkout):
    before = provenance.program()
    (checkout / "core/a.txt").write_text("no source")
    assert provenance.program() == before
    (checkout / "core/b.py").write_text("")
    assert provenance.program() != before
    (checkout / "core/b.py").unlink()
    assert provenance.program() == before


@pytest.fixture
def folder(tmp_path):
    """A prepared set with an index and two shards."""
    folder = tmp_path / "set"
    (folder / "train").mkdir(parents=True)
    for name in ("meta.json", "train.index.npz", "train/a.tfrecord", "train/b.tfrecord"):
        (folder / name).write_text(name)
    return folder


EXPECTED = {
    "meta.json": hashlib.sha256(b"meta.json").hexdigest(),
    "train.index.npz": hashlib.sha256(b"train.index.npz").hexdigest(),
    "train/a.tfrecord": "16 bytes",
    "train/b.tfrecord": "16 bytes",
}


PATTERNS = ("meta.json", "*.index.npz", "*/*.tfrecord")


def test_a_set_is_its_meta_json_its_indices_and_the_sizes_of_its_shards(folder):
    assert provenance.data_files(folder, PATTERNS) == EXPECTED
    assert provenance.data_files(folder, ["**"]) == EXPECTED
    (folder / "@eaDir").mkdir()
    for name in ("prep.json", ".lock", "train/._a.tfrecord", "train/Thumbs.db", "@eaDir/meta.json"):
        (folder / name).write_text("not the set's")
    moved = folder.rename(folder.with_name("moved"))
    assert provenance.data_files(moved, PATTERNS) == EXPECTED
    others = {"prep.json", "train/Thumbs.db", "@eaDir/meta.json"}
    assert provenance.data_files(moved, ["**"]).keys() - EXPECTED.keys() == others
    (moved / "train").rename(folder.with_name("elsewhere"))
    (moved / "train").symlink_to(folder.with_name("elsewhere"))
    assert provenance.data_files(moved, PATTERNS) == EXPECTED


def test_a_name_that_is_no_text_is_the_one_that_config_json_gives_back(folder):
    (folder / os.fsdecode(b"train/\xe9.tfrecord")).write_text("x")
    found = provenance.data_files(folder, PATTERNS)
    assert found == {**EXPECTED, r"train/\udce9.tfrecord": "1 bytes"}
    write_json(folder / "config.json", found)
    assert read_json(folder / "config.json") == found
    assert provenance.digest(found) != provenance.digest(EXPECTED)


def test_a_file_that_cannot_be_read(folder):
    (folder / "train/gone.tfrecord").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"cannot read .*gone.tfrecord: No such file"):
        provenance.data_files(folder, PATTERNS)
    with pytest.raises(UserError, match=r"cannot read .*set: Is a directory"):
        provenance.sha256(folder)


def test_the_digest_is_that_of_sha256sum(folder):
    files = {name: provenance.sha256(folder / name) for name in ("train.index.npz", "meta.json")}
    shell = "sha256sum meta.json train.index.npz | sha256sum"
    printed = subprocess.run(shell, shell=True, cwd=folder, capture_output=True, check=True).stdout
    assert provenance.digest(files) == printed.split()[0].decode()


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({"a": "1"}, {"a": "1"}, None),
        ({"a": "1", "b": "1"}, {"a": "2", "b": "1"}, ("a", "has changed from 1 to 2")),
        ({"a": "1", "b": "1"}, {"b": "1"}, ("a", "is missing")),
        ({"b": "1"}, {"a": "1", "b": "1"}, ("a", "is new")),
        ({"a": "1", "b": "1"}, {"b": "2"}, ("b", "has changed from 1 to 2 (1 other file differs)")),
        ({"a": "1"}, {"b": "2", "c": "2"}, ("a", "is missing (2 other files differ)")),
    ],
)
def test_differences(before, now, expected):
    assert provenance.difference(before, now) == expected
