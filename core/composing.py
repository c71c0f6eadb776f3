"""What a command is composed of: the classes and hparams of a job, a trained model and its data.

`core.cli` says in which order; only it imports this module.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from core import hparams, provenance
from core.errors import HParamError, UsageError, UserError
from core.registry import LOADERS, MODELS
from core.run_folder import RunConfig, RunFolder

log = logging.getLogger(__name__)

# From the hparams class of each group (base, model, data) to the flag that fills it and the comma
# string given there.
Given = Callable[["dict[str, type]"], "dict[str, tuple[str, str]]"]


def by_flag(args: argparse.Namespace) -> Given:
    """A flag for each group."""
    given = {
        "base": ("--base-hparams", joined(args.base_hparams)),
        "model": ("--hparams", joined(args.hparams)),
        "data": ("--data-hparams", joined(args.data_hparams)),
    }
    return lambda classes: given


def by_name(flag: str, texts: Sequence[str] | None) -> Given:
    """One flag for all groups: a clause goes to the group that has its name."""

    def given(classes: dict[str, type]) -> dict[str, tuple[str, str]]:
        try:
            routed = hparams.route(joined(texts), classes)
        except HParamError as error:
            raise HParamError(f"{flag}: {error}") from None
        return {group: (flag, text) for group, text in routed.items()}

    return given


def joined(texts: Sequence[str] | None) -> str:
    """One comma string of a flag's; given more than once, the flag counts as one string."""
    return ",".join(text for text in texts or () if text)


class Job:
    """Classes and hparams of one command: defaults < saved config < command line."""

    def __init__(
        self,
        model_name: str,
        loader_name: str | None,
        given: Given,
        saved: Path | None,
        evaluating: bool = False,
    ) -> None:
        """loader_name: None: the saved one. saved: the config.json to start from. evaluating: then
        a loader that the saved run never saw needs its folders."""
        self.config = config = RunConfig.read(saved) if saved else None
        if config and config.model != model_name:
            raise UserError(f"{saved} is of the model {config.model!r}, not {model_name!r}")
        self.model_name = model_name
        self.model_cls = model_cls = MODELS[model_name]
        self.loader_name = loader_name or (config.loader if config else None)
        if not self.loader_name:
            raise UsageError(f"--data-loader is missing; choose of {fitting(model_cls)}")
        self.loader_cls = LOADERS[self.loader_name]
        if not fits(model_cls, self.loader_cls):
            raise UsageError(
                f"{model_name} does not take the batches of the loader {self.loader_name!r}; "
                f"choose of {fitting(model_cls)}"
            )
        texts = given(
            {"base": hparams.BaseHParams, "model": model_cls.HParams,
             "data": self.loader_cls.HParams}
        )  # fmt: skip
        groups = (config.base, config.model_hparams) if config else (None, None)
        self.base = fill(*texts["base"], hparams.BaseHParams, groups[0], f"{saved}, hparams.base")
        self.model_hparams = fill(
            *texts["model"], model_cls.HParams, groups[1], f"{saved}, hparams.model"
        )
        saved_data = config.data.get(self.loader_name) if config else None
        flag, text = texts["data"]
        if evaluating and config and saved_data is None and not text:
            raise UserError(
                f"the run {saved.parent} never saw the loader {self.loader_name!r}: name its "
                f"folders with {flag} (it saw: {', '.join(config.data)})"
            )
        self.data_hparams = fill(
            flag, text, self.loader_cls.HParams, saved_data,
            f"{saved}, hparams.data.{self.loader_name}",
        )  # fmt: skip

    def build(
        self, scope: Callable[[], AbstractContextManager] = contextlib.nullcontext
    ) -> tuple[Any, Any]:
        """(dataset, model). scope: of the model's variables, see core.distribution."""
        from core.model import Numerics

        # A model without an image_size looks at no crops and sketches: small ones cost least.
        image_size = getattr(self.model_hparams, "image_size", 32)
        dataset = self.loader_cls(self.data_hparams, self.base, image_size, self.base.seed)
        mask_size = getattr(dataset, "mask_size", 64)
        with scope():
            model = self.model_cls(
                self.model_hparams,
                dataset.vocabulary,
                self.base.iterations,
                mask_size,
                Numerics(self.base.mixed_precision, self.base.clip_norm),
            )
        return dataset, model

    def folders(self) -> dict[str, Path]:
        """The data hparams that name a folder, by name: known also when the loader failed to be
        built."""
        named = [
            (field.name, Path(getattr(self.data_hparams, field.name)))
            for field in dataclasses.fields(self.data_hparams)
            if field.metadata.get("folder") and getattr(self.data_hparams, field.name)
        ]
        return {name: folder for name, folder in named if folder.is_dir()}

    def contents(self) -> dict[str, dict[str, str]]:
        """The files of each folder, by the hparam (see `core.provenance.data_files`)."""
        return {name: provenance.data_files(folder) for name, folder in self.folders().items()}

    def data_digests(self) -> dict[str, str]:
        """One digest for each folder, to stand beside figures."""
        return {name: provenance.digest(files) for name, files in self.contents().items()}

    def facts(self, checkpoint: Path | None) -> dict[str, str]:
        """What must be equal on all machines of a training, by what it is of. Folders of data may
        lie at other places. checkpoint: that the training goes on from."""
        values = hparams.to_dict(self.data_hparams)
        settings = {
            **self.groups(),
            f"data.{self.loader_name}": {
                name: value for name, value in values.items() if name not in self.folders()
            },
        }
        state = checkpoint and (checkpoint.name, (checkpoint / "state.json").read_text("utf-8"))
        return {
            "program": provenance.program(),
            "hparams": json.dumps(settings, sort_keys=True),
            "data": json.dumps({n: provenance.digest(h) for n, h in self.contents().items()}),
            "checkpoint": json.dumps(state),
        }

    def check_same_data(self, now: dict[str, dict[str, str]]) -> None:
        """UserError naming a file that is not as this loader found it when the run was trained
        last. now: of `contents`."""
        before = self.config.contents.get(self.loader_name, {}) if self.config else {}
        for name in before.keys() & now.keys():
            found = provenance.difference(before[name], now[name])
            if found:
                raise UserError(
                    f"{self.folders()[name] / found[0]} {found[1]}, unlike when this run was "
                    f"trained last: give {name} the data it was trained on, or go on with these "
                    "by --allow-data-change"
                )

    def groups(self) -> dict[str, dict[str, Any]]:
        """The hparams in effect, by the name of their group."""
        return {
            "base": hparams.to_dict(self.base),
            "model": hparams.to_dict(self.model_hparams),
            f"data.{self.loader_name}": hparams.to_dict(self.data_hparams),
        }

    def changes(self) -> dict[str, list[Any]]:
        """'group.name' -> [saved value, value now] for all hparams that differ from the saved
        config."""
        if self.config is None:
            return {}
        saved = {
            "base": self.config.base,
            "model": self.config.model_hparams,
            f"data.{self.loader_name}": self.config.data.get(self.loader_name, {}),
        }
        return {
            f"{group}.{name}": [saved[group][name], value]
            for group, values in self.groups().items()
            for name, value in values.items()
            if name in saved[group] and saved[group][name] != value
        }

    def data_changes(self, now: dict[str, dict[str, str]]) -> dict[str, list[str]]:
        """'contents.name' -> [saved hash, hash now] for each folder with other contents than this
        loader found there before."""
        before = self.config.contents.get(self.loader_name, {}) if self.config else {}
        return {
            f"contents.{name}": [provenance.digest(before[name]), provenance.digest(hashes)]
            for name, hashes in now.items()
            if name in before and before[name] != hashes
        }

    def hint(self) -> str:
        """Which model hparams differ from the saved ones, for a checkpoint that does not fit."""
        changed = [
            f"{name.partition('.')[2]} was {old} and is {new}"
            for name, (old, new) in self.changes().items()
            if name.startswith("model.")
        ]
        return "; ".join(changed)


def fill(
    flag: str, text: str, cls: type, saved: dict[str, Any] | None = None, where: str = ""
) -> Any:
    """An hparams instance: defaults < saved values (of the file and group `where`) < text."""
    values: dict[str, Any] = {}
    if saved is not None:
        checked = hparams.from_dict(cls, saved, where)
        values = {name: getattr(checked, name) for name in saved}
    try:
        return hparams.parse(text, cls, **values)
    except HParamError as error:
        raise HParamError(f"{flag}: {error}") from None


def fits(model_cls: type, loader_cls: type) -> bool:
    """Whether the model takes the loader's batches."""
    return model_cls.batch_type == loader_cls.batch_type.__name__


def fitting(model_cls: type) -> str:
    """The loaders a model takes batches of, for a message."""
    return ", ".join(name for name in LOADERS if fits(model_cls, LOADERS[name])) or "none yet"


def saved_config(run_dir: RunFolder, folder: Path | None) -> Path | None:
    """config.json of the run, else of the run that the checkpoint lies in, else None."""
    paths = [run_dir.config]
    if folder is not None:
        paths.append(folder.resolve().parent.parent / "config.json")
    return next((path for path in paths if path.is_file()), None)


def find_trained(run_dir: RunFolder, resume: str, id_flag: str) -> Path | None:
    """The checkpoint folder to evaluate; None for `--resume none`. UserError when there is none."""
    from core import checkpoints

    folder = checkpoints.find(resume, checkpoints.Checkpoints(run_dir.checkpoints))
    if folder is None and resume == "latest":
        raise UserError(
            f"the run {run_dir.root} has no checkpoint to evaluate; check -o and {id_flag}, or "
            "use --resume none for an untrained network"
        )
    return folder


def load_trained(job: Job, folder: Path | None) -> tuple[Any, Any, int]:
    """(dataset, model, step) of the checkpoint; of an untrained network for None."""
    from core import checkpoints

    dataset, model = job.build()
    if folder is None:
        model.load_pretrained()
        log.info("--resume none: evaluating an untrained network")
        return dataset, model, 0
    step = checkpoints.load(model, folder, dataset.vocabulary.names, job.hint()).step
    log.info("evaluating %s", folder)
    return dataset, model, step


@contextlib.contextmanager
def resources_explained(job: Job) -> Iterator[None]:
    """A prepared set that cannot be read and too little memory as one sentence."""
    import tensorflow as tf

    from dataloaders.blocks import reading_errors_explained

    try:
        with reading_errors_explained(job.folders().values()):
            yield
    except tf.errors.ResourceExhaustedError:
        raise UserError("out of memory: use a smaller batch_size") from None
