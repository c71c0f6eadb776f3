"""The three scripts, each a recipe that reads top to bottom:

parse -> settings -> lock -> checkpoint -> data -> model -> act
"""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from core import commands, hparams, script_flags
from core.errors import UsageError, UserError
from core.experiment import Experiment, Trained
from core.files import write_json
from core.provenance import circumstances
from core.registry import EXPERIMENTS, MODELS
from core.run_folder import RunFolder
from core.run_settings import HParamFlags, Settings, merge_hparams

if TYPE_CHECKING:
    from core.checkpoints import Checkpoints
    from core.dataset import Dataset
    from core.run import Run

log = logging.getLogger(__name__)


def main(command: Callable[[Sequence[str]], None]) -> NoReturn:
    """Run a script's command on sys.argv and exit: 0, or one sentence on stderr and its code."""
    sys.exit(commands.run(command, sys.argv[1:]))


# --- train ----------------------------------------------------------------------------------------


def train(argv: Sequence[str]) -> None:
    """Train a model into its run folder (`train.py`).

    Raises UserError for all a user can mend, StoppedError after SIGINT or SIGTERM.
    """
    args = script_flags.parse_train(argv)
    if args is None:
        return
    from core import devices, distribution, notifier, training
    from core.checkpoints import Checkpoints
    from core.reporting import console
    from core.run import Run

    folder, checkpoints = args.folder, Checkpoints(args.folder.checkpoints)
    distribute = _settings(args).base.distribute  # what it notices is logged below, once
    with console(), contextlib.ExitStack() as stack:
        cluster = distribution.Cluster.from_environment(distribute)
        writes = cluster is None or cluster.chief  # the other machines leave the folder alone
        if writes:
            stack.enter_context(folder.created())
            stack.enter_context(folder.lock())
        settings = _settings(args)  # again: the lock's last holder may have written config.json
        base = settings.base
        slack = notifier.read_config(base.slack_config) if writes else None
        checkpoint = _find_start(args.resume, checkpoints, writes)
        stack.enter_context(errors_explained(settings))
        devices.setup(args.gpu, base.seed, base.deterministic)
        spread = distribution.start(
            base.distribute, cluster, lambda: settings.shared_facts(checkpoint)
        )
        stack.enter_context(spread.explained())
        dataset = settings.open_dataset()
        run = Run.for_training(settings, dataset, checkpoint, args.output_dir, spread.scope)
        dataset.prepare_for(run.model)
        spread.check_same_weights(run.model)
        if writes and run.step < base.iterations:  # else a history should have nothing
            settings.record_start(folder, run.step, argv, args.allow_data_change)
        log.info("%s, %s", folder.root, f"from step {run.step}" if run.step else "from the start")
        thread = stack.enter_context(notifier.Notifier(slack, folder, base.goal))
        gc.freeze()  # else each collection during tracing would search all that is imported
        training.train(run.model, dataset, folder, base, run.step, thread, spread)


def _settings(args: Namespace) -> Settings:
    config = None if args.resume == "none" else _config_path(args.folder, args.resume)
    return Settings.merge(args.model, args.data_loader, args.flags, config)


def _config_path(folder: RunFolder, resume: str) -> Path | None:
    """Return the config.json of the run, else of the run that the checkpoint `resume` lies in, else
    None."""
    paths = [folder.config]
    if resume not in ("none", "latest"):
        path = Path(resume).resolve()
        paths += [parent / "config.json" for parent in (path, *path.parents[:3])]
    return next((path for path in paths if path.is_file()), None)


def _find_start(resume: str, checkpoints: Checkpoints, writes: bool) -> Path | None:
    """Return the checkpoint to start from, None for step 0. UserError for a start that would
    destroy what is there. writes: whether this process may tidy the folder up."""
    from core.checkpoints import CheckpointState, find

    checkpoint, steps = find(resume, checkpoints), checkpoints.steps()
    if resume == "none" and steps:
        raise UserError(
            f"{checkpoints.folder} already has checkpoints (newest: step {steps[-1]}); go on from "
            "them with --resume latest, or start afresh under another --id"
        )
    if checkpoint is None:
        if resume == "latest":
            log.info("nothing to resume in %s: starting at step 0", checkpoints.folder)
    elif steps and resume != "latest":
        step = CheckpointState.read(checkpoint).step
        if steps[-1] > step:
            raise UserError(
                f"{checkpoints.folder} has checkpoints after step {step} (newest: step "
                f"{steps[-1]}), which a training from there would mix up; move them away, or use "
                "another --id"
            )
    if writes:
        checkpoints.clean()
        if resume == "latest" and checkpoint:
            checkpoints.set_aside(newer_than=checkpoint)  # they are damaged
    return checkpoint


# --- evaluate -------------------------------------------------------------------------------------


def evaluate(argv: Sequence[str]) -> None:
    """Compute metrics of a trained run on its validation set (`evaluate-metrics.py`).

    Prints a table and saves JSON into the run's evaluation folder, and sends it to Slack if that is
    configured. The run's config.json gives all hparams; flags override. Raises UserError for all a
    user can mend.
    """
    args = script_flags.parse_evaluate(argv)
    if args is None:
        return
    from core import notifier
    from core.evaluation import report
    from core.reporting import console

    folder, model_cls = args.folder, MODELS[args.model]
    names = report.check_metrics(args.metrics or model_cls.metrics, model_cls)
    # A run that is there need not be writable.
    with console(), contextlib.nullcontext() if folder.config.is_file() else folder.created():
        with _opened(folder, args, args.flags, "--id") as (run, dataset, _):
            base = run.settings.base
            slack = notifier.read_config(base.slack_config)
            results = report.run(
                run.model,
                dataset,
                folder.evaluation,
                names,
                run.step,
                command=("evaluate-metrics.py", *argv),
                data=run.settings.data_digests(),
                whole_table=args.all,
            )
        with notifier.Notifier(slack, folder, base.goal) as thread:
            thread.post(*report.message(results, run.step))


@contextlib.contextmanager
def _opened(
    folder: RunFolder, args: Namespace, flags: HParamFlags, id_flag: str
) -> Iterator[tuple[Run, Dataset, Path | None]]:
    """Open a run with its data for a block: (run, dataset, checkpoint folder; None for an untrained
    network). id_flag: names the run's id, for messages."""
    from core import checkpoints, devices
    from core.run import Run

    checkpoint = checkpoints.find(args.resume, checkpoints.Checkpoints(folder.checkpoints))
    if checkpoint is None and args.resume == "latest":
        raise UserError(
            f"the run {folder.root} has no checkpoint to evaluate; check -o and {id_flag}, or "
            "use --resume none for an untrained network"
        )
    config = _config_path(folder, args.resume)
    settings = Settings.merge(folder.model_name, args.data_loader, flags, config, new_data=False)
    devices.setup(args.gpu, settings.base.seed, settings.base.deterministic)
    with errors_explained(settings):
        dataset = settings.open_dataset()
        if checkpoint is None:
            log.info("--resume none: an untrained network")
            run = Run.untrained(settings, dataset)
        else:
            run = Run.load(settings, checkpoint)
            what = f"the checkpoint {checkpoint}"
            checkpoints.check_vocabulary(run.model, run.vocabulary, dataset.vocabulary, what)
            log.info("opened %s", checkpoint)
        dataset.prepare_for(run.model)
        yield run, dataset, checkpoint


# --- experiments ----------------------------------------------------------------------------------


def run_experiment(argv: Sequence[str]) -> None:
    """Run an experiment on a trained model, or on what another one wrote (`run-experiment.py`).

    The model's config.json gives all its hparams; flags override. What was run is recorded in the
    experiment's own folder. Raises UserError for all a user can mend.
    """
    args = script_flags.parse_experiment(argv)
    if args is None:
        return
    from core import devices
    from core.reporting import console

    experiment_cls = EXPERIMENTS[args.experiment]
    exp_folder = RunFolder(args.output_dir, args.experiment, args.id)
    exp_hparams = merge_hparams("--exp-hparams", args.exp_hparams, experiment_cls.HParams, None, "")
    experiment = experiment_cls(exp_hparams, exp_folder.root)
    record = {
        "experiment": args.experiment,
        "hparams": hparams.to_dict(exp_hparams),
        **circumstances("run-experiment.py", argv),
    }
    with console(), contextlib.ExitStack() as stack:
        record_path = exp_folder.config
        try:
            stack.enter_context(exp_folder.created())
        except UserError as error:  # runs of someone else
            if experiment.results == exp_folder.root:
                raise UserError(f"{error}, or with --exp-hparams results=FOLDER") from None
            record_path = experiment.results / f"{exp_folder.root.name}.json"
            log.warning("%s: what is run is recorded in %s", error, record_path)
        if experiment_cls.needs_model:
            _run_on_model(experiment, record_path, args, record)
            return
        if args.model_name or args.model_id or args.mixed:
            log.info("%s reads files only: no model is loaded", args.experiment)
        devices.setup(args.gpu, seed=0, deterministic=False)
        experiment.prepare()
        write_json(record_path, record)
        experiment.run(None)


def _run_on_model(
    experiment: Experiment, record_path: Path, args: Namespace, record: dict[str, Any]
) -> None:
    experiment.check_fit(MODELS[args.model_name])
    folder = RunFolder(args.output_dir, args.model_name, args.model_id)
    flags = HParamFlags(mixed=args.mixed)
    experiment.prepare()
    with _opened(folder, args, flags, "--model-id") as (run, dataset, checkpoint):
        record["model"] = {
            "name": args.model_name,
            "id": args.model_id,
            "checkpoint": None if checkpoint is None else str(checkpoint.resolve()),
            "step": run.step,
            "hparams": run.settings.groups(),
            "loader": run.settings.loader_name,
            "data": run.settings.data_digests(),
        }
        if not dataset.has_objects:
            raise UsageError(
                f"{args.experiment} looks at the objects of scenes, and those of {dataset.name} "
                "have none"
            )
        write_json(record_path, record)
        experiment.run(Trained(run.model, dataset, args.model_id, run.step))


@contextlib.contextmanager
def errors_explained(settings: Settings) -> Iterator[None]:
    """Turn a prepared set that cannot be read, and too little memory, into a UserError."""
    import tensorflow as tf

    from dataloaders.blocks import reading_errors_explained

    try:
        with reading_errors_explained(settings.data_folders().values()):
            yield
    except tf.errors.ResourceExhaustedError:
        raise UserError("out of memory: use a smaller batch_size") from None
