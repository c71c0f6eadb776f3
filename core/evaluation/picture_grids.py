"""Pictures: what queries found, masks beside the true ones, the common embedding as a map."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core import plots
from core.drawings import compose_drawings
from core.evaluation import mask_metrics, retrieval
from core.evaluation.figures import Picture
from core.evaluation.query_protocols import main_protocol
from core.registry import METRICS

ROWS = 8  # queries or objects in a picture
TOP = 5
POINTS = 300  # at most, of each side, in the map of the embedding
TILE = 168  # pixels of a photograph or drawing
GAP = 10
CAPTION = 22
GREEN, GREY, INK = (0, 150, 60), (190, 190, 190), (30, 30, 30)


def scene_drawing(sketches: np.ndarray, boxes: np.ndarray, side: int = TILE) -> Image.Image:
    """Return the drawing of one scene as a picture. sketches: uint8 (n, H, W, 1). boxes: float32
    (n, 4). side: in pixels."""
    scene = np.zeros(len(sketches), np.int32)
    drawing = compose_drawings(sketches, boxes, scene, 1, side).numpy()
    return Image.fromarray(drawing[0, ..., 0]).convert("RGB")


def frame(tile: Image.Image, colour: tuple[int, int, int], width: int) -> Image.Image:
    """A copy with a frame drawn inside its border."""
    tile = tile.copy()
    ImageDraw.Draw(tile).rectangle((0, 0, tile.width - 1, tile.height - 1), None, colour, width)
    return tile


def grid(
    rows: list[list[tuple[Image.Image, str]]], heads: list[str], title: str, tile: int = TILE
) -> Image.Image:
    """Tiles with a caption below each, a head above each column and a title on top. tile: their
    side in pixels."""
    font, small = ImageFont.load_default(size=15), ImageFont.load_default(size=12)
    step_x, step_y = tile + GAP, tile + CAPTION + GAP
    top = 2 * CAPTION + 2 * GAP
    size = (GAP + len(heads) * step_x, top + len(rows) * step_y)
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP), title, INK, font)
    for column, head in enumerate(heads):
        draw.text((GAP + column * step_x, GAP + CAPTION + 4), head, INK, font)
    for row, tiles in enumerate(rows):
        for column, (image, caption) in enumerate(tiles):
            x, y = GAP + column * step_x, top + row * step_y
            page.paste(image.resize((tile, tile), Image.Resampling.LANCZOS), (x, y))
            draw.text((x, y + tile + 3), _fit(caption, small, tile), INK, small)
    return page


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, cut to a width in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + " ...") > width:
        text = text[:-1]
    return text + " ..."


def search_row(
    drawing: Image.Image,
    caption: str,
    right: int,
    place: str,
    found: np.ndarray,
    distances: np.ndarray,
    images: Mapping[int, Image.Image],
) -> list[tuple[Image.Image, str]]:
    """A query, its right photograph with `place` below it, and what was found, the right one
    framed. right: a scene row; found, distances: of the nearest, int and float (k,); images:
    scene row -> photograph."""
    row = [(frame(drawing, GREY, 1), caption), (images[right], place)]
    for other, distance in zip(found, distances):
        tile = frame(images[other], GREEN, 7) if other == right else images[other]
        row.append((tile, f"distance {distance:.3f}{'   right' if other == right else ''}"))
    return row


def search_heads(found: int) -> list[str]:
    """The heads above the columns of `search_row`."""
    return ["query", "right photograph", *(f"found {i + 1}" for i in range(found))]


@METRICS.register("sbir-on-valid")
def _search(evaluation, name: str) -> list[Picture]:
    """Some queries under jittered boxes, which positions alone do not answer."""
    protocol = main_protocol(evaluation.dataset.own_boxes)
    vector = evaluation.vectors[0]
    photos, queries = evaluation.photos, evaluation.queries(protocol)
    chosen = random_rows(photos.num_scenes, ROWS, evaluation.seed)
    found, distances = retrieval.nearest(
        queries.vectors[vector][chosen], photos.vectors[vector], chosen, TOP
    )
    rank = evaluation.scene_ranks(protocol, vector)[chosen]
    images, drawings = collect_pictures(
        evaluation, queries, set(chosen) | set(found.ravel()), set(chosen)
    )

    names = evaluation.dataset.vocabulary.names
    rows = []
    for scene, order, near, place in zip(chosen, found, distances, rank):
        objects = queries.classes[queries.obj_to_img == scene]
        caption, place = (
            ", ".join(names[c] for c in objects),
            f"rank {place} of {photos.num_scenes}",
        )
        rows.append(search_row(drawings[scene], caption, scene, place, order, near, images))
    heads = search_heads(found.shape[1])
    title = f"{page_title(evaluation)}: {protocol}, by {vector}; the right one has a green frame"
    labels = {**protocol.labels, "vector": vector}
    return save_picture(evaluation, name, image_bytes(grid(rows, heads, title)), labels)


@METRICS.register("generated-masks")
def _generated_masks(evaluation, name: str) -> list[Picture]:
    """Some objects that a sketch depicts, with the masks made from photograph and sketch."""
    photo, sketch = evaluation.compared_masks("photo"), evaluation.compared_masks("sketch")
    chosen = random_rows(len(sketch.objects), ROWS, evaluation.seed)
    objects = sketch.objects[chosen]
    crops, drawings = _collect_objects(evaluation, set(objects))

    names = evaluation.dataset.vocabulary.names
    side = evaluation.model.mask_size
    truth = photo.true[objects]
    made = (photo.predicted[objects], sketch.predicted[chosen])
    overlaps = [mask_metrics.mask_iou(masks, truth) for masks in made]
    rows = []
    for row, drawn in enumerate(objects):
        masks = [_mask_tile(masks[row], side) for masks in (truth, *made)]
        rows.append([
            (crops[drawn], names[sketch.classes[chosen[row]]]),
            (masks[0], "true"),
            (masks[1], f"IoU {overlaps[0][row]:.2f}"),
            (drawings[drawn], ""),
            (masks[2], f"IoU {overlaps[1][row]:.2f}"),
        ])  # fmt: skip
    heads = ["photo", "true mask", "mask from photo", "sketch", "mask from sketch"]
    title = f"{page_title(evaluation)}: masks within the object's box"
    return save_picture(evaluation, name, image_bytes(grid(rows, heads, title)))


@METRICS.register("common-embedding-tsne")
def _embedding_map(evaluation, name: str) -> list[Picture]:
    """Objects of both sides in the common embedding, brought to two dimensions by t-SNE."""
    sides = [evaluation.embedded_objects(side) for side in ("photo", "sketch")]
    chosen = [random_rows(len(side.classes), POINTS, evaluation.seed) for side in sides]
    vectors = np.concatenate([side.embedding[rows] for side, rows in zip(sides, chosen)])
    classes = np.concatenate([side.classes[rows] for side, rows in zip(sides, chosen)])
    photos, sketches = (len(rows) for rows in chosen)
    title = f"common embedding, t-SNE of {photos} photographed and {sketches} sketched objects"
    png = plots.embedding_map(
        tsne(vectors, evaluation.seed),
        classes,
        np.repeat([False, True], [photos, sketches]),
        evaluation.dataset.vocabulary.names,
        f"{page_title(evaluation)}\n{title}",
    )
    return save_picture(evaluation, name, png)


def tsne(vectors: np.ndarray, seed: int) -> np.ndarray:
    """float (n, D) -> float32 (n, 2): scikit-learn's t-SNE from the two principal components, with
    perplexity 30, or less where points are few. n is at least 2."""
    from sklearn.manifold import TSNE  # a third of a second, for those who want a map
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    # The start is made here: scikit-learn's own divides by the spread, which is zero when the
    # embedding has collapsed to a point, and then ends the process. Ours maps it to a point.
    centred = vectors - vectors.mean(axis=0)
    left, spread, _ = np.linalg.svd(centred, full_matrices=False)
    start = np.zeros((len(vectors), 2))
    start[:, : len(spread)] = (left * spread)[:, :2]
    start *= 1e-4 / max(start[:, 0].std(), 1e-12)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    # One thread: its many short parallel loops wait on each other for minutes where processors are
    # shared with other work.
    with threadpool_limits(1):
        return TSNE(init=start, perplexity=perplexity, random_state=seed).fit_transform(vectors)


# ---------------------------------------------------------------- helpers


def random_rows(count: int, wanted: int, seed: int) -> np.ndarray:
    """At most `wanted` different rows of `count`, int64, drawn by the seed."""
    return np.random.default_rng(seed).permutation(count)[:wanted]


def page_title(evaluation) -> str:
    """What a picture is of, as a title begins."""
    return (
        f"{evaluation.model.name}, step {evaluation.step}, "
        f"{evaluation.dataset.name} {evaluation.split}"
    )


def save_picture(
    evaluation, name: str, png: bytes, labels: dict[str, str] | None = None
) -> list[Picture]:
    """A picture of a metric, saved where those of the evaluation go."""
    path = evaluation.folder / f"{name}-{evaluation.dataset.name}-step-{evaluation.step}.png"
    plots.save(path, png)
    return [Picture(name, evaluation.split, path, labels or {})]


def image_bytes(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A picture as the bytes of a 'PNG' or 'JPEG' file. options: as of Pillow's `save`."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _mask_tile(packed: np.ndarray, side: int) -> Image.Image:
    """One packed mask, uint8 (M * M / 8,): white on dark grey."""
    mask = mask_metrics.unpack(packed[None], side)[0]
    tile = Image.fromarray(np.where(mask, 255, 60).astype(np.uint8)).convert("RGB")
    return tile.resize((TILE, TILE), Image.Resampling.NEAREST)


def collect_pictures(evaluation, queries, wanted: set, drawn: set, side: int = TILE):
    """({scene row: photograph}, {scene row: composition of its query}) in one more pass over the
    data: keeping every photograph from the first pass would take 200 kB a scene. queries: as the
    compositions show them, with their own sketches. side: of the pictures, in pixels."""
    images, drawings, first, sketched = {}, {}, 0, 0
    for batch in evaluation.batches("pictures"):
        count = len(batch.image_ids)
        for scene in wanted.intersection(range(first, first + count)):
            photo = Image.fromarray(batch.images[scene - first].numpy())
            images[scene] = photo.resize((side, side), Image.Resampling.LANCZOS)
            if scene in drawn:
                own = np.flatnonzero(queries.obj_to_img == scene)
                sketches = batch.sketches.numpy()[queries.rows[own] - sketched]
                drawings[scene] = scene_drawing(sketches, queries.boxes[own], side)
        first += count
        sketched += len(batch.sketches)
    return images, drawings


def _collect_objects(evaluation, wanted: set) -> tuple[dict, dict]:
    """({photo row: crop}, {photo row: sketch}) of objects that a sketch depicts."""
    crops, drawings, first = {}, {}, 0
    for batch in evaluation.batches("pictures"):
        depicted = batch.query_to_photo.numpy()
        for row in wanted.intersection(range(first, first + len(batch.crops))):
            crops[row] = Image.fromarray(batch.crops[row - first].numpy())
            sketch = int(np.flatnonzero(depicted == row - first)[0])
            drawn = Image.fromarray(batch.sketches[sketch, ..., 0].numpy()).convert("RGB")
            drawings[row] = frame(drawn.resize((TILE, TILE)), GREY, 1)
        first += len(batch.crops)
    return crops, drawings
