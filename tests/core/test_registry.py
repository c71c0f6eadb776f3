"""core.registry: names to classes."""

import subprocess
import sys
import textwrap
import types

import pytest

from core.errors import UsageError
from core.registry import Registry


def test_a_duplicate_names_both_places():
    registry = Registry("thing")
    registry.register("one")(int)
    with pytest.raises(ValueError, match=r"registered twice: .*test_registry.*:\d+ and .*:\d+"):
        registry.register("one")(float)


def test_a_miss_lists_the_names_and_the_closest():
    registry = Registry("model")
    registry.register("graph-attention")(int)
    registry.register("multidomain-representation")(float)
    with pytest.raises(UsageError) as caught:
        registry["graph-atention"]
    message = str(caught.value)
    assert "unknown model 'graph-atention'" in message
    assert "Did you mean 'graph-attention'?" in message
    assert "multidomain-representation" in message
    assert caught.value.exit_code == 2


def _package(tmp_path, monkeypatch, files):
    folder = tmp_path / "pkg_of_things"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [n for n in sys.modules if n.startswith("pkg_of_things")]:
        monkeypatch.delitem(sys.modules, name)


def test_modules_of_the_package_are_imported_on_the_first_lookup(tmp_path, monkeypatch):
    registry = Registry("thing", "pkg_of_things")
    home = types.ModuleType("home_of_the_registry")
    home.THINGS = registry
    monkeypatch.setitem(sys.modules, "home_of_the_registry", home)
    source = """
        from home_of_the_registry import THINGS
        @THINGS.register("found")
        class Found: pass
        """
    _package(tmp_path, monkeypatch, {"__init__.py": "", "a_module.py": source})
    assert registry["found"].__name__ == "Found"
    assert registry.names() == ["found"] and "found" in registry and "two" not in registry


def test_a_broken_module_is_not_swallowed(tmp_path, monkeypatch):
    _package(tmp_path, monkeypatch, {"__init__.py": "", "bad.py": "raise RuntimeError('broken')"})
    registry = Registry("thing", "pkg_of_things")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            registry["anything"]


def test_importing_the_registry_does_not_import_tensorflow():
    code = "import sys, core.registry, core.hparams; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
