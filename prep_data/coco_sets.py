"""Flags, splits, order and meta.json of the commands over COCO photographs."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core import hparams as hparams_lib
from core.errors import UsageError, UserError
from dataloaders.scene_graph import PREDICATES
from prep_data import flags
from prep_data.coco_annotations import annotation_files, check_layout, photographs, read_files
from prep_data.coco_classes import ClassLists, CocoHParams, Vocabulary, read_class_lists
from prep_data.coco_selection import AnnotatedSet, select_regions
from prep_data.report import Report
from prep_data.set_writer import SPLITS, Part, SetWriter, TaskResult, Totals, fingerprint

log = logging.getLogger(__name__)


class Tasks(NamedTuple):
    """The photographs of a split, in the order of their records."""

    ids: Sequence[int]  # image ids
    task: Callable[[int], Any]  # from an image id to a worker's task


Choice = tuple[Vocabulary, dict[str, Tasks]]  # the vocabulary; split -> its photographs


def parser(module: str, description: str, n_chunks: int, cls: type) -> argparse.ArgumentParser:
    """Return the flags of the commands whose splits are COCO's own. cls: the hparams class."""
    result = flags.base_parser(module, description, n_chunks, cls)
    result.add_argument(
        "--val-size",
        type=int,
        default=1024,
        help="photographs of val2017, the first by id of those listed, that are valid; the rest "
        "are test",
    )
    return result


def check_val_size(val_size: int, n_val: int) -> None:
    """Raise an error when valid or test has no photograph. n_val: photographs val2017 lists."""
    if n_val < 2:
        raise UserError(
            f"val2017 lists {n_val} usable photographs, too few: valid and test need one each"
        )
    if not 1 <= val_size < n_val:
        raise UsageError(
            f"--val-size is {val_size}, but val2017 lists {n_val} photographs and both valid and "
            f"test need some: choose 1 to {n_val - 1}"
        )


def split_photographs(
    sets: Mapping[str, AnnotatedSet], val_size: int, least: int, seed: int, report: Report
) -> dict[str, list[int]]:
    """Return the image ids of each split.

    train is train2017 in a random order; val2017 in ascending id is cut after the first `val_size`
    PHOTOGRAPHS LISTED, so that filters do not move the border. Photographs with fewer than `least`
    objects kept are left out (and reported). Raises UserError when no photograph is left in a
    split.
    """
    border = sets["val2017"].image_ids[val_size]
    result = {}
    for split, name in (("train", "train2017"), ("valid", "val2017"), ("test", "val2017")):
        enough = sets[name].n_objects() >= least
        ids = np.array(sets[name].image_ids, np.int64)
        in_split = {"train": ids == ids, "valid": ids < border, "test": ids >= border}[split]
        left_out = ids[in_split & ~enough].tolist()
        report.add(
            f"image with fewer than {least} kept objects",
            *(sets[name].photo(id_).name for id_ in left_out[:5]),
            count=len(left_out),
        )
        result[split] = ids[in_split & enough].tolist()
        if not result[split]:
            raise UserError(
                f"no photograph of {name} is left for {split}: none of {int(in_split.sum())} has "
                f"{least} or more objects to keep"
            )
    result["train"] = shuffled(result["train"], seed)
    return result


def shuffled(ids: Sequence[int], seed: int) -> list[int]:
    """Return the order of train."""
    return np.random.default_rng(seed).permutation(np.array(ids, np.int64)).tolist()


def choose(
    args: argparse.Namespace, hparams: CocoHParams, lists: ClassLists, report: Report
) -> Choice:
    """Choose all photographs that have objects, in COCO's own splits."""
    files = read_files(args.dataset_dir, report)
    n_val = len(set().union(*(file.images for file in files["val2017"])))
    check_val_size(args.val_size, n_val)
    vocabulary, sets = select_regions(
        args.dataset_dir, files, lists, hparams.min_object_size, report
    )
    ids = split_photographs(sets, args.val_size, hparams.min_objects_per_image, args.seed, report)
    return vocabulary, {
        split: Tasks(ids[split], sets["train2017" if split == "train" else "val2017"].photo)
        for split in SPLITS
    }


def prepare(
    args: argparse.Namespace,
    hparams: CocoHParams,
    kind: str,
    *,
    choose: Callable[[ClassLists, Report], Choice],
    make_work: Callable[[Vocabulary], Callable[[Any], TaskResult]],
    settings: Mapping[str, Any] = {},
    options: Mapping[str, Any] = {},
    images: Iterable[Path] = (),
    report: Report | None = None,
) -> None:
    """Prepare a whole set of `kind` and print the end report.

    choose: reads the annotations and says which photographs there are. make_work: from the
    vocabulary, the workers' function. settings: what else the bytes depend on. options: settings
    that also stand in meta.json. images: image files that are taken besides COCO's photographs.
    report: of what was left out already.
    """
    flags.check_base_args(args)
    lists = read_class_lists(hparams.excluded_meta_file)
    check_layout(args.dataset_dir)
    options = {**hparams_lib.to_dict(hparams), **options, "seed": args.seed}
    del options["excluded_meta_file"]  # its content counts, not where it lies
    settings = {
        **options,
        **settings,
        "chunks": flags.chunks(args),
        "class_lists": dataclasses.asdict(lists),
    }
    source = fingerprint(
        annotation_files(args.dataset_dir), [*photographs(args.dataset_dir), *images]
    )
    with SetWriter(args.target_dir, kind, settings, source) as out:
        if out.complete:
            return
        report = report or Report()
        with report.explaining_errors():
            vocabulary, tasks = choose(lists, report)
        meta = {**vocabulary.meta(lists, PREDICATES), **options}
        out.write(
            _parts(tasks, flags.chunks(args)),
            make_work(vocabulary),
            partial(_make_meta, meta),
            workers=args.workers,
            report=report,
            unit="image",
        )


def _make_meta(meta: Mapping[str, Any], totals: Totals) -> dict[str, Any]:
    empty = [split for split in SPLITS if not totals.records[split]]
    if empty:
        raise UserError(f"nothing is left in {' and '.join(empty)}")
    n_scenes = totals.records["train"]
    if totals.counts["train"]["bare"] == n_scenes:
        log.warning("no background stuff in %d of %d scenes of train", n_scenes, n_scenes)
    return {**meta, "train_total_objs": totals.counts["train"]["objects"]}


def _parts(tasks: Mapping[str, Tasks], chunks: Mapping[str, int]) -> list[Part]:
    parts = []
    for split in SPLITS:
        ids, task = tasks[split]
        for number, piece in enumerate(np.array_split(np.array(ids, np.int64), chunks[split])):
            photos = partial(map, task, piece.tolist())
            parts.append(Part(split, number, chunks[split], photos, len(piece)))
    return parts
