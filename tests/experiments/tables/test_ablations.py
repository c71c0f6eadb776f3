"""The ablations: what is run, two of them in earnest, and what goes wrong on the way."""

import dataclasses
import json
import signal
from types import SimpleNamespace

import pytest

from core import cli, hparams
from core.commands import run
from core.errors import StoppedError, UserError
from core.files import write_json
from core.registry import LOADERS, MODELS
from core.run_folder import HParamGroups, RunConfig, RunFolder
from experiments.tables.ablations import ABLATIONS, MODEL, NAMES, Study, main
from tests.dataloaders import tiny_sets
from tests.test_experiments import ENCODERS, SMALL, STAGE1, save_run

LOADER = "coco-tfrecord"


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


def edit(out, model=(), **changes):
    """Change the run's config.json. model: changes of the model's hparams."""
    path = RunFolder(out, MODEL, "SD01").config
    content = {**json.loads(path.read_text()), **changes}
    content["hparams"]["model"].update(model)
    path.write_text(json.dumps(content))


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


def planned(out, iterations=7, seed=None):
    return Study.of_run(str(out), "SD01", iterations, seed)


def test_each_run_has_one_thing_changed(own):
    config = RunConfig.read(RunFolder(own, MODEL, "SD01").config).hparams
    saved = hparams.from_dict(MODELS[MODEL].HParams, config.model, "")
    study = planned(own)
    assert [ablation.name for ablation in study.ablations] == list(NAMES)
    for ablation in study.ablations:
        train, evaluate = ablation.commands()
        hps = given(train)
        expected = {} if ablation.name == "full" else {ablation.name: ABLATIONS[ablation.name]}
        if ablation.name == "no_global_contrastive":  # which leaves no projection
            expected["retrieval_vector"] = "token"
        assert changed(hps["--hparams"], saved) == expected
        assert hparams.to_dict(hps["--data-hparams"]) == config.data[LOADER]
        base = changed(hps["--base-hparams"], hparams.BaseHParams(**config.base))
        assert base.pop("goal") and base.pop("notify_every") == base.pop("save_every") > 10**6
        assert base == {"iterations": 7}
        where = [MODEL, "--data-loader", LOADER, "-o", str(own), "--id", f"SD01-{ablation.name}"]
        assert train[:9] == [*where, "--resume", "latest"]
        assert evaluate == [
            *where, "--resume", "latest", "--metrics",
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
    study = planned(own, seed=3)
    assert study.path == own / "SD01-ablations-seed3.md"
    train, _ = study.ablations[0].commands()
    assert train[train.index("--id") + 1] == "SD01-full-seed3"
    assert given(train)["--base-hparams"].seed == 3
    assert planned(own, seed=0).path == own / "SD01-ablations.md"  # the run's own


def test_stage_2_is_ablated_where_stage_3_followed(own):
    entry = {
        "step": 0, "loader": LOADER, "command": [], "versions": {}, "git": None, "time": "",
        "seed": 0, "data": {}, "changes": {},
    }  # fmt: skip
    edit(own, loader="sketchycoco-tf", history=(entry, {**entry, "loader": "sketchycoco-tf"}))
    assert planned(own).ablations[0].loader == LOADER


def test_what_the_run_has_ablated_itself_is_left_out(own, capsys):
    edit(own, model={"abbl_clas_loss": 0.0})
    names = [ablation.name for ablation in planned(own).ablations]
    assert names == [name for name in NAMES if name != "abbl_clas_loss"]
    assert "left out: the run SD01 has abbl_clas_loss=0.0 itself" in capsys.readouterr().err


def test_two_in_earnest(out, capfd, monkeypatch):
    """Relative folders, as a user types them; started again, nothing is left to do."""
    monkeypatch.chdir(out.parent)
    command = argv("runs", "--only", "full,no_global_contrastive")
    assert run(main, command) == 0
    told = capfd.readouterr()
    table = (out / "SD01-ablations.md").read_text()
    assert told.out == f"{table}\nsaved: runs/SD01-ablations.md\n"
    assert "no_global_contrastive=True, retrieval_vector=token" in table
    assert "trained for 2 steps from the stage 1 run 01 on coco-tfrecord with seed 0" in table
    assert "| mask-iou | view=sketch" in table
    rows = [line for line in table.splitlines() if "| boxes=jittered" in line]
    kinds = [line.partition("sketches=")[2].split()[0] for line in rows]
    assert kinds == ["real", "blank", "shuffled"] * 2

    def train(argv):
        raise AssertionError(f"{argv} has been run before")

    monkeypatch.setattr(cli, "train", train)
    assert run(main, command) == 0
    told = capfd.readouterr()
    assert told.err.count("is there already") == 2 and told.out.startswith(table)


@pytest.fixture
def scripts(monkeypatch):
    """In place of the scripts: what they would leave, errors to choose, the runs they met."""
    # errors: name of the ablation -> error of its training. step: of evaluations, if another than
    # asked for.
    left = SimpleNamespace(errors={}, met=[], step=None)

    def folder(argv):
        model, *rest = argv
        flags = dict(zip(rest[::2], rest[1::2]))
        return RunFolder(flags["-o"], model, flags["--id"])

    def train(argv):
        own = folder(argv)
        left.met.append(own.run_id)
        own.root.mkdir(exist_ok=True)
        model, base, data = (hparams.to_dict(each) for each in given(argv).values())
        groups = HParamGroups(base, model, {LOADER: data})
        RunConfig(MODEL, LOADER, groups).write(own.config)
        name = own.run_id.split("-")[1]
        if name in left.errors:
            raise left.errors[name]

    def evaluate(argv):
        own = folder(argv)
        print("a table of the script")
        own.evaluation.mkdir(exist_ok=True)
        step = left.step or RunConfig.read(own.config).hparams.base["iterations"]
        figure = {
            "metric": "sbir-top1", "split": "valid", "value": 0.5, "n": 4, "gallery": 4,
            "labels": {"boxes": "own", "sketches": "real"}, "chance": 0.25, "ceiling": None,
            "interval": None, "controls": {},
        }  # fmt: skip
        content = {"schema": 2, "run": own.root.name, "command": ["x"], "loader": LOADER,
                   "split": "valid", "step": step, "results": [figure]}  # fmt: skip
        write_json(own.evaluation / f"{LOADER}-valid-step-{step}.json", content)

    monkeypatch.setattr(cli, "train", train)
    monkeypatch.setattr(cli, "evaluate", evaluate)
    return left


def test_a_failing_run_does_not_hold_up_the_others(own, scripts, capsys):
    scripts.errors = {"abbl_skip_graph": UserError("no disk")}
    only = ["--only", "full,abbl_skip_graph,clas_on_final"]
    assert run(main, argv(own, *only)) == 1
    told = capsys.readouterr()
    assert told.err.splitlines()[-1] == "error: 1 of 3 runs failed, see above: abbl_skip_graph=True"
    assert "error: abbl_skip_graph=True: no disk" in told.err
    assert "| full " in told.out and "| clas_on_final=False " in told.out
    assert "abbl_skip_graph" not in told.out and "a table of the script" not in told.out
    # Again, with the reason mended: only that one is run, and the table has all.
    scripts.errors, scripts.met = {}, []
    assert run(main, argv(own, *only)) == 0
    assert scripts.met == ["SD01-abbl_skip_graph"]
    lines = (own / "SD01-ablations.md").read_text().splitlines()
    names = [line.split("|")[1].strip() for line in lines if "boxes=own" in line]
    assert names == ["full", "abbl_skip_graph=True", "clas_on_final=False"]
    # With more steps the runs go on; a smaller number cannot be had from them any more.
    assert run(main, argv(own, *only, iterations=5)) == 0
    scripts.step = 5
    assert run(main, argv(own, "--only", "full", iterations=3)) == 1
    assert "has no figures of step 3" in capsys.readouterr().err


def test_a_signal_stops_with_the_table_of_what_is_done(own, scripts, capsys):
    scripts.errors = {"clas_on_final": StoppedError(signal.SIGINT, "after step 1")}
    assert run(main, argv(own, "--only", "full,clas_on_final,abbl_no_mask_gan")) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped by SIGINT after step 1"
    assert scripts.met == ["SD01-full", "SD01-clas_on_final"]
    assert "| full " in (own / "SD01-ablations.md").read_text()


def test_a_run_of_that_name_that_is_another(own, scripts, capsys):
    assert run(main, argv(own, "--only", "full")) == 0
    edit(own, model={"dropout": 0.25})
    assert run(main, argv(own, "--only", "full")) == 1
    assert "is another one: dropout is 0.1 there and 0.25 here; move it away" in (
        capsys.readouterr().err
    )
    RunFolder(own, MODEL, "SD01-full").config.write_text("{")
    assert run(main, argv(own, "--only", "full")) == 1
    assert "config.json is not valid JSON" in capsys.readouterr().err
    assert len(scripts.met) == 1


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
    edit(own, model={"old_name": 1})
    assert run(main, argv(own)) == 1
    assert "config.json: hparams.model: unknown hparam 'old_name'" in capsys.readouterr().err
