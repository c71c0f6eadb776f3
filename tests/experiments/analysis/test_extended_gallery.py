"""'extended-gallery': ranks in galleries that grow, what is added to them, what is refused."""

import json

import numpy as np
import pytest

from core import features, plots
from core.errors import UsageError, UserError
from core.evaluation.query_protocols import standard_protocols
from experiments.analysis.extended_gallery import ExtendedGallery, doubling
from tests.core.test_features import make
from tests.experiments.running import run_experiment
from tests.experiments.test_search_features import slow_ranks

SCENES = 12


@pytest.fixture
def files(tmp_path):
    """Queries of photographs 100 .. 111; 'some' has 106 .. 135, 'more' 130 .. 139."""
    for name, scenes, first, split in (
        ("own", SCENES, 100, "test"), ("some", 30, 106, "train"), ("more", 10, 130, "valid"),
    ):  # fmt: skip
        content = make(scenes, seed=first, split=split)
        content.arrays["image_ids"] = np.arange(first, first + scenes)
        features.write(tmp_path / f"{name}_feats.npz", content)
    return tmp_path


def run(folder, distractors="[some_feats.npz,more_feats.npz]"):
    text = f"featsfile=own_feats.npz,distractors={distractors}"
    run_experiment(ExtendedGallery, folder, text)
    return json.loads((folder / "own_feats_extended_gallery.json").read_text())


def test_doubling_worked_by_hand():
    assert doubling(10, 50) == [10, 20, 40, 50]
    assert doubling(10, 40) == [10, 20, 40]
    assert doubling(10, 11) == [10, 11]


def test_figures_equal_a_slow_computation(files, capsys):
    report = run(files)
    # some: 106 .. 111 are in the split; more: 130 .. 135 are in some.
    assert report["distractors"] == [
        {"file": "some_feats.npz", "loader": "sketchycoco-tf", "split": "train", "added": 24,
         "left_out": 6},
        {"file": "more_feats.npz", "loader": "sketchycoco-tf", "split": "valid", "added": 4,
         "left_out": 6},
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "(sketchycoco-tf, valid): 4 photographs added, 6 left out" in printed
    found = {}
    for figure in report["results"]:
        labels = figure["labels"]
        key = (figure["metric"], figure["gallery"], labels["boxes"], labels["sketches"])
        found[key] = figure
    assert len(found) == len(report["results"]) == 6 * (3 * 4 + 2)
    assert {key[1] for key in found} == {12, 24, 40}
    assert {key[1] for key in found if key[3] == "shuffled"} == {40}
    own, some, more = (
        features.read(files / f"{name}_feats.npz") for name in ("own", "some", "more")
    )
    whole = np.concatenate(
        [own.photo_vectors(), some.photo_vectors()[6:], more.photo_vectors()[6:]]
    ).astype(float)
    for protocol in standard_protocols(own_boxes=False):
        queries = own.query_vectors(protocol).astype(float)
        for size in (12, 40):
            if (size, protocol.sketches) == (12, "shuffled"):
                continue
            rank = slow_ranks(queries, whole[:size])
            for kind in (1, 5, 10, 50, 100):
                key = (f"sbir-top{kind}", size, protocol.boxes, protocol.sketches)
                assert found[key]["value"] == pytest.approx(np.mean(rank <= kind))
                assert found[key]["chance"] == pytest.approx(min(1, kind / size))
                assert found[key]["n"] == SCENES
            key = ("sbir-mAP", size, protocol.boxes, protocol.sketches)
            assert found[key]["value"] == pytest.approx(np.mean(1 / rank))


def test_the_same_again_and_a_picture(files, monkeypatch):
    first = run(files)
    assert (files / "own_feats_extended_gallery.png").read_bytes()[:4] == b"\x89PNG"
    assert run(files) == first
    seen = []
    monkeypatch.setattr(plots, "recall_curves", lambda *a, **b: seen.append(a) or b"png")
    run(files)
    ((curves, chance, *_),) = seen
    assert [point[0] for point in curves["real sketches, recall@1"]] == [12, 24, 40]
    assert set(curves) == {f"{s} sketches, recall@{k}" for s in ("real", "blank") for k in (1, 10)}
    np.testing.assert_allclose(
        chance["chance, recall@10"], [(12, 10 / 12), (24, 10 / 24), (40, 10 / 40)]
    )


@pytest.mark.parametrize(
    ("key", "other", "piece"),
    [
        ("run", "SD02", "its run is 'SD02', not 'SD01'"),
        ("vector", "projection", "its vector is 'projection', not 'token'"),
        # Two output folders may each hold a run SD01 with a checkpoint of step 7.
        ("weights", "ab" * 32, "other weights, by another run of the same id"),
    ],
)
def test_another_model_is_refused(files, key, other, piece):
    features.write(files / "some_feats.npz", make(30, split="train", **{key: other}))
    with pytest.raises(UserError, match=f"{piece}.* the same checkpoint"):
        run(files)
    assert not (files / "own_feats_extended_gallery.json").exists()


def test_what_else_is_refused(files):
    with pytest.raises(UserError, match="the distractors add nothing"):
        run(files, "[own_feats.npz]")
    with pytest.raises(UsageError, match=r"distractors is missing.*more_feats\.npz"):
        run(files, "[]")
    with pytest.raises(UserError, match=r"distractors=x\.npz is neither"):
        run(files, "[some_feats.npz,x.npz]")
