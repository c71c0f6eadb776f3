"""Files and folders written atomically: a reader sees the old content or the whole new one."""

from __future__ import annotations

import codecs
import contextlib
import errno
import glob
import json
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from core.errors import UserError, file_error, first_line


def make_folder(folder: Path, what: str, remedy: str) -> None:
    """Make a folder with its parents; UserError when that or writing into it is impossible. what:
    names the folder in the message ('the run folder'); remedy: ends the message."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {what} {folder}: {file_error(error, remedy)}") from None


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; it becomes `path` when the block ends without an error. UserError
    when the file cannot be written."""
    with _temporary(path) as temporary:
        yield temporary
        temporary.replace(path)


@contextlib.contextmanager
def atomic_folder(path: Path, flush: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill; it replaces `path` when the block ends without an error.

    flush: write everything to the disk before the folder gets its name, so that it is complete
    even after a power cut. UserError when the folder cannot be written.
    """
    with _temporary(path) as temporary:
        temporary.mkdir()
        yield temporary
        if flush:
            for file in (*temporary.iterdir(), temporary):
                _flush(file)
        with _set_aside(path):  # there is no folder under that name for a moment only
            temporary.rename(path)
        if flush:
            _flush(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder, if it is there, so that a kill leaves no half of it under its name."""
    with _set_aside(path):
        pass


@contextlib.contextmanager
def _set_aside(path: Path) -> Iterator[None]:
    """Give a folder, if it is there, another name; remove it after the block."""
    old = path.with_name(f".{path.name}.old.{os.getpid()}.partial")
    if path.is_dir():
        path.rename(old)
    yield
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove the temporary files and folders of `name` (a pattern) that killed processes left."""
    for leftover in folder.glob(f".{name}.*.partial"):
        if not _is_alive(leftover.name.split(".")[-2]):
            _remove(leftover)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield the temporary name of `path`, which is gone after the block."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        remove_leftovers(path.parent, glob.escape(path.name))
        yield temporary
    except OSError as error:
        raise UserError(f"cannot write {path}: {file_error(error)}") from None
    finally:
        _remove(temporary)


def _is_alive(process: str) -> bool:
    """Return whether another process has that number. (In a container, each run may have ours.)"""
    if process == str(os.getpid()):
        return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:  # it belongs to another user
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Write bytes atomically. UserError when the file cannot be written."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an uncompressed .npz without pickles atomically. UserError when that fails."""
    # Not by numpy.savez: on a full disk it leaves an archive that complains again on stderr when
    # it is collected.
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def write_npz(path: Path, metadata: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays` as by `write_arrays`, with `metadata` as JSON in the text array `metadata`."""
    text = np.array(json.dumps(metadata, ensure_ascii=False, allow_nan=False))
    write_arrays(path, {"metadata": text, **arrays})


def regular_file(path: Path) -> Path:
    """Return `path`; OSError for a pipe, a socket or a device: reading might wait for ever."""
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):  # to open a folder is an error of its own
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a file", str(path))
    return path


def read_utf8(path: Path) -> bytes:
    """Return the bytes of a text file, without the byte order mark that Windows may begin it with.
    OSError when it cannot be read, or is UTF-16."""
    data = regular_file(path).read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise OSError(errno.EINVAL, "it is UTF-16 text: save it as UTF-8", str(path))
    return data.removeprefix(codecs.BOM_UTF8)


class NpzReader:
    """An open .npz; reading what is missing or damaged raises an error that `open_npz` explains."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def array(self, name: str) -> np.ndarray:
        """Read an array."""
        return self._file[name]

    def metadata(self, struct: type, schema: int) -> Any:
        """Read the JSON that `write_npz` put beside the arrays. struct: a msgspec.Struct."""
        text = str(self.array("metadata"))
        found = msgspec.json.decode(text, type=_Schema).schema
        if found != schema:
            raise ValueError(f"its schema is {found}, not {schema}")
        return msgspec.json.decode(text, type=struct)


class _Schema(msgspec.Struct):
    schema: int


@contextlib.contextmanager
def open_npz(path: Path, what: str, remedy: str) -> Iterator[NpzReader]:
    """Open a .npz without pickles to read and check it within the block.

    UserError for any error of the block. what: names the file in the message ('a features file');
    remedy: ends the message."""
    try:
        with np.load(regular_file(path), allow_pickle=False) as file:
            yield NpzReader(file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {file_error(error)}") from None
    except Exception as error:  # a damaged zip shows as any of half a dozen types
        # Of other files numpy says that pickles are not allowed, as if it were wise to allow them.
        reason = first_line(error) if zipfile.is_zipfile(path) else "no whole .npz archive"
        raise UserError(f"{path} is not {what} ({reason}); {remedy}") from None


def write_json(path: Path, content: Any, sort_keys: bool = False) -> None:
    """Write `content` as JSON atomically; UserError when that fails. sort_keys: equal contents give
    equal bytes. Names of files that are not UTF-8 have backslash escapes there."""
    text = json.dumps(content, indent=1, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    text = re.sub("[\ud800-\udfff]", lambda found: rf"\\u{ord(found[0]):x}", text)
    write_atomic(path, (text + "\n").encode())


T = TypeVar("T")


def read_json(path: Path, content_type: type[T] = Any) -> T:
    """Return the content of a JSON file as a `content_type`; UserError when it is not one."""
    try:
        return msgspec.json.decode(read_utf8(path), type=content_type)
    except OSError as error:
        raise UserError(f"cannot read {path}: {file_error(error)}") from None
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error})") from None


def read_versioned_json(path: Path, content_type: type[T], schema: int) -> T:
    """Return the content of a JSON file as `read_json`; UserError when its key `schema` is another
    one."""
    found = read_json(path, _Schema).schema
    if found != schema:
        raise UserError(
            f"{path}: schema {found}, but this version of the program reads schema {schema}; open "
            "it with the version that wrote it"
        )
    return read_json(path, content_type)
