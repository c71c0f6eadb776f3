"""What the commands over COCO photographs share: flags, splits, order, meta.json."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core import hparams as hparams_lib
from core.errors import UsageError, UserError
from dataloaders.scene_graph import PREDICATES
from prep_data import common
from prep_data.coco_annotations import (
    AnnotatedSet,
    Categories,
    ClassLists,
    CocoHParams,
    annotation_files,
    photographs,
    read_class_lists,
    read_dataset,
    source_sizes,
)


class Tasks(NamedTuple):
    """The photographs of a split, in the order of their records."""

    ids: Sequence[int]  # image ids
    task: Callable[[int], Any]  # from an image id to a worker's task


Choice = tuple[Categories, dict[str, Tasks]]  # the vocabulary; split -> its photographs


def base_parser(module: str, description: str, n_chunks: int, cls: type) -> argparse.ArgumentParser:
    """The flags of all three commands. cls: the hparams class."""
    return common.base_parser(
        module, description, n_chunks, "--hparams:\n" + hparams_lib.describe(cls)
    )


def parser(module: str, description: str, n_chunks: int, cls: type) -> argparse.ArgumentParser:
    """The flags of the commands whose splits are COCO's own. cls: the hparams class."""
    result = base_parser(module, description, n_chunks, cls)
    result.add_argument(
        "--val-size",
        type=int,
        default=1024,
        help="photographs of val2017, the first by id of those listed, that are valid; the rest "
        "are test",
    )
    return result


def splits(
    sets: Mapping[str, AnnotatedSet], val_size: int, least: int, seed: int, report: common.Report
) -> dict[str, list[int]]:
    """Image ids of each split: train = train2017 in a random order, val2017 in ascending id cut
    after the first `val_size` PHOTOGRAPHS LISTED, so that filters do not move the border.

    Photographs with fewer than `least` objects kept are left out (and reported).
    Raises UsageError when val_size leaves valid or test without photographs, UserError when
    no photograph is left in a split.
    """
    n_val = len(sets["val2017"].image_ids)
    if not 1 <= val_size < n_val:
        raise UsageError(
            f"--val-size is {val_size}, but val2017 lists {n_val} photographs and both valid and "
            f"test need some: choose 1 to {n_val - 1}"
        )
    result = {}
    border = sets["val2017"].image_ids[val_size]
    for split, name in (("train", "train2017"), ("valid", "val2017"), ("test", "val2017")):
        enough = sets[name].n_objects() >= least
        ids = np.array(sets[name].image_ids, np.int64)
        here = np.ones(len(ids), bool)
        if split != "train":
            here = ids < border if split == "valid" else ids >= border
        left_out = [f"{name}/{sets[name].file_name(i)}" for i in ids[here & ~enough][:5].tolist()]
        if left_out:
            reason = f"image with fewer than {least} kept objects"
            report.merge({reason: {"count": int((here & ~enough).sum()), "first": left_out}})
        result[split] = ids[here & enough].tolist()
        if not result[split]:
            raise UserError(
                f"no photograph of {name} is left for {split}: none of {int(here.sum())} has "
                f"{least} object(s) of the class lists larger than min_object_size"
            )
    result["train"] = shuffled(result["train"], seed)
    return result


def shuffled(ids: Sequence[int], seed: int) -> list[int]:
    """The order of train."""
    return np.random.default_rng(seed).permutation(np.array(ids, np.int64)).tolist()


def choose(
    args: argparse.Namespace, hparams: CocoHParams, lists: ClassLists, report: common.Report
) -> Choice:
    """All photographs that have objects, in COCO's own splits (see `splits`)."""
    categories, sets = read_dataset(args.dataset_dir, lists, hparams.min_object_size, report)
    ids = splits(sets, args.val_size, hparams.min_objects_per_image, args.seed, report)
    return categories, {
        split: Tasks(ids[split], sets["train2017" if split == "train" else "val2017"].photo)
        for split in common.SPLITS
    }


def encode_scene(payload: dict[str, Any]) -> bytes:
    """payload: the keywords of SceneRecord.encode. Returns the serialized record."""
    from dataloaders.records import SceneRecord  # here, because workers import this module

    return SceneRecord.encode(**payload)


def prepare(
    args: argparse.Namespace,
    hparams: CocoHParams,
    kind: str,
    *,
    stem: str | None,
    choose: Callable[[ClassLists, common.Report], Choice],
    make_work: Callable[[Categories], Callable[[Any], common.Done]],
    encode: Callable[[Any], bytes],
    settings: Mapping[str, Any],
    options: Mapping[str, Any] = {},
    pictures: Iterable[Path] = (),
) -> None:
    """Prepares a whole set of `kind` (see dataloaders.records) and prints the end report.

    stem: of the files, None for a grouped set. choose: reads the annotations and says which
    photographs there are. make_work: from the vocabulary, the workers' function. settings: what
    else the bytes depend on. options: settings that also stand in meta.json. pictures: that are
    taken besides COCO's photographs.
    """
    common.check_base_args(args)
    lists = read_class_lists(hparams.excluded_meta_file)
    options = {**hparams_lib.to_dict(hparams), **options, "seed": args.seed}
    del options["excluded_meta_file"]  # its content counts, not where it lies
    settings = {
        **options,
        **settings,
        "chunks": common.chunks(args),
        "class_lists": lists._asdict(),
        "annotation_bytes": source_sizes(args.dataset_dir),
    }
    source = common.fingerprint(
        annotation_files(args.dataset_dir), [*photographs(args.dataset_dir), *pictures]
    )
    with common.PreparedSet(args.target_dir, kind, settings, source) as out:
        if out.complete:
            print(f"{args.target_dir} is already complete")
            return
        report = common.Report()
        categories, tasks = choose(lists, report)

        def make_meta(totals: common.Totals) -> dict[str, Any]:
            empty = [split for split in common.SPLITS if not totals.records[split]]
            if empty:
                raise UserError(
                    f"nothing is left in {' and '.join(empty)}: "
                    f"{'; '.join(line.strip() for line in report.lines())}"
                )
            return {
                **categories.meta(lists, PREDICATES),
                **options,
                "train_total_objs": totals.counts["train"]["objects"],
                **{f"n_{split}_samples": totals.records[split] for split in common.SPLITS},
            }

        meta = out.write(
            _parts(tasks, common.chunks(args)),
            make_work(categories),
            encode,
            make_meta,
            stem=stem,
            workers=args.workers,
            report=report,
            unit="image",
        )
        totals = {split: meta[f"n_{split}_samples"] for split in common.SPLITS}
        common.print_summary(args.target_dir, report, totals, stem or "crops")


def _parts(tasks: Mapping[str, Tasks], chunks: Mapping[str, int]) -> list[common.Part]:
    parts = []
    for split in common.SPLITS:
        ids, task = tasks[split]
        pieces = np.array_split(np.array(ids, np.int64), chunks[split])
        for number, piece in enumerate(pieces):
            mine = partial(map, task, piece.tolist())
            parts.append(common.Part(split, number, len(pieces), mine, len(piece)))
    return parts
