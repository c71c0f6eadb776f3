"""Small files, written whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError


def make_folder(folder: Path, what: str, remedy: str) -> None:
    """Make a folder with its parents; UserError when that or writing into it is impossible.

    what: names it in the message ('the run folder'); remedy: ends it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {what} {folder}: {error.strerror}; {remedy}") from None


def write_atomic(path: Path, data: bytes) -> None:
    """Write so that a reader sees the old file or the whole new one. UserError when it cannot be
    written."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a file to write in its place: it becomes `path` when the block ends without an
    error. UserError when it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        _sweep(path)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what killed processes left in the place of `replacing(path)`."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        process = left.name.split(".")[-2]
        try:
            os.kill(int(process), 0)
        except (ProcessLookupError, ValueError, OverflowError):
            left.unlink(missing_ok=True)
        except OSError:  # it lives, and is another user's
            continue


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A folder to write files into: it becomes `path`, in the place of what is there, when the
    block ends without an error. UserError when it cannot be written, or when another process writes
    it too: the later one is left alone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
            shutil.rmtree(left, ignore_errors=True)  # of a run that was killed
        temporary.mkdir()
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        temporary.rename(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_npz(path: Path, metadata: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """A plain .npz, uncompressed and without pickles, atomically: `arrays` by their names, and
    `metadata` as JSON in the text `metadata`. UserError when it cannot be written."""
    text = np.array(json.dumps(metadata, ensure_ascii=False, allow_nan=False))
    with replacing(path) as temporary:
        save_arrays(temporary, {"metadata": text, **arrays})


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """As numpy.savez, which on a full disk leaves an archive that complains once more, on stderr,
    when it is collected. OSError when it cannot be written."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def write_json(path: Path, content: Any, sort_keys: bool = False) -> None:
    """`content` as JSON, atomically. sort_keys: equal contents give equal bytes.

    UserError when it cannot be written, ValueError or TypeError when it is no JSON.
    """
    text = json.dumps(content, indent=1, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file; UserError when it is missing or is no JSON, or holds what Python
    takes for JSON and `write_json` cannot write: NaN, numbers without end, halves of characters."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe or a device may never end
            raise UserError(f"cannot read {path}: it is no regular file")
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
        return content
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error})") from None
