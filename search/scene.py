"""A scene that a person draws: objects with strokes or a picture, a box, perhaps a label.

Read from JSON (docs/data_formats.md), which may name a picture of the whole page, SVG with a group
an object, and Quick, Draw! lines with boxes. Strokes are in the units of the canvas, x to the
right, y downwards; boxes are fractions of it.
"""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from PIL import Image

from core.errors import UserError, first_line
from core.files import read_utf8, write_atomic
from core.scene_inputs import MAX_OBJECTS
from dataloaders import images, sketches

FORMAT, VERSION = "scene-designer scene", 1
MOST_BYTES = 16 << 20  # of a file
LEAST_EXTENT = 0.01  # of the canvas: a straight line has a box too
CURVE_POINTS = 16  # of each curve of an SVG
LARGEST = 255  # units that strokes are scaled to, as those of Quick, Draw! are

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class SceneObject:
    """An object of a drawn scene: strokes, or a picture.

    strokes: of (n, 2) points each, in canvas units. picture: dark lines on white paper, or with
    is_photo a cut-out of a photograph, to search with both at once (the paper's mixed query).
    box: [x0, y0, x1, y1], fractions of the canvas; None: the extent of the strokes. label: the name
    of a class, where it is known.
    """

    strokes: Sequence[np.ndarray] = ()
    picture: Image.Image | None = None
    box: Box | None = None
    label: str | None = None
    is_photo: bool = False

    def rasterise(self, side: int) -> np.ndarray:
        """Draw the object as the sketches of the training data are: uint8 (side, side), 255 = white
        paper. UserError when it shows nothing."""
        try:
            if self.picture is not None:
                return images.normalise_drawing(images.grey_drawing(self.picture), side)
            return sketches.rasterise(pen_moves(self.strokes), side)
        except (images.Skip, ValueError) as error:
            raise UserError(
                f"it shows nothing ({first_line(error)}): draw a line, or leave it out"
            ) from None


def pen_moves(strokes: Sequence[np.ndarray]) -> np.ndarray:
    """Return strokes in the form of Quick, Draw!: float64 (points, 3), rows (dx, dy, pen lift)."""
    points = np.concatenate([np.zeros((0, 2)), *(np.asarray(s, np.float64) for s in strokes)])
    extent = np.ptp(points, axis=0).max() if len(points) else 0.0
    if extent > sketches.MAX_DELTA:  # which longer moves would be cut to
        points = points * (LARGEST / extent)
    lifts = np.zeros(len(points))
    lifts[np.cumsum([len(stroke) for stroke in strokes], dtype=int) - 1] = 1
    return np.column_stack([np.diff(points, axis=0, prepend=points[:1]), lifts])


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn scene of 1 to 8 objects. width, height: of the canvas, in units of the strokes.

    UserError for another number of objects, one that has nothing to show or two things, numbers
    that are not finite, and boxes that are none or lie outside the canvas."""

    objects: Sequence[SceneObject]
    width: float = 1.0
    height: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.width < np.inf and 0 < self.height < np.inf):
            raise UserError(f"the canvas is {self.width:g} x {self.height:g}: give positive sizes")
        if not 1 <= len(self.objects) <= MAX_OBJECTS:
            raise UserError(
                f"the scene has {len(self.objects)} objects: draw 1 to {MAX_OBJECTS}, the most "
                "important ones"
            )
        for number, each in enumerate(self.objects):
            with _of_object(number):
                self._check(each)

    def _check(self, each: SceneObject) -> None:
        numbers = sum(map(np.size, each.strokes))
        if (numbers > 0) == (each.picture is not None):
            raise UserError("it needs strokes or a picture, and not both")
        if numbers > 2 * sketches.MAX_POINTS:
            raise UserError(
                f"it has more than {sketches.MAX_POINTS:,} points: leave out every second"
            )
        for stroke in each.strokes:
            points = np.asarray(stroke)
            if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "iuf":
                raise UserError("a stroke must be numbers of shape (points, 2): x, y")
            if not np.isfinite(points).all():
                raise UserError("a stroke has a coordinate that is no finite number")
        if each.box is None and each.picture is not None:
            raise UserError("a picture needs a box: x0, y0, x1, y1 in [0, 1] of the canvas")
        box = np.asarray(each.box if each.box is not None else self._extent(each), np.float64)
        if box.shape != (4,) or not np.isfinite(box).all() or (box[:2] >= box[2:]).any():
            raise UserError("its box must be x0, y0, x1, y1 with x0 < x1 and y0 < y1")
        if (box[:2] >= 1).any() or (box[2:] <= 0).any():
            raise UserError("it lies outside the canvas")

    @property
    def boxes(self) -> np.ndarray:
        """The boxes of the objects, cut at the edges of the canvas: float32 (n, 4) in [0, 1]."""
        boxes = [self._extent(each) if each.box is None else each.box for each in self.objects]
        return np.clip(np.asarray(boxes, np.float32), 0, 1)

    def _extent(self, each: SceneObject) -> np.ndarray:
        """Return the box round the strokes, which is nowhere thinner than LEAST_EXTENT."""
        points = np.concatenate(each.strokes) / (self.width, self.height)
        low, high = points.min(axis=0), points.max(axis=0)
        missing = np.maximum(LEAST_EXTENT - (high - low), 0) / 2
        return np.concatenate([low - missing, high + missing])

    def sketches(self, side: int) -> np.ndarray:
        """Draw all objects but cut-outs of photographs: uint8 (n, side, side), as
        `SceneObject.rasterise`; cut-outs are white paper. UserError when one shows nothing."""
        drawn = np.full((len(self.objects), side, side), 255, np.uint8)
        for number, each in enumerate(self.objects):
            if not each.is_photo:
                with _of_object(number):
                    drawn[number] = each.rasterise(side)
        return drawn

    # ---- files ---------------------------------------------------------------------------------

    @classmethod
    def read(cls, path: str | Path) -> Scene:
        """Read a scene from a file: .json, .svg or .ndjson. UserError for what is none."""
        path = Path(path)
        try:
            if path.stat().st_size > MOST_BYTES:
                raise UserError(f"it has more than {MOST_BYTES >> 20} MB")
            kind, data = path.suffix.lower(), read_utf8(path)
            if kind == ".json":
                return cls.from_json(data, path.parent)
            reader = {".svg": read_svg, ".ndjson": read_quickdraw}.get(kind)
            if reader is None:
                raise UserError("a scene is a .json, .svg or .ndjson file")
            return reader(data)
        except OSError as error:
            raise UserError(f"cannot read {path}: {first_line(error)}") from None
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    @classmethod
    def from_json(cls, data: bytes, folder: Path | None = None) -> Scene:
        """Return the scene of a JSON file. folder: of the pictures that it may name; None: they are
        in the file. UserError for what is no scene."""
        try:
            saved = msgspec.json.decode(data, type=_SavedScene)
        except (ValueError, RecursionError) as error:
            raise UserError(f"no scene: {first_line(error)}") from None
        if (saved.format, saved.version) != (FORMAT, VERSION):
            raise UserError(
                f"its format is {saved.format!r} {saved.version}, this program reads {FORMAT!r} "
                f"{VERSION}"
            )
        page = None if saved.picture is None else _picture(saved.picture, folder)
        objects = []
        for number, each in enumerate(saved.objects):
            picture = None
            with _of_object(number):
                if each.picture is not None:
                    picture = _picture(each.picture, folder)
                elif page is not None and not each.strokes:
                    picture = page if each.box is None else in_box(page, each.box)
            strokes = [np.array(stroke, np.float64).reshape(-1, 2) for stroke in each.strokes]
            objects.append(SceneObject(strokes, picture, each.box, each.label, each.is_photo))
        return cls(objects, *saved.canvas)

    def to_json(self) -> bytes:
        """Return the scene as a JSON file."""
        objects = [
            _SavedObject(
                [np.asarray(stroke, float).tolist() for stroke in each.strokes],
                None if each.picture is None else data_url(each.picture),
                None if each.box is None else tuple(map(float, each.box)),
                each.label,
                each.is_photo,
            )
            for each in self.objects
        ]
        saved = _SavedScene(FORMAT, VERSION, (self.width, self.height), objects)
        return msgspec.json.encode(saved)

    def save(self, path: str | Path) -> None:
        """Write the scene as a JSON file. UserError when that fails."""
        write_atomic(Path(path), self.to_json())


@contextlib.contextmanager
def _of_object(number: int) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"object {number}: {error}") from None


# ---- JSON ----------------------------------------------------------------------------------------


_Label = Annotated[str, msgspec.Meta(max_length=100)]  # a refusal repeats it


class _SavedObject(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    strokes: list[list[tuple[float, float]]] = []
    picture: str | None = None  # a data URL, or the name of a file beside the scene's
    box: Box | None = None
    label: _Label | None = None
    is_photo: bool = False


class _SavedScene(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    format: str
    version: int
    canvas: tuple[float, float]  # width, height
    objects: list[_SavedObject]
    picture: str | None = None  # of the whole page: boxes cut their objects out of it


def data_url(picture: Image.Image) -> str:
    """Return a picture as the data URL of a PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _picture(name: str, folder: Path | None) -> Image.Image:
    """Read a picture: a data URL, or the name of a file in the folder. UserError for anything else:
    nothing is fetched, and nothing outside the folder read."""
    try:
        if folder is None or name.startswith("data:"):
            image = open_data_url(name, images.MAX_SIDE)
        elif Path(name).name != name:
            raise ValueError("it must be a data URL, or a file beside the scene's")
        else:
            image = images.open_picture(folder / name, "picture", images.MAX_SIDE)
        return images.rgb_picture(image, "picture")
    except (ValueError, images.Skip) as error:
        raise UserError(f"its picture cannot be used ({first_line(error)})") from None


def in_box(picture: Image.Image, box: Sequence[float]) -> Image.Image:
    """Return the pixels of a picture that a box touches. box: [x0, y0, x1, y1]; one that is none is
    refused later."""
    edges = np.clip(box, 0, 1) * (*picture.size, *picture.size)
    low, high = np.floor(edges[:2]).astype(int), np.ceil(edges[2:]).astype(int)
    low = np.minimum(low, np.maximum(high - 1, 0))  # a pixel of a box at the right edge too
    return picture.crop((*low.tolist(), *np.maximum(high, low + 1).tolist()))


def open_data_url(url: str, max_side: int) -> Image.Image:
    """Return the picture of a data URL, to be decoded. ValueError or Skip for anything else."""
    head, _, body = url.partition(";base64,")
    if head not in ("data:image/png", "data:image/jpeg"):
        raise ValueError("it must be a data URL of a PNG or JPEG")
    data = base64.b64decode(body, validate=True)
    return images.decode_picture(data, "picture", max_side)


# ---- Quick, Draw! --------------------------------------------------------------------------------


class _QuickDrawLine(msgspec.Struct):
    drawing: list[list[list[float]]]  # strokes [[x ...], [y ...], (times)]
    box: Box
    word: str | None = None


def read_quickdraw(data: bytes) -> Scene:
    """Return the scene of Quick, Draw! lines, each with a key `box` more: [x0, y0, x1, y1],
    fractions of the canvas. UserError for other lines."""
    objects = []
    for number, line in enumerate(filter(bytes.strip, data.split(b"\n")), 1):
        try:
            found = msgspec.json.decode(line, type=_QuickDrawLine)
            strokes = [np.column_stack([xs, ys]) for xs, ys, *_ in found.drawing]
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"line {number} is no drawing with a box: {first_line(error)}"
            ) from None
        objects.append(SceneObject(strokes, box=found.box, label=found.word))
    return Scene(objects)


# ---- SVG -----------------------------------------------------------------------------------------


def read_svg(data: bytes) -> Scene:
    """Return the scene of an SVG: each group of the first level that holds lines is an object, its
    label the group's `id`. Only lines count, not colours, texts and pictures; nothing is fetched.
    UserError for what is no SVG, or has no groups."""
    import svgelements

    if b"<!doctype" in data.lower() or b"<!entity" in data.lower() or b"\0" in data:
        raise UserError("an SVG with a DOCTYPE or entities, or not in UTF-8, is not read")
    try:
        page = svgelements.SVG.parse(io.BytesIO(data), reify=True)
        groups = [each for each in page if isinstance(each, svgelements.Group)]
        drawn = [(group, _svg_strokes(group)) for group in groups]
        width, height = float(page.width), float(page.height)
    except Exception as error:  # of a stranger's file: anything
        raise UserError(f"no SVG that can be read ({first_line(error)})") from None
    objects = [SceneObject(strokes, label=group.id) for group, strokes in drawn if strokes]
    if not objects:
        raise UserError("the SVG has no groups with lines: put each object into a group of its own")
    return Scene(objects, width, height)


def _svg_strokes(group: Any) -> list[np.ndarray]:
    """Return the lines of all shapes in a group: (n, 2) each."""
    import svgelements

    strokes = []
    for shape in group.select(lambda each: isinstance(each, svgelements.Shape)):
        for part in svgelements.Path(shape).as_subpaths():
            points = []
            for segment in svgelements.Path(part):
                is_line = isinstance(
                    segment, (svgelements.Line, svgelements.Close, svgelements.Move)
                )
                steps = [1.0] if is_line else np.linspace(0, 1, CURVE_POINTS + 1)[1:]
                points += [segment.point(step) for step in steps if segment.end is not None]
            strokes.append(np.array([(point.x, point.y) for point in points]))
    return [stroke for stroke in strokes if len(stroke) > 1]
