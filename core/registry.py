"""Find models, loaders, metrics and experiments by the name a user types.

A class (a metric: a function) joins by a decorator in any module of its package; nothing else has
to be edited:

    @MODELS.register("graph-attention")
    class GraphAttention(Model): ...
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from core.errors import UsageError

C = TypeVar("C")


def closest(name: str, valid: list[str]) -> str:
    """Return " Did you mean 'x'?" for the valid name nearest to `name`, '' when none is near."""
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


class Registry:
    """Classes of one kind by name; the modules of its packages are imported on the first lookup.

    Importing late keeps `import core.registry` free of TensorFlow, so that a worker process of
    the preparation can import one loader's helpers without paying for it.
    """

    def __init__(self, kind: str, *packages: str) -> None:
        """kind: the word errors use ('model'). packages: dotted names, searched one level deep."""
        self.kind = kind
        self._packages = packages
        self._classes: dict[str, Any] = {}
        self._places: dict[str, str] = {}
        self._imported = False

    def register(self, name: str) -> Callable[[C], C]:
        """Return a class decorator. ValueError for a name that another place has taken."""
        frame = sys._getframe(1)
        place = f"{Path(frame.f_code.co_filename).resolve()}:{frame.f_lineno}"

        def decorate(cls: C) -> C:
            # The same place twice is no duplicate: `python -m dataloaders.x` runs a module as
            # __main__, and the lookup then imports the same file under its own name.
            other = self._places.get(name, place)
            if other != place:
                raise ValueError(
                    f"the {self.kind} name {name!r} is registered twice: {other} and {place}"
                )
            self._classes[name] = cls
            self._places[name] = place
            return cls

        return decorate

    def __getitem__(self, name: str) -> Any:
        """Return the class; UsageError with the valid names and the closest for another name."""
        self._import_packages()
        if name not in self._classes:
            valid = self.names()
            raise UsageError(
                f"unknown {self.kind} {name!r}.{closest(name, valid)} "
                f"Valid names: {', '.join(valid) or 'none yet'}"
            )
        return self._classes[name]

    def names(self) -> list[str]:
        """Return all names, sorted."""
        self._import_packages()
        return sorted(self._classes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        self._import_packages()
        return name in self._classes

    def __len__(self) -> int:
        return len(self.names())

    def _import_packages(self) -> None:
        if self._imported:
            return
        self._imported = True
        try:
            for package_name in self._packages:
                package = importlib.import_module(package_name)
                for module in pkgutil.iter_modules(package.__path__):
                    importlib.import_module(f"{package_name}.{module.name}")
        except BaseException:
            self._imported = False  # a broken module must fail again at the next lookup
            raise


MODELS = Registry("model", "models")
LOADERS = Registry("data loader", "dataloaders")
METRICS = Registry("metric", "core.evaluation")
EXPERIMENTS = Registry("experiment", "experiments", "experiments.analysis", "experiments.tables")
