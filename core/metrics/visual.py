"""Pictures: some queries, the photograph each should find, and what it found first."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.dataset import QueryProtocol
from core.files import write_atomic
from core.metrics import retrieval
from core.metrics.base import Picture
from core.registry import METRICS

QUERIES = 8
TOP = 5
TILE = 168  # pixels of a photograph or composition
GAP = 10
CAPTION = 22
GREEN, GREY, INK = (0, 150, 60), (190, 190, 190), (30, 30, 30)


def composition(sketches: np.ndarray, boxes: np.ndarray, side: int = TILE) -> Image.Image:
    """Sketches uint8 (n, H, W, 1) pasted into their boxes float32 (n, 4) on white paper.

    The darker pixel wins where boxes overlap, so that no drawing hides another."""
    paper = np.full((side, side), 255, np.uint8)
    for sketch, box in zip(sketches, boxes):
        x0, y0 = np.clip(np.floor(box[:2] * side).astype(int), 0, side - 1)
        x1, y1 = np.clip(np.ceil(box[2:] * side).astype(int), (x0 + 1, y0 + 1), side)
        size = (int(x1 - x0), int(y1 - y0))
        drawn = Image.fromarray(sketch[..., 0]).resize(size, Image.Resampling.BOX)
        paper[y0:y1, x0:x1] = np.minimum(paper[y0:y1, x0:x1], np.asarray(drawn))
    return Image.fromarray(paper).convert("RGB")


def frame(tile: Image.Image, colour: tuple[int, int, int], width: int) -> Image.Image:
    """A copy with a frame drawn inside its border."""
    tile = tile.copy()
    ImageDraw.Draw(tile).rectangle((0, 0, tile.width - 1, tile.height - 1), None, colour, width)
    return tile


def grid(rows: list[list[tuple[Image.Image, str]]], heads: list[str], title: str) -> Image.Image:
    """Tiles with a caption below each, a head above each column and a title on top."""
    font, small = ImageFont.load_default(size=15), ImageFont.load_default(size=12)
    step_x, step_y = TILE + GAP, TILE + CAPTION + GAP
    top = 2 * CAPTION + 2 * GAP
    size = (GAP + len(heads) * step_x, top + len(rows) * step_y)
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP), title, INK, font)
    for column, head in enumerate(heads):
        draw.text((GAP + column * step_x, GAP + CAPTION + 4), head, INK, font)
    for row, tiles in enumerate(rows):
        for column, (tile, caption) in enumerate(tiles):
            x, y = GAP + column * step_x, top + row * step_y
            page.paste(tile.resize((TILE, TILE), Image.Resampling.LANCZOS), (x, y))
            draw.text((x, y + TILE + 3), _fit(caption, small), INK, small)
    return page


def _fit(text: str, font: ImageFont.FreeTypeFont) -> str:
    """The text, cut to the width of a tile."""
    if font.getlength(text) <= TILE:
        return text
    while text and font.getlength(text + " ...") > TILE:
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
def _search_picture(evaluation) -> list[Picture]:
    """Some queries under jittered boxes, which positions alone do not answer."""
    name, evaluation = "sbir-on-valid", evaluation.on("valid")
    protocol = QueryProtocol(boxes="jittered", sketches="real")
    vector = evaluation.vectors[0]
    photos, queries = evaluation.photos, evaluation.queries(protocol)
    rng = np.random.default_rng(evaluation.seed)
    chosen = rng.permutation(photos.scenes)[:QUERIES]
    found, distances = retrieval.nearest(
        queries.vectors[vector][chosen], photos.vectors[vector], chosen, TOP
    )
    rank = evaluation.scene_ranks(protocol, vector)[chosen]
    images, drawings = _collect(evaluation, protocol, set(chosen) | set(found.ravel()), set(chosen))

    names = evaluation.dataset.vocabulary.names
    rows = []
    for scene, order, near, place in zip(chosen, found, distances, rank):
        objects = queries.classes[queries.obj_to_img == scene]
        caption, place = ", ".join(names[c] for c in objects), f"rank {place} of {photos.scenes}"
        rows.append(search_row(drawings[scene], caption, scene, place, order, near, images))
    title = (
        f"{evaluation.model.name}, step {evaluation.step}, {evaluation.dataset.name} "
        f"{evaluation.split}: {protocol}, by {vector}; the right one has a green frame"
    )
    path = evaluation.folder / f"{name}-step-{evaluation.step}.png"
    labels = {"boxes": protocol.boxes, "sketches": protocol.sketches, "vector": vector}
    file = io.BytesIO()
    grid(rows, search_heads(found.shape[1]), title).save(file, format="PNG")
    write_atomic(path, file.getvalue())
    return [Picture(name, evaluation.split, path, labels)]


def _collect(evaluation, protocol: QueryProtocol, wanted: set, drawn: set):
    """({scene row: photograph}, {scene row: sketch composition}) in one more pass over the data:
    keeping every photograph from the first pass would take 200 kB a scene."""
    images, drawings, first = {}, {}, 0
    for batch in evaluation.batches(protocol, "pictures"):
        count = len(batch.image_ids)
        obj_to_img = batch.query.obj_to_img.numpy()
        for scene in wanted.intersection(range(first, first + count)):
            photo = Image.fromarray(batch.images[scene - first].numpy())
            images[scene] = photo.resize((TILE, TILE), Image.Resampling.LANCZOS)
            if scene in drawn:
                own = np.flatnonzero(obj_to_img == scene - first)
                sketches, boxes = batch.sketches.numpy()[own], batch.query.boxes.numpy()[own]
                drawings[scene] = composition(sketches, boxes)
        first += count
    return images, drawings
