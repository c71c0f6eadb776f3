"""The paper's ablations: `python -m experiments.tables.ablations -o DIR --id ID --iterations N`.

    run <ID> -> training and evaluation of each ablation -> table, <DIR>/<ID>-ablations.md

Each run is that of <ID> with one thing changed, trained anew from the same stage 1 with the same
data and seed as run <ID>-<ablation>; <ID>-full has nothing changed. They are made one after the
other in this process. The same command again goes on where it was stopped.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import cli, hparams
from core.commands import Parser, run
from core.errors import StoppedError, UsageError, UserError
from core.evaluation import figure_files
from core.files import write_atomic
from core.registry import LOADERS, MODELS, closest
from core.run_folder import RunConfig, RunFolder
from experiments.tables import table

MODEL = "graph-attention"
FULL = "full"
# The ablations of the paper, in the order of the model.
ABLATIONS: dict[str, Any] = {
    "abbl_skip_graph": True,
    "abbl_skip_transformer": True,
    "use_pos_encoding": False,
    "no_global_contrastive": True,
    "abbl_no_shuffled_negative": True,
    "abbl_clas_loss": 0.0,
    "abbl_triplet_loss": 0.0,
    "clas_on_final": False,
    "abbl_mask_recon_loss": 0.0,
    "abbl_no_skt_mask_loss": True,
    "abbl_no_mask_gan": True,
    "abbl_include_feat_loss": True,
}
NAMES = (FULL, *ABLATIONS)
METRICS = ("sbir-mAP", "sbir-top1", "sbir-top5", "sbir-top10")
MASK_METRIC = "mask-iou"
SPLIT = "valid"
NEVER = 10**9  # steps: only the end is evaluated, and only its checkpoint kept for ever


def main(argv: Sequence[str]) -> None:
    """Train and evaluate the runs that are missing, print and save the table.

    UserError for what a user can mend (when runs have failed: at the end), StoppedError after a
    signal; the table of the runs that are done is saved then."""
    parser = Parser(
        prog="python -m experiments.tables.ablations", description=__doc__.split(":")[0]
    )
    parser.add_argument("-o", "--output-dir", metavar="DIR", required=True, help="folder of runs")
    parser.add_argument("--id", metavar="ID", required=True, help=f"of a trained {MODEL} run there")
    parser.add_argument("--iterations", type=int, metavar="N", required=True, help="of each run")
    parser.add_argument("--seed", type=int, metavar="N", help="of each run (default: that of ID)")
    parser.add_argument("--only", metavar="a,b", help=f"some of {', '.join(NAMES)}")
    args = parser.parse_args(list(argv))
    names = args.only.split(",") if args.only else NAMES
    for name in names:
        if name not in NAMES:
            near = closest(name, list(NAMES))
            raise UsageError(f"--only: {name!r} is no ablation.{near} Valid: {', '.join(NAMES)}")
    study = Study.of_run(args.output_dir, args.id, args.iterations, args.seed)
    ablations = [ablation for ablation in study.ablations if ablation.name in names]
    failed = []
    for ablation in ablations:
        try:
            ablation.make()
        except StoppedError:
            raise
        except UserError as error:
            _tell(f"error: {ablation.label}: {error}")
            failed.append(ablation.label)
        study.save_table()
    if study.path.is_file():
        print(f"{study.path.read_text(encoding='utf-8')}\nsaved: {study.path}")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(ablations)} runs failed, see above: {'; '.join(failed)}"
        )


@dataclass(frozen=True)
class Ablation:
    """One run of a study: the hparams that are changed, its folder, and all its hparams."""

    name: str
    changes: Mapping[str, Any]
    run: RunFolder
    loader: str
    base: Mapping[str, Any]
    model: Mapping[str, Any]
    data: Mapping[str, Any]

    @property
    def label(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.changes.items()) or self.name

    @property
    def evaluation(self) -> Path:
        step = self.base["iterations"]
        return self.run.evaluation / f"{self.loader}-{SPLIT}-step-{step}.json"

    def is_done(self) -> bool:
        """Return whether it is trained and evaluated. UserError when another run has its name."""
        if self.run.config.is_file():
            self._check_same()
        return self.evaluation.is_file() and bool(figure_files.read(self.evaluation))

    def _check_same(self) -> None:
        saved = RunConfig.read(self.run.config).hparams
        pairs = (
            (saved.base, self.base),
            (saved.model, self.model),
            (saved.data.get(self.loader, {}), self.data),
        )
        differences = [
            f"{name} is {there.get(name)} there and {here.get(name)} here"
            for there, here in pairs
            for name in sorted(there.keys() | here.keys())
            if name != "iterations" and there.get(name) != here.get(name)  # they may grow
        ]
        if differences:
            raise UserError(
                f"the run {self.run.root} is another one: {'; '.join(differences)}; move it away"
            )

    def commands(self) -> tuple[list[str], list[str]]:
        """Return the arguments of train.py and of evaluate-metrics.py. HParamError for a value that
        no comma string can carry."""
        run = [MODEL, "--data-loader", self.loader, "-o", str(self.run.output_dir)]
        run += ["--id", self.run.run_id, "--resume", "latest"]
        groups = {"--hparams": self.model, "--data-hparams": self.data, "--base-hparams": self.base}
        given = [word for flag, group in groups.items() for word in (flag, hparams.to_text(group))]
        metrics = (*METRICS, MASK_METRIC) if LOADERS[self.loader].has_masks else METRICS
        return [*run, *given], [*run, "--metrics", *metrics]

    def make(self) -> None:
        """Train and evaluate in this process, unless that is done. UserError when it fails."""
        if self.is_done():
            _tell(f"{self.label}: is there already")
            return
        _tell(f"{self.label}: {self.run.root}")
        train, evaluate = self.commands()
        with contextlib.redirect_stdout(sys.stderr):  # our stdout is for the table
            for command, arguments in ((cli.train, train), (cli.evaluate, evaluate)):
                try:
                    command(arguments)
                finally:
                    _release_memory()
        if not self.is_done():
            raise UserError(
                f"the run {self.run.root} has no figures of step {self.base['iterations']}: has it "
                "been trained further before?"
            )


@dataclass(frozen=True)
class Study:
    """All ablations of a run at one number of steps and one seed. path: of the table. header: the
    sentences above it."""

    ablations: Sequence[Ablation]
    path: Path
    header: str

    @classmethod
    def of_run(cls, output_dir: str, run_id: str, iterations: int, seed: int | None) -> Study:
        """Plan the ablations of a run. UserError when the run is not there or of another version;
        HParamError for numbers out of range."""
        run = RunFolder(output_dir, MODEL, run_id)
        if not run.config.is_file():
            raise UserError(
                f"there is no run {run.root}; train {MODEL} with --id {run_id} and the same -o"
            )
        config = RunConfig.read(run.config)
        # Stage 3 may have followed on other data; the ablations are of stage 2.
        loader = config.history[0]["loader"] if config.history else config.loader
        saved = config.hparams
        data, model = saved.data.get(loader), saved.model
        seed = saved.base["seed"] if seed is None else seed
        ending = "" if seed == saved.base["seed"] else f"-seed{seed}"
        base = {
            **saved.base, "iterations": iterations, "seed": seed, "notify_every": NEVER,
            "save_every": NEVER, "slack_config": "", "goal": f"Ablations of {run_id}",
        }  # fmt: skip
        for hparams_cls, values, group in (
            (hparams.BaseHParams, saved.base, "base"),
            (MODELS[MODEL].HParams, model, "model"),
            (LOADERS[loader].HParams, data, f"data.{loader}"),
        ):
            hparams.from_dict(hparams_cls, values, f"{run.config}: hparams.{group}")
        hparams.parse(hparams.to_text(base), hparams.BaseHParams)
        ablations = []
        for name in NAMES:
            changes = {} if name == FULL else {name: ABLATIONS[name]}
            if changes and model[name] == ABLATIONS[name]:
                _tell(f"left out: the run {run_id} has {name}={model[name]} itself")
                continue
            if name == "no_global_contrastive" and model["retrieval_vector"] == "projection":
                changes["retrieval_vector"] = "token"  # there is no projection to rank by
            own = RunFolder(output_dir, MODEL, f"{run_id}-{name}{ending}")
            ablations.append(Ablation(name, changes, own, loader, base, {**model, **changes}, data))
        stage1 = model["pt_mdomain_id"]
        start = f"the stage 1 run {stage1}" if stage1 else "untrained encoders"
        header = (
            f"# Ablations of {run_id}\n\n"
            f"Each row is the run {run_id} with the change named, trained for {iterations} steps "
            f"from {start} on {loader} with seed {seed}. Intervals (95 %) are over the queries of "
            "one run: they do not cover the spread between trainings.\n\n"
        )
        return cls(ablations, run.output_dir / f"{run_id}-ablations{ending}.md", header)

    def save_table(self) -> None:
        """Write the table of all runs that are done; nothing when none is."""
        sources = [
            table.Source(
                ablation.label,
                figure_files.read(ablation.evaluation),
                table.seconds_per_step(ablation.run.root, ablation.base["iterations"]),
            )
            for ablation in self._done()
        ]
        if sources:
            text = self.header + table.markdown(sources, head="ablation")
            write_atomic(self.path, f"{text}\n".encode())

    def _done(self) -> Iterable[Ablation]:
        for ablation in self.ablations:
            with contextlib.suppress(UserError):  # of another run of its name: said before
                if ablation.is_done():
                    yield ablation


def _release_memory() -> None:
    """Drop the model and the graphs of the command that has ended."""
    import tensorflow as tf

    tf.keras.backend.clear_session()
    gc.collect()


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
