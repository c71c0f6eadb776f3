"""Class lists, hparams and the vocabulary."""

from pathlib import Path

import pytest

from core.errors import HParamError, UsageError, UserError
from core.hparams import parse
from prep_data import coco_classes

LISTS = coco_classes.read_class_lists(coco_classes.CocoHParams().excluded_meta_file)
FILES = [(Path("a.json"), 3, "car"), (Path("a.json"), 1, "person"), (Path("b.json"), 124, "grass")]


def test_class_lists_are_those_of_the_paper():
    assert len(LISTS.objects) == 91
    assert len(set(LISTS.objects)) == 91
    assert not set(LISTS.objects) & set(LISTS.materials)
    assert not set(LISTS.fully_excluded) & {*LISTS.objects, *LISTS.materials}
    assert "other" in LISTS.materials and "other" not in LISTS.objects
    assert {"person", "clouds", "teddy bear", "zebra"} <= set(LISTS.objects)
    assert {"suitcase", "dining table", "rug"} <= set(LISTS.fully_excluded)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"objects": ["a"], "materials": [1], "fully_excluded": []}', "Expected `str`.*materials"),
        ('{"objects": ["a"], "materials": ["a"], "fully_excluded": []}', "'a' is both"),
        ("{", "not valid JSON"),
    ],
)
def test_bad_class_lists_are_named(tmp_path, content, message):
    path = tmp_path / "lists.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        coco_classes.read_class_lists(str(path))
    with pytest.raises(UserError, match="does not exist"):
        coco_classes.read_class_lists(str(tmp_path / "none.json"))


def test_hparams_that_contradict_each_other():
    assert parse("mask_size=32,min_object_size=.02", coco_classes.CocoHParams).mask_size == 32
    assert coco_classes.CropHParams().max_objects_per_image == 10
    with pytest.raises(UsageError, match="multiple of 4"):
        parse("mask_size=30", coco_classes.CocoHParams)
    with pytest.raises(UsageError, match="exceeds"):
        parse("min_objects_per_image=9", coco_classes.CocoHParams)
    with pytest.raises(HParamError, match="min_objct_size"):
        parse("min_objct_size=.1", coco_classes.CocoHParams)


def test_vocabulary_is_all_categories_by_id():
    vocabulary = coco_classes.make_vocabulary(FILES)
    assert vocabulary.ids == (1, 3, 124, 0)
    assert vocabulary.names == ("person", "car", "grass", "__image__")
    assert coco_classes.make_vocabulary([*FILES[::-1], FILES[0]]) == vocabulary
    meta = vocabulary.meta(LISTS, ["p", "q"])
    assert meta["obj_idx_to_name"] == ["person", "car", "grass", "__image__"]
    assert meta["obj_name_to_ID"] == {"person": 1, "car": 3, "grass": 124, "__image__": 0}
    assert meta["obj_ID_to_name"]["124"] == "grass"
    assert meta["obj_ID_to_idx"] == {"1": 0, "3": 1, "124": 2, "0": 3}
    assert meta["pred_name_to_idx"] == {"p": 0, "q": 1}


@pytest.mark.parametrize(
    ("id_", "name", "message"),
    [
        (1, "cow", "category 1 is 'cow'"),
        (500, "person", "'person' stands for more than one id"),
        (7, "__image__", "'__image__' stands for more than one id"),
    ],
)
def test_contradictory_categories(id_, name, message):
    with pytest.raises(UserError, match=message):
        coco_classes.make_vocabulary([*FILES, (Path("c.json"), id_, name)])
    with pytest.raises(UserError, match="list no categories"):
        coco_classes.make_vocabulary([])
