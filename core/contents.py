"""What is in the folders that a training reads: the SHA-256 of every file, computed once.

A prepared set keeps the hashes of its files in `.sha256.json`, each with the size and the times at
which the file was last changed. As long as these stay, the hash is taken from there, as git does:
a set of 40 GB is read once, not at every start. The time of the last change of the inode is among
them, which moves with every writing, renaming and setting of times.

A hash belongs to a path relative to the folder, so a folder that is moved or copied is the same.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from core.errors import UserError
from core.files import read_json, write_json

log = logging.getLogger(__name__)

Hashes = dict[str, str]  # path relative to the folder -> SHA-256 of the file, in hex

KEPT = ".sha256.json"
# Of a prepared set: what it was made from and what was left out. No loader reads them.
_FOR_PEOPLE = ("prep.json", "report.json")
_THREADS = 4  # hashing leaves Python's lock


def read(folder: Path, at_most: int | None = None) -> Hashes | None:
    """The hashes of all files below `folder` but hidden ones, sorted by path.

    at_most: None is returned when more bytes than that would have to be read.
    Raises UserError naming a file that cannot be read.
    """
    files = dict(sorted(_files(folder)))
    kept = _kept(folder)
    hashes = {name: kept[name][-1] for name, s in files.items() if kept.get(name, ())[:-1] == s}
    missing = {name: times for name, times in files.items() if name not in hashes}
    size = sum(times[0] for times in missing.values())
    if at_most is not None and size > at_most:
        return None
    if size > 1 << 30:
        log.info("hashing %.1f GB of %s", size / 1e9, folder)
    with (
        tqdm(total=size, unit="B", unit_scale=True, desc=folder.name, disable=None) as bar,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        for name, found in zip(missing, pool.map(lambda name: sha256(folder / name), missing)):
            hashes[name] = found
            bar.update(missing[name][0])
    if missing and (folder / "meta.json").is_file():  # a published set is not ours to write to
        _keep(folder, {name: [*times, hashes[name]] for name, times in files.items()})
    return {name: hashes[name] for name in files}


def sha256(path: Path) -> str:
    """Of a file's bytes, in hex. UserError when it cannot be read."""
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return found.hexdigest()


def digest(hashes: Mapping[str, str]) -> str:
    """One hash for all: the SHA-256 of what `sha256sum` prints for the files, sorted by path."""
    lines = (f"{found}  {name}\n" for name, found in sorted(hashes.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, str] | None:
    """(path, what became of it) of the first file that differs, with how many others do; None."""
    changed = [name for name in before if name in now and before[name] != now[name]]
    gone = [name for name in before if name not in now]
    new = [name for name in now if name not in before]
    for names, what in ((changed, "has other bytes"), (gone, "is not there"), (new, "is new")):
        if names:
            others = len(changed) + len(gone) + len(new) - 1
            more = f" (and {others} other file{'s' * (others > 1)} differ)" if others else ""
            return min(names), what + more
    return None


def _files(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """(path relative to the folder, what changes with its bytes) of each file."""

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None

    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        here = Path(place)
        if here.resolve() in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = here / name
            if name.startswith(".") or (here == folder and name in _FOR_PEOPLE):
                continue
            try:
                path.as_posix().encode()
                status = path.stat()
            except (UnicodeEncodeError, FileNotFoundError):  # no text, or a link to nothing
                continue
            except OSError as error:
                refuse(error)
            if stat.S_ISREG(status.st_mode):
                times = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
                yield path.relative_to(folder).as_posix(), times


def _kept(folder: Path) -> dict[str, list]:
    """What `_keep` wrote; nothing when it is not there, or is anything else."""
    try:
        content = read_json(folder / KEPT)
    except UserError:
        return {}
    whole = isinstance(content, dict) and all(
        isinstance(entry, list)
        and [type(value) for value in entry] == [int, int, int, str]
        and len(entry[-1]) == 64
        for entry in content.values()
    )
    return content if whole else {}


def _keep(folder: Path, entries: dict[str, list]) -> None:
    try:
        write_json(folder / KEPT, entries)
    except UserError as error:
        log.info("the hashes of %s are computed again next time (%s)", folder, error)
