"""Figures of an index on the drawings of SketchyCOCO-SL."""

import numpy as np
import pytest

from core.errors import UserError
from search import evaluate
from search.evaluate import Kind
from search.index import PhotoIndex
from search.scene import Scene, SceneObject
from tests.dataloaders import tiny_sets


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sets.write_sl(tmp_path_factory.mktemp("sl"))


@pytest.fixture(scope="module")
def index(scene_run, folder, tmp_path_factory):
    return PhotoIndex.build(scene_run, f"{folder}/test/image/Image", tmp_path_factory.mktemp("i"))


@pytest.fixture(scope="module")
def scenes(folder, index):
    return evaluate.read_scenes(index.folder.parents[1], index)


def test_the_right_photograph_has_the_number_of_the_drawing(index, scenes):
    assert len(scenes) > 2
    assert len({row for row, _ in scenes}) == len(scenes)
    for row, scene in scenes:
        assert index.files[row].path.split(".")[0].isdecimal()
        assert all(each.label in index.run.vocabulary.names for each in scene.objects)


def test_controls_show_what_they_say(index, scenes):
    some = [scene for _, scene in scenes]
    real, blank, again = (
        evaluate.query_scores(index, some, kind, index.weights)
        for kind in (Kind(), Kind("blank"), Kind())
    )
    shuffled = evaluate.query_scores(index, some, Kind("shuffled"), index.weights)
    none = evaluate.query_scores(index, some, Kind(labels="none"), index.weights)
    one = evaluate.query_scores(index, some, Kind("blank", labels="none"), index.weights)
    for n, scene in enumerate(some):
        np.testing.assert_array_equal(none[n]["layout"], one[n]["layout"])
        np.testing.assert_array_equal(real[n]["fused"], again[n]["fused"])
        for other in (blank, shuffled):
            assert not np.allclose(real[n]["learned"], other[n]["learned"])
        hits = index.search(
            Scene([SceneObject(picture=o.picture, box=o.box) for o in scene.objects])
        )
        assert index.files[int(real[n]["fused"].argmax())].path == hits[0].path.name


def test_ties_count_against_the_right_photograph():
    assert evaluate.rank_of(np.array([0.5, 0.2, 0.5, 0.9]), 0) == 3
    assert evaluate.rank_of(np.zeros(7), 2) == 7


def test_the_command_prints_every_ranking_and_control(index, folder, capsys):
    evaluate.main([str(index.home), str(folder)])
    told = capsys.readouterr().out
    assert told.count("sbir-top1 ") == 3 * 3 + 2 * 2 + 1
    for words in (
        "ranking=fused",
        "fused: learned 1, layout 1",
        "sketches=blank",
        "sketches=shuffled",
        "boxes=mirrored",
        "chance",
    ):
        assert words in told
    with pytest.raises(UserError, match="no drawing of a photograph of the index"):
        evaluate.main([str(index.home), str(folder), "--split", "train"])
