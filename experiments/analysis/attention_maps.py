"""'attention-maps': how much the scene token attends to each object, drawn over the scene.

trained model -> Evaluation.attention of photographs, queries and blank queries
    -> numbers of all scenes in one .npz; some scenes on pages, their boxes shaded
    -> whether the larger object gets more; whether photograph and query agree, more than boxes
       alone make them
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.evaluation import picture_grids
from core.evaluation.embedded_split import EmbeddedScenes, Evaluation
from core.evaluation.figures import Figure, mean_difference, mean_figure
from core.evaluation.query_protocols import main_protocol
from core.hparams import hp
from core.registry import EXPERIMENTS
from experiments import common

TILE = 224  # pixels of a scene on a page
PAIRS = 3  # scenes side by side on a page
ATTENTION = "attention through all layers (rollout) of the scene token, mean of the heads"
LINE = 15  # pixels between labels
MORE, LESS = (230, 80, 0), (30, 90, 220)  # than an even share


@dataclass(frozen=True)
class AttentionHParams(common.SplitHParams):
    """Hparams of 'attention-maps'."""

    scenes: int = hp(
        24, "scenes on the pages, drawn by the seed, single objects last", low=1, high=10_000
    )


@EXPERIMENTS.register("attention-maps")
class AttentionMaps(common.SplitExperiment):
    """Writes <results>/<model id>_<loader>_<split>_attention_maps.npz, .json and pages _1.jpg,
    ..."""

    name = "attention-maps"
    HParams = AttentionHParams
    ending = "_attention_maps"

    def run_on(self, evaluation: Evaluation) -> None:
        protocol = main_protocol(evaluation.dataset.own_boxes)
        sides = {
            "photo": evaluation.photos,
            "query": evaluation.queries(protocol),
            "blank": evaluation.queries(protocol.control),
        }
        attention = {view: evaluation.attention(side) for view, side in sides.items()}
        rollout = {view: found.rollout for view, found in attention.items()}
        arrays = common.scene_arrays(sides["photo"], sides["query"])
        for view, found in attention.items():
            arrays[f"{view}_attention"] = found.rollout
            arrays[f"{view}_attention_last"] = found.last
        saved = self.path.with_suffix(".npz")
        common.save_arrays(
            saved, self.origin, arrays, protocol=dataclasses.asdict(protocol),
            vocabulary=list(evaluation.dataset.vocabulary.names),
        )  # fmt: skip
        figures = _figures(evaluation, sides, rollout)
        title = (
            f"{self.origin}: attention (rollout) of the scene token, shares of what the objects "
            f"get; orange more, blue less than an even share; {protocol}"
        )
        common.save_report(
            self.path, self.origin, None, [figures] if figures else [],
            notes=[f"queries: {protocol}; {ATTENTION}"],
            pictures=self._save_pages(evaluation, sides, rollout, title),
        )  # fmt: skip
        print(f"saved: {saved}")

    def _save_pages(
        self,
        evaluation: Evaluation,
        sides: dict[str, EmbeddedScenes],
        attention: dict[str, np.ndarray],
        title: str,
    ) -> list[Path]:
        """Save pages of photographs, each beside its query."""
        photos, queries = sides["photo"], sides["query"]
        # A single object gets all there is: such scenes come last.
        order = picture_grids.random_rows(photos.num_scenes, photos.num_scenes, evaluation.seed)
        is_single = np.bincount(queries.obj_to_img, minlength=photos.num_scenes)[order] < 2
        chosen = order[np.argsort(is_single, kind="stable")][: self.hparams.scenes].tolist()
        images, drawings = picture_grids.collect_pictures(
            evaluation, queries, set(chosen), set(chosen), TILE
        )
        tiles = []
        for scene in chosen:
            for view, picture in (("photo", images[scene]), ("query", drawings[scene])):
                side = sides[view]
                own = side.obj_to_img == scene
                values, names = attention[view][own], evaluation.dataset.vocabulary.names
                labels = [names[index] for index in side.classes[own]]
                tile = shade(picture, side.boxes[own], values, labels)
                number = f"{photos.image_ids[scene]}, " if view == "photo" else ""
                tiles.append((tile, f"{number}to itself {1 - values.sum():.0%}"))
        width = min(2 * PAIRS, len(tiles))
        rows = [tiles[i : i + width] for i in range(0, len(tiles), width)]
        return common.save_pages(self.path, rows, ["photo", "query"] * (width // 2), title, TILE)


def shade(
    picture: Image.Image, boxes: np.ndarray, attention: np.ndarray, labels: Sequence[str]
) -> Image.Image:
    """Draw boxes float32 (n, 4) over a scene, with labels and shares of the attention float (n,),
    tinted the more, the further the share is from an even one."""
    tile = picture_grids.frame(picture, picture_grids.GREY, 1).convert("RGBA")
    shares = attention / max(attention.sum(), 1e-12)
    corners = np.round(boxes * (np.array([*tile.size] * 2) - 1)).astype(int).tolist()
    for corner, ratio in zip(corners, (shares * len(shares)).tolist()):
        layer = Image.new("RGBA", tile.size)
        colour = MORE if ratio >= 1 else LESS
        strength = round(200 * min(abs(ratio - 1), 1))
        ImageDraw.Draw(layer).rectangle(corner, (*colour, strength), colour, 2)
        tile.alpha_composite(layer)
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(size=12)
    used: list[tuple[float, ...]] = []
    for corner, share, label in zip(corners, shares, labels):
        text = f"{label} {share:.0%}"
        place = _label_place(corner, font.getlength(text), tile.size, used)
        draw.text(place, text, picture_grids.INK, font, stroke_width=2, stroke_fill="white")
    return tile.convert("RGB")


def _label_place(
    corner: list[int], width: float, size: tuple[int, int], used: list[tuple[float, ...]]
) -> tuple[float, float]:
    """Return left and top of a label: at the top of its box, or further down where others stand.
    Appends it to `used`, (left, top, right) of all labels of the picture."""
    left = max(2, min(corner[0] + 3, size[0] - 3 - width))
    top = max(2, min(corner[1] + 2, size[1] - LINE))
    while any(
        abs(top - other) < LINE and left <= end and left + width >= start
        for start, other, end in used
    ):
        top += LINE
    used.append((left, top, left + width))
    return left, min(top, size[1] - LINE)


def concordance(
    a: np.ndarray, b: np.ndarray, obj_to_img: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return for all pairs of objects of a scene whether a and b, float (O,), order them alike:
    float64 (P,), 1 or 0, and one half where either has a tie; and the scene of each pair, int (P,).

    Their mean is (1 + Kendall's tau) / 2. obj_to_img: int (O,), ascending."""
    most = int(np.bincount(obj_to_img).max(initial=0))
    first = [np.flatnonzero(obj_to_img[:-apart] == obj_to_img[apart:]) for apart in range(1, most)]
    second = [rows + apart for apart, rows in enumerate(first, start=1)]
    none = [np.zeros(0, int)]
    i, j = np.concatenate(first + none), np.concatenate(second + none)
    return (1 + np.sign(a[i] - a[j]) * np.sign(b[i] - b[j])) / 2, obj_to_img[i]


def _figures(
    evaluation: Evaluation, sides: dict[str, EmbeddedScenes], attention: dict[str, np.ndarray]
) -> list[Figure]:
    """Return how often the larger of two objects of a scene gets more attention, and how often
    photograph and query agree on which does. No figures when no scene has two objects."""

    def figure(metric: str, labels: dict[str, str], pairs: tuple, **controls: float) -> Figure:
        values, scenes = pairs
        more = {"seed": evaluation.seed, "chance": 0.5, "controls": controls}
        return mean_figure(metric, evaluation.split, values, labels, scenes, **more)

    queries = sides["query"]
    depicts = queries.query_to_photo >= 0
    of_photo, scenes = attention["photo"][queries.query_to_photo], queries.obj_to_img
    # Both could agree by sizes and places of boxes alone, which blank sketches have too.
    agreement, blank, larger = (
        concordance(of_photo[depicts], other[depicts], scenes[depicts])
        for other in (attention["query"], attention["blank"], _areas(queries.boxes))
    )
    if not len(agreement[0]):
        return []
    gaps = mean_difference("blank", agreement[0] - blank[0], agreement[1], evaluation.seed)
    figures = [
        figure(
            "attention-larger-object", {"view": name},
            concordance(attention[name], _areas(side.boxes), side.obj_to_img),
        )
        for name, side in sides.items()
    ]  # fmt: skip
    figures.append(
        figure(
            "attention-agreement", {}, agreement, blank=float(blank[0].mean()), **gaps,
            larger_object=float(larger[0].mean()),
        )
    )  # fmt: skip
    return figures


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
