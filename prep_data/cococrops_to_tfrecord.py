"""Object crops from COCO-Stuff, grouped by class.

    python -m prep_data.cococrops_to_tfrecord --dataset-dir coco-stuff --target-dir coco-crops

Crops are cut from the photograph as scenes hold it (256x256), so that both look alike. With
`--masked` what is outside the object is black.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from core import hparams
from prep_data import coco_sets
from prep_data.coco_classes import CropHParams
from prep_data.coco_pixels import make_crops
from prep_data.flags import run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command on `argv` (None: sys.argv's flags); raise UserError."""
    parser = coco_sets.parser("cococrops_to_tfrecord", __doc__, 1, CropHParams)
    parser.add_argument("--masked", action="store_true", help="black outside the object")
    args = parser.parse_args(argv)
    options = hparams.parse(args.hparams, CropHParams)
    coco_sets.prepare(
        args,
        options,
        "coco-crops",
        choose=partial(coco_sets.choose, args, options),
        make_work=lambda vocabulary: partial(
            make_crops, hparams=options, names=vocabulary.names, masked=args.masked
        ),
        settings={"val_size": args.val_size},
        options={"masked": args.masked},
    )


if __name__ == "__main__":
    run_script(main)
