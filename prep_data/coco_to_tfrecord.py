"""Scenes from COCO-Stuff: photograph, objects with boxes and masks, background stuff.

    python -m prep_data.coco_to_tfrecord --dataset-dir coco-stuff --target-dir coco-graphs \\
                                         --n-chunks 5 --val-size 1024

Paper: section 4.1 (QuickDrawCOCO-92c); here: relations are not stored, because loaders compute
them from the boxes (stored ones would be the same for sketch and photograph, a fingerprint).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from core import hparams
from prep_data import coco_sets
from prep_data.coco_classes import CocoHParams
from prep_data.coco_pixels import make_scene
from prep_data.flags import run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command on `argv` (None: sys.argv's flags); raise UserError."""
    args = coco_sets.parser("coco_to_tfrecord", __doc__, 5, CocoHParams).parse_args(argv)
    options = hparams.parse(args.hparams, CocoHParams)
    coco_sets.prepare(
        args,
        options,
        "coco-scenes",
        choose=partial(coco_sets.choose, args, options),
        make_work=lambda vocabulary: partial(make_scene, hparams=options),
        settings={"val_size": args.val_size},
    )


if __name__ == "__main__":
    run_script(main)
