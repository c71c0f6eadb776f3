"""Texts of `--help-hps`: the hparams that a command takes, in groups."""

from __future__ import annotations

from collections.abc import Iterable

from core import hparams
from core.registry import EXPERIMENTS, LOADERS, MODELS
from core.run_settings import takes_batches_of

Group = tuple[str, type]  # a title, and the hparams class it is of


def of_models(model_name: str | None = None, loader_name: str | None = None) -> str:
    """Return the base group and the groups of the model and the loader named.

    Without a model: those of all models and loaders. With a model alone: those of its loaders."""
    flags = {"base": "--base-hparams", "model": "--hparams", "data": "--data-hparams"}
    return _described(_groups(model_name, loader_name, flags))


def of_experiments(
    name: str | None = None, model_name: str | None = None, loader_name: str | None = None
) -> str:
    """Return the experiment's hparams, and what --model-hparams takes when a model or a loader is
    named. Without any name: of everything."""
    experiments = [name] if name else EXPERIMENTS.names()
    groups = [(f"--exp-hparams of {each}", EXPERIMENTS[each].HParams) for each in experiments]
    if model_name or loader_name or not name:
        flags = dict.fromkeys(("base", "model", "data"), "--model-hparams")
        groups += _groups(model_name, loader_name, flags)
    return _described(groups)


def _groups(model_name: str | None, loader_name: str | None, flags: dict[str, str]) -> list[Group]:
    models = [model_name] if model_name else MODELS.names()
    loaders = [loader_name] if loader_name else LOADERS.names()
    if model_name and not loader_name:
        loaders = [n for n in loaders if takes_batches_of(MODELS[model_name], LOADERS[n])]
    groups = [(flags["base"], hparams.BaseHParams)]
    groups += [(f"{flags['model']} of {name}", MODELS[name].HParams) for name in models]
    groups += [(f"{flags['data']} of {name}", LOADERS[name].HParams) for name in loaders]
    return groups


def _described(groups: Iterable[Group]) -> str:
    return "\n\n".join(f"{title}\n{hparams.describe(cls)}" for title, cls in groups)
