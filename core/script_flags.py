"""Flags of the three scripts, and their help on hparams (`--help-hps`)."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Sequence

from core import hparams
from core.commands import Parser
from core.errors import UsageError
from core.registry import EXPERIMENTS, LOADERS, MODELS, Registry
from core.run_folder import RunFolder
from core.run_settings import HParamFlags, takes_batches_of

FLAGS = ("--base-hparams", "--hparams", "--data-hparams")
MIXED = ("--model-hparams",) * 3


def parse_train(argv: Sequence[str]) -> Namespace | None:
    """Return the flags of train.py; None when they asked for help alone. UsageError for others."""
    parser = _model_parser("train.py", "Train a model.", resume="none")
    parser.add_argument(
        "--allow-data-change", action="store_true", help="go on though the data have changed"
    )
    return _of_model(parser, argv)


def parse_evaluate(argv: Sequence[str]) -> Namespace | None:
    """Return the flags of evaluate-metrics.py, as `parse_train`."""
    text = "Compute metrics of a trained model."
    parser = _model_parser("evaluate-metrics.py", text, resume="latest")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="default: all of the model's")
    parser.add_argument("--all", action="store_true", help="print all protocols and controls")
    return _of_model(parser, argv)


def parse_experiment(argv: Sequence[str]) -> Namespace | None:
    """Return the flags of run-experiment.py, as `parse_train`."""
    parser = Parser(prog="run-experiment.py", description="Run an experiment.")
    parser.add_argument("experiment", nargs="?", help="name of the experiment")
    parser.add_argument("--model-name", metavar="NAME", help="name of the model")
    parser.add_argument("--model-id", metavar="ID", help="its run is <output dir>/<model>-<id>")
    _hparams_flag(parser, "--model-hparams", "of the model and of the data loader, mixed")
    _hparams_flag(parser, "--exp-hparams", "of the experiment")
    _shared_flags(parser, "the experiment's folder is <output dir>/<experiment>-<id> (default: the "
                  "model's id)", resume="latest")  # fmt: skip
    args = parser.parse_args(list(argv))
    if args.help_hps:
        names = [args.experiment] if args.experiment else EXPERIMENTS
        groups = [(f"--exp-hparams of {each}", EXPERIMENTS[each].HParams) for each in names]
        if args.model_name or args.data_loader or not args.experiment:
            groups += _groups(args.model_name, args.data_loader, MIXED)
        return _print_help(groups)
    args.id = args.id or args.model_id
    _require(parser, EXPERIMENTS, args, "experiment")
    needs_model = EXPERIMENTS[args.experiment].needs_model
    model_flags = ("--model-name", "--model-id") if needs_model else ()
    _require(parser, MODELS, args, *model_flags, "--output-dir", "--id")
    args.mixed = _joined(args.model_hparams)
    args.exp_hparams = _joined(args.exp_hparams)
    return args


def _of_model(parser: Parser, argv: Sequence[str]) -> Namespace | None:
    args = parser.parse_args(list(argv))
    if args.help_hps:
        return _print_help(_groups(args.model, args.data_loader, FLAGS))
    _require(parser, MODELS, args, "model", "--output-dir", "--id")
    texts = (args.base_hparams, args.hparams, args.data_hparams)
    args.flags = HParamFlags(*map(_joined, texts))
    args.folder = RunFolder(args.output_dir, args.model, args.id)
    return args


def _model_parser(script: str, description: str, resume: str) -> Parser:
    parser = Parser(prog=script, description=description)
    parser.add_argument("model", nargs="?", help="name of the model")
    _hparams_flag(parser, "-p", "of the model", "--hparams")
    _hparams_flag(parser, "-dp", "of the data loader", "--data-hparams")
    _hparams_flag(parser, "--base-hparams", "of every training")
    _shared_flags(parser, "the run is <output dir>/<model>-<id>", resume)
    return parser


def _hparams_flag(parser: Parser, name: str, help: str, *more: str) -> None:
    parser.add_argument(name, *more, action="append", metavar="a=1,b=2", help=help)


def _shared_flags(parser: Parser, id_help: str, resume: str) -> None:
    resume_help = f"none, latest, or a checkpoint folder (default: {resume})"
    parser.add_argument("--data-loader", metavar="NAME", help="name of the data loader")
    parser.add_argument("-o", "--output-dir", metavar="DIR", help="folder of all runs")
    parser.add_argument("--id", metavar="ID", help=id_help)
    parser.add_argument("-g", "--gpu", type=int, nargs="+", metavar="N", help="GPU numbers")
    parser.add_argument("-r", "--resume", default=resume, help=resume_help)
    parser.add_argument("--help-hps", action="store_true", help="print the hparams and end")


def _require(parser: Parser, registry: Registry, args: Namespace, *names: str) -> None:
    """UsageError unless all the arguments are given. registry: of the names that may be missing."""
    given = vars(args)
    missing = [name for name in names if not given[name.lstrip("-").replace("-", "_")]]
    if missing:
        named = {registry.kind, f"--{registry.kind}-name"}.intersection(missing)
        hint = f"; {registry.kind}s: {', '.join(registry)}" if named else ""
        raise UsageError(f"missing: {', '.join(missing)}{hint}. See {parser.prog} --help")


def _joined(texts: Sequence[str] | None) -> str:
    """Return one comma string of a flag that may be given more than once."""
    return ",".join(text for text in texts or () if text)


def _groups(
    model_name: str | None, loader_name: str | None, flags: Sequence[str]
) -> list[tuple[str, type]]:
    """Return (title, hparams class) of the base, the model and the loader named; without a name, of
    all that fit. flags: of the three groups."""
    models = [model_name] if model_name else MODELS.names()
    loaders = [loader_name] if loader_name else LOADERS.names()
    if model_name and not loader_name:
        loaders = [n for n in loaders if takes_batches_of(MODELS[model_name], LOADERS[n])]
    groups = [(flags[0], hparams.BaseHParams)]
    groups += [(f"{flags[1]} of {name}", MODELS[name].HParams) for name in models]
    return groups + [(f"{flags[2]} of {name}", LOADERS[name].HParams) for name in loaders]


def _print_help(groups: Iterable[tuple[str, type]]) -> None:
    print("\n\n".join(f"{title}\n{hparams.describe(cls)}" for title, cls in groups))
