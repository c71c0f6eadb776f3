"""Photographs of any picture file, and sketches on the canvas of our own raster."""

import csv
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

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
    """The same drawing, drawn at once or scanned from a page of another size."""
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
    """A grey PNG of 16 bits a pixel, as bytes. values: uint16 (h, w)."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 0, 0, 0, 0)
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
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "sketch.png")
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
        (b"no picture", "sketch broken"),
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


def test_cut_short(tmp_path):
    path = tmp_path / "sketch.png"
    Image.fromarray(sketches.rasterise(HOUSE, 96)).save(path)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(Skip, match="sketch broken"):
        load_sketch(path, 96)
    with pytest.raises(Skip, match="sketch broken"):
        load_sketch(tmp_path / "gone.png", 96)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_photographs_of_every_colour_mode(tmp_path, mode):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (50, 30), (120, 120, 120)).convert(mode).save(path, quality=95)
    pixels = images.load_photo(path, 16, (50, 30)).pixels
    assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8
    assert abs(pixels.astype(int) - 120).max() <= 3


def test_unusable_photographs_say_why(tmp_path):
    load = partial(images.load_photo, side=16, size=(50, 30))
    noise = np.random.default_rng(0).integers(0, 256, (30, 50, 3)).astype(np.uint8)
    good = tmp_path / "a.jpg"
    Image.fromarray(noise).save(good)
    with pytest.raises(images.Skip, match="missing"):
        load(tmp_path / "none.jpg")
    with pytest.raises(images.Skip, match="another size"):
        images.load_photo(good, 16, (30, 50))
    good.write_bytes(good.read_bytes()[:900])
    with pytest.raises(images.Skip, match="broken"):
        load(good)
    for content in (b"", b"<html>not found</html>"):
        good.write_bytes(content)
        with pytest.raises(images.Skip, match="broken"):
            load(good)


def test_a_photograph_that_would_fill_the_memory(tmp_path):
    """Its header is enough: there are no pixels in the file."""
    side = images.MAX_PHOTO_SIDE + 1
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT")
    with pytest.raises(Skip, match="more than 8192 pixels"):
        images.load_photo(path, 16)


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
