"""docs/hparams.md is what the code says."""

import dataclasses
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from core import hparams_page
from core.errors import HParamError
from core.hparams import BaseHParams, fields_of, parse
from core.registry import EXPERIMENTS, LOADERS, MODELS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def page():
    """Return what the command prints."""
    command = [sys.executable, "-m", "core.hparams_page"]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def test_the_page_is_up_to_date(page):
    written = (ROOT / "docs" / "hparams.md").read_text(encoding="utf-8")
    assert written == page, f"hparams have changed: run {hparams_page.COMMAND}"


def test_every_whole_number_has_limits():
    """Most of them are sizes of something that is allocated."""
    classes = [registry[name].HParams for registry in (MODELS, LOADERS, EXPERIMENTS)
               for name in registry]  # fmt: skip
    for path in hparams_page.PREPARATION.values():
        module, _, name = path.partition(":")
        classes.append(getattr(importlib.import_module(module), name))
    for cls in [BaseHParams, *classes]:
        for field, hint in fields_of(cls).values():
            if "int" in str(hint) and not field.metadata["choices"]:
                limits = field.metadata["low"], field.metadata["high"]
                assert None not in limits, f"{cls.__name__}.{field.name}: {limits}"
                with pytest.raises(HParamError, match="must be at most"):
                    parse(f"{field.name}=1{'0' * 12}", cls)


def test_no_hparams_of_preparation_are_forgotten():
    found = set()
    for path in (ROOT / "prep_data").glob("*.py"):
        module = importlib.import_module(f"prep_data.{path.stem}")
        found |= {
            f"{module.__name__}:{name}"
            for name, cls in inspect.getmembers(module, inspect.isclass)
            if dataclasses.is_dataclass(cls)
            and name.endswith("HParams")
            and cls.__module__ == module.__name__
        }
    assert found == set(hparams_page.PREPARATION.values())
    for names in hparams_page.PREPARATION:
        for name in names.split(", "):
            assert (ROOT / "prep_data" / f"{name}.py").is_file()
