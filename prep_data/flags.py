"""Flags that all preparation commands have, and how a command is run."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from core import commands, hparams
from core.errors import UsageError, UserError
from prep_data.workers import usable_cores

MAX_CHUNKS = 10_000  # shards of a split, or of a class and split
MAX_WORKERS = 256


def base_parser(
    module: str, description: str, n_chunks: int, hparams_class: type
) -> argparse.ArgumentParser:
    """Return a parser with the flags all commands have. module: as in `python -m prep_data.X`."""
    parser = commands.Parser(
        prog=f"python -m prep_data.{module}",
        description=description,
        epilog="hparams:\n" + hparams.describe(hparams_class),
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
    add_workers_flag(parser)
    return parser


def add_workers_flag(parser: argparse.ArgumentParser) -> None:
    """Add --workers, by default as many as this process may use cores."""
    parser.add_argument(
        "--workers",
        type=int,
        default=min(usable_cores(), MAX_WORKERS),
        help="processes (default: one a core; 0: none but this one)",
    )


def check_range(args: argparse.Namespace, name: str, low: int, high: int) -> None:
    """Raise UsageError naming the flag when its value is not within low..high."""
    value, flag = vars(args)[name], "--" + name.replace("_", "-")
    if not low <= value <= high:
        raise UsageError(f"{flag} is {value}: it must be {low} to {high}")


def check_base_args(args: argparse.Namespace) -> None:
    """Raise UsageError for values no command can use, UserError for a missing --dataset-dir."""
    for name in ("n_chunks", "valid_n_chunks", "test_n_chunks"):
        check_range(args, name, 1, MAX_CHUNKS)
    check_range(args, "workers", 0, MAX_WORKERS)
    check_range(args, "seed", 0, 2**31 - 1)
    if not args.dataset_dir.is_dir():
        raise UserError(f"--dataset-dir {args.dataset_dir} is not a folder")


def chunks(args: argparse.Namespace) -> dict[str, int]:
    """Return the number of shards of each split."""
    return {"train": args.n_chunks, "valid": args.valid_n_chunks, "test": args.test_n_chunks}


def run_script(command: Callable[[Sequence[str]], None]) -> None:
    """Run a command's main on sys.argv and end the process; files begun are removed on the way."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    interrupted = "interrupted: run the same command again to go on"
    sys.exit(commands.run(command, sys.argv[1:], interrupted, clean_up=True))
