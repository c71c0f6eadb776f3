"""Archives of arrays: drawings as they are downloaded, features files, vectors of other systems,
weights. Whatever they hold or state, a reader gives arrays within their bounds or one sentence."""

import contextlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core import features
from core.errors import UserError
from experiments.analysis import score_features
from experiments.analysis.score_features import ScoreFeatures, ScoreFeaturesHParams
from prep_data.npz import read_drawings
from tests.core.test_features import make
from tests.fuzz.hostile import (
    HEADERS,
    array_bytes,
    members_of,
    mutated,
    npy,
    refused_or,
    spoilt,
    zipped,
)

# ---- Quick, Draw! --------------------------------------------------------------------------------

DRAWINGS = np.empty(3, object)
DRAWINGS[:] = [
    np.array([[0, 0, 0], [300, -2, 0], [5, 6, 1]], np.int16),
    np.array([[1, 2, 0], [3, 4, 1]], np.int16),
    np.zeros((0, 3), np.int16),
]
WHOLE = array_bytes(DRAWINGS)
PICKLE = WHOLE[WHOLE.index(b"\n") + 1 :]


def drawings_of(path, data):
    path.write_bytes(data)
    read = refused_or(read_drawings, path, "train", size=len(data))
    for drawing in read or ():
        assert drawing.dtype == np.int16 and drawing.ndim == 2 and drawing.shape[1] == 3
    return read


@given(data=mutated(zipped({"train.npy": WHOLE})) | st.binary(max_size=80))
def test_damaged_files_of_drawings(tmp_path_factory, data):
    drawings_of(tmp_path_factory.getbasetemp() / "cat.npz", data)


@given(header=HEADERS, version=st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00"]))
def test_forged_headers_of_drawings(tmp_path_factory, header, version):
    path = tmp_path_factory.getbasetemp() / "cat.npz"
    drawings_of(path, zipped({"train.npy": npy(header, PICKLE, version)}))


# ---- features files ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def features_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "a_feats.npz"
    features.write(path, make(3))
    return path


def read_spoilt_features(path, data):
    """Read what may be damaged: a whole file or one sentence."""
    path.write_bytes(data)
    try:
        read = features.read(path)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert read.scenes == 3 and read.photo_vectors().shape[0] == 3
    for protocol in read.metadata.protocols:
        assert np.isfinite(read.query_vectors(protocol)).all()
    read.objects_per_query()


@given(data=st.data())
def test_forged_features(tmp_path_factory, features_file, data):
    members = members_of(features_file.read_bytes())
    for name in data.draw(st.sets(st.sampled_from(sorted(members)), min_size=1, max_size=3)):
        members[name] = data.draw(spoilt(members[name]))
    read_spoilt_features(tmp_path_factory.getbasetemp() / "a_feats.npz", zipped(members))


@given(data=st.data())
def test_damaged_features(tmp_path_factory, features_file, data):
    whole = features_file.read_bytes()
    read_spoilt_features(tmp_path_factory.getbasetemp() / "a_feats.npz", data.draw(mutated(whole)))


# ---- vectors of other systems --------------------------------------------------------------------

VECTORS = zipped(
    {"ids.npy": array_bytes(np.arange(4)), "vectors.npy": array_bytes(np.ones((4, 3), "f4"))}
)


def read_spoilt_vectors(path, data):
    path.write_bytes(data)
    hparams = ScoreFeaturesHParams(queries=str(path), gallery=str(path), results=str(path.parent))
    with contextlib.suppress(UserError):
        ScoreFeatures(hparams, path.parent).prepare()


@given(data=mutated(VECTORS) | st.binary(max_size=80))
def test_damaged_vectors(tmp_path_factory, data):
    read_spoilt_vectors(tmp_path_factory.getbasetemp() / "a.npz", data)


@given(header=HEADERS, values=st.binary(max_size=40))
def test_forged_vectors(tmp_path_factory, header, values):
    path = tmp_path_factory.getbasetemp() / "a.npz"
    array = npy(header, values)
    read_spoilt_vectors(path, zipped({"ids.npy": array, "vectors.npy": array}))
    path = path.with_suffix(".npy")
    path.write_bytes(array)
    read = refused_or(score_features.read_array, path, size=len(values))
    assert read is None or read.nbytes <= len(values)


@given(text=st.binary(max_size=80) | st.text(max_size=60).map(str.encode))
@example(text=b"\xed\xa0\x80")
@example(text=b"x" * 100_000)
@example(text=b"\n" * 100_000)
def test_files_of_ids(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "ids.txt"
    path.write_bytes(text)
    ids = refused_or(
        score_features.read_ids, path, size=len(text), factor=4 * score_features.MAX_ID_LENGTH
    )
    assert ids is None or ids.ndim == 1
