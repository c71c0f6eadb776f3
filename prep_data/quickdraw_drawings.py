"""What both Quick, Draw! commands share: .npz files -> spool of strokes -> rasterised records.

The whole of Quick, Draw! is nine million drawings: too many to hold, too many to seek one by one.
So there are two passes. The first reads each class file once, drops what shows nothing and appends
the strokes of the rest to a spool (`<set>/.spool`, some 300 bytes a drawing, removed at the end),
sorted into *buckets*: every training drawing is thrown into one of them by the seed. The second
takes bucket after bucket, shuffles it and rasterises it. Throwing, then shuffling each bucket is
a uniformly random order, with a few thousand drawings in memory. Drawings of valid and test keep
their order: class by class, as in the files; their buckets are runs of drawings.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from core import hparams
from core.errors import UserError
from core.files import read_json, write_json
from dataloaders import sketches
from prep_data import common
from prep_data.npz import NpzError, read_drawings

log = logging.getLogger(__name__)

CLASS_RELATIONSHIP = Path(__file__).parent / "quickdraw" / "quickdraw_to_coco_v2.json"
_RUN = 2048  # drawings of a bucket of valid and test
_BUCKET_BYTES = 1 << 20  # of packed .npz for one training bucket, some 2000 drawings


@dataclass(frozen=True)
class HParams:
    """What can be changed about the pictures."""

    image_size: int = hparams.hp(sketches.SIDE, "pixels a side", low=16, high=4096)


class Classes(NamedTuple):
    """The class relationship: Quick, Draw! class -> COCO class, both sorted by name."""

    sketch: list[str]
    coco: list[str]
    sketch_to_coco: dict[str, str]

    def meta(self) -> dict[str, Any]:
        """The class keys of meta.json."""
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
    """Reads {Quick, Draw! class: COCO class}. Raises UserError when the file is not that."""
    relation = read_json(path)
    if (
        not isinstance(relation, dict)
        or not relation
        or not all(isinstance(name, str) and name for name in relation.values())
    ):
        raise UserError(
            f"{path} is not a class relationship: a JSON object of Quick, Draw! class names and "
            "the COCO class name of each was expected"
        )
    classes = Classes(sorted(relation), sorted(set(relation.values())), dict(relation))
    for names in (classes.sketch, classes.coco):
        stems: dict[str, str] = {}
        for name in names:
            other = stems.setdefault(common.file_stem(name), name)
            if other != name:
                raise UserError(f"{path}: {other!r} and {name!r} would share a file; rename one")
    return classes


# ---- first pass: class files -> spool ----------------------------------------------------------


class _Spooling(NamedTuple):
    """Task of the first pass: one class file."""

    file: Path
    spool: Path
    name: str  # sketch class
    n_buckets: int  # of train
    seed: int


def _stem(spool: Path, name: str, split: str) -> Path:
    return spool / f"{common.file_stem(name)}-{split}"


def spool_class(task: _Spooling) -> list[common.Problem]:
    """Reads one class file into the spool; what was left out. Files of the spool, of each split:
    `.points` int16 (points, 3), `.lengths` int32 (drawings,), `.npz` the buckets."""
    note = task.spool / f"{common.file_stem(task.name)}.json"
    if note.is_file():  # from a run that was killed
        return [common.Problem(*problem) for problem in json.loads(note.read_text("utf-8"))]
    try:
        drawings = {split: read_drawings(task.file, split) for split in common.SPLITS}
    except NpzError as error:
        problems = [common.Problem("class file that cannot be read", str(error))]
        drawings = {split: [] for split in common.SPLITS}
    else:
        problems = []
    throw = np.random.default_rng([task.seed, zlib.crc32(task.name.encode())])
    for split, strokes in drawings.items():
        if split == "train":
            bucket = throw.integers(task.n_buckets, size=len(strokes))
        else:
            bucket = np.zeros(len(strokes), np.int64)
        good = np.ones(len(strokes), bool)
        for i, drawing in enumerate(strokes):
            reason = sketches.why_not_drawable(drawing)
            if reason:
                good[i] = False
                problems.append(
                    common.Problem(f"drawing with {reason}", f"{task.name} {split} #{i}")
                )
        order = np.argsort(bucket, kind="stable")
        order = order[good[order]]
        _spool_split(task, split, [strokes[i] for i in order], bucket[order])
    write_json(note, problems)
    return problems


def _spool_split(
    task: _Spooling, split: str, strokes: list[np.ndarray], bucket: np.ndarray
) -> None:
    stem = _stem(task.spool, task.name, split)
    lengths = np.array([len(drawing) for drawing in strokes], np.int32)
    if split == "train":
        rows = np.searchsorted(bucket, np.arange(task.n_buckets + 1))
    else:
        rows = np.append(np.arange(0, len(strokes), _RUN), len(strokes))
    points = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[rows]
    content = np.concatenate(strokes) if strokes else np.zeros((0, 3), np.int16)
    try:
        # Not by tofile: it says nothing when a full disk takes the last bytes only in part.
        stem.with_name(stem.name + ".lengths").write_bytes(lengths.tobytes())
        stem.with_name(stem.name + ".points").write_bytes(content.tobytes())
        np.savez(stem.with_name(stem.name + ".npz"), rows=rows, points=points)
    except OSError as error:
        raise UserError(f"cannot write {task.spool}: {error.strerror or error}") from error


# ---- second pass: spool -> records -------------------------------------------------------------


class _Slice(NamedTuple):
    """Consecutive drawings of one class in the spool."""

    stem: str  # spool file without ending
    coco_class: int
    sketch_class: int
    row: int
    n_rows: int
    point: int
    n_points: int


class _Bucket(NamedTuple):
    """Task of the second pass. key: the seed of its order, None to leave it."""

    slices: list[_Slice]
    key: list[int] | None
    group: str | None  # class name of a grouped set


def draw_bucket(spool: Path, image_size: int, bucket: _Bucket) -> common.Done:
    """Reads, shuffles and rasterises one bucket: payloads (PNG, COCO class, sketch class)."""
    drawings = []
    for part in bucket.slices:
        lengths = np.fromfile(
            spool / f"{part.stem}.lengths", np.int32, part.n_rows, "", part.row * 4
        )
        points = np.fromfile(
            spool / f"{part.stem}.points", np.int16, part.n_points * 3, "", part.point * 6
        ).reshape(-1, 3)
        ends = np.cumsum(lengths)
        drawings += [
            (points[end - length : end], part.coco_class, part.sketch_class)
            for end, length in zip(ends.tolist(), lengths.tolist())
        ]
    if bucket.key is not None:
        order = np.random.default_rng(bucket.key).permutation(len(drawings))
        drawings = [drawings[i] for i in order]
    records = [
        (sketches.encode_png(sketches.rasterise(strokes, image_size)), coco_class, sketch_class)
        for strokes, coco_class, sketch_class in drawings
    ]
    if bucket.group is not None:
        records = [(bucket.group, record) for record in records]
    return common.Done(records, counts=Counter(str(coco_class) for _, coco_class, _ in drawings))


class _Spool:
    """The finished spool, seen from the second pass."""

    def __init__(self, folder: Path, classes: Classes, present: Sequence[str]):
        self.folder = folder
        self._classes = classes
        self._present = present

    def buckets(
        self, split: str, sketch_classes: Iterable[str], seed: int, group: str | None
    ) -> list[_Bucket]:
        """All buckets of these classes, in the order in which they are written."""
        per_class = []
        for name in sketch_classes:
            if name not in self._present:
                continue
            with np.load(f"{_stem(self.folder, name, split)}.npz", allow_pickle=False) as arrays:
                rows, points = arrays["rows"].tolist(), arrays["points"].tolist()
            per_class.append(
                [
                    _Slice(
                        _stem(self.folder, name, split).name,
                        self._classes.coco.index(self._classes.sketch_to_coco[name]),
                        self._classes.sketch.index(name),
                        rows[b],
                        rows[b + 1] - rows[b],
                        points[b],
                        points[b + 1] - points[b],
                    )
                    for b in range(len(rows) - 1)
                ]
            )
        if split != "train":
            return [_Bucket([part], None, group) for parts in per_class for part in parts]
        salt = zlib.crc32((group or "").encode())
        return [
            _Bucket(list(slices), [seed, salt, b], group)
            for b, slices in enumerate(zip(*per_class))
        ]


def _parts(
    spool: _Spool, groups: Mapping[str | None, Sequence[str]], args: argparse.Namespace
) -> list[common.Part]:
    parts = []
    for split, n_chunks in common.chunks(args).items():
        for group, names in groups.items():
            buckets = spool.buckets(split, names, args.seed, group)
            if group is not None and not any(s.n_rows for b in buckets for s in b.slices):
                continue
            cuts = [len(buckets) * k // n_chunks for k in range(n_chunks + 1)]
            for k in range(n_chunks):
                mine = buckets[cuts[k] : cuts[k + 1]]
                parts.append(
                    common.Part(
                        split, k, n_chunks, functools.partial(iter, mine), len(mine), group or "all"
                    )
                )
    return parts


def _encode(payload: tuple[bytes, int, int]) -> bytes:
    from dataloaders.records import SketchRecord

    return SketchRecord.encode(*payload)


# ---- the command -------------------------------------------------------------------------------


def parser(module: str, description: str, n_chunks: int) -> argparse.ArgumentParser:
    """Flags of both commands."""
    result = common.base_parser(
        module, description, n_chunks, "hparams:\n" + hparams.describe(HParams)
    )
    result.add_argument(
        "--class-relationship",
        type=Path,
        default=CLASS_RELATIONSHIP,
        help="JSON: Quick, Draw! class -> COCO class (default: the 128 classes of the paper)",
    )
    return result


def prepare(args: argparse.Namespace, kind: str, grouped: bool) -> None:
    """The whole command. kind: of the set; grouped: one group of shards a COCO class."""
    common.check_base_args(args)
    pixels = hparams.parse(args.hparams, HParams)
    classes = read_classes(args.class_relationship)
    report = common.Report()
    files = {name: args.dataset_dir / f"{name}.npz" for name in classes.sketch}
    for name in [name for name, file in files.items() if not file.is_file()]:
        report.add("class without a file", f"{name}.npz")
        del files[name]
    if not files:
        raise UserError(
            f"{args.dataset_dir} has no drawings of the mapped classes: {len(classes.sketch)} "
            f"files such as {classes.sketch[0]!r}.npz were expected (the sketch-rnn .npz files of "
            "Quick, Draw!)"
        )
    groups: dict[str | None, list[str]] = {None: list(files)}
    if grouped:
        groups = {
            coco: [name for name in files if classes.sketch_to_coco[name] == coco]
            for coco in classes.coco
        }
    sizes = {name: file.stat().st_size for name, file in files.items()}
    settings = {
        "image_size": pixels.image_size,
        "seed": args.seed,
        "chunks": common.chunks(args),
        "class_relationship": zlib.crc32(json.dumps(classes.sketch_to_coco).encode()),
        "class_files": zlib.crc32(json.dumps(sorted(sizes.items())).encode()),
    }
    source = common.fingerprint(files.values(), ())
    with common.PreparedSet(args.target_dir, kind, settings, source) as out:
        if out.complete:
            print(f"{args.target_dir}: is complete already, nothing to do")
            return
        spool = out.folder / common.SPOOL
        try:
            spool.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {spool}: {error.strerror or error}") from error
        tasks = []
        for names in groups.values():
            whole = sum(sizes[name] for name in names)
            n_buckets = args.n_chunks * -(-whole // (args.n_chunks * _BUCKET_BYTES))
            tasks += [_Spooling(files[n], spool, n, max(n_buckets, 1), args.seed) for n in names]
        with common.worker_pool(args.workers) as pool:
            done = common.ordered_map(pool, spool_class, tasks, 4 * max(args.workers, 1))
            reading = tqdm(done, "reading", len(tasks), unit="class", disable=None)
            for problems in reading:
                report.extend(problems)

        def make_meta(totals: common.Totals) -> dict[str, Any]:
            if not sum(totals.records.values()):
                raise UserError(
                    f"no drawing of {args.dataset_dir} can be used:\n" + "\n".join(report.lines())
                )
            counts = {f"n_{split}_samples": n for split, n in totals.records.items()}
            drawings = {
                split: {classes.coco[int(k)]: n for k, n in totals.counts[split].items()}
                for split in common.SPLITS
            }
            return {
                **classes.meta(),
                **counts,
                "drawings": drawings,
                "image_size": pixels.image_size,
            }

        meta = out.write(
            _parts(_Spool(spool, classes, list(files)), groups, args),
            functools.partial(draw_bucket, spool, pixels.image_size),
            _encode,
            make_meta,
            stem=None if grouped else "sketches",
            workers=args.workers,
            report=report,
            unit="bucket",
        )
    totals = {split: meta[f"n_{split}_samples"] for split in common.SPLITS}
    common.print_summary(args.target_dir, report, totals, "drawings")
