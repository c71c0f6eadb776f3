"""Files that are damaged or cannot be read."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from core.checkpoints import Checkpoints
from dataloaders import prepared_sets
from tests.faults import harness
from tests.faults.harness import STAGE1, Training
from tests.faults.world import STEPS, Outcome, World, failure

NOBODY = 65534


def damaged_checkpoints(world: World, share: float) -> Iterator[Outcome]:
    """The newest checkpoint is damaged: the one before is used, and the end is the same."""
    rng, usual = world.rng, world.undisturbed
    ways = ("a flipped bit in its data", "a flipped bit in state.json", "cut short", "a file gone")
    for way in ways if share == 1 else ways[:1]:
        training = Training(world.fresh("damaged"), "01", world.data, STEPS)
        shutil.copytree(usual.run.root, training.run.root)
        newest = Checkpoints(training.run.checkpoints).latest()
        data = next(newest.glob("ckpt.data-*"))
        at = rng.randrange(data.stat().st_size)
        if way.startswith("a flipped bit in its data"):
            _flip(data, at, rng)
        elif way == "a flipped bit in state.json":
            at = rng.randrange((newest / "state.json").stat().st_size)
            _flip(newest / "state.json", at, rng)
        elif way == "cut short":
            os.truncate(data, at)
        else:
            (newest / "ckpt.index").unlink()
        ended = world.processes.run("train.py", training.argv)

        def check(ended=ended, training=training, newest=newest) -> None:
            assert ended.code == 0, ended.stderr[-800:]
            told = [x for x in ended.stderr.splitlines() if "damaged" in x or "one before" in x]
            assert str(newest) in told[0] and "going on from the one before" in told[1], told
            assert newest.with_name(f"damaged-{newest.name}").is_dir()
            training.check_same(usual)

        note = f"byte {at}" if way != "a file gone" else ""
        yield Outcome("damage", "newest checkpoint", way, "named", 0, failure(check), note)


def _flip(path: Path, at: int, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def damaged_records(world: World, share: float) -> Iterator[Outcome]:
    """Records with a flipped bit, and a shard cut short: the file is named."""
    rng, sets = world.rng, world.sets
    cases = [(w, how) for w in ("quickdraw", "crops") for how in ("a flipped bit", "cut short")]
    for which, how in cases if share == 1 else cases[:1]:
        own = world.fresh("spoilt")
        for name in ("quickdraw", "crops"):
            shutil.copytree(getattr(sets, name), own / name)
        shard = rng.choice(sorted((own / which / "train").iterdir()))
        offsets = [*prepared_sets.record_offsets(shard), shard.stat().st_size]
        record = rng.randrange(1, len(offsets) - 1)
        at = rng.randrange(offsets[record] + 12, offsets[record + 1])
        if how == "cut short":
            os.truncate(shard, at)
        else:
            _flip(shard, at, rng)
        data = f"qdraw_dir={own}/quickdraw,crops_dir={own}/crops"
        ended = world.processes.run(
            "train.py", Training(world.fresh("spoilt-run"), "01", data, 12).argv
        )

        def check(ended=ended, shard=shard) -> None:
            harness.one_sentence(ended, 1)
            assert str(shard) in ended.last and "delete it" in ended.last, ended.last

        note = f"record {record} of {shard.name}"
        yield Outcome("damage", "records", f"{how} in {which}", "named", 0, failure(check), note)


def unreadable_files(world: World, share: float) -> Iterator[Outcome]:
    """Files that cannot be read, each named in one sentence."""
    usual = world.undisturbed
    own = world.fresh("unreadable")
    shutil.copytree(world.sets.quickdraw, own / "quickdraw")
    shutil.copytree(world.sets.crops, own / "crops")
    shutil.copytree(usual.run.root, own / f"{STAGE1}-01")
    shard = sorted((own / "crops/train").iterdir())[0]
    files = {
        "meta.json, cut short": own / "crops/meta.json",
        "a block index, cut short": own / "crops/train.index.npz",
        "config.json, cut short": own / f"{STAGE1}-01/config.json",
        "a shard, gone": shard,
        "a shard, not permitted": shard,
    }
    data = f"qdraw_dir={own}/quickdraw,crops_dir={own}/crops"
    nobody = NOBODY if os.geteuid() == 0 else None  # root may read everything
    for name, path in list(files.items())[: 5 if share == 1 else 1]:
        before, user = path.read_bytes(), None
        if name.endswith("gone"):
            path.unlink()
        elif name.endswith("permitted"):
            user = nobody
            for each in (own, *own.rglob("*")):
                each.chmod(0o777)
            path.chmod(0)
        else:
            path.write_bytes(before[: len(before) // 2])
        training = Training(own, "01", data, STEPS + 2)
        ended = world.processes.run("train.py", training.argv, user=user)
        path.unlink(missing_ok=True)
        path.write_bytes(before)

        def check(ended=ended, path=path) -> None:
            harness.one_sentence(ended, 1)
            assert str(path) in ended.last, ended.last

        yield Outcome("damage", "unreadable files", name, "named", 0, failure(check))
