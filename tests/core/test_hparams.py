"""core.hparams: the comma string, its errors, and the strict dicts of config.json."""

from __future__ import annotations

import dataclasses

import pytest

from core.errors import HParamError, UserError
from core.hparams import (
    REMOVED,
    BaseHParams,
    describe,
    from_dict,
    hp,
    parse,
    route,
    to_dict,
    to_text,
)
from core.registry import LOADERS, MODELS


@dataclasses.dataclass(frozen=True)
class Toy:
    flag: bool = hp(False, "a switch")
    count: int = hp(3, "how many", low=1, high=10)
    rate: float = hp(0.5, "how fast")
    text: str = hp("x", "what")
    pt_mdomain_id: str = hp("", "id of a run")
    sizes: tuple[int, ...] = hp((1, 2), "widths")
    names: tuple[str, ...] = hp((), "names")
    limit: int | None = hp(None, "at most so many")
    mode: str = hp("max", "pooling", choices=("max", "avg"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, {}),
        ("  ", {}),
        ("count=4", {"count": 4}),
        (" count = 4 , rate = 2 ", {"count": 4, "rate": 2.0}),
        ("rate=1e-4", {"rate": 1e-4}),
        ("rate=.05", {"rate": 0.05}),
        ("flag=True", {"flag": True}),
        ("flag=1", {"flag": True}),
        ("text=First Stage of It,count=4", {"text": "First Stage of It", "count": 4}),
        ("text='a, b',count=4", {"text": "a, b", "count": 4}),
        ('text="it\'s, b"', {"text": "it's, b"}),
        ("text=Leo's run,count=4", {"text": "Leo's run", "count": 4}),
        ("text=a=b", {"text": "a=b"}),
        ("text='',count=4", {"text": "", "count": 4}),
        ("pt_mdomain_id=01", {"pt_mdomain_id": "01"}),
        ("sizes=[4,5, 6]", {"sizes": (4, 5, 6)}),
        ("sizes=[]", {"sizes": ()}),
        ("sizes=", {"sizes": ()}),
        ("names=[a b,'c'],count=4", {"names": ("a b", "c"), "count": 4}),
        ("limit=none", {"limit": None}),
    ],
)
def test_the_grammar(text, expected):
    assert parse(text, Toy) == dataclasses.replace(Toy(), **expected)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("coutn=4", ["clause 'coutn=4'", "'count'", "pt_mdomain_id"]),
        ("count=four", ["clause 'count=four'", "count must be int"]),
        ("count=4.5", ["count must be int"]),
        ("rate=fast", ["rate must be float"]),
        ("rate=nan", ["rate must be float"]),
        ("flag=maybe", ["flag must be bool"]),
        ("sizes=[1,x]", ["sizes must be list of int"]),
        ("limit=x", ["limit must be int or none"]),
        ("mode=mx", ["mode must be one of max, avg", "Did you mean 'max'?"]),
        ("count=0", ["count must be at least 1"]),
        ("count=11", ["count must be at most 10"]),
        ("count=4,count=4", ["clause 'count=4'", "given twice"]),
        ("text=a, b", ["clause 'b' has no '='", "quotes"]),
        ("count", ["clause 'count' has no '='"]),
        ("=4", ["no name before '='"]),
        ("count=4,", ["empty clause"]),
        ("text='a", ["' is never closed by '"]),
        ("sizes=[1,2", ["[ is never closed by ]"]),
        ("text='a' b", ["expected a comma after '", "'b'"]),
    ],
)
def test_errors_name_the_clause_and_what_to_do(text, pieces):
    with pytest.raises(HParamError) as caught:
        parse(text, Toy)
    for piece in pieces:
        assert piece in str(caught.value)


def test_removed_names_say_that_they_are_gone():
    assert len(REMOVED) == 16
    for name in REMOVED:
        with pytest.raises(HParamError, match=f"{name}.*never used or is deprecated"):
            parse(f"{name}=1", Toy)


def test_the_command_line_wins_over_saved_and_saved_over_defaults():
    assert parse("count=5", Toy, count=4, rate=2.0) == Toy(count=5, rate=2.0)


def test_folders_are_saved_so_that_they_are_found_from_anywhere(tmp_path, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Folders:
        data_dir: str = hp("", folder=True)
        name: str = hp("")

    monkeypatch.chdir(tmp_path)
    parsed = parse("data_dir=sets/coco,name=sets/coco", Folders)
    assert parsed == Folders(str(tmp_path / "sets" / "coco"), "sets/coco")
    assert parse("data_dir=", Folders) == Folders()


def test_a_required_hparam():
    @dataclasses.dataclass(frozen=True)
    class Needs:
        folder: str = hp(help="where it lies")

    assert parse("folder=a", Needs).folder == "a"
    assert "required" in describe(Needs)
    with pytest.raises(HParamError, match="folder"):
        parse("", Needs)
    with pytest.raises(UserError, match=r"config\.json: missing hparams .*: folder"):
        from_dict(Needs, {}, "config.json")


def test_rules_at_construction_pass_through():
    @dataclasses.dataclass(frozen=True)
    class Ruled:
        a: int = hp(1)

        def __post_init__(self):
            if self.a == 2:
                raise HParamError("a must not be 2: use 3")

    with pytest.raises(HParamError, match="use 3"):
        parse("a=2", Ruled)
    with pytest.raises(UserError, match=r"config\.json: a must not be 2"):
        from_dict(Ruled, {"a": 2}, "config.json")


@pytest.mark.parametrize(
    "values", [{"text": "'\""}, {"names": ("a,b",)}, {"names": ("a]",)}, {"names": (" a",)},
               {"names": ("",)}]
)  # fmt: skip
def test_what_no_comma_string_can_carry(values):
    with pytest.raises(HParamError, match=next(iter(values))):
        to_text(to_dict(Toy(**values)))


@pytest.mark.parametrize(
    ("change", "piece"),
    [
        ({"count": "4"}, "count must be int"),
        ({"count": True}, "count must be int"),
        ({"flag": 1}, "flag must be bool"),
        ({"count": 99}, "at most 10"),
        ({"sizes": 3}, "sizes must be list of int"),
        ({"mode": "mx"}, "mode must be one of max, avg"),
        ({"extra": 1}, "unknown hparam 'extra'"),
        ({"rate": 10**400}, "rate must be float"),
    ],
)
def test_reading_a_dict_is_strict(change, piece):
    with pytest.raises(UserError) as caught:
        from_dict(Toy, {**to_dict(Toy()), **change}, "run/config.json")
    assert piece in str(caught.value)
    assert "run/config.json" in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Other:
    folder: str = hp("", "a folder")
    rate: float = hp(0.1, "also a name of Toy")


def test_clauses_go_to_the_group_that_has_their_name():
    groups = {"a": Toy, "b": Other}
    assert route("", groups) == {"a": "", "b": ""}
    routed = route("folder='x, y',count=4,sizes=[3,4]", groups)
    assert routed == {"a": "count=4,sizes=[3,4]", "b": "folder='x, y'"}
    assert parse(routed["b"], Other).folder == "x, y"
    with pytest.raises(HParamError, match=r"unknown hparam 'foldr'\. Did you mean 'folder'"):
        route("foldr=x", groups)
    with pytest.raises(HParamError, match=r"'rate' is ambiguous, .* a and of b\. Valid names: fl"):
        route("rate=1", groups)


def test_no_hparam_is_ambiguous():
    """run-experiment.py takes those of the base, a model and a loader in one string."""
    for model in MODELS:
        for loader in LOADERS:
            classes = (BaseHParams, MODELS[model].HParams, LOADERS[loader].HParams)
            names = [field.name for cls in classes for field in dataclasses.fields(cls)]
            assert len(names) == len(set(names)), (model, loader)
