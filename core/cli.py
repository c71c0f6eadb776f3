"""What the scripts do, in the one place that knows the order:

parse -> classes by name -> hparams -> run folder -> data -> model -> restore -> act
"""

import argparse
import contextlib
import datetime
import logging
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Optional

from core import hparams
from core.commands import Parser, run
from core.errors import HParamError, UsageError, UserError
from core.registry import LOADERS, MODELS
from core.run_dir import RunConfig, RunDir

log = logging.getLogger(__name__)

RESUME_HELP = "none, latest, or a checkpoint folder"


def main(command: "Callable[[Sequence[str]], None]") -> NoReturn:
    """Run a script's command on sys.argv and exit: 0, or one sentence on stderr and its code."""
    sys.exit(run(command, sys.argv[1:]))


# --- train ----------------------------------------------------------------------------------------


def train(argv: "Sequence[str]") -> None:
    """`train.py`: train a model into its run folder.

    Raises UserError for all a user can mend, core.training.StoppedError after SIGINT or SIGTERM.
    """
    parser = Parser(prog="train.py", description="Train a model.")
    _common_flags(parser, resume="none")
    parser.add_argument("--help-hps", action="store_true", help="print the hparams and end")
    args = parser.parse_args(list(argv))
    if args.help_hps:
        print(help_hps(args.model, args.data_loader))
        return
    _require(args, parser)
    model_cls = MODELS[args.model]
    run_dir = RunDir(args.output_dir, args.model, args.id)
    from core import checkpoints, devices, notifier
    from core.reporting import console

    with console():
        own = checkpoints.Checkpoints(run_dir.checkpoints)
        folder = checkpoints.find(args.resume, own)
        _check_start(args.resume, folder, own)
        # A fresh start takes nothing from what an earlier attempt left in the folder.
        saved = _saved_config(run_dir, folder) if args.resume != "none" else None
        job = _Job(args, model_cls, saved)
        slack = notifier.read_config(job.base.slack_config)
        run_dir.create()
        with run_dir.lock(), _resources_explained(job):
            if checkpoints.find(args.resume, own) != folder:
                raise UserError(f"{run_dir.root} has gone on in the meantime; start again")
            _check_start(args.resume, folder, own)
            own.clean()
            devices.setup(args.gpu, job.base.seed, job.base.deterministic)
            dataset, model = job.build()
            start = _restore_for_training(job, model, dataset, folder, args)
            _save_config(run_dir, job, start, argv)
            log.info("%s, %s", run_dir.root, f"from step {start}" if start else "from the start")
            from core import training

            with notifier.Notifier(slack, run_dir, job.base.goal) as thread:
                training.train(model, dataset, run_dir, job.base, start, thread)


class _Job:
    """Classes and hparams of one command: defaults < saved config < command line."""

    def __init__(self, args: argparse.Namespace, model_cls: type, saved: Optional[Path]) -> None:
        """saved: the config.json to start from."""
        self.config = config = RunConfig.read(saved) if saved else None
        if config and config.model != args.model:
            raise UserError(f"{saved} is of the model {config.model!r}, not {args.model!r}")
        self.loader_name = args.data_loader or (config.loader if config else None)
        if not self.loader_name:
            raise UsageError(f"--data-loader is missing; choose of {_fitting(model_cls)}")
        self.model_name = args.model
        self.model_cls = model_cls
        self.loader_cls = LOADERS[self.loader_name]
        _check_fit(args.model, model_cls, self.loader_name, self.loader_cls)
        groups = (config.base, config.model_hparams) if config else (None, None)
        self.base = _fill(
            "--base-hparams", args.base_hparams, hparams.BaseHParams,
            groups[0], f"{saved}, hparams.base",
        )  # fmt: skip
        self.model_hparams = _fill(
            "--hparams", args.hparams, model_cls.HParams, groups[1], f"{saved}, hparams.model"
        )
        saved_data = config.data.get(self.loader_name) if config else None
        self.data_hparams = _fill(
            "--data-hparams", args.data_hparams, self.loader_cls.HParams, saved_data,
            f"{saved}, hparams.data.{self.loader_name}",
        )  # fmt: skip

    def build(self) -> "tuple[Any, Any]":
        """(dataset, model)."""
        dataset = self.loader_cls(
            self.data_hparams, self.base, self.model_hparams.image_size, self.base.seed
        )
        mask_size = getattr(dataset, "mask_size", 64)
        model = self.model_cls(
            self.model_hparams, dataset.vocabulary, self.base.iterations, mask_size
        )
        return dataset, model

    def folders(self) -> "list[str]":
        """The data hparams that name a folder: known also when the loader failed to be built."""
        values = hparams.to_dict(self.data_hparams).values()
        return [value for value in values if isinstance(value, str) and Path(value).is_dir()]

    def groups(self) -> "dict[str, dict[str, Any]]":
        """The hparams in effect, by the name of their group."""
        return {
            "base": hparams.to_dict(self.base),
            "model": hparams.to_dict(self.model_hparams),
            f"data.{self.loader_name}": hparams.to_dict(self.data_hparams),
        }

    def changes(self) -> "dict[str, list[Any]]":
        """'group.name' -> [saved value, value now] for all that differ from the saved config."""
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

    def hint(self) -> str:
        """Which model hparams differ from the saved ones, for a checkpoint that does not fit."""
        changed = [
            f"{name.partition('.')[2]} was {old} and is {new}"
            for name, (old, new) in self.changes().items()
            if name.startswith("model.")
        ]
        return "; ".join(changed)


def _check_start(resume: str, folder: Optional[Path], own: Any) -> None:
    """The rules that keep a training from destroying what is there."""
    steps = own.steps()
    if resume == "none" and steps:
        raise UserError(
            f"{own.folder} already has checkpoints (newest: step {steps[-1]}); go on from them "
            "with --resume latest, or start afresh under another --id"
        )
    if resume == "latest" and folder is None:
        log.info("nothing to resume in %s: starting at step 0", own.folder)
    if folder is not None and steps:
        from core.checkpoints import State

        step = State.read(folder).step
        if steps[-1] > step:
            raise UserError(
                f"{own.folder} has checkpoints after step {step} (newest: step {steps[-1]}), which "
                "a training from there would mix up; move them away, or use another --id"
            )


def _restore_for_training(
    job: _Job, model: Any, dataset: Any, folder: Optional[Path], args: argparse.Namespace
) -> int:
    """Resume, warm start or load pretrained weights; returns the steps done."""
    from core import checkpoints

    vocabulary = dataset.vocabulary.names
    if folder is not None:
        step = checkpoints.resume(model, folder, vocabulary, job.hint()).step
        log.info("resumed %s", folder)
        return step
    source = job.model_cls.warm_start_from(job.model_hparams)
    if source is None:
        model.load_pretrained()
        return 0
    name, run_id = source
    other = RunDir(args.output_dir, name, run_id)
    newest = checkpoints.Checkpoints(other.checkpoints).latest()
    if newest is None:
        raise UserError(
            f"{args.model} starts from the run {other.root}, which has no checkpoint; train "
            f"{name} with --id {run_id} and the same -o first"
        )
    _check_same_parts(job, name, RunConfig.read(other.config), other.config)
    checkpoints.warm_start(model.warm_start_parts(), newest, name, vocabulary)
    log.info("took the weights of %s", newest)
    return 0


def _check_same_parts(job: _Job, name: str, config: RunConfig, path: Path) -> None:
    """The hparams that both models have must be equal, but for those that may differ."""
    there = hparams.to_dict(
        hparams.from_dict(MODELS[name].HParams, config.model_hparams, f"{path}: hparams.model")
    )
    here = hparams.to_dict(job.model_hparams)
    differing = [
        f"{key} is {there[key]} there and {here[key]} here"
        for key in here
        if key in there
        and key not in job.model_cls.warm_start_may_differ
        and here[key] != there[key]
    ]
    if differing:
        raise UserError(
            f"{job.model_name} cannot start from {path.parent}: {'; '.join(differing)}; "
            "give the same values in --hparams"
        )


def _save_config(run_dir: RunDir, job: _Job, start: int, argv: "Sequence[str]") -> None:
    import tensorflow as tf

    groups = job.groups()
    old = job.config
    entry = {
        "step": start,
        "loader": job.loader_name,
        "command": ["train.py", *argv],
        "versions": {"python": platform.python_version(), "tensorflow": tf.__version__},
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "changes": job.changes(),
    }
    RunConfig(
        model=job.model_name,
        loader=job.loader_name,
        base=groups["base"],
        model_hparams=groups["model"],
        data={**(old.data if old else {}), job.loader_name: groups[f"data.{job.loader_name}"]},
        history=(*(old.history if old else ()), entry),
    ).write(run_dir.config)


# --- evaluate -------------------------------------------------------------------------------------


def evaluate(argv: "Sequence[str]") -> None:
    """`evaluate-metrics.py`: compute metrics of a trained run on its validation set.

    Prints a table and saves JSON into the run's evaluation folder, and sends it to Slack if that is
    configured. The run's config.json gives all hparams; flags override. Raises UserError for all a
    user can mend.
    """
    parser = Parser(prog="evaluate-metrics.py", description="Compute metrics of a trained model.")
    _common_flags(parser, resume="latest")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="default: all of the model's")
    args = parser.parse_args(list(argv))
    _require(args, parser)
    model_cls = MODELS[args.model]
    run_dir = RunDir(args.output_dir, args.model, args.id)
    from core import checkpoints, devices, evaluation, notifier
    from core.reporting import console

    names = evaluation.check_metrics(args.metrics or model_cls.metrics, model_cls)

    with console():
        own = checkpoints.Checkpoints(run_dir.checkpoints)
        folder = checkpoints.find(args.resume, own)
        if folder is None and args.resume == "latest":
            raise UserError(
                f"the run {run_dir.root} has no checkpoint to evaluate; check -o and --id, or use "
                "--resume none for an untrained network"
            )
        job = _Job(args, model_cls, _saved_config(run_dir, folder))
        seen = job.config.data if job.config else {job.loader_name: {}}
        if job.loader_name not in seen and not args.data_hparams:
            raise UserError(
                f"the run {run_dir.root} never saw the loader {job.loader_name!r}: name its "
                f"folders with --data-hparams (it saw: {', '.join(seen)})"
            )
        slack = notifier.read_config(job.base.slack_config)
        run_dir.create()
        devices.setup(args.gpu, job.base.seed, job.base.deterministic)
        with _resources_explained(job):
            dataset, model = job.build()
            step = 0
            if folder is not None:
                vocabulary = dataset.vocabulary.names
                step = checkpoints.load(model, folder, vocabulary, job.hint()).step
                log.info("evaluating %s", folder)
            else:
                model.load_pretrained()
                log.info("--resume none: evaluating an untrained network")
            results = evaluation.run(model, dataset, run_dir.evaluation, names, step=step)
        with notifier.Notifier(slack, run_dir, job.base.goal) as thread:
            thread.post(*evaluation.message(results, step))


# --- hparams help ---------------------------------------------------------------------------------


def help_hps(model_name: Optional[str] = None, loader_name: Optional[str] = None) -> str:
    """Text of `--help-hps`: the base group, and the groups of the model and the loader named.

    Without a model: of all models and loaders. With a model alone: its loaders.
    """
    models = [model_name] if model_name else MODELS.names()
    loaders = [loader_name] if loader_name else LOADERS.names()
    if model_name and not loader_name:
        loaders = [n for n in loaders if _fits(MODELS[model_name], LOADERS[n])]
    parts = [("--base-hparams", hparams.BaseHParams)]
    parts += [(f"--hparams of {name}", MODELS[name].HParams) for name in models]
    parts += [(f"--data-hparams of {name}", LOADERS[name].HParams) for name in loaders]
    return "\n\n".join(f"{title}\n{hparams.describe(cls)}" for title, cls in parts)


# --- shared ---------------------------------------------------------------------------------------


def _common_flags(parser: argparse.ArgumentParser, resume: str) -> None:
    parser.add_argument("model", nargs="?", help="name of the model")
    parser.add_argument("--data-loader", metavar="NAME", help="name of the data loader")
    parser.add_argument("-o", "--output-dir", metavar="DIR", help="folder of all runs")
    parser.add_argument("--id", metavar="ID", help="the run is <output dir>/<model>-<id>")
    parser.add_argument("-p", "--hparams", action="append", metavar="a=1,b=2", help="of the model")
    parser.add_argument("-dp", "--data-hparams", action="append", metavar="a=1,b=2")
    parser.add_argument("--base-hparams", action="append", metavar="a=1,b=2")
    parser.add_argument("-g", "--gpu", type=int, nargs="+", metavar="N", help="GPU numbers")
    parser.add_argument("-r", "--resume", default=resume, help=f"{RESUME_HELP} (default: {resume})")


def _require(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    wanted = {"model": args.model, "--output-dir": args.output_dir, "--id": args.id}
    missing = [name for name, value in wanted.items() if not value]
    if missing:
        hint = f"; models: {', '.join(MODELS.names())}" if "model" in missing else ""
        raise UsageError(f"missing: {', '.join(missing)}{hint}. See {parser.prog} --help")


def _fits(model_cls: type, loader_cls: type) -> bool:
    return model_cls.batch_type == loader_cls.batch_type.__name__


def _fitting(model_cls: type) -> str:
    return ", ".join(name for name in LOADERS if _fits(model_cls, LOADERS[name])) or "none yet"


def _check_fit(model_name: str, model_cls: type, loader_name: str, loader_cls: type) -> None:
    if not _fits(model_cls, loader_cls):
        raise UsageError(
            f"{model_name} does not take the batches of the loader {loader_name!r}; "
            f"choose of {_fitting(model_cls)}"
        )


def _fill(
    flag: str,
    texts: "Optional[Sequence[str]]",
    cls: type,
    saved: "Optional[dict[str, Any]]",
    where: str,
) -> Any:
    """An hparams instance; a flag given more than once counts as one string."""
    values: dict[str, Any] = {}
    if saved is not None:
        checked = hparams.from_dict(cls, saved, where)
        values = {name: getattr(checked, name) for name in saved}
    try:
        return hparams.parse(",".join(text for text in texts or () if text), cls, **values)
    except HParamError as error:
        raise HParamError(f"{flag}: {error}") from None


def _saved_config(run_dir: RunDir, folder: Optional[Path]) -> Optional[Path]:
    """config.json of the run, else of the run that the checkpoint lies in, else None."""
    paths = [run_dir.config]
    if folder is not None:
        paths.append(folder.resolve().parent.parent / "config.json")
    return next((path for path in paths if path.is_file()), None)


@contextlib.contextmanager
def _resources_explained(job: _Job) -> "Iterator[None]":
    """A broken record and too little memory as one sentence."""
    import tensorflow as tf

    try:
        yield
    except (
        tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError
    ) as error:  # fmt: skip
        from dataloaders import blocks

        reason = blocks.explain(error, job.folders())
        if reason:
            raise UserError(reason) from None
        if isinstance(error, tf.errors.DataLossError):
            first = (error.message.strip() or "no reason given").splitlines()[0]
            raise UserError(
                f"a record could not be read ({first}), but the sets read well now: start again, "
                "and look at the disk if it happens again"
            ) from None
        raise  # a fault of the program
    except tf.errors.ResourceExhaustedError:
        raise UserError("out of memory: use a smaller batch_size in --base-hparams") from None
