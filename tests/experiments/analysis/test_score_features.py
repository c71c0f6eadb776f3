"""'score-features' on files whose scores are known."""

import io
import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from core import cli, commands
from core.errors import UsageError, UserError
from core.evaluation import retrieval
from experiments.analysis.score_features import (
    ScoreFeatures,
    ScoreFeaturesHParams,
    read_array,
    read_ids,
    shuffled,
)


def random(n, width=8, seed=0):
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def savez(path, ids, vectors):
    np.savez(path, ids=ids, vectors=vectors)
    return str(path)


def score(tmp_path, **hparams):
    """The figures by (metric, sketches)."""
    experiment = ScoreFeatures(
        ScoreFeaturesHParams(results=str(tmp_path / "out"), **hparams), tmp_path
    )
    experiment.prepare()
    experiment.run(None)
    (path,) = (tmp_path / "out").glob("*_score_features.json")
    results = json.loads(path.read_text())["results"]
    return {(figure["metric"], figure["labels"]["sketches"]): figure for figure in results}


def test_the_command_line_worked_by_hand(tmp_path, capsys):
    # From 0 the rows lie at 1, 2, 3, from 10 at 9, 8, 7: 'a' finds its own first and third, 'b'
    # its own second.
    gallery = savez(tmp_path / "g.npz", np.array(["a", "b", "a"]), np.array([[1.0], [2], [3]]))
    queries = savez(tmp_path / "q.npz", np.array(["a", "b"]), np.array([[0.0], [10]]))
    argv = ["score-features", "-o", str(tmp_path), "--id", "x", "--exp-hparams",
            f"queries={queries},gallery={gallery}"]  # fmt: skip
    assert commands.run(cli.run_experiment, argv) == 0
    path = tmp_path / "score-features-x/q_in_g_score_features.json"
    told = capsys.readouterr().out
    assert f"saved: {path}" in told and "gallery: 3 vectors of g.npz" in told
    content = json.loads(path.read_text())
    precision, shuffled_precision, first = content["results"][:3]
    assert (content["featsfile"], first["metric"]) == ("q.npz", "sbir-top1")
    assert precision["value"] == pytest.approx(((1 / 1 + 2 / 3) / 2 + 1 / 2) / 2)
    assert precision["labels"] == {"sketches": "real", "distance": "euclidean"}
    assert (precision["n"], precision["gallery"]) == (2, 3)
    # Two right of three: expected AP (1 1/3 + ... ) = H/n + (1 - H/n) / 2; one right: H/n = 11/18.
    assert precision["chance"] == pytest.approx((11 / 18 + (1 - 11 / 18) / 2 + 11 / 18) / 2)
    assert precision["controls"]["median_rank"] == 1.5
    assert precision["controls"]["right_answers"] == 1.5
    # The ids swapped: 0 looks for 'b', which is second; 10 for 'a', first and third.
    assert shuffled_precision["value"] == pytest.approx((1 / 2 + (1 / 1 + 2 / 3) / 2) / 2)
    assert first["value"] == 0.5 and first["chance"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    # A gallery of three has no recall at 5.
    assert {figure["metric"] for figure in content["results"]} == {"sbir-mAP", "sbir-top1"}


def test_scores_equal_sklearn_and_the_controls_chance(tmp_path):
    rng = np.random.default_rng(0)
    gallery, ids = random(120), np.concatenate([np.arange(30), rng.integers(0, 30, 90)])
    asked = rng.integers(0, 30, 400)
    means = np.array([gallery[ids == each].mean(axis=0) for each in range(30)])
    queries = means[asked] + 0.1 * random(400, seed=1)
    found = score(
        tmp_path,
        queries=savez(tmp_path / "q.npz", asked, queries),
        gallery=savez(tmp_path / "g.npz", ids, gallery),
        blank=savez(tmp_path / "b.npz", asked, 0 * queries),
    )
    distances = np.linalg.norm(queries[:, None] - gallery, axis=2)
    expected = np.mean(
        [average_precision_score(ids == each, -row) for each, row in zip(asked, distances)]
    )
    real, blank, mixed = (found["sbir-mAP", each] for each in ("real", "blank", "shuffled"))
    assert real["value"] == pytest.approx(expected, abs=1e-4)  # of 48,000 pairs a few are ties
    for control in (blank, mixed):
        assert control["chance"] == real["chance"]
        low, high = control["interval"]
        assert low < control["chance"] < high
    assert real["controls"]["minus_blank"] == pytest.approx(real["value"] - blank["value"])
    low, high = (real["controls"][f"minus_shuffled_{end}"] for end in ("low", "high"))
    assert low < real["controls"]["minus_shuffled"] < high
    for k in (1, 5, 10, 50, 100):
        nearest = np.argsort(distances, axis=1)[:, :k]
        recall = np.mean((ids[nearest] == asked[:, None]).any(axis=1))
        assert found[f"sbir-top{k}", "real"]["value"] == pytest.approx(recall)


def test_queries_of_one_id_are_redrawn_together(tmp_path):
    """Of ten queries copied ten times, the interval is that of ten."""
    gallery = savez(tmp_path / "g.npz", np.arange(10), random(10))
    queries, ids = random(10, seed=1), np.arange(10)
    widths = []
    for copies in (1, 10):
        found = score(
            tmp_path,
            queries=savez(
                tmp_path / "q.npz", np.repeat(ids, copies), np.repeat(queries, copies, 0)
            ),
            gallery=gallery,
        )
        low, high = found["sbir-mAP", "real"]["interval"]
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0])
    alone = savez(tmp_path / "one.npz", np.zeros(4, int), queries[:4])
    experiment = ScoreFeatures(
        ScoreFeaturesHParams(queries=alone, gallery=gallery), tmp_path / "own"
    )
    experiment.prepare()
    experiment.run(None)
    (path,) = (tmp_path / "own").glob("*.json")
    assert all(figure["interval"] is None for figure in json.loads(path.read_text())["results"])


def test_all_ways_to_name_the_same_ids_agree(tmp_path):
    queries, gallery, ids = random(6), random(30, seed=1), np.arange(100, 130)
    np.save(tmp_path / "q.npy", queries)
    np.save(tmp_path / "g.npy", gallery)
    np.save(tmp_path / "ids.npy", ids)
    (tmp_path / "q.txt").write_text("\n".join(map(str, ids[:6])))
    (tmp_path / "g.txt").write_text("".join(f"{each}\r\n" for each in ids))
    npz = {
        "queries": savez(tmp_path / "q.npz", ids[:6], queries),
        "gallery": savez(tmp_path / "g.npz", ids, gallery),
    }
    npy = {"queries": str(tmp_path / "q.npy"), "gallery": str(tmp_path / "g.npy")}
    expected = score(tmp_path, **npz)
    for own, other in (("q.txt", "g.txt"), ("q.txt", "ids.npy")):
        names = {"query_ids": str(tmp_path / own), "gallery_ids": str(tmp_path / other)}
        assert score(tmp_path, **npy, **names) == expected


def test_cosine_does_not_see_lengths(tmp_path):
    lengths = np.random.default_rng(2).uniform(0.1, 10, (40, 1)).astype(np.float32)
    gallery, queries = random(40), random(40) + 0.5 * random(40, seed=1)
    ids = np.arange(40)
    files = {
        "queries": savez(tmp_path / "q.npz", ids, queries),
        "gallery": savez(tmp_path / "g.npz", ids, lengths * gallery),
    }
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (queries, gallery)]
    expected = 1 / retrieval.ranks(*unit, ids)
    euclidean, cosine = (
        score(tmp_path, distance=each, **files) for each in ("euclidean", "cosine")
    )
    assert cosine["sbir-mAP", "real"]["value"] == pytest.approx(expected.mean())
    assert euclidean["sbir-mAP", "real"]["value"] < expected.mean() - 0.05
    files["gallery"] = savez(tmp_path / "g.npz", ids, gallery * (ids != 3)[:, None])
    with pytest.raises(UserError, match=r"vector 3 of .*g.npz is zero"):
        score(tmp_path, distance="cosine", **files)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_shuffled_ids_are_those_of_others(n):
    ids = np.arange(n)
    assert np.all(shuffled(ids) != ids) and set(shuffled(ids)) == set(ids)


@pytest.mark.parametrize("order", ["C", "F"])
def test_vectors_are_mapped_not_read(tmp_path, order):
    vectors = np.asarray(random(50, 3), order=order)
    np.save(tmp_path / "v.npy", vectors)
    found = read_array(tmp_path / "v.npy")
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, vectors)


def zipped():
    """A .npz without ids."""
    file = io.BytesIO()
    np.savez(file, other=random(5))
    return file.getvalue()


def raw(shape, descr="<f4", body=bytes(64)):
    """A .npy of any header."""
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + body


NO_ARRAY = r"is not a .npy \(.*; docs/data_formats.md"
FILES = [
    ("v.npy", raw((10**12, 4)), NO_ARRAY),
    ("v.npy", raw((1,), "|O"), NO_ARRAY),
    ("v.npy", b"\x93NUMPY\x09\x00", NO_ARRAY),
    ("v.npy", zipped(), r"is an archive, not a \.npy"),
    ("ids.txt", b"\xff\x00", "neither .npy nor UTF-8"),
    ("ids.txt", b"a\n" * 5 + b"b" * 1000, "more than 250 characters"),
    ("ids.txt", None, "cannot read"),
    ("v.npz", None, "No such file"),
    ("v.npz", zipped(), "ids is not a file in the archive"),
]


@pytest.mark.parametrize(("name", "content", "piece"), FILES, ids=lambda each: str(each)[:20])
def test_files_that_cannot_be_read(tmp_path, name, content, piece):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=piece) as caught:
        score(tmp_path, queries=str(path)) if name == "v.npz" else read_ids(path)
    assert str(path) in str(caught.value)


def test_ids_written_on_windows(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes("\ufeffa\r\né\r\n".encode())
    assert read_ids(path).tolist() == ["a", "é"]
    path.write_text("a\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"ids\.txt: it is UTF-16 text: save it as UTF-8"):
        read_ids(path)


ARRAYS = {
    "ids that are floats": ("q.npz", np.arange(3.0), random(3), "expected integers or texts"),
    "vectors of integers": ("q.npz", np.arange(3), np.ones((3, 8), int), "expected float16"),
    "nothing": ("q.npz", np.arange(0), random(0), "holds no vectors"),
    "an id too few": ("q.npz", np.arange(2), random(3), "3 vectors, but there are 2 ids"),
    "nan": ("q.npz", np.arange(3), random(3) * np.nan, "a vector of the queries is not finite"),
    "another width": ("q.npz", np.arange(3), random(3, 5), "5 wide, those of .*g.npz 8"),
    "ids not there": ("q.npz", np.arange(8, 12), random(4), "lacks the ids of 2 of 4 .* first 10"),
    "other ids": ("b.npz", np.arange(3)[::-1], random(3), "other ids than .*q.npz, or another"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_that_do_not_fit(tmp_path, case):
    name, ids, vectors, reason = ARRAYS[case]
    for good, n in (("q.npz", 3), ("b.npz", 3), ("g.npz", 10)):
        savez(tmp_path / good, np.arange(n), random(n))
    savez(tmp_path / name, ids, vectors)
    keys = ("queries", "gallery", "blank") if name == "b.npz" else ("queries", "gallery")
    files = {key: str(tmp_path / f"{key[0]}.npz") for key in keys}
    with pytest.raises(UserError, match=reason):
        score(tmp_path, **files)


@pytest.mark.parametrize(
    ("hparams", "reason"),
    [
        ({}, "queries is missing"),
        ({"queries": "q.npz"}, "gallery is missing"),
        ({"queries": "q.csv"}, "neither .npz nor .npy"),
        ({"queries": "q.npy"}, "holds no ids: name them with query_ids"),
        ({"queries": "q.npz", "query_ids": "x.txt"}, "has ids of its own"),
    ],
)
def test_a_wrong_command_line(tmp_path, monkeypatch, hparams, reason):
    monkeypatch.chdir(tmp_path)
    savez("q.npz", np.arange(3), random(3))
    np.save("q.npy", random(3))
    with pytest.raises(UsageError, match=reason):
        score(tmp_path, **hparams)
