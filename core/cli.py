"""What the scripts do, in the one place that knows the order:

parse -> classes by name -> hparams -> run folder -> data -> model -> restore -> act
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from core import hparams
from core.cluster import Cluster
from core.commands import Parser, run
from core.composing import (
    Job,
    by_flag,
    by_name,
    fill,
    find_trained,
    fits,
    joined,
    load_trained,
    resources_explained,
    saved_config,
)
from core.errors import UsageError, UserError
from core.experiment import Trained
from core.files import write_json
from core.provenance import circumstances, digest
from core.registry import EXPERIMENTS, LOADERS, MODELS, Registry
from core.run_folder import RunConfig, RunFolder

log = logging.getLogger(__name__)

RESUME_HELP = "none, latest, or a checkpoint folder"


def main(command: Callable[[Sequence[str]], None]) -> NoReturn:
    """Run a script's command on sys.argv and exit: 0, or one sentence on stderr and its code."""
    sys.exit(run(command, sys.argv[1:]))


# --- train ----------------------------------------------------------------------------------------


def train(argv: Sequence[str]) -> None:
    """`train.py`: train a model into its run folder.

    Raises UserError for all a user can mend, core.training.StoppedError after SIGINT or SIGTERM.
    """
    parser = Parser(prog="train.py", description="Train a model.")
    _common_flags(parser, resume="none")
    parser.add_argument(
        "--allow-data-change", action="store_true", help="go on though the data have changed"
    )
    args = parser.parse_args(list(argv))
    if args.help_hps:
        print(help_hps(args.model, args.data_loader))
        return
    _require(parser, MODELS, args, "model", "--output-dir", "--id")
    run_dir = RunFolder(args.output_dir, args.model, args.id)
    from core import checkpoints, devices, distribution, notifier
    from core.reporting import console

    with console():
        own = checkpoints.Checkpoints(run_dir.checkpoints)
        newest = own.latest()
        folder = checkpoints.find(args.resume, own)
        _check_start(args.resume, folder, own)
        # A fresh start takes nothing from what an earlier attempt left in the folder.
        saved = saved_config(run_dir, folder) if args.resume != "none" else None
        job = Job(args.model, args.data_loader, by_flag(args), saved)
        cluster = Cluster.of(job.base.distribute)
        writes = cluster is None or cluster.chief  # others leave the run's folder alone
        slack = notifier.read_config(job.base.slack_config) if writes else None
        with contextlib.ExitStack() as stack:
            if writes:
                stack.enter_context(run_dir.created())
                stack.enter_context(run_dir.lock())
            stack.enter_context(resources_explained(job))
            if own.latest() != newest:
                raise UserError(f"{run_dir.root} has gone on in the meantime; start again")
            _check_start(args.resume, folder, own)
            if writes:
                own.clean()
                if args.resume == "latest" and folder:
                    own.set_aside(newer_than=folder)  # they are damaged
            devices.setup(args.gpu, job.base.seed, job.base.deterministic)
            spread = distribution.start(job.base.distribute, cluster, lambda: job.facts(folder))
            stack.enter_context(spread.explained())
            dataset, model = job.build(spread.scope)
            start = _restore_for_training(job, model, dataset, folder, args)
            spread.check_alike(model)
            if writes and start < job.base.iterations:  # else a history should have nothing
                hashes = job.contents()
                if not args.allow_data_change:
                    job.check_same_data(hashes)
                _save_config(run_dir, job, start, argv, hashes)
            log.info("%s, %s", run_dir.root, f"from step {start}" if start else "from the start")
            from core import training

            thread = stack.enter_context(notifier.Notifier(slack, run_dir, job.base.goal))
            training.train(model, dataset, run_dir, job.base, start, thread, spread)


def _check_start(resume: str, folder: Path | None, own: Any) -> None:
    """The rules that keep a training from destroying what is there."""
    steps = own.steps()
    if resume == "none" and steps:
        raise UserError(
            f"{own.folder} already has checkpoints (newest: step {steps[-1]}); go on from them "
            "with --resume latest, or start afresh under another --id"
        )
    if resume == "latest" and folder is None:
        log.info("nothing to resume in %s: starting at step 0", own.folder)
    if folder is not None and steps and resume != "latest":
        from core.checkpoints import State

        step = State.read(folder).step
        if steps[-1] > step:
            raise UserError(
                f"{own.folder} has checkpoints after step {step} (newest: step {steps[-1]}), which "
                "a training from there would mix up; move them away, or use another --id"
            )


def _restore_for_training(
    job: Job, model: Any, dataset: Any, folder: Path | None, args: argparse.Namespace
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
    other = RunFolder(args.output_dir, name, run_id)
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


def _check_same_parts(job: Job, name: str, config: RunConfig, path: Path) -> None:
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


def _save_config(
    run_dir: RunFolder, job: Job, start: int, argv: Sequence[str], hashes: dict[str, dict[str, str]]
) -> None:
    groups = job.groups()
    old, loader = job.config, job.loader_name
    entry = {
        "step": start,
        "loader": loader,
        **circumstances("train.py", argv),
        "seed": job.base.seed,
        "data": {name: digest(each) for name, each in hashes.items()},
        "changes": {**job.changes(), **job.data_changes(hashes)},
    }
    RunConfig(
        model=job.model_name,
        loader=loader,
        base=groups["base"],
        model_hparams=groups["model"],
        data={**(old.data if old else {}), loader: groups[f"data.{loader}"]},
        history=(*(old.history if old else ()), entry),
        contents={**(old.contents if old else {}), loader: hashes},
    ).write(run_dir.config)


# --- evaluate -------------------------------------------------------------------------------------


def evaluate(argv: Sequence[str]) -> None:
    """`evaluate-metrics.py`: compute metrics of a trained run on its validation set.

    Prints a table and saves JSON into the run's evaluation folder, and sends it to Slack if that is
    configured. The run's config.json gives all hparams; flags override. Raises UserError for all a
    user can mend.
    """
    parser = Parser(prog="evaluate-metrics.py", description="Compute metrics of a trained model.")
    _common_flags(parser, resume="latest")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="default: all of the model's")
    parser.add_argument("--all", action="store_true", help="print all protocols and controls")
    args = parser.parse_args(list(argv))
    if args.help_hps:
        print(help_hps(args.model, args.data_loader))
        return
    _require(parser, MODELS, args, "model", "--output-dir", "--id")
    run_dir = RunFolder(args.output_dir, args.model, args.id)
    from core import devices, notifier
    from core.evaluation import report
    from core.reporting import console

    model_cls = MODELS[args.model]
    names = report.check_metrics(args.metrics or model_cls.metrics, model_cls)

    with console():
        folder = find_trained(run_dir, args.resume, "--id")
        saved = saved_config(run_dir, folder)
        job = Job(args.model, args.data_loader, by_flag(args), saved, evaluating=True)
        slack = notifier.read_config(job.base.slack_config)
        devices.setup(args.gpu, job.base.seed, job.base.deterministic)
        with run_dir.created(), resources_explained(job):
            dataset, model, step = load_trained(job, folder)
            found = report.run(
                model,
                dataset,
                run_dir.evaluation,
                names,
                step,
                command=("evaluate-metrics.py", *argv),
                data=job.data_digests(),
                whole_table=args.all,
            )
        with notifier.Notifier(slack, run_dir, job.base.goal) as thread:
            thread.post(*report.message(found, step))


# --- experiments ----------------------------------------------------------------------------------


def run_experiment(argv: Sequence[str]) -> None:
    """`run-experiment.py`: run an experiment, on a trained model or on what another one wrote.

    The model's config.json gives all its hparams; flags override. What was run is recorded in the
    experiment's own folder. Raises UserError for all a user can mend.
    """
    parser = Parser(prog="run-experiment.py", description="Run an experiment.")
    parser.add_argument("experiment", nargs="?", help="name of the experiment")
    parser.add_argument("--model-name", metavar="NAME", help="name of the model")
    parser.add_argument("--model-id", metavar="ID", help="its run is <output dir>/<model>-<id>")
    parser.add_argument("--model-hparams", action="append", metavar="a=1,b=2",
                        help="of the model and of the data loader, mixed")  # fmt: skip
    parser.add_argument("--exp-hparams", action="append", metavar="a=1,b=2")
    _shared_flags(parser, "the experiment's folder is <output dir>/<experiment>-<id> (default: the "
                  "model's id)", resume="latest")  # fmt: skip
    args = parser.parse_args(list(argv))
    if args.help_hps:
        print(experiment_help(args.experiment, args.model_name, args.data_loader))
        return
    args.id = args.id or args.model_id
    _require(parser, EXPERIMENTS, args, "experiment")
    experiment_cls = EXPERIMENTS[args.experiment]
    model_flags = ("--model-name", "--model-id") if experiment_cls.needs_model else ()
    _require(parser, MODELS, args, *model_flags, "--output-dir", "--id")
    own = RunFolder(args.output_dir, args.experiment, args.id)
    exp_hparams = fill("--exp-hparams", joined(args.exp_hparams), experiment_cls.HParams)
    experiment = experiment_cls(exp_hparams, own.root)
    from core import devices
    from core.reporting import console

    record = {
        "experiment": args.experiment,
        "hparams": hparams.to_dict(exp_hparams),
        **circumstances("run-experiment.py", argv),
    }
    with console():
        if not experiment_cls.needs_model:
            if args.model_name or args.model_id or args.model_hparams:
                log.info("%s reads files only: no model is loaded", args.experiment)
            devices.setup(args.gpu, seed=0, deterministic=False)
            with own.created():
                experiment.prepare()
                write_json(own.config, record)
                experiment.run(None)
            return
        experiment_cls.check_fit(MODELS[args.model_name])
        run_dir = RunFolder(args.output_dir, args.model_name, args.model_id)
        folder = find_trained(run_dir, args.resume, "--model-id")
        given = by_name("--model-hparams", args.model_hparams)
        saved = saved_config(run_dir, folder)
        job = Job(args.model_name, args.data_loader, given, saved, evaluating=True)
        devices.setup(args.gpu, job.base.seed, job.base.deterministic)
        with own.created(), resources_explained(job):
            experiment.prepare()
            dataset, model, step = load_trained(job, folder)
            record["model"] = {
                "name": args.model_name,
                "id": args.model_id,
                "checkpoint": None if folder is None else str(folder.resolve()),
                "step": step,
                "hparams": job.groups(),
                "loader": job.loader_name,
                "data": job.data_digests(),
            }
            write_json(own.config, record)
            experiment.run(Trained(model, dataset, args.model_id, step))


# --- hparams help ---------------------------------------------------------------------------------


def help_hps(model_name: str | None = None, loader_name: str | None = None) -> str:
    """Text of `--help-hps` of train.py and evaluate-metrics.py: the base group, and the groups of
    the model and the loader named. Without a model: of all models and loaders. With a model alone:
    its loaders."""
    flags = {"base": "--base-hparams", "model": "--hparams", "data": "--data-hparams"}
    return _described(_groups(model_name, loader_name, flags))


def experiment_help(
    name: str | None = None, model_name: str | None = None, loader_name: str | None = None
) -> str:
    """Text of `run-experiment.py --help-hps`: the experiment's hparams, and what --model-hparams
    takes when a model or a loader is named. Without any name: of everything."""
    experiments = [name] if name else EXPERIMENTS.names()
    groups = [(f"--exp-hparams of {each}", EXPERIMENTS[each].HParams) for each in experiments]
    if model_name or loader_name or not name:
        flags = dict.fromkeys(("base", "model", "data"), "--model-hparams")
        groups += _groups(model_name, loader_name, flags)
    return _described(groups)


def _groups(
    model_name: str | None, loader_name: str | None, flags: dict[str, str]
) -> list[tuple[str, type]]:
    models = [model_name] if model_name else MODELS.names()
    loaders = [loader_name] if loader_name else LOADERS.names()
    if model_name and not loader_name:
        loaders = [n for n in loaders if fits(MODELS[model_name], LOADERS[n])]
    groups = [(flags["base"], hparams.BaseHParams)]
    groups += [(f"{flags['model']} of {name}", MODELS[name].HParams) for name in models]
    groups += [(f"{flags['data']} of {name}", LOADERS[name].HParams) for name in loaders]
    return groups


def _described(groups: Iterable[tuple[str, type]]) -> str:
    return "\n\n".join(f"{title}\n{hparams.describe(cls)}" for title, cls in groups)


# --- shared ---------------------------------------------------------------------------------------


def _common_flags(parser: argparse.ArgumentParser, resume: str) -> None:
    parser.add_argument("model", nargs="?", help="name of the model")
    parser.add_argument("-p", "--hparams", action="append", metavar="a=1,b=2", help="of the model")
    parser.add_argument("-dp", "--data-hparams", action="append", metavar="a=1,b=2")
    parser.add_argument("--base-hparams", action="append", metavar="a=1,b=2")
    _shared_flags(parser, "the run is <output dir>/<model>-<id>", resume)


def _shared_flags(parser: argparse.ArgumentParser, id_help: str, resume: str) -> None:
    parser.add_argument("--data-loader", metavar="NAME", help="name of the data loader")
    parser.add_argument("-o", "--output-dir", metavar="DIR", help="folder of all runs")
    parser.add_argument("--id", metavar="ID", help=id_help)
    parser.add_argument("-g", "--gpu", type=int, nargs="+", metavar="N", help="GPU numbers")
    parser.add_argument("-r", "--resume", default=resume, help=f"{RESUME_HELP} (default: {resume})")
    parser.add_argument("--help-hps", action="store_true", help="print the hparams and end")


def _require(
    parser: argparse.ArgumentParser, registry: Registry, args: argparse.Namespace, *names: str
) -> None:
    """UsageError unless all the arguments are given. registry: of the names that may be missing."""
    attribute = {name: name.lstrip("-").replace("-", "_") for name in names}
    missing = [name for name in names if not getattr(args, attribute[name])]
    if missing:
        named = {registry.kind, f"--{registry.kind}-name"}.intersection(missing)
        hint = f"; {registry.kind}s: {', '.join(registry.names())}" if named else ""
        raise UsageError(f"missing: {', '.join(missing)}{hint}. See {parser.prog} --help")
