"""The generator of a trained run of 'spade' as a weights file.

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
    """Runs the command; raises UserError for what a user can mend."""
    parser = Parser(prog="python -m SPADE.export", description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of the run, as runs/spade-01")
    parser.add_argument("out", type=Path, help="weights file to write")
    parser.add_argument("--resume", default="latest", help="latest, or a checkpoint folder")
    args = parser.parse_args(argv)

    from core import checkpoints, hparams
    from core.dataset import Vocabulary
    from core.run_folder import RunConfig
    from models.spade import Spade
    from SPADE import weights

    path = args.run / "config.json"
    config = RunConfig.read(path)
    if config.model != NAME:
        raise UserError(f"{path} is of the model {config.model!r}, not {NAME!r}")
    folder = checkpoints.find(args.resume, checkpoints.Checkpoints(args.run / "checkpoints"))
    if folder is None:
        raise UserError(f"{args.run} has no checkpoint to export")
    make_folder(args.out.parent, "the folder", "choose another")
    names = tuple(checkpoints.State.read(folder).vocabulary)
    values = hparams.from_dict(Spade.HParams, config.model_hparams, f"{path}, hparams.model")
    # Ids are for the layouts of its data: here there are none.
    model = Spade(values, Vocabulary(names, ids=(0,) * len(names)), config.base["iterations"])
    step = checkpoints.load(model, folder, names).step
    weights.save_generator(args.out, model.generator)
    print(f"saved: {args.out}, step {step} of {args.run}")


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
