"""Serve a generator's weights over HTTP, as SPADE/api.py serves a SPADE clone; without PyTorch.

python -m SPADE.serve --weights FILE [--host 127.0.0.1] [--port 5000]
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.commands import Parser, run
from core.provenance import sha256
from SPADE import api
from SPADE.generators import LocalGenerator


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until the process is stopped. UserError and OSError for what a user can mend."""
    parser = Parser(prog="python -m SPADE.serve", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--weights", type=Path, required=True, help="what python -m SPADE.convert wrote"
    )
    api.add_flags(parser)
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    weights = sha256(args.weights)
    bound = api.bind(args.host, args.port)
    generator = LocalGenerator(args.weights)
    generator.open()

    def generate(*layout: np.ndarray) -> np.ndarray:
        return generator.generate(*layout).transpose(2, 0, 1)[None]

    api.serve(api.create_app(generate, args.weights.name, weights), bound)


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
