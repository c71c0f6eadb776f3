"""The three scripts, each a recipe that reads top to bottom:

parse -> settings -> lock -> checkpoint -> data -> model -> act
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from core import commands, hparams, hparams_help
from core.commands import Parser
from core.errors import UsageError, UserError
from core.experiment import Trained
from core.files import write_json
from core.provenance import circumstances, digest
from core.registry import EXPERIMENTS, MODELS, Registry
from core.run_folder import RunFolder
from core.run_settings import HParamFlags, Settings, merge_hparams

if TYPE_CHECKING:
    from core.checkpoints import Checkpoints
    from core.dataset import Dataset
    from core.run import Run

log = logging.getLogger(__name__)

RESUME_HELP = "none, latest, or a checkpoint folder"


def main(command: Callable[[Sequence[str]], None]) -> NoReturn:
    """Run a script's command on sys.argv and exit: 0, or one sentence on stderr and its code."""
    sys.exit(commands.run(command, sys.argv[1:]))


# --- train ----------------------------------------------------------------------------------------


def train(argv: Sequence[str]) -> None:
    """Train a model into its run folder (`train.py`).

    Raises UserError for all a user can mend, core.training.StoppedError after SIGINT or SIGTERM.
    """
    parser = _parser("train.py", "Train a model.", resume="none")
    parser.add_argument(
        "--allow-data-change", action="store_true", help="go on though the data have changed"
    )
    args = parser.parse_args(list(argv))
    if args.help_hps:
        print(hparams_help.of_models(args.model, args.data_loader))
        return
    _require(parser, MODELS, args, "model", "--output-dir", "--id")
    folder = RunFolder(args.output_dir, args.model, args.id)
    from core import devices, distribution, notifier, training
    from core.checkpoints import Checkpoints, find
    from core.reporting import console
    from core.run import Run

    def settings() -> Settings:
        config = None if args.resume == "none" else _config_path(folder, args.resume)
        return Settings.merge(args.model, args.data_loader, _flags(args), config)

    with console(), contextlib.ExitStack() as stack:
        cluster = distribution.Cluster.from_environment(settings().base.distribute)
        writes = cluster is None or cluster.chief  # the other machines leave the folder alone
        if writes:
            stack.enter_context(folder.created())
            stack.enter_context(folder.lock())
        own, merged = Checkpoints(folder.checkpoints), settings()
        slack = notifier.read_config(merged.base.slack_config) if writes else None
        checkpoint = find(args.resume, own)
        _check_start(args.resume, checkpoint, own)
        if writes:
            own.clean()
            if args.resume == "latest" and checkpoint:
                own.set_aside(newer_than=checkpoint)  # they are damaged
        stack.enter_context(errors_explained(merged))
        devices.setup(args.gpu, merged.base.seed, merged.base.deterministic)
        spread = distribution.start(
            merged.base.distribute, cluster, lambda: merged.shared_facts(checkpoint)
        )
        stack.enter_context(spread.explained())
        dataset = merged.open_dataset()
        run = Run.for_training(merged, dataset, checkpoint, args.output_dir, spread.scope)
        spread.check_same_weights(run.model)
        if writes and run.step < merged.base.iterations:  # else a history should have nothing
            merged.record_start(folder, run.step, argv, args.allow_data_change)
        log.info("%s, %s", folder.root, f"from step {run.step}" if run.step else "from the start")
        thread = stack.enter_context(notifier.Notifier(slack, folder, merged.base.goal))
        training.train(run.model, dataset, folder, merged.base, run.step, thread, spread)


def _config_path(folder: RunFolder, resume: str) -> Path | None:
    """Return the config.json of the run, else of the run that the checkpoint `resume` lies in, else
    None."""
    paths = [folder.config]
    if resume not in ("none", "latest"):
        path = Path(resume).resolve()
        paths += [parent / "config.json" for parent in (path, *path.parents[:3])]
    return next((path for path in paths if path.is_file()), None)


def _check_start(resume: str, checkpoint: Path | None, own: Checkpoints) -> None:
    """Raise UserError for a start that would destroy what is there."""
    steps = own.steps()
    if resume == "none" and steps:
        raise UserError(
            f"{own.folder} already has checkpoints (newest: step {steps[-1]}); go on from them "
            "with --resume latest, or start afresh under another --id"
        )
    if resume == "latest" and checkpoint is None:
        log.info("nothing to resume in %s: starting at step 0", own.folder)
    if checkpoint is not None and steps and resume != "latest":
        from core.checkpoints import CheckpointState

        step = CheckpointState.read(checkpoint).step
        if steps[-1] > step:
            raise UserError(
                f"{own.folder} has checkpoints after step {step} (newest: step {steps[-1]}), which "
                "a training from there would mix up; move them away, or use another --id"
            )


# --- evaluate -------------------------------------------------------------------------------------


def evaluate(argv: Sequence[str]) -> None:
    """Compute metrics of a trained run on its validation set (`evaluate-metrics.py`).

    Prints a table and saves JSON into the run's evaluation folder, and sends it to Slack if that is
    configured. The run's config.json gives all hparams; flags override. Raises UserError for all a
    user can mend.
    """
    parser = _parser("evaluate-metrics.py", "Compute metrics of a trained model.", resume="latest")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="default: all of the model's")
    parser.add_argument("--all", action="store_true", help="print all protocols and controls")
    args = parser.parse_args(list(argv))
    if args.help_hps:
        print(hparams_help.of_models(args.model, args.data_loader))
        return
    _require(parser, MODELS, args, "model", "--output-dir", "--id")
    folder = RunFolder(args.output_dir, args.model, args.id)
    from core import notifier
    from core.evaluation import report
    from core.reporting import console

    names = report.check_metrics(args.metrics or MODELS[args.model].metrics, MODELS[args.model])
    with console(), folder.created():
        with _opened(folder, args.model, args, _flags(args), "--id") as (run, dataset, _):
            base = run.settings.base
            slack = notifier.read_config(base.slack_config)
            results = report.run(
                run.model,
                dataset,
                folder.evaluation,
                names,
                run.step,
                command=("evaluate-metrics.py", *argv),
                data=_data_digests(run.settings),
                whole_table=args.all,
            )
        with notifier.Notifier(slack, folder, base.goal) as thread:
            thread.post(*report.message(results, run.step))


@contextlib.contextmanager
def _opened(
    folder: RunFolder, model_name: str, args: argparse.Namespace, flags: HParamFlags, id_flag: str
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
    settings = Settings.merge(model_name, args.data_loader, flags, config, new_data=False)
    devices.setup(args.gpu, settings.base.seed, settings.base.deterministic)
    with errors_explained(settings):
        dataset = settings.open_dataset()
        if checkpoint is None:
            log.info("--resume none: an untrained network")
            run = Run.untrained(settings, dataset)
        else:
            run = Run.load(settings, checkpoint)
            what = f"the checkpoint {checkpoint}"
            checkpoints.check_vocabulary(run.vocabulary, dataset.vocabulary, what)
            log.info("opened %s", checkpoint)
        yield run, dataset, checkpoint


def _data_digests(settings: Settings) -> dict[str, str]:
    """Return a digest of each folder of data, to stand beside figures."""
    return {name: digest(files) for name, files in settings.data_files().items()}


# --- experiments ----------------------------------------------------------------------------------


def run_experiment(argv: Sequence[str]) -> None:
    """Run an experiment on a trained model, or on what another one wrote (`run-experiment.py`).

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
        print(hparams_help.of_experiments(args.experiment, args.model_name, args.data_loader))
        return
    args.id = args.id or args.model_id
    _require(parser, EXPERIMENTS, args, "experiment")
    experiment_cls = EXPERIMENTS[args.experiment]
    model_flags = ("--model-name", "--model-id") if experiment_cls.needs_model else ()
    _require(parser, MODELS, args, *model_flags, "--output-dir", "--id")
    own = RunFolder(args.output_dir, args.experiment, args.id)
    text = _joined(args.exp_hparams)
    exp_hparams = merge_hparams("--exp-hparams", text, experiment_cls.HParams, None, "")
    experiment = experiment_cls(exp_hparams, own.root)
    record = {
        "experiment": args.experiment,
        "hparams": hparams.to_dict(exp_hparams),
        **circumstances("run-experiment.py", argv),
    }
    from core.reporting import console

    act = _run_on_model if experiment_cls.needs_model else _run_on_files
    with console(), own.created():
        act(experiment, own, args, record)


def _run_on_files(
    experiment: Any, own: RunFolder, args: argparse.Namespace, record: dict[str, Any]
) -> None:
    from core import devices

    if args.model_name or args.model_id or args.model_hparams:
        log.info("%s reads files only: no model is loaded", args.experiment)
    devices.setup(args.gpu, seed=0, deterministic=False)
    experiment.prepare()
    write_json(own.config, record)
    experiment.run(None)


def _run_on_model(
    experiment: Any, own: RunFolder, args: argparse.Namespace, record: dict[str, Any]
) -> None:
    experiment.check_fit(MODELS[args.model_name])
    folder = RunFolder(args.output_dir, args.model_name, args.model_id)
    flags = HParamFlags(mixed=_joined(args.model_hparams))
    experiment.prepare()
    with _opened(folder, args.model_name, args, flags, "--model-id") as (run, dataset, checkpoint):
        record["model"] = {
            "name": args.model_name,
            "id": args.model_id,
            "checkpoint": None if checkpoint is None else str(checkpoint.resolve()),
            "step": run.step,
            "hparams": run.settings.groups(),
            "loader": run.settings.loader_name,
            "data": _data_digests(run.settings),
        }
        write_json(own.config, record)
        experiment.run(Trained(run.model, dataset, args.model_id, run.step))


# --- shared ---------------------------------------------------------------------------------------


def _parser(script: str, description: str, resume: str) -> Parser:
    parser = Parser(prog=script, description=description)
    parser.add_argument("model", nargs="?", help="name of the model")
    parser.add_argument("-p", "--hparams", action="append", metavar="a=1,b=2", help="of the model")
    parser.add_argument("-dp", "--data-hparams", action="append", metavar="a=1,b=2")
    parser.add_argument("--base-hparams", action="append", metavar="a=1,b=2")
    _shared_flags(parser, "the run is <output dir>/<model>-<id>", resume)
    return parser


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


def _flags(args: argparse.Namespace) -> HParamFlags:
    groups = (args.base_hparams, args.hparams, args.data_hparams)
    return HParamFlags(*(_joined(texts) for texts in groups))


def _joined(texts: Sequence[str] | None) -> str:
    """Return one comma string of a flag that may be given more than once."""
    return ",".join(text for text in texts or () if text)


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
