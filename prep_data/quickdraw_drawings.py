"""Rasterise the drawings of Quick, Draw!: .npz files -> spool of strokes -> records.

The whole of Quick, Draw! is nine million drawings: too many to hold, too many to seek one by one.
So there are two passes. The first reads each class file once, drops what shows nothing and appends
the strokes of the rest to a spool (`<set>/.spool`, some 300 bytes a drawing, removed at the end),
sorted into *buckets*: every training drawing goes into one of them at random. The second takes
bucket after bucket, shuffles it and rasterises it. Random buckets, each shuffled, are a uniformly
random order, with a few thousand drawings in memory. Drawings of valid and test keep
their order: class by class, as in the files; their buckets are runs of drawings.
"""

from __future__ import annotations

import argparse
import functools
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from core import hparams
from core.errors import UserError
from core.files import make_folder, read_json, write_atomic, write_json
from core.progress import progress
from dataloaders import sketches
from dataloaders.images import Problem
from prep_data import flags
from prep_data.npz import NpzError, read_drawings
from prep_data.report import Report
from prep_data.set_writer import (
    SPLITS,
    SPOOL,
    Part,
    SetWriter,
    TaskResult,
    Totals,
    fingerprint,
)
from prep_data.workers import ordered_map, worker_pool

CLASS_RELATIONSHIP = Path(__file__).parent / "quickdraw" / "quickdraw_to_coco_v2.json"
_RUN = 2048  # drawings of a bucket of valid and test
_BUCKET_BYTES = 1 << 20  # of packed .npz for one training bucket, some 2000 drawings


@dataclass(frozen=True)
class HParams:
    """Hyper-parameters of both Quick, Draw! commands."""

    image_size: int = hparams.hp(sketches.SIDE, "pixels a side", low=16, high=4096)


class Classes(NamedTuple):
    """The class relationship: Quick, Draw! class -> COCO class, both sorted by name."""

    sketch: list[str]
    coco: list[str]
    sketch_to_coco: dict[str, str]

    def meta(self) -> dict[str, Any]:
        """Return the class keys of meta.json."""
        coco_to_sketch: dict[str, list[str]] = {name: [] for name in self.coco}
        for sketch in self.sketch:
            coco_to_sketch[self.sketch_to_coco[sketch]].append(sketch)
        return {
            "coco_classes": self.coco,
            "sketch_classes": self.sketch,
            "sketch_to_coco": self.sketch_to_coco,
            "coco_classes_to_idx": {name: i for i, name in enumerate(self.coco)},
            "coco_to_sketch": coco_to_sketch,
        }


def read_classes(path: Path) -> Classes:
    """Read {Quick, Draw! class: COCO class}; raise UserError when the file is not that."""
    relation = read_json(path, dict[str, str])
    if not relation:
        raise UserError(f"{path} has no class")
    return Classes(sorted(relation), sorted(set(relation.values())), relation)


# ---- first pass: class files -> spool ----------------------------------------------------------


class _SpoolTask(NamedTuple):
    """Task of the first pass: one class file."""

    file: Path
    spool: Path
    name: str  # sketch class
    number: int  # its index, by which its files in the spool are named
    n_buckets: int  # of train
    seed: int


class _SpoolNote(msgspec.Struct):
    """One class in the spool: its buckets and what was left out."""

    rows: dict[str, list[int]]  # split -> number of drawings before each bucket, and of all
    problems: list[Problem]


def spool_class(task: _SpoolTask) -> _SpoolNote:
    """Read one class file into the spool, two files a split.

    `.points`: int16 (points, 3) of all drawings; `.starts`: int64 (drawings + 1,), the number of
    points before each drawing, and of all.
    """
    note_file = task.spool / f"{task.number}.json"
    if note_file.is_file():  # from a run that was killed
        return read_json(note_file, _SpoolNote)
    note = _SpoolNote({}, [])
    try:
        drawings = {split: read_drawings(task.file, split) for split in SPLITS}
    except NpzError as error:
        note.problems.append(Problem("class file that cannot be read", str(error)))
        drawings = {split: [] for split in SPLITS}
    bucket_rng = np.random.default_rng([task.seed, zlib.crc32(task.name.encode())])
    for split, strokes in drawings.items():
        reasons = [sketches.why_not_drawable(drawing) for drawing in strokes]
        note.problems += [
            Problem(f"drawing with {reason}", f"{task.name} {split} #{i}")
            for i, reason in enumerate(reasons)
            if reason
        ]
        kept = np.array([not reason for reason in reasons], bool)
        if split == "train":
            buckets = bucket_rng.integers(task.n_buckets, size=len(strokes))
            order = np.argsort(buckets, kind="stable")
            order = order[kept[order]]
            rows = np.searchsorted(buckets[order], np.arange(task.n_buckets + 1))
        else:
            order = np.flatnonzero(kept)
            rows = np.append(np.arange(0, len(order), _RUN), len(order))
        note.rows[split] = rows.tolist()
        chosen = [strokes[i] for i in order]
        points = np.concatenate([np.zeros((0, 3), np.int16), *chosen])
        starts = np.cumsum([0, *map(len, chosen)], dtype=np.int64)
        file = task.spool / f"{task.number}-{split}.points"
        write_atomic(file, points.tobytes())
        write_atomic(file.with_suffix(".starts"), starts.tobytes())
    write_json(note_file, msgspec.to_builtins(note))
    return note


# ---- second pass: spool -> records -------------------------------------------------------------


class _Slice(NamedTuple):
    """Consecutive drawings of one class in the spool."""

    split: str
    coco_class: int
    sketch_class: int
    first: int  # drawings first to last of the file, without the last
    last: int


class _Bucket(NamedTuple):
    """Task of the second pass. key: the seed of its order, None to leave it."""

    slices: list[_Slice]
    key: list[int] | None
    group: str | None  # class name of a grouped set


def draw_bucket(spool: Path, image_size: int, bucket: _Bucket) -> TaskResult:
    """Read, shuffle and rasterise one bucket."""
    drawings = []
    for part in bucket.slices:
        if part.first == part.last:
            continue
        rows = part.last - part.first + 1
        file = spool / f"{part.sketch_class}-{part.split}.starts"
        starts = np.fromfile(file, np.int64, rows, offset=8 * part.first)
        n, offset = 3 * (starts[-1] - starts[0]), 6 * starts[0]
        points = np.fromfile(file.with_suffix(".points"), np.int16, n, offset=offset)
        strokes = np.split(points.reshape(-1, 3), starts[1:-1] - starts[0])
        drawings += [(each, part.coco_class, part.sketch_class) for each in strokes]
    if bucket.key is not None:
        order = np.random.default_rng(bucket.key).permutation(len(drawings))
        drawings = [drawings[i] for i in order]
    records = [
        {
            "image": sketches.encode_png(sketches.rasterise(strokes, image_size)),
            "coco_class": coco_class,
            "sketch_class": sketch_class,
        }
        for strokes, coco_class, sketch_class in drawings
    ]
    if bucket.group is not None:
        records = [(bucket.group, record) for record in records]
    return TaskResult(records, counts=Counter(str(coco_class) for _, coco_class, _ in drawings))


def _buckets(
    notes: Mapping[str, _SpoolNote],
    classes: Classes,
    names: Sequence[str],
    split: str,
    seed: int,
    group: str | None,
) -> list[_Bucket]:
    """Return the buckets of one split of the sketch classes `names`, in the order of writing."""
    slices = []  # of each class, of each of its buckets
    for name in names:
        rows = notes[name].rows[split]
        labels = classes.coco.index(classes.sketch_to_coco[name]), classes.sketch.index(name)
        slices.append([_Slice(split, *labels, *limits) for limits in zip(rows, rows[1:])])
    if split != "train":
        return [_Bucket([part], None, group) for of_class in slices for part in of_class]
    salt = zlib.crc32((group or "").encode())
    return [
        _Bucket(list(of_bucket), [seed, salt, b], group) for b, of_bucket in enumerate(zip(*slices))
    ]


def _parts(
    notes: Mapping[str, _SpoolNote],
    classes: Classes,
    groups: Mapping[str | None, Sequence[str]],
    args: argparse.Namespace,
) -> list[Part]:
    parts = []
    for split, n_chunks in flags.chunks(args).items():
        for group, names in groups.items():
            buckets = _buckets(notes, classes, names, split, args.seed, group)
            if group is not None and not any(s.first < s.last for b in buckets for s in b.slices):
                continue
            cuts = [len(buckets) * k // n_chunks for k in range(n_chunks + 1)]
            for k in range(n_chunks):
                tasks = functools.partial(iter, buckets[cuts[k] : cuts[k + 1]])
                n_tasks = cuts[k + 1] - cuts[k]
                parts.append(Part(split, k, n_chunks, tasks, n_tasks, group or "all"))
    return parts


# ---- the command -------------------------------------------------------------------------------


def parser(module: str, description: str, n_chunks: int) -> argparse.ArgumentParser:
    """Return a parser of the flags of both commands."""
    result = flags.base_parser(module, description, n_chunks, HParams)
    result.add_argument(
        "--class-relationship",
        type=Path,
        default=CLASS_RELATIONSHIP,
        help="JSON: Quick, Draw! class -> COCO class (default: the 128 classes of the paper)",
    )
    return result


def _find_files(folder: Path, classes: Classes, report: Report) -> dict[str, Path]:
    """Return sketch class -> class file; raise UserError when there is none at all."""
    files = {name: folder / f"{name}.npz" for name in classes.sketch}
    missing = [name for name, file in files.items() if not file.is_file()]
    if len(missing) == len(files):
        raise UserError(
            f"{folder} has no drawings of the mapped classes: {len(files)} files such as "
            f"{missing[0]!r}.npz were expected (the sketch-rnn .npz files of Quick, Draw!)"
        )
    report.add("class without a file", *(f"{name}.npz" for name in missing))
    return {name: file for name, file in files.items() if name not in missing}


def _fill_spool(
    spool: Path,
    classes: Classes,
    files: Mapping[str, Path],
    groups: Mapping[str | None, Sequence[str]],
    args: argparse.Namespace,
    report: Report,
) -> dict[str, _SpoolNote]:
    """Run the first pass over all class files; return the notes by sketch class."""
    make_folder(spool, "the folder", "choose another --target-dir")
    tasks = []
    for names in groups.values():
        size = sum(files[name].stat().st_size for name in names)
        n_buckets = args.n_chunks * max(-(-size // (args.n_chunks * _BUCKET_BYTES)), 1)
        tasks += [
            _SpoolTask(files[name], spool, name, classes.sketch.index(name), n_buckets, args.seed)
            for name in names
        ]
    with worker_pool(args.workers) as pool:
        results = ordered_map(pool, spool_class, tasks, 4 * max(args.workers, 1))
        notes = list(progress(results, "reading", total=len(tasks), unit="class"))
    for note in notes:
        report.extend(note.problems)
    return {task.name: note for task, note in zip(tasks, notes)}


def prepare(args: argparse.Namespace, kind: str, grouped: bool) -> None:
    """Prepare a set of `kind`. grouped: one group of shards a COCO class."""
    flags.check_base_args(args)
    image_size = hparams.parse(args.hparams, HParams).image_size
    classes = read_classes(args.class_relationship)
    report = Report()
    files = _find_files(args.dataset_dir, classes, report)
    groups: dict[str | None, list[str]] = {None: list(files)}
    if grouped:
        groups = {
            coco: [name for name in files if classes.sketch_to_coco[name] == coco]
            for coco in classes.coco
        }
    settings = {
        "image_size": image_size,
        "seed": args.seed,
        "chunks": flags.chunks(args),
        "class_relationship": zlib.crc32(json.dumps(classes.sketch_to_coco).encode()),
    }

    def make_meta(totals: Totals) -> dict[str, Any]:
        if not sum(totals.records.values()):
            raise UserError(f"no drawing of {args.dataset_dir} can be used")
        return {
            **classes.meta(),
            "drawings": {
                split: {classes.coco[int(k)]: n for k, n in totals.counts[split].items()}
                for split in SPLITS
            },
            "image_size": image_size,
        }

    with SetWriter(args.target_dir, kind, settings, fingerprint(files.values(), ())) as out:
        if out.complete:
            return
        spool = out.folder / SPOOL
        notes = _fill_spool(spool, classes, files, groups, args, report)
        out.write(
            _parts(notes, classes, groups, args),
            functools.partial(draw_bucket, spool, image_size),
            make_meta,
            workers=args.workers,
            report=report,
            unit="bucket",
        )
