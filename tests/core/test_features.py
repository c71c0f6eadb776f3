"""core.features: what is written comes back, and nothing else is read."""

import dataclasses
import io
import json
import tracemalloc
import zipfile

import numpy as np
import pytest

from core import features
from core.errors import UserError
from core.evaluation.query_protocols import main_protocol

SCENES, SIDE = 4, 16


def make(scenes=SCENES, seed=0, **metadata):
    """Features of scenes with 1, 2, 3, 1, 2, 3 ... objects; the query of a scene of three leaves
    out the first."""
    rng = np.random.default_rng(seed)
    sizes = 1 + np.arange(scenes) % 3
    photo_img = np.repeat(np.arange(scenes), sizes)
    first = np.r_[True, np.diff(photo_img) > 0]
    kept = np.flatnonzero(~(first & (sizes[photo_img] == 3)))
    arrays = {
        "image_ids": np.arange(scenes) + 100,
        "photo_classes": rng.integers(0, 3, len(photo_img)),
        "photo_boxes": rng.random((len(photo_img), 4)),
        "photo_obj_to_img": photo_img,
        "photo_masks": rng.integers(0, 256, (len(photo_img), SIDE * SIDE // 8)),
        "query_classes": rng.integers(0, 3, len(kept)),
        "query_obj_to_img": photo_img[kept],
        "query_to_photo": kept,
    }
    protocols = features.protocols(own_boxes=False)
    for number, protocol in enumerate(protocols):
        # With dropped objects, the first of each scene alone.
        first = np.r_[True, np.diff(photo_img[kept]) > 0]
        rows = np.flatnonzero(first) if protocol.dropped else np.arange(len(kept))
        arrays[f"query{number}_rows"] = rows
        arrays[f"query{number}_boxes"] = rng.random((len(rows), 4))
    kinds = features._expected(len(protocols))
    for name, (_, letters) in kinds.items():
        if letters in ("ND", "NE"):
            arrays[name] = rng.standard_normal((scenes, 6 if letters == "ND" else 5))
    arrays = {name: np.asarray(each, kinds[name][0]) for name, each in arrays.items()}
    values = {
        "schema": features.SCHEMA, "model": "graph-attention", "run": "SD01", "step": 7,
        "loader": "sketchycoco-tf", "split": "test", "seed": 0, "weights": "5e" * 32,
        "vector": "token", "own_boxes": False,
        "protocols": [dataclasses.asdict(each) for each in protocols],
        "mask_size": SIDE, "vocabulary": ["cat", "dog", "__image__"],
    }  # fmt: skip
    return features.Features({**values, **metadata}, arrays)


def test_what_is_written_comes_back_and_numpy_reads_it_too(tmp_path):
    path, made = tmp_path / "a_feats.npz", make(5)
    features.write(path, made)
    read = features.read(path)
    assert read.metadata == made.metadata
    with np.load(path, allow_pickle=False) as file:
        assert set(file.files) == {"metadata", *made.arrays}
        assert json.loads(str(file["metadata"]))["run"] == "SD01"
        for name, array in made.arrays.items():
            np.testing.assert_array_equal(file[name], array)
            np.testing.assert_array_equal(read.arrays[name], array)
            assert read.arrays[name].dtype == array.dtype
    # scenes of 1, 2, 3, 1, 2 objects; the third query shows two of its three
    assert read.sketched().tolist() == [1, 2, 2, 1, 2]
    assert read.photos() is read.arrays["photo_token"]
    fair = main_protocol(own_boxes=False)
    assert read.queries(fair) is read.arrays[f"query{read.protocols.index(fair)}_token"]
    assert read.protocols == features.protocols(own_boxes=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a_feats.npz"]


def test_a_model_without_projection(tmp_path):
    made = make(3)
    none = np.zeros((3, 0), np.float32)
    arrays = {n: none if n.endswith("projection") else a for n, a in made.arrays.items()}
    features.write(tmp_path / "a_feats.npz", features.Features(made.metadata, arrays))
    read = features.read(tmp_path / "a_feats.npz")
    assert read.arrays["photo_projection"].shape == (3, 0)
    np.testing.assert_array_equal(read.photos(), made.arrays["photo_token"])


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"mask_size": -16}, {"vocabulary": ["cat", 2]}])
def test_metadata_that_no_search_could_use(tmp_path, wrong):
    made = make()
    metadata = {**made.metadata, **wrong}
    features.write(tmp_path / "a_feats.npz", features.Features(metadata, made.arrays))
    with pytest.raises(UserError, match="metadata: "):
        features.read(tmp_path / "a_feats.npz")


def test_the_photographs_alone(tmp_path):
    made = make(5)
    features.write(tmp_path / "a", made)
    read = features.read(tmp_path / "a", photos_only=True)
    assert set(read.arrays) == {n for n in made.arrays if not n.startswith("query")}
    for name, array in read.arrays.items():
        np.testing.assert_array_equal(array, made.arrays[name])
    (tmp_path / "b").write_bytes(altered("query1_token", (3, 5), np.nan))
    features.read(tmp_path / "b", photos_only=True)  # nobody asks
    (tmp_path / "b").write_bytes(altered("photo_token", (3, 5), np.nan))
    with pytest.raises(UserError, match="photo_token has values that are not finite"):
        features.read(tmp_path / "b", photos_only=True)


def test_equal_features_give_equal_bytes(tmp_path):
    for name in "ab":
        features.write(tmp_path / name, make())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a_feats.npz"
    features.write(path, make())
    before = path.read_bytes()
    with pytest.raises(ValueError):
        features.write(path, make(step=float("nan")))
    assert path.read_bytes() == before
    with pytest.raises(UserError, match=r"cannot write .*none/a"):
        features.write(tmp_path / "none" / "a", make())


def members(**changed):
    """The members of a good file, some replaced (bytes, or an array) or left out (None)."""
    made = make()
    arrays = {"metadata": np.array(json.dumps(made.metadata)), **made.arrays, **changed}
    return {name: npy(each) for name, each in arrays.items() if each is not None}


def npy(array):
    if isinstance(array, bytes):
        return array
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=True)
    return file.getvalue()


def archive(content, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as out:
        for name, data in content.items():
            out.writestr(f"{name}.npy", data)
    return file.getvalue()


def metadata(**changed):
    values = {**make().metadata, **changed}
    return np.array(json.dumps({name: each for name, each in values.items() if each != "none"}))


def claiming(shape, descr="<f4"):
    """The .npy of an array that is said to be of that shape, and holds 8 bytes."""
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + bytes(8)


def altered(name, place, value):
    array = make().arrays[name].copy()
    array[place] = value
    return archive(members(**{name: array}))


GOOD = archive(members())
TOKEN = make().arrays["photo_token"]
PROTOCOLS = make().metadata["protocols"]
BAD = {
    "empty": (b"", "not a zip file"),
    "text": (b"image_ids", "not a zip file"),
    "truncated": (GOOD[:-500], "not a zip file"),
    "bit flipped": (GOOD.replace(TOKEN.tobytes(), bytes(TOKEN.nbytes)), "CRC"),
    "foreign": (archive({"arr_0": npy(np.zeros(3))}), "without the key 'metadata'"),
    "without a key": (archive(members(photo_masks=None)), "without the key 'photo_masks'"),
    "with a key": (archive({**members(), "more": npy(np.zeros(3))}), "with the key 'more'"),
    "pickled": (
        archive(members(image_ids=np.array([{"a": 1}] * SCENES, object))), "pickled objects",
    ),
    "other dtype": (
        archive(members(photo_token=TOKEN.astype(np.float64))), r"photo_token is float64 \(4, 6\)",
    ),
    "other width": (
        archive(members(photo_token=TOKEN[:, :3])), r"random_token is float32 \(4, 6\).*\(4, 3\)",
    ),
    "fewer scenes": (archive(members(photo_token=TOKEN[:3])), r"expected float32 \(4, D\)"),
    "other rank": (archive(members(image_ids=np.zeros((4, 1), np.int64))), r"int64 \(N\)"),
    "column order": (archive(members(photo_token=np.asfortranarray(TOKEN))), "other sizes"),
    "no scenes": (
        archive(members(**{
            name: array[:0] for name, array in make().arrays.items()
        })), "no scenes",
    ),
    "not finite": (altered("query1_token", (3, 5), np.nan), "not finite"),
    "scene left out": (altered("query_obj_to_img", 0, 1), "query_obj_to_img does not go"),
    "last scene left out": (altered("photo_obj_to_img", -1, 2), "photo_obj_to_img does not go"),
    "other class": (altered("photo_classes", 0, 3), "outside the vocabulary"),
    "other object": (altered("query_to_photo", 0, 99), "objects that are not there"),
    "row repeated": (altered("query0_rows", 1, 0), "query0_rows does not go"),
    "row outside": (altered("query0_rows", -1, 99), "query0_rows does not go"),
    "scene not asked for": (archive(members(
        query0_rows=make().arrays["query0_rows"][1:], query0_boxes=make().arrays["query0_boxes"][1:]
    )), "query0_rows does not go"),
    "protocol left out": (
        archive(members(metadata=metadata(protocols=PROTOCOLS[1:]))), "protocols are missing",
    ),
    "protocol twice": (
        archive(members(metadata=metadata(protocols=[*PROTOCOLS, PROTOCOLS[0]]))), "or repeated",
    ),
    "protocol of other values": (
        archive(members(metadata=metadata(protocols=[{**PROTOCOLS[0], "jitter": float("nan")}]))),
        "jitter is a share",
    ),
    "protocol of other types": (
        archive(members(metadata=metadata(protocols=[{**PROTOCOLS[0], "boxes": []}]))), "boxes",
    ),
    "protocols without end": (
        archive(members(metadata=metadata(protocols=PROTOCOLS * 9))), "more than 64 protocols",
    ),
    "huge header": (archive(members(photo_token=claiming((1 << 40, 256)))), "other sizes"),
    "endless header": (archive(members(photo_token=claiming((1 << 62, 1 << 62)))), "other sizes"),
    "huge element": (archive(members(metadata=claiming((), "<U500000000"))), "other sizes"),
    "bomb": (
        archive(members(photo_masks=np.zeros((7, 1 << 22), np.uint8)), zipfile.ZIP_DEFLATED),
        "compressed",
    ),
    "cut short inside": (archive(members(photo_token=npy(TOKEN)[:-4])), "other sizes"),
    "no array": (archive(members(photo_token=b"\x93NUMPY\x01\0")), "not a features file"),
    "other schema": (archive(members(metadata=metadata(schema=2))), "its schema is 2, not 3"),
    "metadata no JSON": (archive(members(metadata=np.array("{"))), "not a features file"),
    "metadata no text": (archive(members(metadata=np.array(3))), "metadata is no text"),
    "metadata short": (archive(members(metadata=metadata(step="none"))), "'step' is missing"),
    "metadata long": (archive(members(metadata=metadata(more=1))), "unknown key 'more'"),
    "metadata type": (archive(members(metadata=metadata(seed="x"))), "'seed' must be int"),
    "other vector": (archive(members(metadata=metadata(vector="raw"))), "unknown vector 'raw'"),
    "other mask size": (archive(members(metadata=metadata(mask_size=64))), "not of mask_size"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_anything_else_is_refused_in_one_sentence(tmp_path, case):
    data, piece = BAD[case]
    path = tmp_path / "a_feats.npz"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(UserError, match=piece) as caught:
        features.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000  # whatever sizes it states; the good file has 20 kB
    told = str(caught.value)
    assert told.startswith(f"{path} is not a features file") and "\n" not in told
    assert "extract-features" in told


def test_a_member_larger_than_the_file_is_refused(tmp_path):
    # Both sizes of the central directory forged: 1 GB stored in a file of 12 kB.
    place = GOOD.rindex(b"PK\x01\x02")
    forged = bytearray(GOOD)
    forged[place + 20 : place + 28] = (1 << 30).to_bytes(4, "little") * 2
    path = tmp_path / "a_feats.npz"
    path.write_bytes(bytes(forged))
    tracemalloc.start()
    with pytest.raises(UserError, match="not a features file"):
        features.read(path)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_no_file(tmp_path):
    for path in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(UserError, match="there is no features file"):
            features.read(path)
