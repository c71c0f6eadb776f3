"""'fused-ranking': figures of fakes against a slow computation, and whose weights are used."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import zscore

from core.errors import UsageError, UserError
from core.evaluation.embedded_split import Evaluation
from core.evaluation.query_protocols import QueryProtocol
from core.experiment import Trained
from core.layout_match import LayoutObjects
from core.run import Run
from experiments.analysis.fused_ranking import FusedRanking
from tests.core.evaluation.fakes import FakeModel
from tests.core.evaluation.test_whole_scenes import Pixels, Whole
from tests.core.test_layout_match import plain_score
from tests.experiments.running import run_experiment
from tests.experiments.test_extract_features import Splits


def run(tmp_path, dataset, hparams="", model=None, split="test"):
    trained = Trained(model or FakeModel(), dataset, "SD01", 7)
    run_experiment(FusedRanking, tmp_path, hparams, trained)
    path = tmp_path / f"SD01_fake_scenes_{split}_fused_ranking.json"
    report = json.loads(path.read_text())
    names = ("ranking", "sketches", "labels")
    found = {
        (figure["metric"], *(figure["labels"][name] for name in names)): figure
        for figure in report["results"]
    }
    assert len(found) == len(report["results"])
    return report, found


@pytest.fixture
def whole(monkeypatch):
    monkeypatch.setattr(Run, "open", lambda folder: SimpleNamespace(model=Pixels()))


def slow_ranks(evaluation, others, protocol, labels, weights):
    photos, queries = evaluation.photos, evaluation.queries(protocol)
    sides = []
    for side, belief in ((photos, {}), (queries, {"guessed": 0.5, "none": 0})):
        guessed = softmax(np.eye(6)[side.predicted], axis=1)  # the logits of the fake model
        named = np.eye(6)[side.classes] if labels == "given" else guessed
        named = named * belief.get(labels, 1)
        rows = (side.obj_to_img == n for n in range(photos.num_scenes))
        sides.append([LayoutObjects(side.boxes[own], named[own]) for own in rows])
    ranks = []
    for n, drawn in enumerate(sides[1]):
        rankings = [[plain_score(drawn, there) for there in sides[0]]]
        for each in (evaluation, *others):
            name = each.vectors[0]
            query = each.queries(protocol).vectors[name][n]
            away = np.linalg.norm(each.photos.vectors[name] - query, axis=1)
            rankings.append(-away if np.ptp(away) else away)
        fused = sum(w * np.nan_to_num(zscore(r)) for w, r in zip(weights, rankings))
        ranks.append((fused >= fused[n] - 1e-5).sum())
    return np.array(ranks)


@pytest.mark.parametrize("third", [False, True], ids=["two", "three"])
def test_figures_equal_a_slow_computation(tmp_path, whole, third):
    dataset = Whole(scenes=9)
    weights = (2.0, 1.0, 1.0) if third else (3.0, 1.0)
    hparams = f"split=test,weights=[{','.join(map(str, weights))}]" + ",whole=run" * third
    report, found = run(tmp_path, dataset, hparams)
    total = sum(weights)
    shares = dict(zip(("learned", "layout", "whole"), (w / total for w in weights)))
    assert report["weights"] == {"guessed": shares, "given": shares}
    assert len(found) == 4 * (3 * (3 + third) + 3)
    evaluation = Evaluation(FakeModel(), dataset, "test")
    others = [Evaluation(Pixels(), dataset, "test")] if third else []
    chosen = {"fused": (weights[1], weights[0], *weights[2:]), "layout": (1, 0), "learned": (0, 1)}
    if third:
        chosen["whole"] = (0, 0, 1)
    for (metric, name, sketches, labels), figure in found.items():
        if metric == "sbir-mAP":
            protocol = QueryProtocol("jittered", sketches)
            ranks = slow_ranks(evaluation, others, protocol, labels, chosen[name])
            assert figure["value"] == pytest.approx((1 / ranks).mean()), (name, sketches, labels)
    fused = found["sbir-mAP", "fused", "real", "given"]
    for control, key in (
        ("blank", ("fused", "blank", "guessed")),
        ("shuffled", ("fused", "shuffled", "guessed")),
        ("learned", ("learned", "real", "guessed")),
        ("boxes", ("layout", "real", "none")),
    ):
        gap = fused["value"] - found[("sbir-mAP", *key)]["value"]
        assert fused["controls"][f"minus_{control}"] == pytest.approx(gap)


def test_weights_are_chosen_on_the_validation_split(tmp_path):
    """The scene vector of this model says nothing, so layout alone is best."""
    report, found = run(tmp_path, Splits(), model=FakeModel("collapsed"))
    best = found["sbir-mAP", "layout", "real", "guessed"]["value"]
    assert found["sbir-mAP", "fused", "real", "guessed"]["value"] == best
    learned = found["sbir-mAP", "learned", "real", "guessed"]
    assert learned["value"] == pytest.approx(1 / 20)  # all are equal: last
    assert report["weights"]["guessed"]["layout"] > 0


def test_each_half_of_the_validation_split_takes_the_weights_of_the_other(tmp_path, monkeypatch):
    def ranks(self, *args):
        """Of even queries the first weights find all, of odd ones the second."""
        found = np.full((20, len(self.grid)), 4)
        found[::2, 0] = found[1::2, 1] = 1
        return found

    monkeypatch.setattr(FusedRanking, "_ranks", ranks)
    _, found = run(tmp_path, Splits(), "split=valid", split="valid")
    assert found["sbir-top1", "fused", "real", "guessed"]["value"] == 0
    assert found["sbir-mAP", "fused", "real", "guessed"]["value"] == 1 / 4


def test_a_set_without_a_validation_split_needs_weights(tmp_path):
    with pytest.raises(UserError, match=r"valid split.*is empty.*or name weights"):
        run(tmp_path, Splits(refused=("valid",)))


@pytest.mark.parametrize("weights", ["[1]", "[1,1,1]", "[-1,2]", "[0,0]"])
def test_weights_that_are_none(tmp_path, weights):
    with pytest.raises(UsageError, match="give one from 0 on for each of"):
        run(tmp_path, Splits(), f"weights={weights}")


def test_a_run_that_sees_objects_is_no_third_ranking(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "open", lambda folder: SimpleNamespace(model=FakeModel()))
    with pytest.raises(UserError, match=r"the run .*x does not see whole pictures"):
        run(tmp_path, Splits(), "whole=x")
