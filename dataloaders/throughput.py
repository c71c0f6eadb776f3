"""How fast a loader is, and where its time goes: `python -m dataloaders.<loader>`."""

from __future__ import annotations

import argparse
import logging
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional

from core.errors import UserError
from core.hparams import BaseHParams, parse
from core.registry import LOADERS

WARM_UP = 5  # batches before the clock starts: tracing, the first window, threads


class Speed(NamedTuple):
    """What `measure` finds."""

    batches_per_second: float
    shares: dict[str, float]  # stage -> its share of the time of a batch, all together 1


def measure(dataset: Any, seconds: float) -> Speed:
    """Times the training pipeline whole and cut after each stage. dataset: a Dataset; seconds: of
    all measurements together (at least one batch each)."""
    names = ("read", *dataset.stage_names())
    times = []
    for stages in range(len(names)):
        iterator = iter(dataset.truncated(stages))
        times.append(_seconds_a_batch(iterator, seconds / len(names)))
    # Stages of different batches overlap, so a stage's own time is what it adds to the rest.
    added = [max(t - before, 0.0) for t, before in zip(times, [0.0, *times])]
    total = sum(added)
    return Speed(1 / times[-1], {name: t / total for name, t in zip(names, added)})


def _seconds_a_batch(iterator: Iterator[Any], seconds: float) -> float:
    for _ in range(WARM_UP):
        next(iterator)
    count, start = 0, time.perf_counter()
    while True:
        next(iterator)
        count += 1
        passed = time.perf_counter() - start
        if passed >= seconds:
            return passed / count


def main(name: str, noun: str, argv: Optional[Sequence[str]] = None) -> int:
    """Prints the figures of the loader `name`, whose samples are called `noun`. Exit code."""
    parser = argparse.ArgumentParser(description=f"Throughput of the loader {name!r}.")
    parser.add_argument("-dp", "--data-hparams", default="", help="folders: name=path,name=path")
    parser.add_argument("--batch-size", type=int, default=64 if noun == "triplets" else 16)
    parser.add_argument("--image-size", type=int, default=96, help="of crops and sketches, pixels")
    parser.add_argument("--seconds", type=float, default=20.0, help="to measure, in all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        loader = LOADERS[name]
        hparams = parse(args.data_hparams, loader.HParams)
        base = parse("", BaseHParams, batch_size=args.batch_size, seed=args.seed)
        dataset = loader(hparams, base, args.image_size, args.seed)
        speed = _measure_or_explain(dataset, args.seconds)
    except UserError as error:
        print(f"{error}; give --data-hparams" if _no_folders(error) else error, file=sys.stderr)
        return error.exit_code
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{name}: {speed.batches_per_second:.1f} batches/s of {args.batch_size}, "
        f"{speed.batches_per_second * args.batch_size:.0f} {noun}/s, "
        f"peak memory {peak:.0f} MB, load average {os.getloadavg()[0]:.1f}"
    )
    print("  ".join(f"{stage} {share:.0%}" for stage, share in speed.shares.items()))
    return 0


def _measure_or_explain(dataset: Any, seconds: float) -> Speed:
    import tensorflow as tf

    from dataloaders.blocks import explain

    try:
        return measure(dataset, seconds)
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        reason = explain(error, dataset.folders())
        if reason is None:
            raise
        raise UserError(reason) from error


def _no_folders(error: UserError) -> bool:
    return str(error).startswith("missing hparams")
