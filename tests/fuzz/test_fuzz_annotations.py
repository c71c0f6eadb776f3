"""Annotations and pictures as they are downloaded: COCO's JSON and its segmentations, SketchyCOCO,
SketchyCOCO-SL. What cannot be used is left out and told, or refused with one sentence."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from dataloaders import images, sl_pairs
from dataloaders.images import Skip
from prep_data import coco_pixels
from prep_data.coco_annotations import read_annotation_file
from prep_data.coco_classes import ClassLists, CocoHParams, Vocabulary, read_class_lists
from prep_data.coco_selection import Region, select_regions
from prep_data.quickdraw_drawings import read_classes
from prep_data.report import Report
from tests.fuzz.hostile import bounded, each_replaced, mutated, mutated_json, refused_or

HPARAMS = CocoHParams(image_size=16, mask_size=8, crop_size=8, min_object_size=0.0)
LISTS = ClassLists(("person",), ("grass",), ())
CONTENT = {
    "images": [{"id": 1, "file_name": "1.jpg", "width": 60, "height": 40}],
    "annotations": [
        {"id": 7, "image_id": 1, "category_id": 1, "bbox": [2, 3, 20, 30],
         "segmentation": [[2, 3, 22, 3, 22, 33, 2, 33.5]]},
        {"id": 8, "image_id": 1, "category_id": 2, "bbox": [0, 0, 60, 40],
         "segmentation": {"size": [40, 60], "counts": [1200, 1200]}},
    ],
    "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "grass"}],
}  # fmt: skip
TEXT = json.dumps(CONTENT).encode()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    (folder / "images" / "train2017").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(folder / "images" / "train2017" / "1.jpg")
    return folder


def prepared(folder, data, slack=4 << 20):
    """All that preparation does with one annotation file; the scenes that come out of it."""
    path, report = folder / "instances.json", Report()
    path.write_bytes(data)
    file = refused_or(read_annotation_file, path, report, size=len(data))
    if file is None:
        return []
    files = {"train2017": [file]}
    chosen = refused_or(select_regions, folder, files, LISTS, 0.0, report, size=len(data))
    if chosen is None:
        return []
    assert isinstance(chosen[0], Vocabulary)
    photos, scenes = chosen[1]["train2017"], []
    for image_id in photos.image_ids:
        with bounded(len(data), slack=slack):
            scenes += coco_pixels.make_scene(photos.photo(image_id), HPARAMS).records
    json.dumps(report.to_dict())
    for scene in scenes:
        boxes = np.array(scene["boxes"])
        assert len(boxes) == 4 * len(scene["obj_idx"]) and (boxes >= 0).all() and (boxes <= 1).all()
    return scenes


def test_the_file_that_is_damaged_is_a_whole_one(world):
    (scene,) = prepared(world, TEXT)
    assert len(scene["obj_idx"]) == len(scene["stuff_idx"]) == 1


@given(data=mutated(TEXT) | mutated_json(CONTENT).map(lambda each: json.dumps(each).encode()))
@example(data=b"{[]: []}")
@example(
    data=b'{"images": [1e999, {"id": 1e999}], "annotations": [{"id": 1e999}], "categories": []}'
)
@example(data=b"[" * 100_000)
@example(data=b'{"images": ' + b"[" * 100_000)
@example(data=TEXT.replace(b'"id": 7', b'"id": 7, "by": "\xff\xfe"'))
@example(data=b"\xef\xbb\xbf" + TEXT)
@example(data=TEXT.decode().encode("utf-16"))
def test_annotation_files(world, data):
    prepared(world, data)


def test_every_value_of_annotations_replaced_by_each_odd_one(world):
    for content in each_replaced(CONTENT):
        prepared(world, json.dumps(content).encode())


SIZES = [(60, 40), (1, 1), (8192, 8192), (2**62, 2**62), (1, 2**40)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["runs", "string", "polygon"])
def test_a_photograph_listed_larger_than_it_is(world, size, kind):
    """The mask of an annotation is as large as its photograph is said to be."""
    width, height = size
    segmentations = {
        "runs": {"size": [height, width], "counts": [0, width * height]},
        "string": {"size": [height, width], "counts": "0PP_oooooo0"},
        "polygon": [[0, 0, width, 0, width, height]],
    }
    image = {"id": 1, "file_name": "1.jpg", "width": width, "height": height}
    annotation = {**CONTENT["annotations"][0], "segmentation": segmentations[kind],
                  "bbox": [0, 0, width, height]}  # fmt: skip
    content = {**CONTENT, "images": [image], "annotations": [annotation]}
    scenes = prepared(world, json.dumps(content).encode(), slack=3 * images.MAX_PHOTO_SIDE**2)
    assert len(scenes) == (size == (60, 40) and kind != "string")


NUMBERS = st.integers(-5, 70) | st.floats() | st.sampled_from([1e300, 10**400, 2**63, -(2**63)])
SEGMENTATIONS = st.one_of(
    st.lists(st.lists(NUMBERS, max_size=10), max_size=3),
    st.fixed_dictionaries({
        "size": st.just([4, 6]) | st.lists(NUMBERS, max_size=3),
        "counts": st.lists(NUMBERS, max_size=8) | st.text(max_size=12)
        | st.text("0123456789:;<=>?@ABCOP_`abcno", max_size=12),
    }),
    st.integers(), st.text(max_size=4),
)  # fmt: skip


@given(segmentation=SEGMENTATIONS)
def test_segmentations(tmp_path_factory, segmentation):
    path = tmp_path_factory.getbasetemp() / "annotation.json"
    path.write_text(json.dumps({"segmentation": segmentation}))
    region = Region(1, 0, (0, 0, 6, 4), path, 0, path.stat().st_size)
    with bounded(0):
        try:
            mask = coco_pixels.region_mask(region, 6, 4)
        except Skip:
            return
    assert mask.shape == (4, 6) and mask.dtype == np.uint8 and mask.max() <= 1


@given(content=mutated_json({"objects": ["a", "b"], "materials": ["c"], "fully_excluded": []}))
def test_class_lists(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "lists.json"
    path.write_text(json.dumps(content))
    refused_or(read_class_lists, str(path))
    refused_or(read_classes, path)


# ---- pictures ------------------------------------------------------------------------------------


def encoded(kind, mode="RGB", **options):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, depth, colour, *chunks):
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + chunk(b"IEND", b"")


PICTURES = {
    "JPEG": encoded("JPEG"), "PNG": encoded("PNG"), "palette": encoded("PNG", "P"),
    "alpha": encoded("PNG", "LA"), "interlaced": encoded("PNG", interlace=1),
    "progressive": encoded("JPEG", progressive=True), "CMYK": encoded("JPEG", "CMYK"),
    "WEBP": encoded("WEBP"), "GIF": encoded("GIF", "P"), "BMP": encoded("BMP"),
    "TIFF": encoded("TIFF"), "16 bits": encoded("TIFF", "I;16"),
    "deflated": encoded("TIFF", compression="tiff_deflate"),
}  # fmt: skip


def pictured(path, data):
    path.write_bytes(data)
    for load in (
        lambda: images.load_photo(path, 8).pixels,
        lambda: images.load_sketch(path, 16),
    ):
        with bounded(len(data), slack=32 << 20):
            try:
                pixels = load()
            except Skip:
                continue
        assert pixels.dtype == np.uint8 and pixels.shape in ((8, 8, 3), (16, 16))


@pytest.mark.filterwarnings("ignore")  # Pillow's, of metadata that it cannot read
@given(data=st.sampled_from(sorted(PICTURES)).flatmap(lambda name: mutated(PICTURES[name])))
@example(data=b"")
@example(data=png(2**31 - 1, 2**31 - 1, 8, 2, chunk(b"IDAT", zlib.compress(b"\0" * 100))))
@example(data=png(8192, 8193, 1, 0, chunk(b"IDAT", zlib.compress(b"\0" * 100))))
@example(data=png(9, 9, 8, 2, chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * (60 << 20)))))
@example(data=png(9, 9, 8, 2, chunk(b"iCCP", b"a\0\0" + zlib.compress(b"\0" * (60 << 20)))))
@example(data=png(0, 0, 8, 2))
@example(data=png(9, 9, 16, 3, chunk(b"PLTE", b"abc" * 300), chunk(b"IDAT", b"x")))
def test_damaged_pictures(tmp_path_factory, data):
    pictured(tmp_path_factory.getbasetemp() / "picture", data)


def test_no_other_kind_of_picture_is_opened(tmp_path):
    """Pillow would give PostScript to an interpreter, and has seldom used decoders for the rest."""
    path, page = tmp_path / "1.jpg", Image.new("RGB", (9, 9), "black")
    for kind in ("EPS", "PDF", "PCX", "TGA", "ICO"):
        page.save(path, kind)
        with pytest.raises(Skip, match="no whole JPEG"):
            images.load_photo(path, 8)
        with pytest.raises(Skip, match="no whole JPEG"):
            images.load_drawing(path)


TABLE = b"id,className,bboxleft,bboxtop,bboxright,bboxbottom\n0,7,1,2,30,40\n1,8,5.5,6,70,80\n"


@given(data=mutated(TABLE) | st.binary(max_size=60))
@example(data=TABLE + b"2,7,nan,inf,-1e999,1e300\n")
@example(data=TABLE + b"2," + b"9" * 5000 + b",1,2,3,4\n")
@example(data=TABLE + b'2,"' + b"x" * 200_000)
@example(data=TABLE * 2000)
@example(data=TABLE + b"\0" * 50)
def test_tables_of_objects(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "1.csv"
    path.write_bytes(data)
    with bounded(len(data)):
        try:
            side = sl_pairs.read_objects(path, 90, 100, {7: 0, 8: 1}, [])
        except Skip:
            return
    assert len(side.classes) == len(side.boxes) <= sl_pairs.MAX_OBJECTS
    assert (side.relative_boxes >= 0).all() and (side.relative_boxes <= 1).all()
