"""Record where figures and weights come from: the command, the program, the data."""

from __future__ import annotations

import dataclasses
import datetime
import glob
import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from core import hparams
from core.errors import UserError, file_error
from core.files import regular_file

ROOT = Path(__file__).resolve().parents[1]
_SOURCES = (".", "core", "models", "dataloaders", "prep_data", "experiments", "SPADE")


def circumstances(script: str, argv: Sequence[str]) -> dict[str, Any]:
    """Return the entries command, versions, git and time of a record."""
    return {
        "command": [script, *argv],
        "versions": versions(),
        "git": git(),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, TensorFlow and NumPy, and the program's digest (32 digits)."""
    import numpy as np
    import tensorflow as tf

    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "program": program()[:32],
    }


def program() -> str:
    """Return a digest of the program's source files, which tells versions apart without git."""
    files = (
        path
        for folder in _SOURCES
        for path in (ROOT / folder).glob("*.py" if folder == "." else "**/*.py")
    )
    return digest({path.relative_to(ROOT).as_posix(): sha256(path) for path in files})


def git() -> dict[str, Any] | None:
    """Return the checkout's commit (hex) and whether a tracked file differs from it (dirty).

    None when the program is no checkout, or git does not answer.
    """
    if not (ROOT / ".git").exists():  # git would answer for a repository around it
        return None
    command = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    # Of this folder, whatever git is told elsewhere; and not in the way of the user's own command.
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        answer = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = answer.stdout.decode(errors="replace").splitlines()
    oid = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), "(initial)")
    if oid == "(initial)":  # no commit yet
        return None
    return {"commit": oid, "dirty": any(not line.startswith("#") for line in lines)}


def data_files(folder: Path, patterns: Sequence[str]) -> dict[str, str]:
    """Return what tells the files of a data folder apart: path -> size or SHA-256, by path.

    patterns: as of glob.glob, of the files that count, which hidden ones never do. Others may come
    and go: operating systems leave their own in every folder. The meta.json and the indices of a
    prepared set are hashed; of its shards, and of the files of a published set, the size counts, so
    that a large set costs nothing. Paths are relative to `folder`, so a set that has moved is the
    same. UserError naming what cannot be read.
    """
    found = {
        name
        for pattern in patterns
        for name in glob.iglob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 (hidden)
    }
    return {  # a name that is no UTF-8 as `core.files.write_json` writes it
        name.encode("utf-8", "backslashreplace").decode(): _identity(folder / name)
        for name in sorted(found)
        if not (folder / name).is_dir()
    }


def hparam_files(instance: Any) -> dict[str, dict[str, str]]:
    """Return the files of each folder that data hparams name, see `data_files`, by hparam."""
    patterns = {field.name: field.metadata.get("folder") for field in dataclasses.fields(instance)}
    return {
        name: data_files(folder, patterns[name])
        for name, folder in hparams.folders(instance).items()
    }


def _identity(path: Path) -> str:
    if path.name == "meta.json" or path.name.endswith(".index.npz"):
        return sha256(path)
    try:
        return f"{path.stat().st_size} bytes"
    except OSError as error:
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"cannot read {error.filename}: {file_error(error)}") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex. UserError when it cannot be read."""
    found = hashlib.sha256()
    try:
        with regular_file(path).open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    except OSError as error:
        _refuse(error)
    return found.hexdigest()


def digest(files: Mapping[str, str]) -> str:
    """Return one SHA-256, in hex, for files told apart by `data_files` or `sha256`."""
    lines = (f"{identity}  {name}\n" for name, identity in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


SHOWN = 32  # characters of what tells a file apart: its bytes, and the first digits of a digest


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the first file that differs and what became of it, or None. Both: of `data_files`."""
    changed = [name for name in before if name in now and before[name] != now[name]]
    gone = [name for name in before if name not in now]
    new = [name for name in now if name not in before]
    for names, what in ((changed, "has changed"), (gone, "is missing"), (new, "is new")):
        if names:
            others = len(changed) + len(gone) + len(new) - 1
            more = f" ({others} other file{'s differ' if others > 1 else ' differs'})"
            name = min(names)
            if names is changed:
                what += f" from {before[name]:.{SHOWN}} to {now[name]:.{SHOWN}}"
            return name, what + more * (others > 0)
    return None
