"""The folder of a prepared set: written in parts, restartable, complete or not there.

A set is written in *parts*. The parent walks the parts' tasks, worker processes turn a task into
records, and the parent encodes and writes them in the order of the tasks, so the bytes do not
depend on the number of workers and memory not on the number of tasks. A part's files appear under
their names only when they are whole, and a note in `<set>/.progress` says so: a killed run goes on
with the first unfinished part, and a shard that was deleted is made anew. `meta.json` is written
last of all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from tqdm import tqdm

from core import provenance
from core.errors import UserError, file_error
from core.files import make_folder, read_json, write_json
from core.progress import progress
from dataloaders import prepared_sets
from dataloaders.images import Problem
from prep_data.report import Report
from prep_data.workers import ordered_map, worker_pool

log = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
_STEMS = {"quickdraw": "sketches", "coco-scenes": "scenes", "sketchycoco-scenes": "scenes"}
SPOOL = ".spool"  # in a set's folder: what a command keeps there until the set is complete
# Patterns of what a run has written, whole or not.
_WRITTEN = ("meta.json", ".progress/[!.]*.json", f"{SPOOL}/[!.]*.json", "*/[!.]*.tfrecord")


class TaskResult(NamedTuple):
    """A worker's result for one task. Keep it small: it crosses a process boundary."""

    records: list[Any]  # keywords of the record's `encode`; of grouped sets (class name, keywords)
    problems: Sequence[Problem] = ()
    counts: Mapping[str, int] = {}  # summed over the split, for meta.json


@dataclass(frozen=True)
class Part:
    """The unit of restart: one file, or of a grouped set one file a class."""

    split: str  # of SPLITS
    number: int  # of this part among the `count` of its split (and label), from 0
    count: int
    tasks: Callable[[], Iterable[Any]]  # called when the part is written; may be a generator
    n_tasks: int  # for the progress bar
    label: str = "all"  # tells parts of one split and number apart (e.g. a class name)

    def file_name(self, stem: str, suffix: str) -> str:
        """Return '<stem>-00000-of-00005<suffix>' with this part's numbers."""
        return f"{file_stem(stem)}-{self.number:05d}-of-{self.count:05d}{suffix}"


class Totals(NamedTuple):
    """Sums over a finished set, for its meta.json."""

    records: dict[str, int]  # split -> records
    counts: dict[str, Counter]  # split -> summed TaskResult.counts


def file_stem(name: str) -> str:
    """Return the name of a class as part of a file name: ' ' and '/' become '_'."""
    return name.replace(" ", "_").replace("/", "_")


def fingerprint(files: Iterable[Path], images: Iterable[Path]) -> dict[str, str]:
    """Return what tells a downloaded set apart, wherever it lies: of each of `files`, by name, the
    size and the SHA-256 of its content; of those `images` that are there, too many to be read,
    their number and one SHA-256 of names and sizes."""
    found = {}
    for path in files:
        try:
            digest = provenance.sha256(path)
            found[path.name] = f"{path.stat().st_size} bytes, {digest}"
        except UserError:  # the command decides later whether it can do without the file
            found[path.name] = "unreadable"
    sizes = []
    for path in images:
        with contextlib.suppress(OSError, ValueError):
            sizes.append(f"{path.stat().st_size}  {path.parent.name}/{path.name}")
    digest = hashlib.sha256(os.fsencode("\n".join(sorted(sizes)))).hexdigest()
    return {**found, "name or size of a picture": f"{len(sizes)} pictures, {digest}"}


class ShardNote(msgspec.Struct):
    """A finished shard."""

    path: str  # relative to the set
    group: str  # class name, of an ungrouped set the file stem
    bytes: int = 0
    records: int = 0


class PartNote(msgspec.Struct):
    """A finished part, as noted in the folder .progress."""

    shards: list[ShardNote]
    counts: dict[str, int]  # summed TaskResult.counts
    problems: dict[str, dict[str, Any]]  # Report.to_dict


@contextlib.contextmanager
def _new_shard(folder: Path, note: ShardNote) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that writes a record; the file appears when the block ends without an error.

    note: the records and bytes written are counted there.
    """
    from dataloaders.records import FRAMING, new_shard  # here, because workers import this module

    def write(record: bytes) -> None:
        write_record(record)
        note.bytes += len(record) + FRAMING
        note.records += 1

    with new_shard(folder / note.path) as write_record:
        yield write


def _record_class(kind: str) -> Any:
    from dataloaders import records  # here, because workers import this module

    return {
        "quickdraw": records.SketchRecord,
        "quickdraw-indexed": records.SketchRecord,
        "coco-scenes": records.SceneRecord,
        "coco-crops": records.CropRecord,
        "sketchycoco-scenes": records.SceneRecord,
    }[kind]


class SetWriter:
    """The folder a command writes to. Use as a context: it holds the folder's lock.

    with SetWriter(target_dir, kind, settings) as out:
        if not out.complete:
            out.write(parts, work, make_meta, ...)
    """

    def __init__(
        self, folder: Path, kind: str, settings: Mapping[str, Any], source: Mapping[str, str] = {}
    ) -> None:
        """kind: see docs/data_formats.md; a kind without a stem is grouped, one file a class.
        settings: all else the bytes depend on, JSON values only; no paths of the machine.
        source: the fingerprint of what was downloaded.

        Entering raises UserError when the folder cannot be used: not writable, something else's,
        another run's at this moment, or begun with other settings or from other files.
        """
        self.folder, self.kind, self._stem = Path(folder), kind, _STEMS.get(kind)
        settings = {"kind": kind, **settings, "source": source}
        self._settings = json.loads(json.dumps(settings))
        self.complete = False
        self._lock = None

    def __enter__(self) -> SetWriter:
        self._settings["schema"] = prepared_sets.SCHEMA
        settings_file = self.folder / "prep.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_content(settings_file)
            self._lock = (self.folder / ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another run is preparing {self.folder} right now") from error
        except OSError as error:
            raise UserError(
                f"cannot write to {self.folder}: {file_error(error, 'choose another --target-dir')}"
            ) from error
        for partial_file in self.folder.rglob("*.partial"):  # of a killed run
            partial_file.unlink()
        # Settings bind once something was written with them: a mistyped flag can be mended.
        if any(next(self.folder.glob(pattern), None) for pattern in _WRITTEN):
            self._check_settings(read_json(settings_file))
        else:
            write_json(settings_file, self._settings, sort_keys=True)
        self.complete = self._is_complete()
        if self.complete:
            print(f"{self.folder} is already complete")
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()  # and with it the lock

    def _check_content(self, settings_file: Path) -> None:
        """Raise UserError when the folder holds files and was not begun by a command."""
        strangers = sorted(
            path.name
            for path in self.folder.iterdir()
            if not (path.is_file() and path.name.startswith("."))
        )
        if strangers and not settings_file.is_file():
            raise UserError(
                f"{self.folder} is not empty ({strangers[0]}) and was not made by this command; "
                "choose another --target-dir"
            )

    def _check_settings(self, before: dict[str, Any]) -> None:
        for name in sorted({*before, *self._settings} - {"source"}):
            old, new = before.get(name), self._settings.get(name)
            if old != new:
                raise UserError(
                    f"{self.folder} was prepared with other settings ({name} was "
                    f"{json.dumps(old):.60}, now {json.dumps(new):.60}): choose another "
                    "--target-dir or remove that folder"
                )
        found = provenance.difference(before.get("source", {}), self._settings["source"])
        if found:
            raise UserError(
                f"{self.folder} was prepared from other files than these ({' '.join(found)}): "
                "choose another --target-dir or remove that folder"
            )

    def _is_complete(self) -> bool:
        """Return whether nothing is missing; a set that lacks a shard loses its meta.json."""
        meta = self.folder / "meta.json"
        if not meta.is_file():
            return False
        try:
            for split in SPLITS:
                prepared_sets.read_index(self.folder, split)
        except UserError as error:
            log.info("%s", error)
            meta.unlink()
            return False
        self._remove_spool()  # of a run killed at its very end
        return True

    def _remove_spool(self) -> None:
        shutil.rmtree(self.folder / SPOOL, ignore_errors=True)

    def write(
        self,
        parts: Sequence[Part],
        work: Callable[[Any], TaskResult],
        make_meta: Callable[[Totals], Mapping[str, Any]],
        *,
        workers: int,
        report: Report,
        unit: str,
    ) -> None:
        """Write the parts still missing, then index, report.json and meta.json; print the report.

        work: module-level function (or functools.partial of one), run in the workers.
        make_meta: gives the set's own keys of meta.json; may raise UserError (nothing left).
        unit: of tasks, for the progress bar.
        report: what was skipped before the work; what the work skips is added to it.
        Raises UserError when the folder cannot be written; files already finished stay.
        """
        notes = self._write_parts(parts, work, workers, unit)
        totals = self._write_index(parts, notes)
        for note in notes:
            report.merge(note.problems)
        try:
            with report.explaining_errors():
                own_keys = make_meta(totals)
        except UserError:  # the settings no longer bind, so that the data can be mended
            for name in (".progress", SPOOL, *SPLITS):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            raise
        meta = {
            "kind": self.kind,
            "schema": self._settings["schema"],
            **{f"n_{split}_samples": n for split, n in totals.records.items()},
            **own_keys,
        }
        write_json(self.folder / "report.json", report.to_dict(), sort_keys=True)
        write_json(self.folder / "meta.json", meta, sort_keys=True)
        self.complete = True
        self._remove_spool()
        report.print_summary(self.folder, totals.records)

    def _write_parts(
        self,
        parts: Sequence[Part],
        work: Callable[[Any], TaskResult],
        workers: int,
        unit: str,
    ) -> list[PartNote]:
        """Write the parts still missing; return the notes of all."""
        for name in {".progress", *(part.split for part in parts)}:
            make_folder(self.folder / name, "the folder", "choose another --target-dir")
        notes = [self._read_note(part) for part in parts]
        missing = [part for part, note in zip(parts, notes) if note is None]
        if 0 < len(missing) < len(parts):
            log.info("%d of %d parts are there already", len(parts) - len(missing), len(parts))
        n_tasks, n_missing = (sum(part.n_tasks for part in some) for some in (parts, missing))
        with (
            progress(
                None, self.folder.name, total=n_tasks, initial=n_tasks - n_missing, unit=unit
            ) as bar,
            worker_pool(workers if missing else 0) as pool,
        ):
            for i, part in enumerate(parts):
                if notes[i] is None:
                    results = ordered_map(pool, work, part.tasks(), 4 * max(workers, 1))
                    notes[i] = self._write_part(part, results, bar)
        return notes

    def _note_path(self, part: Part) -> Path:
        return self.folder / ".progress" / part.file_name(f"{part.split}-{part.label}", ".json")

    def _read_note(self, part: Part) -> PartNote | None:
        """Return the note of a finished part whose files are as noted, else None."""
        try:
            note = read_json(self._note_path(part), PartNote)
        except UserError:  # none there, or cut short when the machine went down
            return None
        for shard in note.shards:
            file = self.folder / shard.path
            if not file.is_file() or file.stat().st_size != shard.bytes:
                return None
        return note

    def _write_part(self, part: Part, results: Iterable[TaskResult], bar: tqdm) -> PartNote:
        encode, stem = _record_class(self.kind).encode, self._stem
        report, counts = Report(), Counter()
        notes: dict[str, ShardNote] = {}  # by path
        shards: dict[str, Callable[[bytes], None]] = {}  # by group
        with contextlib.ExitStack() as stack:

            def open_shard(group: str) -> None:
                note = ShardNote(f"{part.split}/{part.file_name(group, '.tfrecord')}", group)
                other = notes.setdefault(note.path, note).group
                if other != group:
                    raise UserError(
                        f"classes {group!r} and {other!r} would share the file {note.path}: "
                        "rename one of them"
                    )
                shards[group] = stack.enter_context(_new_shard(self.folder, note))

            if stem is not None:
                open_shard(stem)  # also when it stays empty
            for result in results:
                report.extend(result.problems)
                counts.update(result.counts)
                for record in result.records:
                    group, payload = (stem, record) if stem is not None else record
                    if group not in shards:
                        open_shard(group)
                    shards[group](encode(**payload))
                bar.update()
        note = PartNote(list(notes.values()), counts, report.to_dict())
        write_json(self._note_path(part), msgspec.to_builtins(note), sort_keys=True)
        return note

    def _write_index(self, parts: Sequence[Part], notes: Sequence[PartNote]) -> Totals:
        grouped, totals = self._stem is None, Totals({}, {})
        for split in SPLITS:
            in_split = [note for part, note in zip(parts, notes) if part.split == split]
            shards = sorted(
                (shard for note in in_split for shard in note.shards), key=lambda shard: shard.path
            )
            classes = sorted({shard.group for shard in shards}) if grouped else []
            prepared_sets.write_index(
                self.folder,
                split,
                [shard.path for shard in shards],
                classes,
                [classes.index(shard.group) for shard in shards] if grouped else None,
            )
            totals.records[split] = sum(shard.records for shard in shards)
            totals.counts[split] = Counter()
            for note in in_split:
                totals.counts[split].update(note.counts)
        return totals
