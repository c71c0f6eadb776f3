"""Write the generator of a trained run of 'spade' as a weights file.

python -m SPADE.export RUN OUT.npz [--resume latest]

for `python -m SPADE.serve --weights OUT.npz` and generate-images generator=OUT.npz.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from core.commands import Parser, run
from core.errors import UserError
from core.files import make_folder

NAME = "spade"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command. UserError for what a user can mend."""
    parser = Parser(prog="python -m SPADE.export", description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of the run, as runs/spade-01")
    parser.add_argument("out", type=Path, help="weights file to write")
    parser.add_argument("--resume", default="latest", help="latest, or a checkpoint folder")
    args = parser.parse_args(argv)

    from core.run import Run
    from SPADE import weights

    make_folder(args.out.parent, "the folder", "choose another")
    run = Run.open(args.run, args.resume)
    if run.model.name != NAME:
        raise UserError(f"{args.run} is of the model {run.model.name!r}, not {NAME!r}")
    weights.save_generator(args.out, run.model.generator)
    print(f"saved: {args.out}, step {run.step} of {args.run}")


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
