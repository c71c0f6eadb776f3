"""The rules of the house: names at the top, imports that point one way, declared contracts, plain
docstrings. docs/architecture.md explains them."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("core", "models", "dataloaders", "experiments", "prep_data", "SPADE", "search")
SCRIPTS = ("train.py", "evaluate-metrics.py", "run-experiment.py")
TOP = {
    *ROOMS, *SCRIPTS, "docs", "tests", "requirements.txt", "README.md", "Makefile",
    "pyproject.toml", "LICENSE", ".ci", ".gitignore",
}  # fmt: skip

# What the modules of a room may import of this project, besides their own room. core.cli and
# core.run (with core.scene_inputs) put the rooms together; of core, they alone reach into others.
MAY_IMPORT = {
    **{script: {"core.cli"} for script in SCRIPTS},
    "core": set(),
    "core/cli.py": {"models", "dataloaders", "experiments"},
    "core/run.py": {"models", "dataloaders"},
    "core/scene_inputs.py": {"dataloaders.images"},
    "models": {"core"},
    "dataloaders": {"core"},
    "experiments": {"core", "SPADE"},
    "SPADE": {"core", "models"},
    "search": {
        "core", "SPADE", "dataloaders.images", "dataloaders.prepared_sets", "dataloaders.records",
        "dataloaders.sketches", "dataloaders.sl_pairs", "prep_data.coco_annotations",
        "prep_data.report",
    },
    # Workers of preparation start without TensorFlow: records and pictures, never a loader.
    "prep_data": {
        "core.commands", "core.errors", "core.files", "core.geometry", "core.hparams",
        "core.progress", "core.provenance", "core.registry", "dataloaders.images",
        "dataloaders.prepared_sets", "dataloaders.records", "dataloaders.scene_graph",
        "dataloaders.sketches", "dataloaders.sl_pairs",
    },
}  # fmt: skip
# The recipes of the scripts; the ablations train and evaluate by them.
RUN_RECIPES = (*SCRIPTS, "experiments/tables/ablations.py")

VAGUE = re.compile(r"(What|How|Which|Where|Whether|The same|As|Of)\b")


def _modules(*rooms):
    paths = [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in paths}


def _imports(tree):
    """Yield the modules a file imports at run time; `from a import b` gives a.b."""
    for_types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in set(ast.walk(tree)) - for_types:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names)


def _is_within(module, places):
    return any(f"{module}.".startswith(f"{place}.") for place in places)


def _public(tree):
    """Yield a module and the public classes, functions and methods in it."""
    yield tree
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield from _public(node) if isinstance(node, ast.ClassDef) else [node]


def test_nothing_else_at_the_top():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    assert {line.partition("/")[0] for line in listed.stdout.splitlines()} <= TOP


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room):
    for name, tree in _modules(room).items():
        allowed = {room} | MAY_IMPORT.get(name, MAY_IMPORT[room])
        for module in _imports(tree):
            assert not module.startswith("."), f"{name}: imports are absolute here"
            ours = _is_within(module, (*ROOMS, "tests"))
            assert not ours or _is_within(module, allowed), f"{name} must not import {module}"
            recipe = _is_within(module, ["core.cli"])
            assert not recipe or name in RUN_RECIPES, f"{name}: open runs by core.run, not core.cli"


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_one_call(script):
    text = (ROOT / script).read_text("utf-8")
    assert len(text.splitlines()) <= 10
    assert all(_is_within(module, MAY_IMPORT[script]) for module in _imports(ast.parse(text)))


def test_layers_take_plain_arguments():
    for name, tree in _modules("models/layers").items():
        assert not any(_is_within(module, ["core.hparams"]) for module in _imports(tree)), name


def test_tensorflow_addons_is_imported_in_one_place():
    places = [
        name
        for name, tree in _modules(*ROOMS).items()
        if any(_is_within(module, ["tensorflow_addons"]) for module in _imports(tree))
    ]
    assert len(places) <= 1, places


def test_contracts_are_declared():
    """Contracts of models, hparams and data sets are declared in core.model and core.dataset."""
    for name, tree in _modules("core", "models", "dataloaders", "experiments").items():
        guesses = [
            ast.unparse(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("getattr", "hasattr")
            and (len(node.args) == 3 or ast.unparse(node.func) == "hasattr")
        ]
        # Exceptions of other libraries have what they have.
        assert name == "core/errors.py" or not guesses, f"{name}: {guesses}"


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_say_first_what_is_returned_or_done(room):
    for name, tree in _modules(room).items():
        for node in _public(tree):
            first_line = (ast.get_docstring(node) or "").partition("\n")[0]
            assert not VAGUE.match(first_line), f"{name}: {first_line}"
