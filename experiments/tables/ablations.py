"""The paper's ablations: `python -m experiments.tables.ablations -o DIR --id ID --iterations N`.

    run <ID> -> train.py, evaluate-metrics.py for each ablation -> table, <DIR>/<ID>-ablations.md

Each run is that of <ID> with one thing changed, trained anew from the same stage 1 with the same
data and seed as run <ID>-<ablation>; <ID>-full has nothing changed. The same command again goes on
where it was stopped.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from core import hparams
from core.commands import Parser, run
from core.errors import StoppedError, UsageError, UserError
from core.evaluation import figure_files
from core.files import write_atomic
from core.registry import LOADERS, MODELS, closest
from core.run_folder import RunConfig, RunFolder
from experiments.tables import table

log = logging.getLogger(__name__)

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
MASKS = "mask-iou"
SPLIT = "valid"
NEVER = 10**9  # steps: only the end is evaluated, and only its checkpoint kept for ever
ROOT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str]) -> None:
    """Trains and evaluates what is not there yet, prints and saves the table. Raises UserError for
    what a user can mend (when runs have failed: at the end), `StoppedError` after a signal."""
    parser = Parser(
        prog="python -m experiments.tables.ablations", description=__doc__.split(":")[0]
    )
    parser.add_argument("-o", "--output-dir", metavar="DIR", required=True, help="folder of runs")
    parser.add_argument("--id", metavar="ID", required=True, help=f"of a trained {MODEL} run there")
    parser.add_argument("--iterations", type=int, metavar="N", required=True, help="of each run")
    parser.add_argument("--seed", type=int, metavar="N", help="of each run (default: that of ID)")
    parser.add_argument("--only", metavar="a,b", help=f"some of {', '.join(NAMES)}")
    args = parser.parse_args(list(argv))
    only = args.only.split(",") if args.only else NAMES
    for name in only:
        if name not in NAMES:
            near = closest(name, list(NAMES))
            raise UsageError(f"--only: {name!r} is no ablation.{near} Valid: {', '.join(NAMES)}")
    from core.reporting import console

    with console(), Processes() as processes:
        study = Study(args.output_dir, args.id, args.iterations, args.seed)
        asked = [plan for plan in study.plans if plan.name in only]
        failed = [plan.label for plan in asked if not plan.carry_out(processes)]
    made = [plan for plan in study.plans if plan.is_made()]
    if made:
        text = study.page(made)
        write_atomic(study.path, f"{text}\n".encode())
        print(f"{text}\n\nsaved: {study.path}")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(asked)} runs failed, see above: {'; '.join(failed)}"
        )


class Study:
    """All ablations of one run at one number of steps and one seed."""

    def __init__(self, output_dir: str, run_id: str, iterations: int, seed: int | None) -> None:
        """UserError when the run is not there or of another version; HParamError for numbers out of
        range."""
        run_dir = RunFolder(output_dir, MODEL, run_id)
        if not run_dir.config.is_file():
            raise UserError(
                f"there is no run {run_dir.root}; train {MODEL} with --id {run_id} and the same -o"
            )
        config = RunConfig.read(run_dir.config)
        # Stage 3 may have followed on other data; the ablations are of stage 2.
        self.loader = config.history[0]["loader"] if config.history else config.loader
        data = config.data.get(self.loader)
        for cls, values, group in (
            (hparams.BaseHParams, config.base, "base"),
            (MODELS[MODEL].HParams, config.model_hparams, "model"),
            (LOADERS[self.loader].HParams, data, f"data.{self.loader}"),
        ):
            hparams.from_dict(cls, values, f"{run_dir.config}: hparams.{group}")
        self.run_id, self.iterations = run_id, iterations
        self.stage1 = config.model_hparams["pt_mdomain_id"]
        self.seed = config.base["seed"] if seed is None else seed
        ending = "" if self.seed == config.base["seed"] else f"-seed{self.seed}"
        self.path = run_dir.output_dir / f"{run_id}-ablations{ending}.md"
        base = {
            **config.base, "iterations": iterations, "seed": self.seed, "notify_every": NEVER,
            "save_every": NEVER, "slack_config": "", "goal": f"Ablations of {run_id}",
        }  # fmt: skip
        hparams.parse(hparams.to_text(base), hparams.BaseHParams)
        self.plans = []
        for name in NAMES:
            changes = {} if name == FULL else {name: ABLATIONS[name]}
            if changes and config.model_hparams[name] == ABLATIONS[name]:
                log.warning("left out: the run %s has %s=%s itself", run_id, name, ABLATIONS[name])
                continue
            if name == "no_global_contrastive" and (
                config.model_hparams["retrieval_vector"] == "projection"
            ):
                changes["retrieval_vector"] = "token"  # there is no projection to rank by
            own = RunFolder(output_dir, MODEL, f"{run_id}-{name}{ending}")
            groups = base, {**config.model_hparams, **changes}, data
            self.plans.append(Plan(name, changes, own, self.loader, *groups))

    def page(self, made: Sequence[Plan]) -> str:
        """What was done, and the table over the runs that are made."""
        sources = [
            table.Source(
                plan.label,
                figure_files.read(plan.evaluation),
                table.seconds_per_step(plan.run_dir.root, self.iterations),
            )
            for plan in made
        ]
        start = f"the stage 1 run {self.stage1}" if self.stage1 else "untrained encoders"
        return (
            f"# Ablations of {self.run_id}\n\n"
            f"Each row is the run {self.run_id} with the change named, trained for "
            f"{self.iterations} steps from {start} on {self.loader} with seed {self.seed}. "
            "Intervals (95 %) are over the queries of one run: they do not cover the spread "
            "between trainings.\n\n" + table.markdown(sources, head="ablation")
        )


@dataclass(frozen=True)
class Plan:
    """One run: what is changed, its folder, the name of its data, and all its hparams."""

    name: str
    changes: Mapping[str, Any]
    run_dir: RunFolder
    loader: str
    base: Mapping[str, Any]
    model: Mapping[str, Any]
    data: Mapping[str, Any]

    @property
    def label(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.changes.items()) or self.name

    @property
    def evaluation(self) -> Path:
        name = f"{self.loader}-{SPLIT}-step-{self.base['iterations']}.json"
        return self.run_dir.evaluation / name

    def is_made(self) -> bool:
        """Whether it has been trained and evaluated as planned."""
        try:
            figure_files.read(self.evaluation)
            return not self.differences()
        except UserError:
            return False

    def differences(self) -> list[str]:
        """What a run of that name has otherwise, but for the number of steps, which may grow."""
        if not self.run_dir.config.is_file():
            return []
        there = RunConfig.read(self.run_dir.config)
        pairs = (
            (there.base, self.base),
            (there.model_hparams, self.model),
            (there.data.get(self.loader, {}), self.data),
        )
        return [
            f"{name} is {old.get(name)} there and {new.get(name)} here"
            for old, new in pairs
            for name in sorted(old.keys() | new.keys())
            if name != "iterations" and old.get(name) != new.get(name)
        ]

    def commands(self) -> list[list[str]]:
        """What trains and what evaluates it: a script and its arguments. HParamError for a value
        that no comma string can carry."""
        run = [MODEL, "--data-loader", self.loader, "-o", str(self.run_dir.output_dir)]
        run += ["--id", self.run_dir.run_id, "--resume", "latest"]
        groups = {"--hparams": self.model, "--data-hparams": self.data, "--base-hparams": self.base}
        given = [word for flag, group in groups.items() for word in (flag, hparams.to_text(group))]
        metrics = (*METRICS, MASKS) if LOADERS[self.loader].has_masks else METRICS
        return [["train.py", *run, *given], ["evaluate-metrics.py", *run, "--metrics", *metrics]]

    def carry_out(self, processes: Processes) -> bool:
        """Train and evaluate, unless that is done; whether it was possible. What a process says
        about its failure is on stderr."""
        if self.is_made():
            log.info("%s: is there already", self.label)
            return True
        try:
            differences = self.differences()
        except UserError as error:
            log.error("error: %s", error)
            return False
        if differences:
            log.error(
                "error: the run %s is another one: %s; move it away",
                self.run_dir.root,
                "; ".join(differences),
            )
            return False
        log.info("%s: %s", self.label, self.run_dir.root)
        for command in self.commands():
            if processes.call(command):
                return False
        if not self.is_made():
            log.error(
                "error: the run %s has no figures of step %d: has it been trained further before?",
                self.run_dir.root, self.base["iterations"],
            )  # fmt: skip
        return self.is_made()


_GO_ON = "before all runs were done; the same command goes on from here"


class Processes:
    """The project's scripts as processes, one at a time. Use as a context manager: within it a
    signal that ends us is passed on, and the process saves what it has."""

    # Not shared by the terminal: a process must not get Ctrl-C from there and from us, for a second
    # signal ends a training without a checkpoint.
    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._signal: int | None = None

    def __enter__(self) -> Processes:
        self._before = {
            number: signal.signal(number, self._pass_on)
            for number in self.SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN  # of nohup
        }
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def call(self, command: Sequence[str]) -> int:
        """Run a script with its arguments in the current directory, where relative paths of saved
        hparams lead. Returns its exit code. Raises `StoppedError`."""
        if self._signal:
            raise StoppedError(self._signal, _GO_ON)
        script, *argv = command
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / script), *argv],
            stdout=2,  # ours is for the table
            start_new_session=True,
        )
        if self._signal:  # that came before there was a process
            self._pass_on(self._signal, None)
        code = self._process.wait()
        if self._signal:
            raise StoppedError(self._signal, _GO_ON)
        return code

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        if self._process:
            self._process.send_signal(number if number != signal.SIGHUP else signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
