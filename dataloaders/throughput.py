"""Measure the speed of a loader and of its stages: `python -m dataloaders.<loader>`."""

from __future__ import annotations

import functools
import logging
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core import commands
from core.errors import HParamError, UsageError
from core.hparams import BaseHParams, parse, to_dict
from core.registry import LOADERS

WARM_UP = 5  # batches before the clock starts: tracing, the first window, threads


class Speed(NamedTuple):
    """The speed of a loader."""

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


def peak_megabytes(who: int) -> float:
    """Return the most memory that was used. who: RUSAGE_SELF or RUSAGE_CHILDREN of `resource`."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return resource.getrusage(who).ru_maxrss * unit / 2**20


def main(name: str, noun: str, argv: Sequence[str] | None = None) -> int:
    """Prints the figures of the loader `name`, whose samples are called `noun`. Exit code."""
    command = functools.partial(_report, name, noun)
    return commands.run(command, sys.argv[1:] if argv is None else argv)


def _report(name: str, noun: str, argv: Sequence[str]) -> None:
    parser = commands.Parser(
        prog=f"python -m dataloaders.{Path(sys.argv[0]).stem}",
        description=f"Throughput of the loader {name!r}.",
    )
    parser.add_argument("-dp", "--data-hparams", default="", help="folders: name=path,name=path")
    parser.add_argument("--batch-size", type=int, default=64 if noun == "triplets" else 16)
    parser.add_argument("--image-size", type=int, default=96, help="of crops and sketches, pixels")
    parser.add_argument("--seconds", type=float, default=20.0, help="to measure, in all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if not 0 < args.seconds < 86_400:
        raise UsageError(f"--seconds is {args.seconds}: it must be above 0 and below a day")
    if not 8 <= args.image_size <= 4096:
        raise UsageError(f"--image-size is {args.image_size}: it must be 8 to 4096")
    from dataloaders.blocks import reading_errors_explained

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    loader = LOADERS[name]
    try:
        hparams = parse(args.data_hparams, loader.HParams)
    except HParamError as error:
        raise HParamError(f"--data-hparams: {error}") from None
    base = parse(f"batch_size={args.batch_size},seed={args.seed}", BaseHParams)
    folders = [value for value in to_dict(hparams).values() if isinstance(value, str)]
    with reading_errors_explained(folders):
        speed = measure(loader(hparams, base, args.image_size, args.seed), args.seconds)
    peak = peak_megabytes(resource.RUSAGE_SELF)
    print(
        f"{name}: {speed.batches_per_second:.1f} batches/s of {args.batch_size}, "
        f"{speed.batches_per_second * args.batch_size:.0f} {noun}/s, "
        f"peak memory {peak:.0f} MB, load average {os.getloadavg()[0]:.1f}"
    )
    print("  ".join(f"{stage} {share:.0%}" for stage, share in speed.shares.items()))
