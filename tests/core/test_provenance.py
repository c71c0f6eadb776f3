"""core.provenance: which program, which commit."""

import subprocess

import pytest

from core import provenance


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
