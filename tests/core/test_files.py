"""core.files: whole files or none."""

import gc
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from core.files import (
    atomic_folder,
    open_npz,
    read_json,
    regular_file,
    write_atomic,
    write_json,
    write_npz,
)
from core.notifier import read_config
from core.provenance import sha256
from tests.core.fakes import file_size_limit


@pytest.mark.parametrize(
    "text",
    ['{"a": ', "", "[NaN]", "[-Infinity]", "[1e999]", '{"\\ud800": 1}', "\x00", "[" * 200_000],
    ids=range(8),
)
def test_a_file_that_is_no_json(tmp_path, text):
    (tmp_path / "half.json").write_text(text)
    with pytest.raises(UserError, match=r"half\.json"):
        read_json(tmp_path / "half.json")


def test_a_json_file_written_on_windows(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": "é"}', encoding="utf-8-sig")
    assert read_json(path) == {"a": "é"}
    path.write_text('{"a": "é"}', encoding="utf-16")
    with pytest.raises(
        UserError, match=r"cannot read .*a\.json: it is UTF-16 text: save it as UTF-8"
    ):
        read_json(path)


def test_a_name_that_is_no_text_is_written_with_escapes(tmp_path):
    """Such as os.listdir returns; msgspec reads no lone surrogates."""
    path = tmp_path / "a.json"
    write_json(path, [os.fsdecode(b"caf\xe9 \\ .jpg"), "📩"])
    assert read_json(path) == [r"caf\udce9 \ .jpg", "📩"]


def test_a_json_file_of_another_type(tmp_path):
    (tmp_path / "a.json").write_text('{"b": "x"}')
    assert read_json(tmp_path / "a.json", dict[str, str]) == {"b": "x"}
    with pytest.raises(UserError, match=r"a\.json: Expected `int`, got `str` - at `\$\[...\]`"):
        read_json(tmp_path / "a.json", dict[str, int])
    with pytest.raises(UserError, match=r"cannot read .*none\.json: No such file"):
        read_json(tmp_path / "none.json")


def _open_npz(path):
    with open_npz(path, "a file", "make it again"):
        pass


@pytest.mark.parametrize("read", [read_json, _open_npz, sha256, lambda p: read_config(str(p))])
def test_what_is_no_file_is_refused(tmp_path, read):
    """A pipe would be waited for without end; of a device, this test would end."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a file"):
        regular_file(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"/dev/null.*a device, not a file"):
        read(Path("/dev/null"))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"a": "é"})
    for content in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises((TypeError, ValueError)):
            write_json(path, content)
    with pytest.raises(TypeError):
        write_atomic(path, "not bytes")

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", full)
    with pytest.raises(UserError, match=r"cannot write .*a\.json: No space left"):
        write_json(path, {"b": 1})
    assert read_json(path) == {"a": "é"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_appears_whole_and_in_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "scene"
    (tmp_path / ".scene.999999999.partial").mkdir()  # of a run that was killed
    (tmp_path / ".scene.999999999.partial" / "half").write_text("")
    for name in ("one", "two"):
        with atomic_folder(path) as temporary:
            (temporary / name).write_text(name)
            assert not (path / name).exists()
        assert [entry.name for entry in path.iterdir()] == [name]
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as temporary:
        (temporary / "three").write_text("")
        raise ZeroDivisionError
    assert [entry.name for entry in path.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [path]
    # Another process took it for left over: what this one had written is not mixed with anything.
    with pytest.raises(UserError, match="cannot write"), atomic_folder(path) as temporary:
        temporary.rename(tmp_path / "away")
        (temporary / "four").write_text("")
    assert [entry.name for entry in path.iterdir()] == ["two"]
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot write .*file"),
        atomic_folder(tmp_path / "file"),
    ):
        pass
    with pytest.raises(UserError, match="cannot write"), atomic_folder(tmp_path / "no" / "a"):
        pass


def test_what_killed_processes_left_is_swept_up(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    path = tmp_path / "a.json"
    # Of another file, and of a process that lives: the one that started this one.
    names = (f".b.json.{gone.pid}.partial", f".a.json.{os.getppid()}.partial")
    kept = [tmp_path / name for name in names]
    for left in (*kept, tmp_path / f".a.json.{gone.pid}.partial"):
        left.write_text("half")
    write_json(path, {})
    assert sorted(tmp_path.iterdir()) == sorted([path, *kept])


def test_arrays_on_a_full_disk_are_one_error(tmp_path, capfd):
    arrays = {"many": np.arange(9000), "few": np.eye(3, dtype=np.float32)}
    write_npz(tmp_path / "a.npz", {"x": 1}, arrays)
    np.savez(tmp_path / "numpys.npz", metadata=np.array('{"x": 1}'), **arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "numpys.npz").read_bytes()
    with file_size_limit(50_000):
        with pytest.raises(UserError, match=r"cannot write .*b\.npz: File too large"):
            write_npz(tmp_path / "b.npz", {}, arrays)
        gc.collect()
    assert capfd.readouterr().err == ""
    assert {each.name for each in tmp_path.iterdir()} == {"a.npz", "numpys.npz"}
