"""Pictures of an evaluation: what queries found, masks, a map of the common embedding."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core import plots
from core.drawings import compose_drawings, scene_drawings
from core.evaluation import mask_metrics, retrieval
from core.evaluation.figures import Picture
from core.evaluation.query_protocols import QueryProtocol, main_protocol
from core.label_colours import PALETTE, legend
from core.registry import METRICS

if TYPE_CHECKING:
    from core.evaluation.embedded_split import EmbeddedQueries, Evaluation

ROWS = 8  # queries or objects in a picture
TOP = 5
MAP_POINTS = 300  # at most, of each view, in the map of the embedding
TILE = 168  # pixels of a photograph or drawing
GAP = 10
CAPTION = 22
LEGEND_LINE = 16
GREEN, GREY, INK = (0, 150, 60), (190, 190, 190), (30, 30, 30)

Tile = tuple[Image.Image, str]  # with its caption


# ---------------------------------------------------------------- pages of tiles


def grid(rows: list[list[Tile]], heads: list[str], title: str, tile: int = TILE) -> Image.Image:
    """Return a page of tiles with captions, a head above each column and a title on top. tile:
    their height in pixels; a column is as wide as its widest tile."""
    font, small = ImageFont.load_default(size=15), ImageFont.load_default(size=12)
    rows = [[(_scaled(image, tile), caption) for image, caption in row] for row in rows]
    widths = [max(row[column][0].width for row in rows) for column in range(len(heads))]
    lefts = np.cumsum([GAP, *(width + GAP for width in widths)]).tolist()
    step_y, top = tile + CAPTION + GAP, 2 * CAPTION + 2 * GAP
    width = max(lefts[-1], int(font.getlength(title)) + 2 * GAP)
    page = Image.new("RGB", (width, top + len(rows) * step_y), "white")
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP), title, INK, font)
    for left, head in zip(lefts, heads):
        draw.text((left, GAP + CAPTION + 4), head, INK, font)
    for row, tiles in enumerate(rows):
        y = top + row * step_y
        for left, width, (image, caption) in zip(lefts, widths, tiles):
            page.paste(image, (left, y))
            if len(caption) > width // 6:  # letters are 6 pixels wide on average
                caption = f"{caption[: width // 6 - 4]} ..."
            draw.text((left, y + tile + 3), caption, INK, small)
    return page


def _scaled(image: Image.Image, height: int) -> Image.Image:
    width = round(image.width * height / image.height)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def layout(
    labels: np.ndarray, names: Mapping[int, str], side: int = TILE, colours: np.ndarray = PALETTE
) -> Image.Image:
    """Return a layout as a picture, and beside it the names of what it holds, the largest first.

    labels: uint8 (S, S). names: of labels; the others are unlabelled. side: of the layout in
    pixels, the height of the whole. colours: uint8 (256, 3), of labels."""
    entries = legend(labels, names, colours)
    room = side // LEGEND_LINE
    if len(entries) > room:
        entries[room - 1 :] = [(f"{len(entries) - room + 1} more", None)]
    font = ImageFont.load_default(size=12)
    text = side + GAP // 2 + LEGEND_LINE
    width = text + max(math.ceil(font.getlength(name)) for name, _ in entries)
    page = Image.new("RGB", (width, side), "white")
    tile = Image.fromarray(colours[labels]).resize((side, side), Image.Resampling.NEAREST)
    page.paste(frame(tile, GREY, 1), (0, 0))
    draw = ImageDraw.Draw(page)
    for line, (name, colour) in enumerate(entries):
        y = line * LEGEND_LINE
        if colour:
            swatch = (side + GAP // 2, y + 2, text - 5, y + LEGEND_LINE - 3)
            draw.rectangle(swatch, colour, GREY)
        draw.text((text, y + LEGEND_LINE // 2), name, INK, font, anchor="lm")
    return page


def frame(tile: Image.Image, colour: tuple[int, int, int], width: int) -> Image.Image:
    """Return a copy with a frame inside its border."""
    tile = tile.copy()
    ImageDraw.Draw(tile).rectangle((0, 0, tile.width - 1, tile.height - 1), None, colour, width)
    return tile


def search_page(
    subject: str,
    scenes: np.ndarray,
    ranks: np.ndarray,
    found: np.ndarray,
    distances: np.ndarray,
    gallery: int,
    captions: Mapping[int, str],
    drawings: Mapping[int, Image.Image],
    photos: Mapping[int, Image.Image],
) -> Image.Image:
    """Return a page of searches: of each query its drawing, its right photograph, and the
    photographs found, the right one with a green frame.

    scenes, ranks: int (n,), scene row of each query and rank of its photograph among `gallery`.
    found, distances: (n, k), of the nearest. captions, drawings, photos: by scene row."""
    rows = []
    for scene, rank, others, apart in zip(scenes.tolist(), ranks, found.tolist(), distances):
        right = (photos[scene], f"rank {rank} of {gallery}")
        row = [(frame(drawings[scene], GREY, 1), captions[scene]), right]
        for other, distance in zip(others, apart):
            tile = frame(photos[other], GREEN, 7) if other == scene else photos[other]
            row.append((tile, f"distance {distance:.3f}{'   right' if other == scene else ''}"))
        rows.append(row)
    heads = ["query", "right photograph", *(f"found {i + 1}" for i in range(found.shape[1]))]
    return grid(rows, heads, f"{subject}; the right one has a green frame")


def scene_drawing(sketches: np.ndarray, boxes: np.ndarray, side: int = TILE) -> Image.Image:
    """Return the drawing of one scene as a picture. sketches: uint8 (n, H, W, 1). boxes: float32
    (n, 4). side: in pixels."""
    scene = np.zeros(len(sketches), np.int32)
    drawing = compose_drawings(sketches, boxes, scene, 1, side).numpy()
    return Image.fromarray(drawing[0, ..., 0]).convert("RGB")


def image_bytes(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return a picture as a 'PNG' or 'JPEG' file. options: as of Pillow's `save`."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# ---------------------------------------------------------------- of an evaluation


def random_rows(count: int, wanted: int, seed: int) -> np.ndarray:
    """Return at most `wanted` different rows of `count`, drawn by the seed: int64."""
    return np.random.default_rng(seed).permutation(count)[:wanted]


def page_title(evaluation: Evaluation) -> str:
    """Return the beginning of a title: model, step, loader and split."""
    model, dataset = evaluation.model.name, evaluation.dataset.name
    return f"{model}, step {evaluation.step}, {dataset} {evaluation.split}"


def save_picture(
    evaluation: Evaluation, name: str, png: bytes, labels: dict[str, str] | None = None
) -> list[Picture]:
    """Save the picture of a metric in the evaluation's folder, and return it; none without a
    folder."""
    if evaluation.folder is None:
        return []
    path = evaluation.folder / f"{name}-{evaluation.dataset.name}-step-{evaluation.step}.png"
    plots.save(path, png)
    return [Picture(name, evaluation.split, path, labels or {})]


def collect_pictures(
    evaluation: Evaluation, queries: EmbeddedQueries, wanted: set, drawn: set, side: int = TILE
) -> tuple[dict[int, Image.Image], dict[int, Image.Image]]:
    """Return ({scene row: photograph}, {scene row: drawing of its query}).

    Takes one more pass over the data: keeping every photograph from the first would take 200 kB a
    scene. queries: with real sketches. wanted, drawn: rows of photographs and of
    drawings. side: of the pictures, in pixels."""
    images, drawings, first, sketched = {}, {}, 0, 0
    for batch in evaluation.batches("pictures"):
        count = len(batch.image_ids)
        for scene in wanted.intersection(range(first, first + count)):
            photo = Image.fromarray(batch.images[scene - first].numpy())
            images[scene] = photo.resize((side, side), Image.Resampling.LANCZOS)
            if scene in drawn and batch.drawings is not None:
                drawing = scene_drawings(batch, side)[scene - first, ..., 0].numpy()
                drawings[scene] = Image.fromarray(drawing).convert("RGB")
            elif scene in drawn:
                own = np.flatnonzero(queries.obj_to_img == scene)
                sketches = batch.sketches.numpy()[queries.rows[own] - sketched]
                drawings[scene] = scene_drawing(sketches, queries.boxes[own], side)
        first += count
        sketched += 0 if batch.sketches is None else len(batch.sketches)
    return images, drawings


@METRICS.register("sbir-on-valid")
def _search(evaluation: Evaluation, name: str) -> list[Picture]:
    """Draw some queries of the main protocol, and what they find."""
    dataset, vector = evaluation.dataset, evaluation.vectors[0]
    protocol = main_protocol(dataset.own_boxes, dataset.has_objects)
    photos, queries = evaluation.photos, evaluation.queries(protocol)
    chosen = random_rows(photos.num_scenes, ROWS, evaluation.seed)
    found, distances = retrieval.nearest(
        queries.vectors[vector][chosen], photos.vectors[vector], chosen, TOP
    )
    ranks = evaluation.scene_ranks(protocol, vector)[chosen]
    shown = set(chosen) | set(found.ravel())
    images, drawings = collect_pictures(evaluation, queries, shown, set(chosen))

    names = dataset.vocabulary.names
    captions = {
        scene: ", ".join(names[c] for c in queries.classes[queries.obj_to_img == scene])
        if dataset.has_objects
        else ""
        for scene in chosen.tolist()
    }
    subject, count = f"{page_title(evaluation)}: {protocol}, by {vector}", photos.num_scenes
    page = search_page(subject, chosen, ranks, found, distances, count, captions, drawings, images)
    labels = {**protocol.labels, "vector": vector}
    return save_picture(evaluation, name, image_bytes(page), labels)


@METRICS.register("generated-masks")
def _generated_masks(evaluation: Evaluation, name: str) -> list[Picture]:
    """Draw some objects that a sketch depicts, with the masks predicted from both views."""
    photos, queries = evaluation.photos, evaluation.queries(QueryProtocol())
    depicting = np.flatnonzero(queries.query_to_photo >= 0)
    chosen = depicting[random_rows(len(depicting), ROWS, evaluation.seed)]
    objects = queries.query_to_photo[chosen]
    crops, drawings = _collect_objects(evaluation, set(objects))

    names = evaluation.dataset.vocabulary.names
    truth = photos.masks[objects]
    predicted = (evaluation.masks_of(photos, objects), evaluation.masks_of(queries, chosen))
    overlaps = [mask_metrics.mask_iou(masks, truth) for masks in predicted]
    true, from_photo, from_sketch = (
        [_mask_tile(mask) for mask in mask_metrics.unpack(masks, evaluation.model.mask_size)]
        for masks in (truth, *predicted)
    )
    rows = [
        [
            (crops[drawn], names[queries.classes[chosen[row]]]),
            (true[row], "true"),
            (from_photo[row], f"IoU {overlaps[0][row]:.2f}"),
            (drawings[drawn], ""),
            (from_sketch[row], f"IoU {overlaps[1][row]:.2f}"),
        ]
        for row, drawn in enumerate(objects)
    ]
    heads = ["photo", "true mask", "mask from photo", "sketch", "mask from sketch"]
    title = f"{page_title(evaluation)}: masks within the object's box"
    return save_picture(evaluation, name, image_bytes(grid(rows, heads, title)))


def _collect_objects(evaluation: Evaluation, wanted: set) -> tuple[dict, dict]:
    """Return ({photo row: crop}, {photo row: sketch}) of objects that a sketch depicts."""
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


def _mask_tile(mask: np.ndarray) -> Image.Image:
    """Return a mask uint8 (M, M) as white on dark grey."""
    tile = Image.fromarray(np.where(mask, 255, 60).astype(np.uint8)).convert("RGB")
    return tile.resize((TILE, TILE), Image.Resampling.NEAREST)


@METRICS.register("common-embedding-tsne")
def _embedding_map(evaluation: Evaluation, name: str) -> list[Picture]:
    """Draw a map of some objects of both views in the common embedding."""
    views = [evaluation.embedded_objects(view) for view in ("photo", "sketch")]
    chosen = [random_rows(len(view.classes), MAP_POINTS, evaluation.seed) for view in views]
    vectors = np.concatenate([view.embedding[rows] for view, rows in zip(views, chosen)])
    classes = np.concatenate([view.classes[rows] for view, rows in zip(views, chosen)])
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
    """Return a map of vectors (n, D), n >= 2, by scikit-learn's t-SNE: float32 (n, 2). It starts
    from the two principal components; perplexity 30, or less where points are few."""
    from sklearn.manifold import TSNE  # takes a third of a second to import
    from threadpoolctl import threadpool_limits

    # The start is computed here: scikit-learn's own divides by the spread, which is zero when the
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
