"""Quick, Draw! (sketch-rnn .npz files) -> `quickdraw-indexed` set: drawings grouped by COCO class.

    python -m prep_data.index_quickdrawtf --dataset-dir quickdraw --target-dir quickdraw-indexed

All sketch classes of one COCO class are pooled, in train in a random order drawn from --seed.
--n-chunks counts files of a class. Stages 2 and 3 draw from this set a sketch of a wanted class.
"""

from collections.abc import Sequence

from prep_data import quickdraw_drawings
from prep_data.flags import run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command on `argv` (None: sys.argv's flags); raise UserError."""
    parser = quickdraw_drawings.parser(
        "index_quickdrawtf", "Rasterises Quick, Draw!, grouped by COCO class.", 1
    )
    quickdraw_drawings.prepare(parser.parse_args(argv), "quickdraw-indexed", grouped=True)


if __name__ == "__main__":
    run_script(main)
