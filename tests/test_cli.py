"""The scripts end to end: what goes in wrong comes out as one sentence and an exit code."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow as tf

from core import cli, commands, devices, registry
from core.dataset import Vocabulary
from core.errors import HParamError, UsageError, UserError
from core.hparams import BaseHParams
from core.reporting import read_metrics
from core.run_folder import RunConfig, RunFolder
from tests.core import fakes

ROOT = Path(__file__).resolve().parent.parent
BASE = "batch_size=4,iterations=6,log_every=1,notify_every=100,save_every=100,safety_save=2"


@pytest.fixture
def out(tmp_path, monkeypatch):
    """Output folder, with the fake model and loader in the registries."""
    fakes.install(monkeypatch.setitem, monkeypatch.setattr)
    return tmp_path


def train(out, *more, model="fake-model", run_id="01", base=BASE):
    argv = [model, "--data-loader", "fake-loader", "-o", str(out), "--id", run_id]
    cli.train([*argv, "--base-hparams", base, *more])
    return RunFolder(out, model, run_id)


def losses(run):
    return {line["step"]: line["losses"] for line in read_metrics(run.metrics)}


# --- training ---


def test_a_run_folder_is_enough_to_rebuild_the_run(out, data):
    run = train(
        out, "-p", "learning_rate=0.2", "-dp", f"folder=some where,set_dir={data}", "--gpu", "0",
        base=BASE + ",goal=First Stage of It,slack_config=token.secret,seed=5",
    )  # fmt: skip
    config = RunConfig.read(run.config)
    assert (config.model, config.loader) == ("fake-model", "fake-loader")
    assert config.hparams.base["goal"] == "First Stage of It"
    assert config.hparams.model["learning_rate"] == 0.2
    assert config.hparams.data["fake-loader"]["folder"] == "some where"
    names = ["meta.json", "train/a.tfrecord", "train/b.tfrecord"]
    meta = hashlib.sha256(b"content of meta.json").hexdigest()
    files = dict(zip(names, [meta, "27 bytes", "27 bytes"]))
    assert config.contents == {"fake-loader": {"set_dir": files}}
    (entry,) = config.history
    assert (entry["step"], entry["seed"]) == (0, 5)
    assert entry["command"][:2] == ["train.py", "fake-model"]
    assert entry["versions"]["tensorflow"] == tf.__version__
    assert set(entry["versions"]) == {"python", "tensorflow", "numpy", "program"}
    assert entry["git"] is None or len(entry["git"]["commit"]) == 40
    text = "".join(f"{files[n]}  {n}\n" for n in names)
    assert entry["data"] == {"set_dir": hashlib.sha256(text.encode()).hexdigest()}
    assert sorted(path.name for path in run.root.iterdir()) == [
        ".lock", "checkpoints", "config.json", "metrics.jsonl", "plots", "tensorboard",
    ]  # fmt: skip


def test_resume_latest_takes_the_saved_hparams_and_records_changes(out):
    train(out, "-p", "learning_rate=0.2")
    # No loader and no hparams given: all of them come from config.json.
    cli.train(["fake-model", "-o", str(out), "--id", "01", "--resume", "latest",
               "--base-hparams", "iterations=8", "-p", "learning_rate=0.3"])  # fmt: skip
    run = RunFolder(out, "fake-model", "01")
    config = RunConfig.read(run.config)
    assert config.hparams.base["log_every"] == 1
    assert list(losses(run)) == list(range(1, 9))
    assert [entry["step"] for entry in config.history] == [0, 6]
    assert config.history[1]["changes"] == {
        "base.iterations": [6, 8],
        "model.learning_rate": [0.2, 0.3],
    }


def test_a_config_of_an_older_version_is_noticed_once(out, capsys):
    run = train(out)
    config = json.loads(run.config.read_text())
    del config["hparams"]["base"]["clip_norm"]
    run.config.write_text(json.dumps(config))
    capsys.readouterr()
    train(out, "--resume", "latest")
    assert capsys.readouterr().err.count("older version: clip_norm=0.0 by default") == 1


def test_latest_with_nothing_there_starts_at_step_0_with_a_notice(out, capsys):
    run = train(out, "--resume", "latest")
    assert "nothing to resume" in capsys.readouterr().err
    assert list(losses(run)) == [1, 2, 3, 4, 5, 6]


def test_resume_none_does_not_destroy_a_run(out):
    run = train(out)
    before = run.metrics.read_bytes()
    with pytest.raises(UserError, match=r"already has checkpoints .*--resume latest.*another --id"):
        train(out)
    assert run.metrics.read_bytes() == before


def test_an_earlier_checkpoint_goes_on_under_another_id_only(out):
    run = train(out)
    earlier = run.checkpoints / "step-00000004"
    with pytest.raises(UserError, match=r"after step 4 \(newest: step 6\)"):
        train(out, "--resume", str(earlier))
    branch = train(out, "--resume", str(earlier), run_id="02")
    assert losses(branch) == {step: losses(run)[step] for step in (5, 6)}


def test_the_second_stage_starts_from_the_first(out):
    first = train(out, run_id="01")
    second = train(out, "-p", "start_id=01", model="fake-second", run_id="S")
    # A resume does not need the first stage any more.
    first.root.rename(first.root.with_name("gone"))
    train(out, "--resume", "latest", model="fake-second", run_id="S",
          base=BASE.replace("iterations=6", "iterations=8"))  # fmt: skip
    assert list(losses(second)) == list(range(1, 9))


def test_a_missing_first_stage_is_an_error(out):
    with pytest.raises(HParamError, match="needs start_id"):
        train(out, model="fake-second")
    with pytest.raises(
        UserError, match=r"fake-model-07, which has no checkpoint; train fake-model"
    ):
        train(out, "-p", "start_id=07", model="fake-second")
    train(out)
    with pytest.raises(UserError, match="width is 3 there and 5 here"):
        train(out, "-p", "start_id=01,width=5", model="fake-second")


TOKEN = "xoxb-1234-MARKED"


@pytest.mark.parametrize("words", [
    ["--base-hparams", f"slack_config={TOKEN}"],
    ["-p", f"slack_config='{TOKEN}'"],
    ["--base-hparams", f"goal=with {TOKEN}"],
    ["--slack-token", TOKEN],
    ["--data-loader", f"x{TOKEN.upper()}"],
    ["-dp", "folder=/home/xapp-1-MARKED"],
])  # fmt: skip
@pytest.mark.parametrize("command", [cli.train, cli.evaluate, cli.run_experiment])
def test_a_token_on_the_command_line_is_neither_saved_nor_said(out, words, command, capsys):
    argv = ["fake-model", "--data-loader", "fake-loader", "-o", str(out), "--id", "01", *words]
    assert commands.run(command, argv) == 2
    said = "".join(capsys.readouterr())
    assert "Slack token" in said and "MARKED" not in said
    assert list(out.iterdir()) == []


def test_a_token_is_never_taken_for_a_file():
    with pytest.raises(HParamError, match="never the token itself") as caught:
        BaseHParams(slack_config=TOKEN)
    assert "MARKED" not in str(caught.value)


# --- provenance ---


@pytest.fixture
def data(out):
    """A prepared set with two shards; the folder of the runs is beside it."""
    folder = out / "set"
    (folder / "train").mkdir(parents=True)
    for name in ("meta.json", "train/a.tfrecord", "train/b.tfrecord"):
        (folder / name).write_text(f"content of {name}")
    return folder


def on(out, data, *words, steps=2):
    """Train a few steps more."""
    base = BASE.replace("iterations=6", f"iterations={steps}")
    return train(out, "--resume", "latest", "-dp", f"set_dir={data}", *words, base=base)


def test_changed_contents_are_refused_unless_allowed(out, data):
    on(out, data, steps=1)
    shard, run = data / "train/b.tfrecord", RunFolder(out, "fake-model", "01")
    shard.write_text("other content")
    before = run.config.read_bytes()
    with pytest.raises(UserError, match=r"set/train/b\.tfrecord has changed.*--allow-data"):
        on(out, data)
    assert run.config.read_bytes() == before
    on(out, data, "--allow-data-change")
    first, second = RunConfig.read(run.config).history
    change = [first["data"]["set_dir"], second["data"]["set_dir"]]
    assert second["changes"]["contents.set_dir"] == change and change[0] != change[1]
    assert "--allow-data-change" in second["command"]
    # These are the run's data now, and the same ones elsewhere.
    moved = data.rename(out / "moved")
    on(out, moved, steps=3)
    (moved / "train/a.tfrecord").unlink()
    with pytest.raises(UserError, match=r"moved/train/a\.tfrecord is missing, unlike"):
        on(out, moved, steps=4)


def test_another_loader_may_meet_other_data(out, data, monkeypatch):
    monkeypatch.setitem(registry.LOADERS._classes, "new-loader", fakes.FakeDataset)
    on(out, data, steps=1)
    (data / "train/a.tfrecord").write_text("other")
    run = on(out, data, "--data-loader", "new-loader")
    config = RunConfig.read(run.config)
    assert [entry["loader"] for entry in config.history] == ["fake-loader", "new-loader"]
    old, new = (config.contents[name]["set_dir"] for name in ("fake-loader", "new-loader"))
    assert old["train/a.tfrecord"] != new["train/a.tfrecord"]
    with pytest.raises(UserError, match=r"train/a\.tfrecord has changed"):
        on(out, data, steps=3)


# --- starts that fail ---


@pytest.mark.parametrize("words", [["-dp", "folder=missing"], ["--resume", "latest", "-p",
                                                               "learning_rate=x"]])  # fmt: skip
def test_a_failed_start_leaves_nothing(out, words):
    with pytest.raises(UserError):
        train(out / "a" / "b", *words)
    assert list(out.iterdir()) == []
    (out / "a" / "b").mkdir(parents=True)
    with pytest.raises(UserError):
        train(out / "a" / "b", *words)
    assert list((out / "a").rglob("*")) == [out / "a" / "b"]


def test_an_evaluation_that_a_kill_prevented_is_made_up_for(out):
    base = BASE.replace("notify_every=100", "notify_every=3")
    run = train(out, base=base)
    whole = read_metrics(run.figures)
    assert [line["step"] for line in whole] == [3, 6]
    run.figures.write_text(run.figures.read_text().splitlines()[0] + "\n")
    train(out, "--resume", "latest", base=base)
    again = read_metrics(run.figures)
    assert [line["figures"] for line in again] == [line["figures"] for line in whole]
    assert list(losses(run)) == [1, 2, 3, 4, 5, 6]


def test_a_changed_architecture_is_named_on_resume(out):
    train(out)
    with pytest.raises(UserError, match="does not fit this model: width was 3 and is 5"):
        train(out, "--resume", "latest", "-p", "width=5")
    # The failed attempt left config.json as it was.
    assert RunConfig.read(RunFolder(out, "fake-model", "01").config).hparams.model["width"] == 3


# --- evaluation ---


@pytest.fixture
def evaluated(monkeypatch):
    """Return the calls of core.evaluation.report.run."""
    from core.evaluation import report

    calls = []

    def fake_run(model, dataset, folder, names, step=0, **more):
        calls.append((model, dataset, folder, tuple(names), step))
        return []

    monkeypatch.setattr(report, "run", fake_run, raising=False)
    return calls


def test_evaluation_needs_model_id_and_folder_only(out, evaluated):
    run = train(out, "-p", "learning_rate=0.2", "-dp", "folder=x")
    cli.evaluate(["fake-model", "-o", str(out), "--id", "01"])
    ((model, dataset, folder, names, step),) = evaluated
    assert (names, step, folder) == (("fake-metric",), 6, run.evaluation)
    assert dataset.hparams.folder == "x"
    assert model.steps_seen.numpy() == 6
    assert not model.pretrained
    cli.evaluate(["fake-model", "-o", str(out), "--id", "01", "--resume",
                  str(run.checkpoints / "step-00000004"), "-dp", "folder=y",
                  "--metrics", "fake-metric", "fake-metric"])  # fmt: skip
    assert (evaluated[1][1].hparams.folder, evaluated[1][3:]) == ("y", (("fake-metric",), 4))


def test_evaluation_of_a_run_that_may_only_be_read(out, evaluated, monkeypatch):
    """It makes nothing in the run's folder itself."""
    train(out)
    monkeypatch.setattr(RunFolder, "create", lambda run: pytest.fail("not to be written"))
    cli.evaluate(["fake-model", "-o", str(out), "--id", "01"])
    assert len(evaluated) == 1


def test_precision_and_clipping_reach_the_model_and_stay_with_the_run(out, evaluated):
    train(out, base=BASE + ",mixed_precision=bfloat16,clip_norm=2.5")
    for more in ([], ["--base-hparams", "mixed_precision=none"]):
        cli.evaluate(["fake-model", "-o", str(out), "--id", "01", *more])
    assert [call[0].numerics for call in evaluated] == [("bfloat16", 2.5), ("none", 2.5)]


def test_automatic_precision_stays_with_the_run(out, evaluated, tmp_path, monkeypatch, capsys):
    """The command given again on a machine without bfloat16 goes on in bfloat16."""
    monkeypatch.setattr(devices, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [])
    for flags, last, why in (
        ("avx512_bf16", 2, "the processor has AVX512-BF16"),
        ("avx2", 4, "the run began with it"),
    ):
        devices.CPUINFO.write_text(f"flags : {flags}")
        base = f"{BASE.replace('iterations=6', f'iterations={last}')},mixed_precision=auto"
        run = train(out, "--resume", "latest", base=base)
        said = f"mixed_precision=auto takes bfloat16: {why}"
        assert capsys.readouterr().err.count(said) == 1
        config = RunConfig.read(run.config)
        assert config.hparams.base["mixed_precision"] == "bfloat16"
        assert "base.mixed_precision" not in config.history[-1]["changes"]
    cli.evaluate(["fake-model", "-o", str(out), "--id", "01"])
    assert evaluated[0][0].numerics.mixed_precision == "bfloat16"


def test_evaluation_of_an_untrained_network(out, evaluated):
    cli.evaluate(["fake-model", "-o", str(out), "--id", "01", "--resume", "none",
                  "--data-loader", "fake-loader"])  # fmt: skip
    assert evaluated[0][0].pretrained


def test_evaluation_errors(out, evaluated, monkeypatch):
    argv = ["fake-model", "-o", str(out), "--id", "01"]
    with pytest.raises(UserError, match="has no checkpoint to evaluate"):
        cli.evaluate(argv)
    train(out)
    with pytest.raises(UsageError, match=r"unknown metric 'fake-metrik'\. Did you mean"):
        cli.evaluate([*argv, "--metrics", "fake-metrik"])
    with pytest.raises(UsageError, match="'other-metric' does not fit model 'fake-model'"):
        cli.evaluate([*argv, "--metrics", "other-metric"])
    monkeypatch.setitem(registry.LOADERS._classes, "new-loader", fakes.FakeDataset)
    with pytest.raises(UserError, match="never saw the loader 'new-loader': name its folders"):
        cli.evaluate([*argv, "--data-loader", "new-loader"])
    assert evaluated == []


# --- bad input ---


@pytest.mark.parametrize(
    ("argv", "error", "pieces"),
    [
        (["fake-modle"], UsageError, ["unknown model 'fake-modle'", "'fake-model'"]),
        (["--data-loader", "fake-loade"], UsageError, ["unknown data loader", "'fake-loader'"]),
        (["--base-hparams", "batch_sise=3"], HParamError, ["--base-hparams: clause", "batch_size"]),
        (["--base-hparams", "batch_size=0"], HParamError, ["batch_size must be at least 1"]),
        (["--hparams", "width=wide"], HParamError, ["--hparams: clause 'width=wide'", "int"]),
        (["-p", "width=3", "-p", "width=4"], HParamError, ["given twice"]),
        (["--data-hparams", "folders=x"], HParamError, ["--data-hparams", "'folder'"]),
        (["--hparams", "use_ttur=True"], HParamError, ["never used"]),
        (["-dp", "folder=missing"], UserError, ["the folder missing is not there"]),
        (["--resume", "/no/where"], UserError, ["no such checkpoint folder"]),
        (["--gpu", "first"], UsageError, ["--gpu", "invalid int"]),
        (["--nonsense"], UsageError, ["unrecognized arguments: --nonsense"]),
        (["--id", "a/b"], UsageError, ["cannot name a run"]),
        (["-o", __file__], UserError, ["cannot write to the run folder"]),
    ],
)
def test_bad_input_is_one_sentence(out, argv, error, pieces, capsys):
    given = dict(zip(argv[::2], argv[1::2]))
    model = argv[0] if not argv[0].startswith("-") else "fake-model"
    defaults = {"--data-loader": "fake-loader", "-o": str(out), "--id": "01"}
    full = [model]
    for name, value in defaults.items():
        if name not in given:
            full += [name, value]
    full += argv if argv[0].startswith("-") else []
    with pytest.raises(error) as caught:
        cli.train(full)
    for piece in pieces:
        assert piece in str(caught.value)
    assert commands.run(cli.train, full) == error.exit_code
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1] == f"error: {caught.value}"
    assert len([line for line in lines if line.startswith("error")]) == 1


def test_what_is_missing_is_named(out):
    with pytest.raises(UsageError, match=r"missing: model, --output-dir, --id; models: fake-model"):
        cli.train([])
    with pytest.raises(UsageError, match=r"--data-loader is missing; choose of fake-loader"):
        cli.train(["fake-model", "-o", str(out), "--id", "01"])


def test_a_loader_of_other_batches(out, monkeypatch):
    monkeypatch.setattr(fakes.FakeModel, "batch_type", "SceneBatch")
    with pytest.raises(UsageError, match="does not take the batches of the loader 'fake-loader'"):
        train(out)


def test_a_loader_without_objects(out, monkeypatch):
    monkeypatch.setattr(fakes.FakeDataset, "has_objects", False)
    with pytest.raises(UsageError, match="'fake-loader', whose scenes have no objects; choose"):
        train(out)
    monkeypatch.setattr(fakes.FakeModel, "needs_objects", False)
    train(out)
    monkeypatch.setattr(fakes.FakeDataset, "vocabulary", Vocabulary(("__image__",)))
    argv = ["fake-model", "-o", str(out), "--id", "01"]
    cli.evaluate(argv)  # a model that sees no classes
    monkeypatch.setattr(fakes.FakeDataset, "has_objects", True)
    monkeypatch.setattr(fakes.FakeModel, "needs_objects", True)
    with pytest.raises(UserError, match="was trained with other classes"):
        cli.evaluate(argv)


@pytest.mark.parametrize(
    ("error", "message", "raised", "words"),
    [
        (tf.errors.ResourceExhaustedError, "OOM", UserError, "smaller batch_size"),
        (tf.errors.NotFoundError, "a.tfrecord; No such file", UserError, "cannot be read"),
        # A fault of the program must stay one, with its traceback.
        (tf.errors.InvalidArgumentError, "a\nb", tf.errors.InvalidArgumentError, "a"),
    ],
)
def test_errors_of_tensorflow_in_a_step(out, monkeypatch, error, message, raised, words):
    def broken(self, batch, step, seed):
        raise error(None, None, message)

    monkeypatch.setattr(fakes.FakeModel, "train_step", broken)
    with pytest.raises(raised, match=words):
        train(out, base=BASE + ",autograph=False")


def test_help_hps(out, capsys):
    cli.train(["--help-hps"])
    every = capsys.readouterr().out
    for piece in ("--base-hparams", "batch_size", "fake-model", "start_id", "folder"):
        assert piece in every
    cli.train(["fake-model", "--help-hps"])
    one = capsys.readouterr().out
    assert "--data-hparams of fake-loader" in one
    assert "start_id" not in one
    with pytest.raises(UsageError, match="unknown model"):
        cli.train(["nothing", "--help-hps"])


def test_the_scripts_fail_fast_and_clearly(tmp_path):
    began = time.monotonic()
    process = subprocess.run(
        [sys.executable, "train.py", "graph-atention", "--data-loader", "coco-tfrecord",
         "-o", str(tmp_path), "--id", "1"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert "unknown model 'graph-atention'" in process.stderr.splitlines()[-1]
    assert "Did you mean 'graph-attention'?" in process.stderr
    assert time.monotonic() - began < 60  # a few seconds on a machine that is not loaded
    assert list(tmp_path.iterdir()) == []
