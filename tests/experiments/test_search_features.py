"""'sbir-on-features-file': figures of known features, subsets, files and pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from core import features, plots
from core.errors import HParamError, UsageError, UserError
from core.evaluation.picture_grids import CAPTION, GAP, TILE, TOP
from core.evaluation.query_protocols import main_protocol
from experiments.search_features import SearchFeatures, find_file, query_groups
from tests.core.test_features import make
from tests.experiments.running import run_experiment

SCENES = 12


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "saved" / "SD01_test_feats.npz"
    path.parent.mkdir()
    features.write(path, make(SCENES))
    return path


def run(text, own):
    run_experiment(SearchFeatures, own, text)


def test_groups_worked_by_hand():
    rows = {name: found.tolist() for name, found in query_groups(np.array([1, 3, 2, 3])).items()}
    assert rows == {"all": [0, 1, 2, 3], "2+": [1, 2, 3], "1": [0], "2": [2], "3": [1, 3]}
    assert list(query_groups(np.array([1, 1]))) == ["all", "1"]


def slow_ranks(queries, photos):
    """One query after the other, by sorting; without ties."""
    ranks = []
    for right, query in enumerate(queries):
        distances = [float(np.sqrt(((query - photo) ** 2).sum())) for photo in photos]
        ranks.append(1 + sorted(range(len(photos)), key=distances.__getitem__).index(right))
    return np.array(ranks)


def test_figures_equal_a_slow_computation(path, tmp_path, capsys):
    run(f"results={tmp_path}/r,featsfile={path}", tmp_path / "own")
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "r" / "SD01_test_feats_sbir.json").read_text())
    assert (report["run"], report["split"], report["step"]) == ("SD01", "test", 7)
    assert "whole split" in report["gallery"] and "whole split" in printed
    arrays, sketched = make(SCENES).arrays, np.array([1, 2, 2] * 4)
    groups = {"all": sketched > 0, "2+": sketched > 1, "1": sketched == 1, "2": sketched == 2}
    found = {}
    for figure in report["results"]:
        labels = dict(figure["labels"])
        assert labels.pop("vector") == "token"
        found[(figure["metric"], labels.pop("objects"), str(labels))] = figure
    protocols = features.feature_protocols(own_boxes=False)
    assert len(found) == len(report["results"]) == 4 * (len(protocols) + (len(groups) - 1) * 4)
    harmonic = sum(1 / i for i in range(1, SCENES + 1)) / SCENES
    chances = {"mAP": harmonic, "top1": 1 / 12, "top5": 5 / 12, "top10": 10 / 12}
    for number, protocol in enumerate(protocols):
        side = "photo_random" if protocol.directions == "random" else "photo"
        vectors = arrays[f"query{number}_token"].astype(np.float64)
        rank = slow_ranks(vectors, arrays[f"{side}_token"].astype(np.float64))
        for group, rows in groups.items():
            if group != "all" and number not in (0, 1, 3, 4):  # shared and jittered, real and blank
                continue
            for kind, chance in chances.items():
                figure = found[f"sbir-{kind}", group, str(protocol.labels)]
                own = rank[rows]
                values = 1 / own if kind == "mAP" else own <= int(kind[3:])
                assert figure["value"] == pytest.approx(np.mean(values))
                assert (figure["n"], figure["gallery"]) == (rows.sum(), SCENES)
                assert figure["chance"] == pytest.approx(chance)
                low, high = figure["interval"]
                assert low <= figure["value"] <= high
                assert ("minus_blank" in figure["controls"]) == (protocol.sketches == "real")
                if kind == "mAP":
                    assert figure["controls"]["median_rank"] == np.median(own)
                assert f"{figure['value']:.3f}" in printed


def test_another_vector_on_request(path, tmp_path):
    run(f"results_dir={tmp_path},featsfile={path},vector=projection", tmp_path)
    results = json.loads((tmp_path / "SD01_test_feats_sbir.json").read_text())["results"]
    arrays = {name: each.astype(np.float64) for name, each in make(SCENES).arrays.items()}
    rank = slow_ranks(arrays["query0_projection"], arrays["photo_projection"])
    assert results[0]["labels"]["vector"] == "projection"
    assert results[0]["value"] == pytest.approx(np.mean(1 / rank))
    features.write(path, make(SCENES, vectors=("token",)))
    with pytest.raises(UsageError, match="has no projection to rank by"):
        run(f"results={tmp_path},featsfile={path},vector=projection", tmp_path)


def test_the_curve_over_the_jitter_starts_at_shared_boxes(path, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(plots, "recall_curves", lambda *given: seen.append(given) or b"png")
    run(f"results={tmp_path},featsfile={path}", tmp_path)
    assert (tmp_path / "SD01_test_feats_jitter.png").read_bytes() == b"png"
    ((curves, chance, *_, title),) = seen
    assert chance == {"chance": [(0, 1 / SCENES), (0.4, 1 / SCENES)]} and "SD01" in title
    assert list(curves) == ["real sketches", "blank sketches"]
    results = json.loads((tmp_path / "SD01_test_feats_sbir.json").read_text())["results"]
    for name, points in curves.items():
        sketches = name.split()[0]
        assert [point[0] for point in points] == [0, 0.1, 0.2, 0.4]
        labels = {"boxes": "shared", "sketches": sketches, "vector": "token", "objects": "all"}
        (start,) = (r for r in results if r["metric"] == "sbir-top1" and r["labels"] == labels)
        assert points[0][1:] == (start["value"], *start["interval"])


# --- which file ---


def test_the_file_as_a_path_and_as_a_name(path, tmp_path, monkeypatch):
    assert find_file(str(path), tmp_path) == path
    assert find_file(path.name, path.parent) == path
    monkeypatch.chdir(tmp_path)
    assert find_file("saved/SD01_test_feats.npz", tmp_path / "other").resolve() == path
    # Without results: in the experiment's own folder.
    run(f"featsfile={path.name}", path.parent)
    assert (path.parent / "SD01_test_feats_sbir.json").is_file()


def test_no_file_is_never_guessed(path, tmp_path):
    with pytest.raises(UsageError, match=r"featsfile is missing.*SD01_test_feats\.npz"):
        run(f"results={path.parent}", tmp_path)
    with pytest.raises(UserError, match=r"featsfile=x\.npz is neither .*: SD01_test_feats\.npz"):
        run(f"results={path.parent},featsfile=x.npz", tmp_path)
    with pytest.raises(UserError, match=r"features files in .*/r: none"):
        run(f"results={tmp_path}/r,featsfile={tmp_path}", tmp_path)  # a folder
    with pytest.raises(HParamError, match="give one of them"):
        run("results=a,results_dir=b", tmp_path)


# --- pictures ---


def thumbnails(path):
    """Of every scene: the photograph in a shade of its own, the sketch white."""
    features.thumbnail_folder(path).mkdir()
    for scene in range(SCENES):
        for side, colour in (("photo", (20 * scene, 0, 200)), ("sketch", (255, 255, 255))):
            image = Image.new("RGB", (TILE, TILE), colour)
            image.save(features.thumbnail_path(path, 100 + scene, side), quality=95)


def pictures(tmp_path):
    return sorted(entry.name for entry in (tmp_path / "SD01_test_feats_sbir").iterdir())


def test_pages_and_separate_pictures(path, tmp_path, capsys):
    thumbnails(path)
    given = f"results={tmp_path},featsfile={path},save_images=True"
    run(given, tmp_path)
    # 8 of the 12 queries show two objects: one page of eight.
    assert pictures(tmp_path) == ["two_plus_00001.jpg"]
    assert "1 pictures in" in capsys.readouterr().out
    run(given + ",save_images_two_plus=False,save_images_single=True,save_separate=True", tmp_path)
    single = [f"single_{100 + scene}.jpg" for scene in (0, 3, 6, 9)]
    assert pictures(tmp_path) == [*single, "two_plus_00001.jpg"]
    with Image.open(tmp_path / "SD01_test_feats_sbir" / "single_103.jpg") as image:
        page = np.asarray(image.convert("RGB")).astype(int)
    # The second tile is the right photograph: scene 3, in its shade.
    x, y = GAP + TILE + GAP, 2 * CAPTION + 2 * GAP
    middle = page[y + TILE // 2, x + TILE // 2]
    np.testing.assert_allclose(middle, (60, 0, 200), atol=8)
    # Its nearest photographs stand in the order of a slow sort.
    made = make(SCENES)
    query = made.query_vectors(main_protocol(own_boxes=False))[3]
    distances = np.linalg.norm(query - made.photo_vectors(), axis=1)
    for place, scene in enumerate(np.argsort(distances)[:TOP]):
        tile = page[y + TILE // 2, x + (1 + place) * (TILE + GAP) + 84]
        np.testing.assert_allclose(tile, (20 * scene, 0, 200), atol=8)


def test_without_thumbnails_figures_only_and_a_sentence(path, tmp_path, caplog):
    run(f"results={tmp_path},featsfile={path},save_images=True", tmp_path)
    assert (tmp_path / "SD01_test_feats_sbir.json").is_file()
    assert not (tmp_path / "SD01_test_feats_sbir").exists()
    assert "run extract-features with --exp-hparams save_images=True" in caplog.text
    thumbnails(path)
    features.thumbnail_path(path, 105, "photo").unlink()
    run(f"results={tmp_path},featsfile={path},save_images=True", tmp_path)
    assert not (tmp_path / "SD01_test_feats_sbir").exists()


@pytest.mark.parametrize(
    ("spoil", "piece"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:200]), "cannot be read"),
        (lambda file: file.write_bytes(b"GIF89a"), "cannot identify"),
        (lambda file: Image.new("RGB", (900, 3)).save(file), "900 x 3 pixels"),
    ],
)
def test_a_spoilt_thumbnail_is_named(path, tmp_path, spoil, piece):
    thumbnails(path)
    file = features.thumbnail_path(path, 101, "photo")
    spoil(file)
    with pytest.raises(UserError, match=piece) as caught:
        run(f"results={tmp_path},featsfile={path},save_images=True", tmp_path)
    assert f"the thumbnail {file}" in str(caught.value)
