"""The rules of the house: fixed names at the top, and imports that point one way."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

TOP = {
    "train.py", "evaluate-metrics.py", "run-experiment.py", "models", "dataloaders", "prep_data",
    "experiments", "core", "SPADE", "docs", "tests", "requirements.txt", "README.md", "Makefile",
    "pyproject.toml", "LICENSE", ".ci", ".gitignore",
}  # fmt: skip

# What modules of each room may import, besides their own room and installed packages. core.cli and
# core.run put rooms together: they alone of core reach into others.
CORE = {"core"}
COMPOSERS = ("core/cli.py", "core/run.py")
RULES = {
    "core": set(),
    **{path: {"models", "dataloaders", "experiments"} for path in COMPOSERS},
    "models": CORE,
    "dataloaders": CORE,
    "experiments": {"core", "SPADE"},
    "prep_data": {"dataloaders", "core"},
    "SPADE": {"models", "core"},
}
ROOMS = {"core", "models", "dataloaders", "experiments", "prep_data", "SPADE", "tests"}
# Of dataloaders, preparation uses what a record is and how pictures and drawings are made; never a
# loader.
FOR_PREPARATION = {
    f"dataloaders.{name}"
    for name in ("prepared_sets", "records", "scene_graph", "images", "sketches", "sl_pairs")
}
# Of core, preparation uses the errors, small files and what all command lines share.
CORE_FOR_PREPARATION = {
    "core.commands", "core.errors", "core.files", "core.hparams", "core.registry",
    "core.geometry", "core.provenance",
}  # fmt: skip


def _tracked():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [Path(line) for line in listed.stdout.splitlines()]


def _imports(path):
    """Modules a file imports at run time, as dotted names; `from a import b` gives a and a.b."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _modules(room):
    return sorted((ROOT / room).rglob("*.py"))


def test_nothing_else_at_the_top():
    assert {path.parts[0] for path in _tracked()} <= TOP


@pytest.mark.parametrize("room", sorted(RULES.keys() - set(COMPOSERS)))
def test_imports_point_one_way(room):
    for path in _modules(room):
        name = path.relative_to(ROOT).as_posix()
        allowed = {room} | RULES.get(name, RULES[room])
        for module in _imports(path):
            first = module.partition(".")[0]
            assert first not in ROOMS or first in allowed, f"{name} must not import {module}"


def test_only_the_scripts_import_the_command_line():
    for room in RULES.keys() - set(COMPOSERS):
        for path in _modules(room):
            imported = set(_imports(path))
            name = path.relative_to(ROOT).as_posix()
            command = name == "experiments/tables/ablations.py"  # trains and evaluates as they do
            assert command or "core.cli" not in imported, f"{path} imports core.cli"


def test_preparation_shares_only_what_a_record_is():
    for path in _modules("prep_data"):
        for module in _imports(path):
            for room, shared in (
                ("dataloaders", FOR_PREPARATION),
                ("core", CORE_FOR_PREPARATION),
            ):
                if module.startswith(f"{room}."):
                    base = ".".join(module.split(".")[:2])
                    assert base in shared, f"{path.name} imports {module}"


@pytest.mark.parametrize("script", ["train.py", "evaluate-metrics.py", "run-experiment.py"])
def test_scripts_are_thin(script):
    path = ROOT / script
    if path.exists():
        assert len(path.read_text().splitlines()) <= 60
        assert {module.partition(".")[0] for module in _imports(path)} <= {"os", "core"}


def test_layers_take_plain_arguments():
    for path in _modules("models/layers"):
        assert "core.hparams" not in set(_imports(path)), f"{path}: layers never see hparams"


def test_tensorflow_addons_is_imported_in_one_place():
    places = [
        path.relative_to(ROOT).as_posix()
        for room in RULES.keys() - set(COMPOSERS)
        for path in _modules(room)
        if any(module.startswith("tensorflow_addons") for module in _imports(path))
    ]
    assert len(places) <= 1, places
