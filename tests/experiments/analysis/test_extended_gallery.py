"""'extended-gallery': ranks in galleries that grow, what is added to them, what is refused."""

import json

import numpy as np
import pytest

from core import features, plots
from core.errors import UsageError, UserError
from core.evaluation.query_protocols import standard_protocols
from core.hparams import parse
from experiments.analysis.extended_gallery import ExtendedGallery, doubling
from tests.core.test_features import make
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
    experiment = ExtendedGallery(parse(text, ExtendedGallery.HParams), folder)
    experiment.prepare()
    experiment.run(None)
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


def test_every_photograph_a_copy_of_the_right_one_is_in_its_way(files):
    """Distractors at the same point as all photographs: every rank is the size of the gallery."""
    content = make(30, split="train")
    content.arrays["image_ids"] = np.arange(200, 230)
    own = features.read(files / "own_feats.npz")
    arrays = {**own.arrays, "photo_token": np.ones_like(own.photo_vectors())}
    content.arrays["photo_token"] = np.ones_like(content.photo_vectors())
    features.write(files / "own_feats.npz", features.Features(own.metadata, arrays))
    features.write(files / "some_feats.npz", content)
    for figure in run(files, "[some_feats.npz]")["results"]:
        if figure["metric"] == "sbir-mAP":
            assert figure["value"] == pytest.approx(1 / figure["gallery"])


@pytest.mark.parametrize(
    ("key", "other"), [("run", "SD02"), ("step", 8), ("model", "else"), ("vector", "projection")]
)
def test_another_model_is_refused(files, key, other):
    features.write(files / "some_feats.npz", make(30, split="train", **{key: other}))
    with pytest.raises(UserError, match=f"its {key} is {other!r}, not .* the same checkpoint"):
        run(files)
    assert not (files / "own_feats_extended_gallery.json").exists()


def test_another_run_of_the_same_id_is_refused(files):
    """Two output folders may each hold a run SD01 with a checkpoint of step 7."""
    features.write(files / "some_feats.npz", make(30, split="train", weights="ab" * 32))
    with pytest.raises(UserError, match=r"other weights, by another run of the same id"):
        run(files)


def test_what_else_is_refused(files):
    with pytest.raises(UserError, match="the distractors add nothing"):
        run(files, "[own_feats.npz]")
    with pytest.raises(UsageError, match=r"distractors is missing.*more_feats\.npz"):
        run(files, "[]")
    with pytest.raises(UserError, match=r"distractors=x\.npz is neither"):
        run(files, "[some_feats.npz,x.npz]")
