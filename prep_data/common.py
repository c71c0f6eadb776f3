"""What every preparation command shares: parallel work in order, sharded atomic writing, restart,
the report of what was skipped, flags, and errors as one sentence.

A set is written in *parts*. The parent walks the parts' tasks, worker processes turn a task into
records, and the parent encodes and writes them in the order of the tasks, so the bytes do not
depend on the number of workers and memory not on the number of tasks. A part's files appear under
their names only when they are whole, and a note in `<set>/.progress` says so: a killed run goes on
with the first unfinished part. `meta.json` is written last of all.

Workers never import TensorFlow (seconds and hundreds of MB each), and a spawned worker imports the
main module anew: so neither this module nor a command's module imports it at the top.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from core import commands, provenance
from core.errors import UsageError, UserError, first_line
from core.files import read_json, write_json

log = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
SPOOL = ".spool"  # in a set's folder: what a command keeps there until the set is complete
MOST_CHUNKS = 10_000  # shards of a split, or of a class and split
MOST_WORKERS = 256
_NAMES_KEPT = 5  # of each reason in a report


# ---- what was skipped ------------------------------------------------------------------------


class Problem(NamedTuple):
    """One thing left out: why (a phrase fit for a heading) and which one."""

    reason: str
    name: str


class Report:
    """Counts what was left out by reason and keeps the first few names of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """One more (or `count` more, of which `name` is the first) left out for `reason`."""
        self._counts[reason] += count
        names = self._names.setdefault(reason, [])
        if len(names) < _NAMES_KEPT:
            names.append(name)

    def extend(self, problems: Iterable[Problem]) -> None:
        """Adds each of `problems`."""
        for problem in problems:
            self.add(problem.reason, problem.name)

    def merge(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """Adds what another report's `to_dict` gave."""
        for reason, entry in entries.items():
            self._counts[reason] += entry["count"]
            names = self._names.setdefault(reason, [])
            names.extend(entry["first"][: _NAMES_KEPT - len(names)])

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """{reason: {"count": int, "first": [names]}}, sorted by reason."""
        return {
            reason: {"count": self._counts[reason], "first": self._names[reason]}
            for reason in sorted(self._counts)
        }

    def lines(self) -> list[str]:
        """For people: one line a reason, most frequent first."""
        ordered = sorted(self._counts, key=lambda reason: (-self._counts[reason], reason))
        return [
            f"{self._counts[reason]:>8}  {reason}: {', '.join(self._names[reason])}"
            + (", ..." if self._counts[reason] > len(self._names[reason]) else "")
            for reason in ordered
        ]


# ---- parallel work ---------------------------------------------------------------------------


def _end_with_parent() -> None:
    """In a worker: a killed parent cannot end its workers, so they watch it themselves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _nothing() -> None:
    pass


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """A pool of spawned processes for ordered_map; None for workers = 0 (work in this process).

    However the block is left, the workers have ended afterwards.
    """
    if workers == 0:
        yield None
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
    )
    # Ctrl-C reaches every process of the terminal: workers are born ignoring it, as a handler set
    # after their first imports would come too late.
    with commands.handle_signals({signal.SIGINT: signal.SIG_IGN}):
        for _ in range(workers):
            pool.submit(_nothing)
    try:
        yield pool
    finally:
        # They end after the tasks under way, which are short. Not terminated: one that dies while
        # it hands over a result leaves half of it, and the pool waits for the rest for ever.
        pool.shutdown(wait=True, cancel_futures=True)


def ordered_map(
    pool: ProcessPoolExecutor | None,
    work: Callable[[Any], Any],
    tasks: Iterable[Any],
    in_flight: int,
) -> Iterator[Any]:
    """Yields work(task) in the order of `tasks`, reading at most `in_flight` tasks ahead.

    work: a module-level function or a functools.partial of one (it is pickled with each task).
    Raises UserError when a worker process dies.
    """
    if pool is None:
        yield from map(work, tasks)
        return
    pending = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(work, task))
            if len(pending) >= in_flight:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, perhaps for lack of memory: run the command again with fewer "
            "--workers (finished shards are kept)"
        ) from error


# ---- files -----------------------------------------------------------------------------------


def file_stem(name: str) -> str:
    """The name of a class as part of a file name: ' ' and '/' become '_'."""
    return name.replace(" ", "_").replace("/", "_")


class _PartWriter:
    """Writes the files of one part under temporary names; `finish` gives them their own."""

    def __init__(self, folder: Path, part: Part, stem: str | None) -> None:
        self._folder, self._part = folder, part
        self._open: dict[str, Any] = {}  # path relative to the set -> TFRecordWriter
        self._bytes: dict[str, int] = {}
        self._group: dict[str, str] = {}
        if stem is not None:
            self._start(stem)

    def _start(self, group: str) -> str:
        from tensorflow import io

        part = self._part
        path = f"{part.split}/{file_stem(group)}-{part.number:05d}-of-{part.count:05d}.tfrecord"
        if self._group.setdefault(path, group) != group:
            raise UserError(
                f"classes {group!r} and {self._group[path]!r} would share the file {path}: "
                "rename one of them"
            )
        if path not in self._open:
            with _writing(self._folder / path):
                self._open[path] = io.TFRecordWriter(str(self._partial(path)))
            self._bytes[path] = 0
        return path

    def _partial(self, path: str) -> Path:
        return self._folder / (path + ".partial")

    def write(self, group: str, record: bytes) -> None:
        path = self._start(group)
        with _writing(self._folder / path):
            self._open[path].write(record)
        self._bytes[path] += len(record) + 16  # TFRecord framing: 8 + 4 before, 4 after

    def finish(self) -> list[dict[str, Any]]:
        """Closes, checks and renames the files; [{path, group, bytes}] in order of path."""
        for path in list(self._open):
            with _writing(self._folder / path):
                self._open.pop(path).close()
            # Not every failed write reaches us as an exception.
            if self._partial(path).stat().st_size != self._bytes[path]:
                raise UserError(_CANNOT_WRITE.format(self._folder / path, "it came out too short"))
        files = [
            {"path": path, "group": self._group[path], "bytes": self._bytes[path]}
            for path in sorted(self._bytes)
        ]
        for entry in files:
            with _writing(self._folder / entry["path"]):
                self._partial(entry["path"]).replace(self._folder / entry["path"])
        return files

    def abandon(self) -> None:
        for writer in self._open.values():
            with contextlib.suppress(Exception):  # the disk may be full: closing fails again
                writer.close()
        for path in self._bytes:
            self._partial(path).unlink(missing_ok=True)


_CANNOT_WRITE = "cannot write {}: disk full, file too large or folder not writable ({})"


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """TensorFlow's and the system's write errors as UserError. A full disk or a file-size limit
    shows as OutOfRangeError, the exception that elsewhere ends a dataset."""
    from tensorflow import errors

    try:
        yield
    except (errors.OpError, OSError) as error:
        raise UserError(_CANNOT_WRITE.format(path, first_line(error))) from error


def fingerprint(files: Iterable[Path], pictures: Iterable[Path]) -> str:
    """Of a downloaded set, wherever it lies: a SHA-256 of the contents of `files`, and of names and
    sizes of `pictures`, too many to be read for this."""
    lines = []
    for path in files:
        try:
            lines.append(f"{provenance.sha256(path)}  {path.name}")
        except UserError:  # whether that is fatal is not for us to say
            lines.append(f"unreadable  {path.name}")
    lines += [f"{path.stat().st_size}  {path.parent.name}/{path.name}" for path in pictures]
    return hashlib.sha256(os.fsencode("\n".join(sorted(lines)))).hexdigest()


# ---- sets ------------------------------------------------------------------------------------


class Done(NamedTuple):
    """What work(task) returns. Keep it small: it crosses a process boundary."""

    records: list[Any]  # payloads for `encode`; of a grouped set (class name, payload) pairs
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


@dataclass
class Totals:
    """Of a finished set, for its meta.json."""

    records: dict[str, int] = field(default_factory=dict)  # split -> records
    classes: dict[str, dict[str, int]] = field(default_factory=dict)  # split -> class -> records
    counts: dict[str, Counter] = field(default_factory=dict)  # split -> summed Done.counts


class PreparedSet:
    """The folder a command writes to. Use as a context: it holds the folder's lock.

    with PreparedSet(target_dir, kind, settings) as out:
        if not out.complete:
            out.write(parts, work, encode, make_meta, ...)
    """

    def __init__(
        self, folder: Path, kind: str, settings: Mapping[str, Any], source: str | None = None
    ) -> None:
        """settings: everything the bytes depend on, JSON values only; no paths of the machine.
        source: what was downloaded (see `fingerprint`).

        Raises UserError when the folder cannot be used: not writable, something else's, another
        run's at this moment, or begun with other settings.
        """
        self.folder, self.kind = Path(folder), kind
        self._settings = json.loads(json.dumps({"kind": kind, **settings}))
        self._source = source
        self.complete = False
        self._lock = None

    def __enter__(self) -> PreparedSet:
        prep = self.folder / "prep.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            strangers = sorted(
                path.name
                for path in self.folder.iterdir()
                if path.name != ".lock" and path.suffix != ".partial"
            )
        except OSError as error:
            raise UserError(
                f"cannot write to {self.folder}: {error.strerror}; choose another --target-dir"
            ) from error
        if strangers and not prep.is_file():
            raise UserError(
                f"{self.folder} is not empty ({strangers[0]}) and was not made by this command; "
                "choose another --target-dir"
            )
        self._take_lock()
        for left_over in self.folder.rglob("*.partial"):  # of a killed run
            left_over.unlink()
        from dataloaders.records import SCHEMA

        self._settings["schema"] = SCHEMA
        # Settings bind once something was written with them: a mistyped flag can be mended.
        begun = any(
            path.is_file() and path.name not in ("prep.json", ".lock")
            for path in self.folder.rglob("*")
        )
        if begun:
            self._compare(read_json(prep))
        else:
            write_json(prep, {**self._settings, "source": self._source}, sort_keys=True)
        self.complete = (self.folder / "meta.json").is_file()
        if self.complete:
            self._sweep()  # of a run killed at its very end
        return self

    def _sweep(self) -> None:
        for name in (".progress", SPOOL):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def __exit__(self, *_: object) -> None:
        self._lock.close()  # and with it the lock

    def _take_lock(self) -> None:
        try:
            self._lock = (self.folder / ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another run is preparing {self.folder} right now") from error
        except OSError as error:
            raise UserError(
                f"cannot write to {self.folder}: {error.strerror}; choose another --target-dir"
            ) from error

    def _compare(self, found: Any) -> None:
        found = found if isinstance(found, dict) else {}
        source = found.pop("source", None)  # sets of older versions have none
        names = sorted(set(found) | set(self._settings))
        for name in names:
            if found.get(name) != self._settings.get(name):
                raise UserError(
                    f"{self.folder} was prepared with other settings ({name} was "
                    f"{_short(found.get(name))}, now {_short(self._settings.get(name))}): choose "
                    "another --target-dir or remove that folder"
                )
        if source and self._source and source != self._source:
            raise UserError(
                f"{self.folder} was prepared from other files than these (names, sizes or contents "
                "differ): choose another --target-dir or remove that folder"
            )

    def write(
        self,
        parts: Sequence[Part],
        work: Callable[[Any], Done],
        encode: Callable[[Any], bytes],
        make_meta: Callable[[Totals], Mapping[str, Any]],
        *,
        stem: str | None,
        workers: int,
        report: Report,
        unit: str = "task",
    ) -> dict[str, Any]:
        """Writes the parts still missing, then index, report.json and meta.json; the meta.

        work: module-level function (or functools.partial of one), run in the workers.
        encode: payload -> serialized record, run here (it may use TensorFlow).
        make_meta: gives the set's own keys of meta.json; may raise UserError (nothing left).
        stem: file stem of an ungrouped set ('scenes'); None for a grouped set, one file a class.
        report: what was skipped before the work; what the work skips is added to it.
        Raises UserError when the folder cannot be written; files already finished stay.
        """
        progress = self.folder / ".progress"
        with _writing(self.folder):
            progress.mkdir(exist_ok=True)
            for split in {part.split for part in parts}:
                (self.folder / split).mkdir(exist_ok=True)
        notes = [self._note_of(part) for part in parts]
        missing = [part for part, note in zip(parts, notes) if note is None]
        if missing and len(missing) < len(parts):
            log.info("%d of %d parts are there already", len(parts) - len(missing), len(parts))
        bar = tqdm(
            total=sum(part.n_tasks for part in parts),
            initial=sum(part.n_tasks for part in parts) - sum(part.n_tasks for part in missing),
            unit=unit,
            disable=None,  # not where nobody looks
            desc=self.folder.name,
        )
        with bar, worker_pool(workers if missing else 0) as pool:
            for i, part in enumerate(parts):
                if notes[i] is None:
                    results = ordered_map(pool, work, part.tasks(), 4 * max(workers, 1))
                    notes[i] = self._write_part(part, results, encode, stem, bar)
        totals = self._index(parts, notes, grouped=stem is None)
        for note in notes:
            report.merge(note["problems"])
        meta = {"kind": self.kind, "schema": self._settings["schema"], **make_meta(totals)}
        write_json(self.folder / "report.json", report.to_dict(), sort_keys=True)
        write_json(self.folder / "meta.json", meta, sort_keys=True)
        self.complete = True
        self._sweep()
        return meta

    def _note_path(self, part: Part) -> Path:
        name = f"{part.split}-{file_stem(part.label)}-{part.number:05d}-of-{part.count:05d}.json"
        return self.folder / ".progress" / name

    def _note_of(self, part: Part) -> dict[str, Any] | None:
        """The note of a finished part whose files are as noted, else None: the part is written
        anew."""
        path = self._note_path(part)
        try:
            note = read_json(path)
        except UserError:  # none there, or cut short when the machine went down
            return None
        if not isinstance(note, dict) or set(note) != {"files", "groups", "counts", "problems"}:
            return None
        for entry in note["files"]:
            file = self.folder / entry["path"]
            if not file.is_file() or file.stat().st_size != entry["bytes"]:
                return None
        return note

    def _write_part(
        self,
        part: Part,
        results: Iterable[Done],
        encode: Callable[[Any], bytes],
        stem: str | None,
        bar: tqdm,
    ) -> dict[str, Any]:
        report, counts, groups = Report(), Counter(), Counter()
        writer = _PartWriter(self.folder, part, stem)
        try:
            for done in results:
                report.extend(done.problems)
                counts.update(done.counts)
                for record in done.records:
                    group, payload = (stem, record) if stem is not None else record
                    groups[group] += 1
                    writer.write(group, encode(payload))
                bar.update()
            files = writer.finish()
        finally:
            writer.abandon()  # after finish there is nothing left to abandon
        note = {
            "files": files,
            "groups": dict(groups),
            "counts": dict(counts),
            "problems": report.to_dict(),
        }
        write_json(self._note_path(part), note, sort_keys=True)
        return note

    def _index(self, parts: Sequence[Part], notes: Sequence[Any], grouped: bool) -> Totals:
        from dataloaders import records

        totals = Totals()
        for split in SPLITS:
            mine = [note for part, note in zip(parts, notes) if part.split == split]
            groups, counts = Counter(), Counter()
            for note in mine:
                groups.update(note["groups"])
                counts.update(note["counts"])
            classes = sorted(groups) if grouped else []
            files = sorted((f for note in mine for f in note["files"]), key=lambda f: f["path"])
            records.write_index(
                self.folder,
                split,
                [f["path"] for f in files],
                classes,
                [classes.index(f["group"]) for f in files] if grouped else None,
            )
            totals.records[split] = sum(groups.values())
            totals.classes[split] = dict(sorted(groups.items())) if grouped else {}
            totals.counts[split] = counts
        return totals


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---- commands --------------------------------------------------------------------------------


def base_parser(
    module: str, description: str, n_chunks: int = 5, hparams_help: str = ""
) -> argparse.ArgumentParser:
    """Flags all commands share. module: as in `python -m prep_data.X`."""
    parser = commands.Parser(
        prog=f"python -m prep_data.{module}",
        description=description,
        epilog=hparams_help,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset-dir", type=Path, required=True, help="the downloaded set")
    parser.add_argument("--target-dir", type=Path, required=True, help="folder to write to")
    for flag, default, split in (
        ("--n-chunks", n_chunks, "train"),
        ("--valid-n-chunks", 1, "valid"),
        ("--test-n-chunks", 1, "test"),
    ):
        parser.add_argument(flag, type=int, default=default, help=f"shards of {split}")
    parser.add_argument("--hparams", default="", help="name=value,... (see below)")
    parser.add_argument("--seed", type=int, default=0, help="of the random order of train")
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes (default: one a core; 0: none but this one)",
    )
    return parser


def check_base_args(args: argparse.Namespace) -> None:
    """Raises UsageError for values no command can use, UserError for a missing --dataset-dir."""
    for name, low, high in (
        ("n_chunks", 1, MOST_CHUNKS),
        ("valid_n_chunks", 1, MOST_CHUNKS),
        ("test_n_chunks", 1, MOST_CHUNKS),
        ("workers", 0, MOST_WORKERS),
        ("seed", 0, 2**31 - 1),
    ):
        if not low <= getattr(args, name) <= high:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} is {getattr(args, name)}: it must be {low} to {high}")
    if not args.dataset_dir.is_dir():
        raise UserError(f"--dataset-dir {args.dataset_dir} is not a folder")


def chunks(args: argparse.Namespace) -> dict[str, int]:
    """Shards of each split."""
    return {"train": args.n_chunks, "valid": args.valid_n_chunks, "test": args.test_n_chunks}


def print_summary(folder: Path, report: Report, totals: Mapping[str, int], unit: str) -> None:
    """The end report: what was written, what was left out and why."""
    written = ", ".join(f"{split} {n}" for split, n in totals.items())
    print(f"{folder}: {unit}: {written}")
    lines = report.lines()
    if lines:
        print(f"Left out (also in {folder / 'report.json'}):")
        print("\n".join(lines))
    else:
        print("Nothing was left out.")


def run_script(command: Callable[[Sequence[str]], None]) -> None:
    """Runs a command's main on sys.argv and ends the process (core.commands.run); SIGTERM ends it
    with 143. Files begun are removed on the way."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    again = "interrupted: run the same command again to go on"
    sys.exit(commands.run(command, sys.argv[1:], again, clean_up=True))
