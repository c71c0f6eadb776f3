"""Index a folder of photographs, to search it with drawn scenes.

python -m search.build RUN PHOTOGRAPHS INDEX [--detector DIR | --boxes FILE]
    [--whole RUN] [--store NAME]

Run again, it looks only at what is new or has changed, and goes on where it was stopped.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from core.commands import Parser, run
from core.run import Run
from search.index import PhotoIndex
from search.stores import STORES


def main(argv: Sequence[str] | None = None) -> None:
    """Build or update an index. UserError for what a user can mend."""
    parser = Parser(prog="python -m search.build", description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a trained run of graph-attention")
    parser.add_argument(
        "photographs",
        type=Path,
        help="folder, with those below it, a prepared set of scenes, or a features file",
    )
    parser.add_argument("index", type=Path, help="folder of the index, made where there is none")
    sources = parser.add_mutually_exclusive_group()
    sources.add_argument("--detector", type=Path, help="SavedModel of the TF Object Detection API")
    sources.add_argument(
        "--boxes", type=Path, help="COCO annotation file, or a list of a detector's results"
    )
    parser.add_argument(
        "--whole", type=Path, help="run that sees whole pictures, as whole-scene: a third ranking"
    )
    parser.add_argument(
        "--store", choices=STORES, help="what finds photographs; as before, or exact: docs/scale.md"
    )
    parser.add_argument("--uri", help="of the store milvus: a file, or http://HOST:PORT")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    index = PhotoIndex.build(
        Run.open(args.run), args.photographs, args.index, args.detector, args.boxes,
        store=args.store, uri=args.uri, whole=Run.open(args.whole) if args.whole else None,
    )  # fmt: skip
    print(f"{args.index}: {len(index)} photographs, {index.ends[-1]} objects")


if __name__ == "__main__":
    again = "stopped by SIGINT: run it again, and it goes on from here"
    sys.exit(run(main, sys.argv[1:], again))
