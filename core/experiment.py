"""The base class of every experiment: what `run-experiment.py` runs."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core.errors import HParamError, UsageError
from core.files import make_folder
from core.hparams import hp
from core.registry import MODELS

if TYPE_CHECKING:  # they import TensorFlow
    from core.dataset import Dataset
    from core.model import Model


@dataclass(frozen=True)
class ExperimentHParams:
    """Hparams of all experiments."""

    results: str = hp("", "folder to write to; empty: the experiment's own", folder=True)
    results_dir: str = hp("", "older name of results", folder=True)

    def __post_init__(self) -> None:
        if self.results and self.results_dir:
            raise HParamError("results_dir is the older name of results: give one of them")


class Trained(NamedTuple):
    """A trained model and the data that an experiment looks at."""

    model: Model
    dataset: Dataset
    run_id: str
    step: int  # steps it was trained


class Experiment(abc.ABC):
    """One experiment with its hparams; it knows no command line."""

    name: str
    HParams: type  # frozen dataclass, an ExperimentHParams
    needs_model: bool = False
    model_type: type  # contract of `core.model` of the models it takes

    def __init__(self, hparams: Any, own_folder: Path) -> None:
        """own_folder: of results, unless an hparam names another."""
        self.hparams = hparams
        self.results = Path(hparams.results or hparams.results_dir or own_folder)

    @classmethod
    def check_fit(cls, model_cls: type) -> None:
        """Raise UsageError for a model that the experiment does not take."""
        if not issubclass(model_cls, cls.model_type):
            names = [name for name in MODELS if issubclass(MODELS[name], cls.model_type)]
            raise UsageError(f"{cls.name} takes {' or '.join(names)}, not {model_cls.name}")

    def prepare(self) -> None:
        """Check and read all that can fail cheaply, before a model is opened. UserError."""
        make_folder(self.results, "the results folder", "choose another with --exp-hparams results")

    @abc.abstractmethod
    def run(self, trained: Trained | None) -> None:
        """Compute, print and save. trained: of an experiment that needs a model, else None.
        Raises UserError for what a user can mend."""
