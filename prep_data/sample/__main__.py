"""Draw a small world in the layouts of Quick, Draw!, COCO-Stuff, SketchyCOCO, SketchyCOCO-SL and
FS-COCO.

    python -m prep_data.sample --target-dir sample

The same flags give the same bytes. The folder appears under its name only when it is whole.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from core import commands
from core.errors import UsageError, UserError
from core.files import atomic_folder, make_folder, read_json
from prep_data.flags import add_workers_flag, run_script
from prep_data.sample.layouts import VERSION, Settings, write_sample
from prep_data.sample.objects import CLASSES

_HELP = {
    "seed": "of everything",
    "train_images": "photographs of train2017",
    "val_images": "photographs of val2017",
    "drawings": "training drawings of each Quick, Draw! class",
    "eval_drawings": "drawings of valid and of test, of each class",
    "sl_train_pairs": "photographs with a drawing of the scene, train",
    "sl_test_pairs": "the same of test",
    "fs_pairs": "photographs with a drawing of the scene and no objects, of ten users",
}
_MAY_BE_ZERO = ("seed", "workers", "sl_train_pairs", "sl_test_pairs")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = commands.Parser(
        prog="python -m prep_data.sample",
        description="Draws a small world in the layouts of Quick, Draw!, COCO-Stuff, SketchyCOCO, "
        "SketchyCOCO-SL and FS-COCO.",
    )
    parser.add_argument("--target-dir", type=Path, required=True, help="folder to write to")
    for name, default in Settings()._asdict().items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, default=default, help=_HELP[name])
    add_workers_flag(parser)
    args = parser.parse_args(argv)
    for name in (*_HELP, "workers"):
        value, least = vars(args)[name], 0 if name in _MAY_BE_ZERO else 1
        if value < least:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} is {value}: it must be at least {least}")
    return args


def _is_complete(target: Path, settings: Settings) -> bool:
    """Return whether the folder holds this sample; raise UserError when it holds another thing."""
    if not target.exists():
        return False
    if not target.is_dir():
        raise UserError(f"{target} is a file: name another --target-dir")
    note = target / "sample.json"
    if note.is_file():
        if read_json(note) == {"version": VERSION, **settings._asdict()}:
            return True
        raise UserError(
            f"{target} holds a sample made with other flags: name another --target-dir or remove "
            "that folder"
        )
    if any(target.iterdir()):
        raise UserError(f"{target} is not empty and no sample: name another --target-dir")
    return False


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command on `argv` (None: sys.argv's flags); raise UserError."""
    args = _parse(argv)
    settings = Settings(**{name: vars(args)[name] for name in Settings._fields})
    target = args.target_dir.absolute()
    if _is_complete(target, settings):
        print(f"{target} is already complete")
        return
    make_folder(target.parent, "the folder", "choose another --target-dir")
    with atomic_folder(target) as folder:
        write_sample(folder, settings, args.workers)
    drawings = settings.drawings + 2 * settings.eval_drawings
    print(
        f"{target}: {len(CLASSES)} object classes, {settings.train_images} + "
        f"{settings.val_images} photographs, {drawings} drawings of each Quick, Draw! class, "
        f"{settings.sl_train_pairs} + {settings.sl_test_pairs} + "
        f"{settings.fs_pairs} drawn scenes"
    )


if __name__ == "__main__":
    run_script(main)
