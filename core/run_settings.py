"""Settings of a run: the classes and hparams that a command composes."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core import hparams
from core.dataset import Dataset
from core.errors import UsageError, UserError
from core.provenance import circumstances, difference, digest, hparam_files, program
from core.registry import LOADERS, MODELS
from core.run_folder import HParamGroups, RunConfig, RunFolder

log = logging.getLogger(__name__)


class HParamFlags(NamedTuple):
    """Comma strings of the command line, '' where none was given.

    mixed: clauses of all groups in one string (--model-hparams of run-experiment.py), each of which
    goes to the group that has its name; then the other three are not read.
    """

    base: str = ""
    model: str = ""
    data: str = ""
    mixed: str | None = None

    def by_group(self, classes: dict[str, type]) -> dict[str, tuple[str, str]]:
        """Return group -> (flag, its comma string). classes: hparams class of each group."""
        if self.mixed is None:
            flags = ("--base-hparams", "--hparams", "--data-hparams")
            return dict(zip(classes, zip(flags, (self.base, self.model, self.data))))
        flag = "--model-hparams"
        with hparams.located(flag):
            routed = hparams.route(self.mixed, classes)
        return {group: (flag, text) for group, text in routed.items()}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Classes and hparams of one command: defaults < config.json of the run < command line.

    saved: the config.json they were merged with, None for a new run. base, model, data: hparams.
    """

    model_name: str
    loader_name: str
    base: hparams.BaseHParams
    model: Any
    data: Any
    saved: RunConfig | None = None

    @classmethod
    def merge(
        cls,
        model_name: str,
        loader_name: str | None,
        flags: HParamFlags,
        config: Path | None = None,
        new_data: bool = True,
    ) -> Settings:
        """Merge the flags of a command with a run's config.json.

        loader_name: None takes that of the run's last training. config: None for a new run.
        new_data: whether a loader that the run was never trained with may do without the hparams
        that name its folders. UserError or UsageError for all that does not fit together.
        """
        saved = RunConfig.read(config) if config else None
        if saved and saved.model != model_name:
            raise UserError(f"{config} is of the model {saved.model!r}, not {model_name!r}")
        model_cls = MODELS[model_name]
        loader_name = loader_name or (saved.loader if saved else None)
        if not loader_name:
            raise UsageError(f"--data-loader is missing; choose of {loaders_for(model_cls)}")
        loader_cls = LOADERS[loader_name]
        _check_batches(model_name, loader_name)
        classes = {
            "base": hparams.BaseHParams, "model": model_cls.HParams, "data": loader_cls.HParams,
        }  # fmt: skip
        texts = flags.by_group(classes)
        before = {"base": None, "model": None, "data": None}
        if saved:
            groups = saved.hparams
            data = groups.data.get(loader_name)
            before = {"base": groups.base, "model": groups.model, "data": data}
            if not new_data and data is None and not texts["data"][1]:
                raise UserError(
                    f"the run {config.parent} never saw the loader {loader_name!r}: name its "
                    f"folders with {texts['data'][0]} (it saw: {', '.join(groups.data)})"
                )
        places = {group: f"{config}, hparams.{group}" for group in classes}
        places["data"] += f".{loader_name}"
        merged = {
            group: merge_hparams(*texts[group], kind, before[group], places[group])
            for group, kind in classes.items()
        }
        merged["base"] = _with_precision(merged["base"], before["base"])
        return cls(model_name, loader_name, **merged, saved=saved)

    def with_data(self, loader_name: str | None, values: dict[str, Any]) -> Settings:
        """Return these settings for another loader, or with other values of data hparams."""
        name = loader_name or self.loader_name
        known = self.saved.hparams.data.get(name) if self.saved else None
        if known is None and name == self.loader_name:
            known = hparams.to_dict(self.data)
        _check_batches(self.model_name, name)
        text = hparams.to_text(values)
        data = merge_hparams("data hparams", text, LOADERS[name].HParams, known, name)
        return dataclasses.replace(self, loader_name=name, data=data)

    @property
    def model_cls(self) -> type:
        """The class of the model."""
        return MODELS[self.model_name]

    def open_dataset(self) -> Dataset:
        """Open the loader on its folders. UserError when they are unusable."""
        crop_size = self.model_cls.crop_size(self.model)
        return LOADERS[self.loader_name](self.data, self.base, crop_size, self.base.seed)

    def data_folders(self) -> dict[str, Path]:
        """Return the folders that data hparams name, by hparam; those that exist."""
        return hparams.folders(self.data)

    def data_files(self) -> dict[str, dict[str, str]]:
        """Return the files of each folder of data, see `core.provenance.data_files`."""
        return hparam_files(self.data)

    def data_digests(self) -> dict[str, str]:
        """Return one digest of each folder of data."""
        return {name: digest(files) for name, files in self.data_files().items()}

    def shared_facts(self, checkpoint: Path | None) -> dict[str, str]:
        """Return what must be equal on all machines of a training, by what it is. Folders of data
        may lie at other places. checkpoint: that the training goes on from."""
        groups = self.groups()
        data = groups[f"data.{self.loader_name}"]
        for name in self.data_folders():
            del data[name]
        state = checkpoint and (checkpoint.name, (checkpoint / "state.json").read_text("utf-8"))
        return {
            "program": program(),
            "hparams": json.dumps(groups, sort_keys=True),
            "data": json.dumps(self.data_digests()),
            "checkpoint": json.dumps(state),
        }

    def record_start(
        self, folder: RunFolder, step: int, argv: Sequence[str], allow_data_change: bool
    ) -> None:
        """Write the run's config.json, with an entry for a start of its training at `step`.

        UserError, before anything is written, when the data are not those that the run was last
        trained on with this loader and that is not allowed.
        """
        saved, loader, groups = self.saved, self.loader_name, self.groups()
        before = saved.contents.get(loader, {}) if saved else {}
        now = self.data_files()
        if not allow_data_change:
            self._check_same_data(before, now)
        data_changes = {
            f"contents.{name}": [digest(before[name]), digest(files)]
            for name, files in now.items()
            if name in before and before[name] != files
        }
        entry = {
            "step": step,
            "loader": loader,
            **circumstances("train.py", argv),
            "seed": self.base.seed,
            "data": {name: digest(files) for name, files in now.items()},
            "changes": {**self.changes(), **data_changes},
        }
        data = {**(saved.hparams.data if saved else {}), loader: groups[f"data.{loader}"]}
        RunConfig(
            self.model_name,
            loader,
            HParamGroups(groups["base"], groups["model"], data),
            history=(*(saved.history if saved else ()), entry),
            contents={**(saved.contents if saved else {}), loader: now},
        ).write(folder.config)

    def _check_same_data(
        self, before: dict[str, dict[str, str]], now: dict[str, dict[str, str]]
    ) -> None:
        folders = self.data_folders()
        for name in before.keys() & now.keys():
            found = difference(before[name], now[name])
            if found:
                raise UserError(
                    f"{folders[name] / found[0]} {found[1]}, unlike when this run was trained "
                    f"last: give {name} the data it was trained on, or go on with these by "
                    "--allow-data-change"
                )

    def groups(self) -> dict[str, dict[str, Any]]:
        """Return the hparams in effect as plain values, by group."""
        return {
            "base": hparams.to_dict(self.base),
            "model": hparams.to_dict(self.model),
            f"data.{self.loader_name}": hparams.to_dict(self.data),
        }

    def changes(self) -> dict[str, list[Any]]:
        """Return 'group.name' -> [saved value, value now] of hparams that differ from the run's
        config.json."""
        if self.saved is None:
            return {}
        groups, data = self.saved.hparams, f"data.{self.loader_name}"
        saved = {
            "base": groups.base, "model": groups.model, data: groups.data.get(self.loader_name, {}),
        }  # fmt: skip
        return {
            f"{group}.{name}": [saved[group][name], value]
            for group, values in self.groups().items()
            for name, value in values.items()
            if name in saved[group] and saved[group][name] != value
        }

    def changed_model_hparams(self) -> str:
        """Return the model hparams that differ from the run's, for a checkpoint that does not
        fit; '' when none does."""
        return "; ".join(
            f"{name.partition('.')[2]} was {old} and is {new}"
            for name, (old, new) in self.changes().items()
            if name.startswith("model.")
        )


def _with_precision(base: hparams.BaseHParams, saved: dict[str, Any] | None) -> hparams.BaseHParams:
    """Return base hparams with a precision in place of mixed_precision=auto: that of the run's
    config.json, so that a run goes on as it began on whatever machine, else one that is fast
    here."""
    if base.mixed_precision != "auto":
        return base
    if saved is None:
        from core.devices import fast_precision  # imports TensorFlow

        precision, why = fast_precision()
    else:
        precision, why = saved.get("mixed_precision", "none"), "the run began with it"
    log.info("mixed_precision=auto takes %s: %s", precision, why)
    return dataclasses.replace(base, mixed_precision=precision)


def takes_batches_of(model_cls: type, loader_cls: type) -> bool:
    """Return whether the model trains on the loader's batches."""
    same = model_cls.batch_type == loader_cls.batch_type.__name__
    return same and (loader_cls.has_objects or not model_cls.needs_objects)


def _check_batches(model_name: str, loader_name: str) -> None:
    model_cls, loader_cls = MODELS[model_name], LOADERS[loader_name]
    if not takes_batches_of(model_cls, loader_cls):
        objects = "" if loader_cls.has_objects else ", whose scenes have no objects"
        raise UsageError(
            f"{model_name} does not take the batches of the loader {loader_name!r}{objects}; "
            f"choose of {loaders_for(model_cls)}"
        )


def loaders_for(model_cls: type) -> str:
    """Return the names of the loaders a model takes batches of, for a message."""
    names = [name for name in LOADERS if takes_batches_of(model_cls, LOADERS[name])]
    return ", ".join(names) or "none yet"


def merge_hparams(flag: str, text: str, cls: type, saved: dict[str, Any] | None, where: str) -> Any:
    """Return an instance of `cls`: defaults < saved values < the comma string `text` of `flag`.
    where: the file and group that `saved` was read from."""
    values = {} if saved is None else vars(hparams.from_dict(cls, saved, where))
    with hparams.located(flag):
        return hparams.parse(text, cls, **values)
