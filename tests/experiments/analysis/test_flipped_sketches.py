"""'flipped-sketches': models that know left from right, and models that do not."""

import json

import numpy as np
import pytest

from core.errors import EmptySplitError
from core.experiment import Trained
from experiments.analysis.flipped_sketches import FlippedSketches, rank_of_two
from tests.core.evaluation.fakes import FakeModel, Outputs
from tests.experiments.running import run_experiment
from tests.experiments.test_extract_features import Splits


class Centres(FakeModel):
    """The scene vector is how far right the boxes of a scene are on average; 'blind': how far from
    the middle; 'collapsed': nothing."""

    def contextualise(self, scenes, with_masks=True):
        _, boxes, obj_to_img, _, num_scenes = scenes
        x = (boxes[:, 0] + boxes[:, 2]) / 2
        mean = np.array([x[obj_to_img == n].mean() for n in range(num_scenes)])[:, None]
        values = {"sees": mean, "blind": abs(mean - 0.5), "collapsed": mean * 0}[self.kind]
        vectors = {"token": values + 0.0, "projection": values.astype(np.float32)}
        return Outputs(vectors, None)


def two_scenes(**more):
    """Scenes with their middle at 0.1 and at 0.35."""
    dataset = Splits(scenes=2, **more)
    dataset.boxes = np.array([[0, 0, 0.2, 0.5], [0.2, 0, 0.4, 0.5], [0.3, 0.5, 0.5, 1]], np.float32)
    return dataset


def run(tmp_path, model, dataset, text="", name="SD01_fake_scenes_test"):
    run_experiment(FlippedSketches, tmp_path, text, Trained(model, dataset, "SD01", 7))
    return json.loads((tmp_path / f"{name}_flipped_sketches.json").read_text())


def value(report, metric, **labels):
    """Of the one figure with these labels and real sketches."""
    labels = {"sketches": "real", **labels}
    (found,) = (
        figure
        for figure in report["results"]
        if figure["metric"] == metric and labels.items() <= figure["labels"].items()
    )
    return found


def test_worked_by_hand(tmp_path, capsys):
    """Photographs at 0.1 and 0.35, mirror images at 0.9 and 0.65; mirrored queries (shared boxes)
    at 0.9 and 0.65, (jittered: 0.01 to the right as drawn, so to the left) at 0.89 and 0.64.
    Among the photographs alone the mirrored queries are nearer to 0.35: right for the second."""
    report = run(tmp_path, Centres(), two_scenes())
    alone, among = {"photographs": "unflipped"}, {"photographs": "unflipped+mirrored"}
    for boxes in ("shared", "jittered"):
        for query, first in (("as-drawn", 1), ("mirrored", 0)):
            own = {"boxes": boxes, "query": query}
            figure = value(report, "unflipped-first", **own)
            assert (figure["value"], figure["chance"], figure["gallery"]) == (first, 0.5, 2)
            assert value(report, "mirror-first", **own)["value"] == 1 - first
            figure = value(report, "sbir-top1", **own, **among)
            assert (figure["value"], figure["chance"], figure["gallery"]) == (1, 1 / 4, 4)
            figure = value(report, "sbir-top1", **own, **alone)
            assert (figure["value"], figure["chance"]) == (0.5 + first / 2, 1 / 2)
            assert value(report, "sbir-top5", **own, **alone)["value"] == 1
            # This model sees no sketches.
            assert figure["controls"]["minus_blank"] == 0
    assert len(report["results"]) == 2 * 4 * (2 + 3 + 3)
    assert (report["split"], report["run"], report["step"]) == ("test", "SD01", 7)
    printed = capsys.readouterr().out
    assert "knows left from right" in printed and "saved: " in printed


@pytest.mark.parametrize("kind", ["blind", "collapsed"])
def test_a_model_that_cannot_tell_puts_neither_first(tmp_path, kind):
    report = run(tmp_path, Centres(kind), two_scenes())
    for query in ("as-drawn", "mirrored"):
        for metric in ("unflipped-first", "mirror-first"):
            assert value(report, metric, boxes="shared", query=query)["value"] == 0


def test_which_of_two_worked_by_hand():
    """Distances to right and other: 1 and 2; 2 and 1; 1 and 1; 1 and 1.00001, a tie as the longest
    vector is 2 (1e-5 of it is a tie); 1 and 1.001."""
    queries = np.zeros((5, 1), np.float32)
    right = np.array([[1], [2], [1], [1], [1]], np.float32)
    other = np.array([[2], [1], [-1], [1.00001], [1.001]], np.float32)
    assert rank_of_two(queries, right, other).tolist() == [1, 2, 2, 2, 1]


def test_valid_in_place_of_an_empty_test_split(tmp_path, caplog):
    report = run(tmp_path, Centres(), two_scenes(empty=("test",)), name="SD01_fake_scenes_valid")
    assert {figure["split"] for figure in report["results"]} == {report["split"]} == {"valid"}
    because = "looking at the split valid, because the test split of fake-scenes is empty"
    assert because in caplog.text
    with pytest.raises(EmptySplitError, match="is empty"):
        run(tmp_path, Centres(), two_scenes(empty=("test",)), "split=test")
    with pytest.raises(EmptySplitError, match="is empty"):
        run(tmp_path, Centres(), two_scenes(refused=("test", "valid")))
