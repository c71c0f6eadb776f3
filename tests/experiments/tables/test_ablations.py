"""The ablations: what is run, one of them in earnest, and what goes wrong on the way."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from core import hparams
from core.commands import run
from core.errors import StoppedError
from core.files import write_json
from core.registry import LOADERS, MODELS
from core.run_folder import RunConfig, RunFolder
from experiments.tables import ablations
from experiments.tables.ablations import (
    ABLATIONS,
    MODEL,
    NAMES,
    Processes,
    Study,
    main,
)
from tests.dataloaders import tiny_sets
from tests.test_experiments import ENCODERS, SMALL, STAGE1, save_run

LOADER = "coco-tfrecord"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder with the runs 01 of stage 1 and SD01, which ranks by the projection."""
    folder = tmp_path_factory.mktemp("world")
    sets = tiny_sets.write_all(folder, scenes=24, mask_side=16)
    text = f"{SMALL},retrieval_vector=projection"
    folders = (sets.scenes, sets.indexed, sets.crops)
    save_run(folder / "runs", MODEL, "SD01", LOADER, text, folders)
    save_run(folder / "runs", STAGE1, "01", "quickdraw-cococrops-tf", ENCODERS,
             (sets.quickdraw, sets.crops))  # fmt: skip
    return folder / "runs"


@pytest.fixture
def own(out, tmp_path):
    """A copy of the folder with the config of SD01 alone."""
    config = RunConfig.read(RunFolder(out, MODEL, "SD01").config)
    RunFolder(tmp_path, MODEL, "SD01").root.mkdir()
    config.write(RunFolder(tmp_path, MODEL, "SD01").config)
    return tmp_path


def edit(out, **changes):
    path = RunFolder(out, MODEL, "SD01").config
    dataclasses.replace(RunConfig.read(path), **changes).write(path)


def argv(out, *more, iterations=2):
    return ["-o", str(out), "--id", "SD01", "--iterations", str(iterations), *more]


def given(command):
    """The hparams that a command line of train.py gives: flag -> instance."""
    classes = {"--hparams": MODELS[MODEL].HParams, "--base-hparams": hparams.BaseHParams,
               "--data-hparams": LOADERS[LOADER].HParams}  # fmt: skip
    return {
        flag: hparams.parse(command[command.index(flag) + 1], cls) for flag, cls in classes.items()
    }


def changed(instance, other):
    there = hparams.to_dict(other)
    return {name: new for name, new in hparams.to_dict(instance).items() if there[name] != new}


def test_each_run_has_one_thing_changed(own):
    config = RunConfig.read(RunFolder(own, MODEL, "SD01").config)
    saved = hparams.from_dict(MODELS[MODEL].HParams, config.model_hparams, "")
    study = Study(str(own), "SD01", 7, None)
    assert [plan.name for plan in study.plans] == list(NAMES)
    for plan in study.plans:
        train, evaluate = plan.commands()
        hps = given(train)
        expected = {} if plan.name == "full" else {plan.name: ABLATIONS[plan.name]}
        if plan.name == "no_global_contrastive":  # which leaves no projection
            expected["retrieval_vector"] = "token"
        assert changed(hps["--hparams"], saved) == expected
        assert hparams.to_dict(hps["--data-hparams"]) == config.data[LOADER]
        base = changed(hps["--base-hparams"], hparams.BaseHParams(**config.base))
        assert base.pop("goal") and base.pop("notify_every") == base.pop("save_every") > 10**6
        assert base == {"iterations": 7}
        where = [MODEL, "--data-loader", LOADER, "-o", str(own), "--id", f"SD01-{plan.name}"]
        assert train[:10] == ["train.py", *where, "--resume", "latest"]
        assert evaluate == [
            "evaluate-metrics.py", *where, "--resume", "latest", "--metrics",
            "sbir-mAP", "sbir-top1", "sbir-top5", "sbir-top10", "mask-iou",
        ]  # fmt: skip


def test_every_ablation_of_the_model_is_here():
    """Its hparams that are named so, and those the paper names otherwise."""
    fields = {field.name: field.default for field in dataclasses.fields(MODELS[MODEL].HParams)}
    named = {name for name in fields if name.startswith("abbl_")}
    named |= {"use_pos_encoding", "no_global_contrastive", "clas_on_final"}
    assert set(ABLATIONS) == named
    for name, value in ABLATIONS.items():
        assert type(value) is type(fields[name]) and value != fields[name]


def test_another_seed_has_runs_and_a_table_of_its_own(own):
    study = Study(str(own), "SD01", 7, 3)
    assert study.path == own / "SD01-ablations-seed3.md"
    train, _ = study.plans[0].commands()
    assert train[train.index("--id") + 1] == "SD01-full-seed3"
    assert given(train)["--base-hparams"].seed == 3
    assert Study(str(own), "SD01", 7, 0).path == own / "SD01-ablations.md"  # the run's own


def test_stage_2_is_ablated_where_stage_3_followed(own):
    entry = {"step": 0, "loader": LOADER, "command": [], "versions": {}, "time": "", "changes": {}}
    edit(own, loader="sketchycoco-tf", history=(entry, {**entry, "loader": "sketchycoco-tf"}))
    assert Study(str(own), "SD01", 7, None).plans[0].loader == LOADER


def test_what_the_run_has_ablated_itself_is_left_out(own, caplog):
    config = RunConfig.read(RunFolder(own, MODEL, "SD01").config)
    edit(own, model_hparams={**config.model_hparams, "abbl_clas_loss": 0.0})
    names = [plan.name for plan in Study(str(own), "SD01", 7, None).plans]
    assert names == [name for name in NAMES if name != "abbl_clas_loss"]
    assert "left out: the run SD01 has abbl_clas_loss=0.0 itself" in caplog.text


def test_in_earnest(out, capfd, monkeypatch):
    """Relative folders, as a user types them; started again, nothing is left to do."""
    monkeypatch.chdir(out.parent)
    command = argv("runs", "--only", "no_global_contrastive")
    assert run(main, command) == 0
    told = capfd.readouterr()
    table = (out / "SD01-ablations.md").read_text()
    assert told.out == f"{table.strip()}\n\nsaved: runs/SD01-ablations.md\n"
    assert "no_global_contrastive=True, retrieval_vector=token" in table
    assert "trained for 2 steps from the stage 1 run 01 on coco-tfrecord with seed 0" in table
    assert "all with vector=token" in table and "| mask-iou | view=sketch" in table
    rows = [line for line in table.splitlines() if "| boxes=jittered" in line]
    assert [f"sketches={kind}" in row for kind, row in zip(("real", "blank"), rows)] == [True] * 2

    def call(self, command):
        raise AssertionError(f"{command} has been run before")

    monkeypatch.setattr(Processes, "call", call)
    assert run(main, command) == 0
    told = capfd.readouterr()
    assert "is there already" in told.err and told.out.startswith(table)


@pytest.fixture
def scripts(monkeypatch):
    """In place of the scripts: what they would leave, exit codes to choose, the runs they met."""
    # exits: name of the ablation -> exit code of its training. step: of evaluations, if another
    # than asked for.
    left = SimpleNamespace(exits={}, met=[], step=None)

    def call(self, command):
        script, model, *rest = command
        flags = dict(zip(rest[::2], rest[1::2]))
        own = RunFolder(flags["-o"], model, flags["--id"])
        left.met.append((script, own.run_id))
        if script == "train.py":
            own.root.mkdir(exist_ok=True)
            groups = [hparams.to_dict(each) for each in given(command).values()]
            model_hps, base, data = groups
            RunConfig(model, LOADER, base, model_hps, {LOADER: data}).write(own.config)
            return left.exits.get(own.run_id.split("-")[1], 0)
        base = RunConfig.read(own.config).base
        own.evaluation.mkdir(exist_ok=True)
        step = left.step or base["iterations"]
        figure = {
            "metric": "sbir-top1", "split": "valid", "value": 0.5, "n": 4, "gallery": 4,
            "labels": {"boxes": "own", "sketches": "real"}, "chance": 0.25, "ceiling": None,
            "interval": None, "controls": {},
        }  # fmt: skip
        content = {"schema": 2, "run": own.root.name, "command": ["x"], "loader": LOADER,
                   "split": "valid", "step": step, "results": [figure]}  # fmt: skip
        write_json(own.evaluation / f"{LOADER}-valid-step-{step}.json", content)
        return 0

    monkeypatch.setattr(Processes, "call", call)
    return left


def test_a_failing_run_does_not_hold_up_the_others(own, scripts, capsys):
    scripts.exits = {"abbl_skip_graph": 1}
    only = ["--only", "full,abbl_skip_graph,clas_on_final"]
    assert run(main, argv(own, *only)) == 1
    told = capsys.readouterr()
    assert told.err.splitlines()[-1] == "error: 1 of 3 runs failed, see above: abbl_skip_graph=True"
    assert "| full " in told.out and "| clas_on_final=False " in told.out
    assert "abbl_skip_graph" not in told.out
    # Again, with the reason mended: only that one is run, and the table has all.
    scripts.exits, scripts.met = {}, []
    assert run(main, argv(own, *only)) == 0
    assert {run_id for _, run_id in scripts.met} == {"SD01-abbl_skip_graph"}
    lines = (own / "SD01-ablations.md").read_text().splitlines()
    names = [line.split("|")[1].strip() for line in lines if "boxes=own" in line]
    assert names == ["full", "abbl_skip_graph=True", "clas_on_final=False"]
    # With more steps the runs go on; a smaller number cannot be had from them any more.
    assert run(main, argv(own, *only, iterations=5)) == 0
    scripts.step = 5
    assert run(main, argv(own, "--only", "full", iterations=3)) == 1
    assert "has no figures of step 3" in capsys.readouterr().err


def test_a_run_of_that_name_that_is_another(own, scripts, capsys):
    assert run(main, argv(own, "--only", "full")) == 0
    config = RunConfig.read(RunFolder(own, MODEL, "SD01").config)
    edit(own, model_hparams={**config.model_hparams, "dropout": 0.25})
    assert run(main, argv(own, "--only", "full")) == 1
    assert "is another one: dropout is 0.1 there and 0.25 here; move it away" in (
        capsys.readouterr().err
    )
    RunFolder(own, MODEL, "SD01-full").config.write_text("{")
    assert run(main, argv(own, "--only", "full")) == 1
    assert "config.json is not valid JSON" in capsys.readouterr().err
    assert len(scripts.met) == 2


@pytest.mark.parametrize(
    ("change", "piece", "code"),
    [
        (["--id", "none"], "there is no run", 1),
        (["--id", "a/b"], "cannot name a run", 2),
        (["--iterations", "0"], "iterations must be at least 1", 2),
        (["--seed", "-1"], "seed must be at least 0", 2),
        (["--only", "full,clas_on_finale"], "Did you mean 'clas_on_final'?", 2),
    ],
)
def test_what_cannot_be_done(own, scripts, capsys, change, piece, code):
    assert run(main, [*argv(own), *change]) == code
    assert piece in capsys.readouterr().err.splitlines()[-1]
    assert scripts.met == []


def test_a_run_of_another_version(own, capsys):
    edit(own, model_hparams={"old_name": 1})
    assert run(main, argv(own)) == 1
    assert "config.json: hparams.model: unknown hparam 'old_name'" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_once_and_waited_for(tmp_path, number):
    """The process under way saves, and only then we end; the terminal does not reach it, so that
    it gets each signal once."""
    (tmp_path / "train.py").write_text(
        "import signal, sys, time\n"
        "def note(number, frame):\n"
        "    print(number, file=open('signals', 'a'), flush=True)\n"
        "for each in (signal.SIGINT, signal.SIGTERM): signal.signal(each, note)\n"
        "open('ready', 'w')\n"
        "end = time.monotonic() + 60\n"
        "import pathlib\n"
        "while not pathlib.Path('signals').exists() and time.monotonic() < end: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "open('saved', 'w')\n"
        "sys.exit(128 + 2)\n"
    )
    code = (
        "import sys, pathlib\n"
        "from experiments.tables import ablations\n"
        "from core.commands import run\n"
        "ablations.ROOT = pathlib.Path('.')\n"
        "def main(argv):\n"
        "    with ablations.Processes() as processes:\n"
        "        processes.call(['train.py'])\n"
        "sys.exit(run(main, []))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < end:
        time.sleep(0.01)
    os.killpg(process.pid, number)  # as a terminal does: to the whole group
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert stderr.startswith(f"stopped by {signal.Signals(number).name} before all runs were done")
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "signals").read_text().split() == [str(int(number))]


def test_after_a_signal_nothing_more_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(ablations, "ROOT", tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError) as caught, Processes() as processes:
        os.kill(os.getpid(), signal.SIGTERM)
        processes.call(["none.py"])
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before
