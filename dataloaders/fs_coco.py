"""'fs-coco': photographs beside drawings of the whole scene, without objects.

FS-COCO (Chowdhury et al. 2022) in its published layout (docs/data_formats.md). Its raster sketches
are what is shown; strokes (vector_sketches/) and captions (text/) are not read.

Which files a split has, and that each is whole, is found when it is first used. Pictures are read
and decoded when a batch needs them: 10,000 pairs, encoded as prepared sets store them, would take
450 MB.
"""

from __future__ import annotations

import functools
import logging
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from core.dataset import SceneDataset, Stage, Vocabulary
from core.errors import EmptySplitError, UsageError, UserError, file_error
from core.files import regular_file
from core.hparams import hp
from core.registry import LOADERS
from dataloaders import image_ops, samples
from dataloaders.batches import SceneBatch
from dataloaders.images import Problem
from dataloaders.queries import query_objects
from dataloaders.sl_pairs import by_number, summary

LISTS = {False: "val_normal.txt", True: "val_unseen_user.txt"}  # by the hparam unseen_users
FOLDERS = ("images", "raster_sketches")
_TAIL = 1024  # bytes that may follow the picture within its file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HParams:
    """The folder of the published set, and which of its two partitions is used."""

    fs_coco_dir: str = hp(
        help="FS-COCO as published: holds images/, raster_sketches/ and the lists val_*.txt",
        folder=("images/[0-9]*/[0-9]*.jpg", "raster_sketches/[0-9]*/[0-9]*.jpg", "val_*.txt"),
    )
    unseen_users: bool = hp(
        False, "valid is val_unseen_user.txt, people of whom train has no drawing"
    )


@LOADERS.register("fs-coco")
class FsCoco(SceneDataset):
    """Whole photographs and whole drawings. The published set has train and valid."""

    name = "fs-coco"
    HParams = HParams
    batch_type = SceneBatch
    vocabulary = Vocabulary(("__image__",))
    has_objects = False
    has_masks = False
    queries = query_objects

    def __init__(self, hparams: HParams, base: Any, image_size: int, seed: int) -> None:
        super().__init__(hparams, base, image_size, seed)
        self._folder = Path(hparams.fs_coco_dir)
        list_file = self._folder / LISTS[hparams.unseen_users]
        if not (list_file.is_file() and all((self._folder / each).is_dir() for each in FOLDERS)):
            raise UserError(
                f"{self._folder} does not hold {', '.join(FOLDERS)} and {list_file.name}: "
                "fs_coco_dir must be the folder of FS-COCO as published"
            )
        self._listed = read_list(list_file)
        self._pairs = functools.cache(self._read_pairs)

    def source(self, split: str) -> samples.SplitSamples:
        rows = samples.MemorySplit(self._folder, split, len(self._pairs(split)[0]))
        return samples.SplitSamples(rows, self.batch_size, self.seed)

    def stages(self, split: str, training: bool) -> tuple[Stage, ...]:
        ids, photos, drawings = self._pairs(split)

        def decode(chosen: samples.Samples) -> SceneBatch:
            rows, side = chosen.records, self.sizes.photo
            return SceneBatch(
                image_ids=tf.gather(ids, rows),
                images=image_ops.read_pictures(tf.gather(photos, rows), side, 3),
                drawings=image_ops.read_pictures(tf.gather(drawings, rows), side, 1),
            )

        return (("decode", decode),)

    def relations(self, *args: Any) -> tf.Tensor:
        raise UsageError(f"the scenes of {self.name} have no objects, so no relations")

    def _read_pairs(self, split: str) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return the pairs of a split by ascending id: int64 (n,), and the paths of photographs and
        of drawings, string (n,). Logs once what is left out. UserError when nothing can be used."""
        if split == "test":
            raise EmptySplitError(f"{self.name} has no split test: valid is what it publishes")
        problems: list[Problem] = []
        photos, drawings = (
            by_number(sorted((self._folder / each).glob("[0-9]*/[!.]*")), (".jpg",), problems)
            for each in FOLDERS
        )
        listed = set(self._listed)
        if split == "valid":
            twice = sorted(i for i, count in Counter(self._listed).items() if count > 1)
            problems += [Problem("id listed more than once", str(i)) for i in twice]
            wanted = sorted(listed)
        else:
            wanted = sorted((photos.keys() | drawings.keys()) - listed)
        pairs = [(photos.get(i), drawings.get(i)) for i in wanted]
        with ThreadPoolExecutor(8) as pool:  # a disk may be far
            reasons = list(pool.map(_why_unusable, pairs))
        problems += [Problem(why, str(i)) for i, why in zip(wanted, reasons) if why]
        usable = [(i, pair) for i, pair, why in zip(wanted, pairs, reasons) if not why]
        left_out = summary(problems)
        if not usable:
            raise UserError(
                f"no pair of the {split} split of {self._folder} can be used: "
                f"{left_out or 'it has none'}"
            )
        if problems:
            log.warning(
                "%s, %s: %d pairs are used; left out: %s",
                self._folder, split, len(usable), left_out,
            )  # fmt: skip
        columns = [[str(pair[side]) for _, pair in usable] for side in (0, 1)]
        return tf.constant([i for i, _ in usable], tf.int64), *map(tf.constant, columns)


def read_list(path: Path) -> list[int]:
    """Return the ids of a list, one a line. UserError when it cannot be read or is none."""
    try:
        ids = regular_file(path).read_text("utf-8-sig").split()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {file_error(error)}") from None
    wrong = next((each for each in ids if not re.fullmatch(r"[0-9]{1,18}", each)), None)
    if wrong:
        raise UserError(f"{path} has {wrong[:40]!r} where each line is the number of a picture")
    return list(map(int, ids))


def _why_unusable(pair: tuple[Path | None, Path | None]) -> str:
    """Return why a photograph and its drawing cannot be used, '' when they can."""
    photo, drawing = pair
    if photo is None:
        return "drawing without a photograph" if drawing else "listed id without a picture"
    if drawing is None:
        return "photograph without a drawing"
    for path, what in zip(pair, ("photograph", "drawing")):
        if not _is_whole_jpeg(path):
            return f"{what} that is no whole JPEG"
    return ""


def _is_whole_jpeg(path: Path) -> bool:
    """Return whether a file begins and ends as a JPEG: nothing more, so that 10,000 are looked at
    in a second. What is damaged within ends the command when it is decoded."""
    try:
        with regular_file(path).open("rb") as file:
            begins = file.read(2) == b"\xff\xd8"
            file.seek(max(path.stat().st_size - _TAIL, 0))
            return begins and b"\xff\xd9" in file.read()
    except OSError:
        return False


if __name__ == "__main__":
    from dataloaders.throughput import main

    raise SystemExit(main("fs-coco", "scenes"))
