"""Measure how well an index finds the photographs of drawn scenes, by each ranking and by all.

python -m search.evaluate INDEX SKETCHYCOCO-SL [--split test] [--learned 1] ...

The drawings are those of SketchyCOCO-SL; the right photograph of a drawing is the one in the index
whose file has its number. Beside drawings stand blank paper and another scene's sketches in the
same boxes, the boxes alone, and the mirror image of the boxes with the labels given.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from core.commands import Parser, run
from core.errors import UserError
from core.evaluation import retrieval
from core.evaluation.figures import table
from core.geometry import mirrored
from core.progress import progress
from core.run import Run
from dataloaders import images, sl_pairs
from search.index import PhotoIndex, Query, layout_objects, z_scores
from search.query import add_weights, asked_weights
from search.scene import Scene, SceneObject

log = logging.getLogger(__name__)

METRICS = {f"sbir-top{k}": f"top{k}" for k in retrieval.TOP}


class Kind(NamedTuple):
    """A kind of queries: whose sketches they show, whether labels are given, which boxes."""

    sketches: str = "real"  # real, blank or shuffled
    labels: str = "guessed"  # or given, or none: boxes alone
    boxes: str = "own"  # or mirrored


KINDS = (
    Kind(), Kind("blank"), Kind("shuffled"), Kind(labels="given"),
    Kind(labels="given", boxes="mirrored"), Kind(labels="none"),
)  # fmt: skip


def read_scenes(folder: Path, index: PhotoIndex) -> list[tuple[int, Scene]]:
    """Return (row of the right photograph, drawn scene) of the pairs of a split's folder whose
    photograph is in the index. UserError for none."""
    problems: list[images.Problem] = []
    names = index.run.vocabulary.names
    labels = {n: names.index(name) for n, name in sl_pairs.CLASSES.items() if name in names}
    rows = {Path(file.path).stem.lstrip("0"): row for row, file in enumerate(index.files)}
    found = []
    for files in sl_pairs.list_pairs(folder, problems):
        row = rows.get(str(int(files.photo.stem)))
        try:
            page = images.load_drawing(files.sketch)
            objects = sl_pairs.read_objects(
                files.sketch_table, page.shape[1], page.shape[0], labels, problems
            )
        except images.Skip as reason:
            problems.append(images.Problem(str(reason), files.sketch.name))
            continue
        if row is None or not len(objects.boxes):
            problems.append(images.Problem("drawing of nothing in the index", files.sketch.name))
            continue
        shown = zip(objects.boxes, objects.relative_boxes, objects.classes)
        scene = Scene(
            [
                SceneObject(
                    picture=Image.fromarray(page).crop((*np.floor(b[:2]), *np.ceil(b[2:]))),
                    box=tuple(box.tolist()),
                    label=names[label],
                )
                for b, box, label in shown
            ]
        )
        found.append((row, scene))
    if problems:
        log.warning("%s: left out: %s", folder, sl_pairs.summary(problems))
    if not found:
        raise UserError(f"{folder} has no drawing of a photograph of the index {index.home}")
    return found


def query_scores(
    index: PhotoIndex, scenes: Sequence[Scene], kind: Kind, weights: Mapping[str, float]
) -> list[dict[str, np.ndarray]]:
    """Return the scores of all photographs for each scene: ranking -> float (N,), and 'fused'."""
    boxes = [mirrored(s.boxes) if kind.boxes == "mirrored" else s.boxes for s in scenes]
    encoded = index.run.encode_sketched_scenes(_drawn(index.run, scenes, kind), boxes, fit=False)
    learned, whole = index.run.ranking_vectors(encoded), np.zeros((len(scenes), 0))
    if index.whole:
        drawn = _drawn(index.whole, scenes, kind)
        pages = index.whole.encode_sketched_scenes(drawn, boxes, fit=False)
        whole = index.whole.ranking_vectors(pages)
    found = []
    for row, (scene, each) in enumerate(zip(scenes, progress(encoded, str(kind)))):
        if kind.labels != "given":
            scene = Scene([replace(drawn, label=None) for drawn in scene.objects])
        objects = layout_objects(index.run, scene, each)._replace(boxes=boxes[row])
        if kind.labels == "none":
            objects = objects._replace(probabilities=0 * objects.probabilities)
        scores = index.scores(Query(learned[row], objects, whole[row]))
        fused = sum(weights[name] * z_scores(ranking) for name, ranking in scores.items())
        found.append({**scores, "fused": fused})
    return found


def _drawn(run: Run, scenes: Sequence[Scene], kind: Kind) -> list[list[np.ndarray]]:
    """Return the sketches of each scene's objects, uint8 (side, side), as a kind of query shows
    them."""
    drawn = [scene.sketches(run.sizes.sketch) for scene in scenes]
    if kind.sketches == "shuffled":
        # Each object has the sketch of one of the next scene: never its own.
        drawn = [np.resize(drawn[(n + 1) % len(drawn)], each.shape) for n, each in enumerate(drawn)]
    if kind.sketches == "blank":
        drawn = [np.full_like(each, 255) for each in drawn]
    return [list(each) for each in drawn]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print. UserError for what a user can mend."""
    parser = Parser(prog="python -m search.evaluate", description=__doc__.partition("\n")[0])
    parser.add_argument("index", type=Path, help="folder of an index")
    parser.add_argument("scenes", type=Path, help="folder of SketchyCOCO-SL, as published")
    parser.add_argument("--split", default="test", choices=("test", "train"))
    parser.add_argument("--run", type=Path, help="the run of the index, where it has moved")
    add_weights(parser)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    index = PhotoIndex.open(args.index, Run.open(args.run) if args.run else None)
    right, scenes = zip(*read_scenes(args.scenes / args.split, index))
    ranks, weights = {}, asked_weights(args, index)
    for kind in KINDS:
        found = query_scores(index, scenes, kind, weights)
        for ranking in found[0]:
            if ranking in ("learned", "whole") and kind.labels == "given":
                continue  # which know nothing of labels
            if ranking != "layout" and kind.labels == "none":
                continue
            ranks[ranking, kind] = np.array(
                [rank_of(scores[ranking], row) for scores, row in zip(found, right)]
            )
    labels = {key: {"ranking": key[0], **key[1]._asdict()} for key in ranks}
    controls = {
        key: {name: (key[0], Kind(name)) for name in ("blank", "shuffled")}
        | {"boxes": ("layout", Kind(labels="none"))}
        for key in ranks
        if key[1].sketches == "real" and key[1].boxes == "own" and key[1].labels != "none"
    }
    figures = retrieval.rank_figures(ranks, labels, controls, METRICS, len(index), args.split, 0)
    print(f"fused: {', '.join(f'{name} {weight:g}' for name, weight in weights.items())}")
    print(table(figures))


def rank_of(scores: np.ndarray, row: int) -> int:
    """Return the rank of a row, 1 = best: ties count against it."""
    return int((scores >= scores[row] - retrieval.TOLERANCE).sum())


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
