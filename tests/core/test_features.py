"""core.features: what is written comes back, and nothing else is read."""

import json

import msgspec
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
    protocols = features.feature_protocols(own_boxes=False)
    for number, protocol in enumerate(protocols):
        # With dropped objects, the first of each scene alone.
        first = np.r_[True, np.diff(photo_img[kept]) > 0]
        rows = np.flatnonzero(first) if protocol.dropped else np.arange(len(kept))
        arrays[f"query{number}_rows"] = rows
        arrays[f"query{number}_boxes"] = rng.random((len(rows), 4))
    values = {
        "model": "graph-attention", "run": "SD01", "step": 7, "loader": "sketchycoco-tf",
        "split": "test", "seed": 0, "weights": "5e" * 32, "vectors": ("token", "projection"),
        "vector": "token", "own_boxes": False, "protocols": protocols,
        "mask_size": SIDE, "vocabulary": ("cat", "dog", "__image__"),
    }  # fmt: skip
    metadata = features.Metadata(**{**values, **metadata})
    specs = features._array_specs(metadata)
    for name, (_, shape) in specs.items():
        if shape in ("N token", "N projection"):
            arrays[name] = rng.standard_normal((scenes, 6 if shape == "N token" else 5))
    arrays = {name: np.asarray(each, specs[name][0]) for name, each in arrays.items()}
    return features.Features(metadata, arrays)


def test_what_is_written_comes_back_and_numpy_reads_it_too(tmp_path):
    path, made = tmp_path / "a_feats.npz", make(5)
    features.write(path, made)
    read = features.read(path)
    assert read.metadata == made.metadata
    with np.load(path, allow_pickle=False) as file:
        assert set(file.files) == {"metadata", *made.arrays}
        metadata = json.loads(str(file["metadata"]))
        assert (metadata["run"], metadata["schema"]) == ("SD01", 4)
        assert metadata["protocols"][0]["boxes"] == "shared"
        for name, array in made.arrays.items():
            np.testing.assert_array_equal(file[name], array)
            np.testing.assert_array_equal(read.arrays[name], array)
            assert read.arrays[name].dtype == array.dtype
    # scenes of 1, 2, 3, 1, 2 objects; the third query shows two of its three
    assert read.objects_per_query().tolist() == [1, 2, 2, 1, 2]
    assert read.photo_vectors() is read.arrays["photo_token"]
    fair = main_protocol(own_boxes=False)
    number = read.metadata.protocols.index(fair)
    assert read.query_vectors(fair) is read.arrays[f"query{number}_token"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a_feats.npz"]


def test_a_model_without_projection(tmp_path):
    made = make(3)
    none = np.zeros((3, 0), np.float32)
    arrays = {n: none if n.endswith("projection") else a for n, a in made.arrays.items()}
    features.write(tmp_path / "a_feats.npz", features.Features(made.metadata, arrays))
    read = features.read(tmp_path / "a_feats.npz")
    assert read.arrays["photo_projection"].shape == (3, 0)
    np.testing.assert_array_equal(read.photo_vectors(), made.arrays["photo_token"])


def test_equal_features_give_equal_bytes(tmp_path):
    for name in "ab":
        features.write(tmp_path / name, make())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def spoilt(**arrays):
    """A good file with some arrays replaced, or left out (None)."""
    made = make()
    metadata = np.array(json.dumps(msgspec.to_builtins(made.metadata)))
    return {"metadata": metadata, **made.arrays, **arrays}


def stating(**changed):
    """A good file with other metadata; None: without."""
    metadata = {**msgspec.to_builtins(make().metadata), **changed}
    metadata = {name: each for name, each in metadata.items() if each is not None}
    return spoilt(metadata=np.array(json.dumps(metadata)))


def altered(name, place, value):
    array = make().arrays[name].copy()
    array[place] = value
    return spoilt(**{name: array})


TOKEN = make().arrays["photo_token"]
PROTOCOLS = msgspec.to_builtins(make().metadata)["protocols"]
BAD = {
    "foreign": ({"arr_0": np.zeros(3)}, "metadata is not a file in the archive"),
    "pickled": (spoilt(image_ids=np.array([{"a": 1}] * SCENES, object)), "allow_pickle"),
    "other dtype": (spoilt(photo_token=TOKEN.astype(float)), r"photo_token is float64 \(4, 6\)"),
    "fewer scenes": (spoilt(photo_token=TOKEN[:3]), r"photo_token is float32 \(3, 6\).*N = 4"),
    "no scenes": (
        spoilt(**{name: array[:0] for name, array in make().arrays.items()}), "no scenes",
    ),
    "not finite": (altered("query1_token", (3, 5), np.nan), "not finite"),
    "other scene": (altered("query_obj_to_img", 0, 9), r"query_obj_to_img has values outside 0..3"),
    "other class": (altered("photo_classes", 0, 3), "photo_classes has values outside"),
    "other object": (altered("query_to_photo", 0, 99), "query_to_photo has values outside"),
    "protocol left out": (stating(protocols=PROTOCOLS[1:]), "no queries with boxes=shared"),
    "protocol of other values": (
        stating(protocols=[{**PROTOCOLS[0], "jitter": 3.5}]), "jitter is a share",
    ),
    "other schema": (stating(schema=2), "its schema is 2, not 4"),
    "metadata no JSON": (spoilt(metadata=np.array("{")), "truncated"),
    "metadata long": (stating(more=1), "unknown field `more`"),
    "negative": (stating(seed=-1), "seed"),
    "other vector": (stating(vector="raw"), "no vectors 'raw'"),
    "other mask size": (stating(mask_size=64), "photo_masks is uint8"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_anything_else_is_refused_in_one_sentence(tmp_path, case):
    arrays, piece = BAD[case]
    path = tmp_path / "a_feats.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(UserError, match=piece) as caught:
        features.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is not a features file") and "\n" not in message
    assert "extract-features" in message


def test_damaged_files(tmp_path):
    path = tmp_path / "a_feats.npz"
    features.write(path, make())
    whole = path.read_bytes()
    for data in (
        b"", b"image_ids", whole[:-500], whole[: len(whole) // 2],
        whole.replace(TOKEN.tobytes(), bytes(TOKEN.nbytes)),  # the check sum tells
    ):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(UserError, match="is not a features file"):
            features.read(path)
