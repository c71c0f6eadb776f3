"""core.run_folder: paths, the lock, and the strict config.json."""

import fcntl
import json
import os

import pytest

from core.errors import UsageError, UserError
from core.run_folder import HParamGroups, RunConfig, RunFolder

ENTRY = {
    "step": 0,
    "loader": "l",
    "command": ["train.py", "m"],
    "versions": {"python": "3.11"},
    "time": "2024-01-01T00:00:00+00:00",
    "changes": {},
}
MORE = {"seed": 0, "git": None, "data": {"folder": "5e"}}
CONFIG = RunConfig(
    "m", "l", HParamGroups({"seed": 0}, {"a": 1}, {"l": {"folder": "x"}}), ({**ENTRY, **MORE},),
    {"l": {"folder": {"train/a": "5e"}}},
)  # fmt: skip


@pytest.mark.parametrize("bad", ["", "a/b", "../x", "a\0"])
def test_an_id_that_cannot_name_a_folder(tmp_path, bad):
    with pytest.raises(UsageError, match="cannot name a run"):
        RunFolder(tmp_path, "m", bad)


def test_unwritable_output(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to the run folder .* choose another"):
        RunFolder(tmp_path / "file", "m", "1").create()


def test_a_second_run_names_the_process_of_the_first(tmp_path):
    run = RunFolder(tmp_path, "m", "1")
    run.create()
    with (
        run.lock(),
        pytest.raises(UserError, match=f"written by process {os.getpid()};"),
        RunFolder(tmp_path, "m", "1").lock(),
    ):
        pass
    with run.lock(), RunFolder(tmp_path, "m", "1").root.joinpath(".lock").open() as file:
        assert file.read() == f"{os.getpid()}\n"


def test_a_start_that_fails_leaves_nothing_of_its_own(tmp_path):
    run = RunFolder(tmp_path / "a" / "b", "m", "1")
    for _ in range(2):
        with pytest.raises(KeyError), run.created(), run.lock():
            raise KeyError
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), run.created(), run.lock():
        run.metrics.touch()
        raise KeyError
    assert run.metrics.exists() and run.lock_file.exists()


def test_a_lock_that_is_removed_while_one_waits_for_it_locks_nothing(tmp_path, monkeypatch):
    """Else a third run would make the file anew and lock it too."""
    run, flock, waited = RunFolder(tmp_path, "m", "1"), fcntl.flock, []

    def remove_once(file, operation):
        flock(file, operation)
        if not waited:
            waited.append(file)
            run.lock_file.unlink()  # as its holder does, having failed

    run.create()
    monkeypatch.setattr(fcntl, "flock", remove_once)
    with run.lock():
        assert waited and run.training_process() == str(os.getpid())


def _edited(tmp_path, edit):
    path = tmp_path / "config.json"
    CONFIG.write(path)
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("edit", "piece"),
    [
        (lambda c: c.update(extra=1), "unknown field `extra`"),
        (lambda c: c.update(schema=99), "schema 99"),
        (lambda c: c["history"][0].update(command=["a", 1]), "at `$.history[0].command[1]`"),
    ],
)
def test_reading_is_strict(tmp_path, edit, piece):
    path = _edited(tmp_path, edit)
    with pytest.raises(UserError) as caught:
        RunConfig.read(path)
    assert piece in str(caught.value)
    assert str(path) in str(caught.value)
