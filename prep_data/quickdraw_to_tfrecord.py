"""Quick, Draw! (sketch-rnn .npz files) -> `quickdraw` set: rasterised drawings, classes mixed.

    python -m prep_data.quickdraw_to_tfrecord --dataset-dir quickdraw --target-dir quickdraw-tf

Train is in a random order over all classes, drawn from --seed; valid and test go class by class,
as in the files. Stage 1 reads this set.
"""

from collections.abc import Sequence

from prep_data import quickdraw_drawings
from prep_data.flags import run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command on `argv` (None: sys.argv's flags); raise UserError."""
    parser = quickdraw_drawings.parser(
        "quickdraw_to_tfrecord", "Rasterises Quick, Draw!, in random order over classes.", 5
    )
    quickdraw_drawings.prepare(parser.parse_args(argv), "quickdraw", grouped=False)


if __name__ == "__main__":
    run_script(main)
