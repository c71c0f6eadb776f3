"""'mixed-queries': whose crops are drawn, and figures of a model whose crops equal sketches."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from core import plots
from core.evaluation.embedded_split import Evaluation
from core.evaluation.query_protocols import QueryProtocol
from core.experiment import Trained
from experiments.analysis.mixed_queries import LEAK, OTHERS, MixedQueries, draw_crops
from tests.core.evaluation.fakes import FakeModel
from tests.experiments.running import run_experiment
from tests.experiments.test_extract_features import Splits


class Sums(FakeModel):
    """The scene vector is the sum of its objects' numbers, and of their squares."""

    def contextualise(self, scenes, with_masks=True):
        numbers = np.asarray(scenes.vectors, np.float64)[:, 0] / 100
        own = np.arange(scenes.num_scenes)[:, None] == scenes.obj_to_img
        vector = np.stack([own @ numbers, own @ numbers**2], 1)
        outputs = super().contextualise(scenes)
        return outputs._replace(
            vectors={**outputs.vectors, "projection": vector.astype(np.float32)}
        )


def run(tmp_path, dataset):
    run_experiment(MixedQueries, tmp_path, "", Trained(Sums(), dataset, "SD01", 7))
    assert (tmp_path / "SD01_fake_scenes_test_mixed_queries.png").is_file()
    report = json.loads((tmp_path / "SD01_fake_scenes_test_mixed_queries.json").read_text())
    found = {}
    for figure in report["results"]:
        names = ("boxes", "sketches", "crops", "share")
        key = (figure["metric"], *(figure["labels"][name] for name in names))
        found[key] = figure
    assert len(found) == len(report["results"]) == 3 * 4 * (1 + 2 * 2)
    return report, found


def side(classes, obj_to_img, **more):
    return SimpleNamespace(
        classes=np.array(classes, np.int32), obj_to_img=np.array(obj_to_img, np.int32), **more
    )


def test_crops_are_of_the_class_and_of_another_photograph():
    """Photographs 12, 10, 11 show objects a b | a | a c a: rows 0 1 | 2 | 3 4 5. Each query object
    may be shown as: a of the first: 2, 3, 5; b: none; a of the second: 0, 3, 5; c: none; a of the
    third: 0, 2; d, which no photograph shows: none."""
    photos = side([0, 1, 0, 0, 2, 0], [0, 0, 1, 2, 2, 2], image_ids=np.array([12, 10, 11]))
    queries = side([0, 1, 0, 2, 0, 3], [0, 0, 1, 2, 2, 2])
    allowed = [{2, 3, 5}, {-1}, {0, 3, 5}, {-1}, {0, 2}, {-1}]
    drawn = np.stack([draw_crops(queries, photos, seed).others for seed in range(60)])
    assert [set(column) for column in drawn.T.tolist()] == allowed
    # Two records of one photograph are not two photographs.
    photos.image_ids = np.array([12, 10, 12])
    drawn = np.stack([draw_crops(queries, photos, seed).others for seed in range(60)])
    assert [set(c) for c in drawn.T.tolist()] == [{2}, {-1}, {0, 3, 5}, {-1}, {2}, {-1}]


def test_every_crop_is_as_likely_and_the_seed_decides():
    photos = side([0] * 4, [0, 1, 2, 3], image_ids=np.arange(4))
    queries = side([0] * 3000, [1] * 3000)
    draws = draw_crops(queries, photos, 5)
    counts = np.bincount(draws.others, minlength=4)
    assert counts[1] == 0 and (abs(counts[[0, 2, 3]] - 1000) < 150).all()
    assert abs((draws.threshold < 0.5).mean() - 0.5) < 0.05
    np.testing.assert_array_equal(draws.others, draw_crops(queries, photos, 5).others)
    assert (draws.others != draw_crops(queries, photos, 6).others).any()


def test_figures_equal_a_slow_computation(tmp_path):
    report, found = run(tmp_path, Splits())
    evaluation = Evaluation(Sums(), Splits(), "test")
    photos, drawn = evaluation.photos, evaluation.queries(QueryProtocol())
    draws = draw_crops(drawn, photos, 0)
    sketch, crop = drawn.objects[:, 0], photos.objects[:, 0]
    gallery = [sum(crop[photos.obj_to_img == n]) for n in range(20)]
    gallery = np.stack([gallery, [sum(crop[photos.obj_to_img == n] ** 2) for n in range(20)]], 1)
    seen = set()
    for share in (0.0, 0.5, 1.0):
        for crops in (OTHERS, LEAK) if share else ("none",):
            for sketches in ("real", "blank"):
                right = []
                for n in range(20):
                    numbers = []
                    for q in np.flatnonzero(drawn.obj_to_img == n):
                        other = draws.others[q] if crops == OTHERS else drawn.query_to_photo[q]
                        number = sketch[q] if sketches == "real" else 255
                        numbers.append(crop[other] if draws.threshold[q] < share else number)
                    numbers = np.array(numbers, np.float64)
                    query = [numbers.sum() / 100, (numbers**2).sum() / 1e4]
                    away = np.hypot(*(gallery / [100, 1e4] - query).T)
                    right.append((away <= away[n] + 1e-4).sum() == 1)
                for boxes in ("shared", "jittered"):
                    figure = found["sbir-top1", boxes, sketches, crops, f"{share:g}"]
                    assert figure["value"] == np.mean(right)
                    assert (figure["gallery"], figure["chance"]) == (20, pytest.approx(0.05))
                seen.add(np.mean(right))
    assert len(seen) > 4  # they can be told apart
    assert (report["objects"], report["without_other_crop"]) == (len(sketch), 0)


def test_the_very_crop_is_as_good_as_a_sketch_where_both_look_the_same(tmp_path):
    """In the fakes crop and sketch of an object are embedded alike."""
    _, found = run(tmp_path, Splits())
    for metric in ("sbir-top1", "sbir-top5", "sbir-top10"):
        plain = found[metric, "jittered", "real", "none", "0"]["value"]
        for share in ("0.5", "1"):
            assert found[metric, "jittered", "real", LEAK, share]["value"] == plain
        assert found[metric, "jittered", "blank", LEAK, "1"]["value"] == plain
        assert found[metric, "jittered", "blank", "none", "0"]["value"] < plain


def test_a_class_without_another_crop_keeps_its_sketch(tmp_path, capsys):
    """Three objects of three classes in two scenes: nothing can be replaced."""
    report, found = run(tmp_path, Splits(scenes=2))
    assert (report["without_other_crop"], report["depict_nothing"]) == (3, 0)
    assert "Of 3 sketched objects 3 are of a class that no other" in capsys.readouterr().out
    for sketches in ("real", "blank"):
        plain = found["sbir-top1", "shared", sketches, "none", "0"]["value"]
        assert found["sbir-top1", "shared", sketches, OTHERS, "1"]["value"] == plain


def test_the_curve(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(plots, "recall_curves", lambda *given: seen.append(given) or b"png")
    _, found = run(tmp_path, Splits())
    ((curves, chance, *_),) = seen
    assert {name.startswith("blank") for name in curves} == {True, False} and len(curves) == 4
    for points in curves.values():
        assert [point[0] for point in points] == [0, 0.5, 1]
    leaking = curves["sketches and crops of the target (leaks)"]
    assert leaking[2][1] == found["sbir-top1", "jittered", "real", LEAK, "1"]["value"]
    np.testing.assert_allclose(chance["chance"], [(0, 0.05), (1, 0.05)])
