"""Photographs of any picture file, and sketches on the canvas of our own raster."""

import csv
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image

from dataloaders import images, sketches
from dataloaders.images import MAX_SIDE, Skip, load_sketch
from dataloaders.images import normalise_drawing as normalise

HOUSE = np.array(
    [[0, 0, 0], [0, 300, 0], [200, 0, 0], [0, -300, 0], [-100, -120, 0], [-100, 120, 1]], np.int16
)


def page(height, width, top, left, h, w, ink=255):
    """White paper with a filled rectangle: uint8 (height, width)."""
    result = np.full((height, width), 255, np.uint8)
    result[top : top + h, left : left + w] = 255 - ink
    return result


def box_of(canvas):
    """First and last column, first and last row of what is darker than half: inclusive."""
    rows, columns = (np.flatnonzero((canvas < 128).any(axis)) for axis in (1, 0))
    return [int(v) for v in (columns[0], columns[-1], rows[0], rows[-1])]


def test_by_hand():
    # 46 x 23 pixels of ink, doubled: 92 x 46 of the 96, margins of 2 and 25.
    canvas = normalise(page(100, 200, 70, 3, 23, 46), 96)
    assert (canvas.shape, canvas.dtype) == ((96, 96), np.uint8)
    assert box_of(canvas) == [2, 93, 25, 70]
    assert (canvas[27:69, 4:92] == 0).all()
    assert (canvas[:24] == 255).all() and (canvas[72:] == 255).all()
    assert (canvas[:, 0] == 255).all() and (canvas[:, 95] == 255).all()
    # High ones fill the height. 184 pixels are halved.
    assert box_of(normalise(page(300, 300, 100, 9, 184, 64), 96)) == [32, 63, 2, 93]
    assert box_of(normalise(page(60, 60, 3, 3, 13, 26), 32)) == [
        2,
        29,
        9,
        22,
    ]  # 28 of 32 pixels


def triangle(size, start, step, count):
    """Weights of the triangle filter, float64 (count, size), by its definition: sample i lies at
    start + (i + 0.5) step and reaches one step to either side (at least one pixel)."""
    reach = max(step, 1.0)
    at = start + (np.arange(count) + 0.5) * step
    weights = np.maximum(0, 1 - abs(np.arange(size) + 0.5 - at[:, None]) / reach)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("height", "width"), [(150, 90), (61, 200), (30, 41)])
def test_resampling_is_that_of_the_filter(height, width):
    rng = np.random.default_rng(height)
    ink = np.where(rng.random((height, width)) < 0.15, 255, 0).astype(float)
    ink[0], ink[-1], ink[:, 0], ink[:, -1] = 255, 255, 255, 255  # so its box is the whole picture
    far = 400
    padded = np.pad(ink, far)
    step = max(height, width) / 92
    rows = triangle(padded.shape[0], far + height / 2 - 48 * step, step, 96)
    columns = triangle(padded.shape[1], far + width / 2 - 48 * step, step, 96)
    expected = rows @ padded @ columns.T
    expected *= 255 / expected.max()
    found = 255 - normalise((255 - ink).astype(np.uint8), 96).astype(float)
    assert abs(found - expected).max() <= 0.51  # rounded once


def test_place_and_paper_do_not_matter():
    first = normalise(page(60, 60, 10, 20, 30, 25), 96)
    np.testing.assert_array_equal(normalise(page(300, 90, 200, 5, 30, 25), 96), first)
    np.testing.assert_array_equal(
        normalise(page(30, 25, 0, 0, 30, 25), 96), first
    )  # no paper at all


def test_pencil_becomes_black_but_keeps_its_shades():
    np.testing.assert_array_equal(
        normalise(page(60, 60, 10, 20, 30, 25, ink=80), 96),
        normalise(page(60, 60, 10, 20, 30, 25), 96),
    )
    both = page(60, 60, 10, 20, 30, 25)
    both[15:35, 25:40] = 255 - 100
    assert 140 < normalise(both, 96)[40:50, 40:55].mean() < 170  # 255 - 100 = 155


def test_specks_and_soft_edges_do_not_move_the_box():
    speckled = page(100, 200, 30, 50, 23, 46)
    speckled[2, 2] = speckled[97, 190] = 230  # as compression leaves them
    clean = normalise(page(100, 200, 30, 50, 23, 46), 96)
    assert box_of(normalise(speckled, 96)) == box_of(clean)


def test_looks_like_our_own_raster():
    """A drawing made at once or scanned from a page of another size."""
    ours = sketches.rasterise(HOUSE, 96)
    for side in (110, 128, 180):
        scanned = normalise(np.pad(sketches.rasterise(HOUSE, side), 20, constant_values=255), 96)
        assert abs(np.array(box_of(scanned)) - box_of(ours)).max() <= 1
        ratio = (255 - scanned.astype(float)).mean() / (255 - ours.astype(float)).mean()
        assert 0.5 < ratio < 1.2  # finer lines, as the page was larger
        assert scanned.min() == 0
        both = np.minimum(scanned, 255) < 160
        assert (both & (ours < 250)).sum() > 0.9 * both.sum()


def png16(values):
    """A PNG of 16 bits a channel, as bytes. values: uint16 (h, w), or (h, w, 3)."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    colour = 0 if values.ndim == 2 else 2
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_every_mode_shows_the_same_drawing(tmp_path):
    grey = np.pad(sketches.rasterise(HOUSE, 64), ((3, 40), (0, 7)), constant_values=255)
    binary = np.where(grey < 128, 0, 255).astype(np.uint8)
    expected = normalise(binary, 96)
    image = Image.fromarray(binary)
    clear = Image.new("RGBA", image.size, (0, 0, 0, 0))  # black all over, but transparent
    clear.putalpha(Image.fromarray(255 - binary))
    pages = {
        "1": image.convert("1"),
        "L": image,
        "LA": clear.convert("LA"),
        "P": image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=2),
        "RGB": image.convert("RGB"),
        "RGBA": clear,
    }
    for mode, picture in pages.items():
        assert picture.mode == mode
        picture.save(tmp_path / f"{mode}.png")
        np.testing.assert_array_equal(load_sketch(tmp_path / f"{mode}.png", 96), expected, mode)
    # A palette with a colour that is transparent, and a grey one: ink 1 on nothing.
    indices = Image.fromarray((binary == 0).astype(np.uint8))
    indices.putpalette([9, 9, 9, 0, 0, 0])
    indices.save(tmp_path / "tRNS.png", transparency=0)
    np.testing.assert_array_equal(load_sketch(tmp_path / "tRNS.png", 96), expected)
    (tmp_path / "16.png").write_bytes(png16(binary.astype(np.uint16) * 257))
    np.testing.assert_array_equal(load_sketch(tmp_path / "16.png", 96), expected)


def test_odd_sizes(tmp_path):
    for shape in ((700, 31), (3, 5), (96, 96), (1, 3)):
        ink = np.pad(np.zeros(shape, np.uint8), 1, constant_values=255)
        Image.fromarray(ink).save(tmp_path / "sketch.png")
        canvas = load_sketch(tmp_path / "sketch.png", 96)
        assert canvas.shape == (96, 96) and canvas.min() == 0
    assert load_sketch(tmp_path / "sketch.png", 32).shape == (32, 32)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (np.full((90, 90), 255, np.uint8), "sketch shows nothing"),
        (np.full((90, 90), 245, np.uint8), "sketch shows nothing"),
        (page(90, 90, 5, 5, 2, 2), "sketch shows nothing"),
        (np.zeros((2, MAX_SIDE + 1), np.uint8), "more than 2048 pixels"),
        (255 - page(90, 90, 5, 5, 40, 3), "sketch whose paper is not white"),
        (page(90, 90, 5, 5, 40, 3) - 70, "sketch whose paper is not white"),  # a dim photograph
        (b"no picture", "sketch that is no whole JPEG"),
        (b"", "sketch broken"),
    ],
)
def test_what_cannot_be_used(tmp_path, content, reason):
    path = Path(tmp_path / "sketch.png")
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path)
    with pytest.raises(Skip, match=reason):
        load_sketch(path, 96)


def test_dense_drawings_that_fill_their_page(tmp_path):
    frame = np.pad(np.full((30, 30), 255, np.uint8), 3)
    disc = np.hypot(*np.mgrid[-15.5:16, -15.5:16]) > 16
    for drawing in (frame, np.where(disc, 255, 0).astype(np.uint8)):
        Image.fromarray(drawing).save(tmp_path / "sketch.png")
        assert load_sketch(tmp_path / "sketch.png", 96).min() == 0


def test_cut_short(tmp_path):
    path = tmp_path / "sketch.png"
    Image.fromarray(sketches.rasterise(HOUSE, 96)).save(path)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(Skip, match="sketch broken"):
        load_sketch(path, 96)
    with pytest.raises(Skip, match="sketch missing"):
        load_sketch(tmp_path / "gone.png", 96)


RAMP = np.arange(0, 256, 4, np.uint8).reshape(8, 8)
GREY = Image.fromarray(RAMP)
COLOUR = GREY.convert("RGB")
OTHER = {"save_all": True, "append_images": [Image.new("RGB", (8, 8), "red")]}
PICTURES = {  # name -> the ramp in a mode, format, options
    "16 bits": (RAMP.astype(np.uint16) * 257, "PNG", {}),
    "16 bits, TIFF": (RAMP.astype(np.uint16) * 257, "TIFF", {}),
    "16 bits, big-endian": (RAMP.astype(">u2") * 257, "TIFF", {}),
    "grey": (GREY, "PNG", {}),
    "grey, opaque": (GREY.convert("LA"), "PNG", {}),
    "grey JPEG": (GREY, "JPEG", {"quality": 100}),
    "palette": (COLOUR.convert("P", palette=Image.Palette.ADAPTIVE), "PNG", {}),
    "CMYK": (COLOUR.convert("CMYK"), "TIFF", {}),
    "CMYK JPEG": (COLOUR.convert("CMYK"), "JPEG", {"quality": 100}),
    "LAB": (COLOUR.convert("LAB"), "TIFF", {}),
    "WEBP": (COLOUR, "WEBP", {"lossless": True}),
    "BMP": (COLOUR, "BMP", {}),
    "GIF": (GREY, "GIF", {}),
    "first frame of a GIF": (COLOUR, "GIF", OTHER),
    "first frame of a PNG": (COLOUR, "PNG", OTHER),
    "first frame of a WEBP": (COLOUR, "WEBP", {"lossless": True, **OTHER}),
    "first page of a TIFF": (COLOUR, "TIFF", OTHER),
    "first picture of a camera": (COLOUR, "MPO", {"quality": 100, **OTHER}),
}


@pytest.mark.parametrize("name", PICTURES)
def test_photographs_of_every_mode_and_format(tmp_path, name):
    """Whatever the file is called: formats are told by the content."""
    picture, kind, options = PICTURES[name]
    path = tmp_path / "a.JPG"
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    picture.save(path, kind, **options)
    pixels = images.load_photo(path, 8, (8, 8)).pixels
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
    assert abs(pixels.astype(int) - RAMP[..., None]).max() <= 5


def test_a_photograph_of_16_bits_a_colour(tmp_path):
    path = tmp_path / "a.png"
    values = np.stack([RAMP, RAMP.T, 255 - RAMP], -1)
    path.write_bytes(png16(values.astype(np.uint16) * 257))
    np.testing.assert_array_equal(images.load_photo(path, 8).pixels, values)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "RGB"])
def test_what_is_transparent_shows_white_paper(tmp_path, mode):
    path = tmp_path / "a.png"
    options = {"P": {"transparency": 0}, "RGB": {"transparency": (0, 0, 0)}}.get(mode, {})
    picture = Image.new("P", (4, 4)) if mode == "P" else Image.new("RGBA", (4, 4)).convert(mode)
    picture.save(path, **options)
    assert (images.load_photo(path, 4).pixels == 255).all()


HALVES = {"left": [[0, 255], [0, 255]], "right": [[255, 0], [255, 0]], "top": [[0, 0], [255, 255]]}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "size", "dark"),
    [
        (1, None, "left"),
        (3, None, "right"),
        (3, (40, 20), "right"),  # as every viewer shows it
        (6, None, "top"),
        (6, (20, 40), "top"),
        (6, (40, 20), "left"),  # only as it is stored has it the size of its annotations
        (6, (20, 20), None),
        (b"Exif\0\0damaged", None, "left"),
    ],
)
def test_photographs_are_turned_upright(tmp_path, kind, orientation, size, dark):
    exif = orientation
    if not isinstance(exif, bytes):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
    pixels = np.repeat(np.uint8([0, 255]), 20)[None].repeat(20, 0)
    path = tmp_path / "a"
    Image.fromarray(pixels).convert("RGB").save(path, kind, exif=exif, quality=100)
    if dark is None:
        with pytest.raises(Skip, match="another size"):
            images.load_photo(path, 2, size)
        return
    photo = images.load_photo(path, 2, size)
    assert (photo.width, photo.height) == ((20, 40) if dark == "top" else (40, 20))
    assert abs(photo.pixels[..., 0].astype(int) - HALVES[dark]).max() < 50


def encoded(picture, kind):
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def png_of_size(width, height):
    """A PNG's header, without pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT"


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8))
JPEG = encoded(NOISE, "JPEG")
OTHER_FORMAT = "photograph that is no whole JPEG, PNG, WEBP, BMP, GIF or TIFF"
LARGE = "photograph of more than 8192 pixels a side"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "photograph missing"),
        (b"", "photograph broken"),
        (JPEG[:900], "photograph broken"),
        (JPEG[:9], "photograph broken"),
        (b"<html>not found</html>", OTHER_FORMAT),
        (encoded(NOISE, "EPS"), OTHER_FORMAT),
        (encoded(Image.new("F", (50, 30)), "TIFF"), "photograph of 32 bits a channel, whose white"),
        (encoded(Image.new("I", (50, 30)), "TIFF"), "photograph of 32 bits a channel, whose white"),
        (encoded(NOISE.rotate(90, expand=True), "PNG"), "photograph of another size"),
        (png_of_size(8193, 1), LARGE),
        (png_of_size(30_000, 20_000), LARGE),  # beyond what Pillow itself opens
        (png_of_size(0, 9), OTHER_FORMAT),
        ("folder", r"photograph that cannot be read \(Is a directory\)"),
        ("pipe", r"photograph that cannot be read \(it is a pipe, a socket or a device"),
        ("name", r"photograph that cannot be read \(embedded null byte\)"),
    ],
    ids=range(15),
)
def test_unusable_photographs_say_why(tmp_path, content, reason):
    path = tmp_path / "a.jpg"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    elif content == "name":
        path = tmp_path / "a\0.jpg"
    with pytest.raises(Skip, match=reason):
        images.load_photo(path, 16, (50, 30))


def test_jpeg_of_a_smooth_picture_is_close():
    y, x = np.mgrid[:64, :64]
    pixels = np.stack([x * 4, y * 4, 255 - x * 2], -1).astype(np.uint8)
    back = tf.io.decode_jpeg(images.encode_jpeg(pixels, images.SCENE_QUALITY)).numpy()
    assert abs(back.astype(int) - pixels).mean() < 2


def test_real_sketches(real_data):
    """Objects cut from published scene sketches, 30 to 400 pixels a side, lines of 1 to 5."""
    folder = real_data / "sketchycoco-sl" / "test" / "sketch"
    canvases = []
    for path in sorted((folder / "Image").iterdir()):
        with Image.open(path) as image:
            page = image.convert("L")
        table = folder / "GraphFeatures" / f"{int(path.stem)}.csv"
        for row in csv.DictReader(table.read_text().splitlines()):
            box = [int(row[f"bbox{side}"]) for side in ("left", "top", "right", "bottom")]
            canvases.append(normalise(np.asarray(page.crop(box)), 96))
    assert len(canvases) > 80
    for canvas in canvases:
        rows, columns = (np.flatnonzero((canvas < 230).any(axis)) for axis in (1, 0))
        assert 90 <= max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1 <= 96
        assert canvas.min() == 0
    # Drawings of Quick, Draw! cover 9 % on average.
    assert 0.05 < 1 - np.mean(canvases) / 255 < 0.2
