"""core.training: the loop, its stops, and that a resumed run is the undisturbed one."""

import logging
import signal

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import plugin_event_accumulator as tensorboard

from core import checkpoints, training
from core.checkpoints import Checkpoints
from core.dataset import Vocabulary
from core.errors import StoppedError, UserError
from core.hparams import BaseHParams
from core.reporting import read_metrics
from core.run_folder import RunFolder
from tests.core import fakes
from tests.core.fakes import FakeData, FakeDataset, FakeHParams, FakeModel

BASE = {
    "batch_size": 4, "iterations": 12, "log_every": 1, "notify_every": 1000,
    "save_every": 1000, "safety_save": 1000,
}  # fmt: skip


class Run:
    """A run folder with a fake model and dataset, rebuilt for every training like a process."""

    def __init__(self, folder):
        self.dir = RunFolder(folder, "fake-model", "1")
        self.dir.create()
        self.own = Checkpoints(self.dir.checkpoints)

    def train(self, resume=False, end=-1, base=None, **hparams):
        base = BaseHParams(**{**BASE, **(base or {})})
        tf.keras.utils.set_random_seed(base.seed)
        model = FakeModel(FakeHParams(**hparams), Vocabulary(("cat",)), base.iterations)
        dataset = FakeDataset(FakeData(end=end), base, 96, base.seed)
        start = 0
        if resume:
            start = checkpoints.resume(model, self.own.latest()).step
        training.train(model, dataset, self.dir, base, start)
        return model

    def losses(self):
        return {line["step"]: line["losses"] for line in read_metrics(self.dir.metrics)}


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_step_t_takes_batch_t_and_checkpoints_fall_when_due(run):
    run.train(base={"save_every": 5, "safety_save": 2})
    assert {step: losses["batch"] for step, losses in run.losses().items()} == {
        step: step - 1 for step in range(1, 13)
    }
    # 5, 10: for ever; 12: the last; of the safety ones 2 4 6 8 the last two.
    assert run.own.steps() == [5, 6, 8, 10, 12]
    kept = {
        step: checkpoints.CheckpointState.read(run.own.path(step)).permanent
        for step in run.own.steps()
    }
    assert [step for step, permanent in kept.items() if permanent] == [5, 10, 12]
    assert (run.dir.plots / "losses.png").is_file()


def test_the_step_is_traced_once_for_batches_of_all_sizes(run):
    FakeModel.traces = 0
    run.train()
    assert FakeModel.traces == 1


def test_notifying_changes_nothing_of_the_training(tmp_path, monkeypatch):
    fakes.install(monkeypatch.setitem, monkeypatch.setattr)
    quiet, told = Run(tmp_path / "a"), Run(tmp_path / "b")
    models = [quiet.train(), told.train(base={"notify_every": 5})]
    assert quiet.losses() == told.losses()
    for mine, theirs in zip(*(model.variables for model in models)):
        tf.debugging.assert_equal(mine, theirs)
    # when due only: not after the last step, 12
    lines = read_metrics(told.dir.figures)
    assert [(line["step"], line["failed"]) for line in lines] == [(5, []), (10, [])]
    sizes = [line["figures"][0]["value"] for line in lines]
    assert sizes[0] != sizes[1]  # of the model as it was then
    assert sorted(path.name for path in told.dir.plots.iterdir()) == [
        "fake-metric-step-10.png", "fake-metric-step-5.png", "figures.png", "losses.png",
    ]  # fmt: skip
    assert not quiet.dir.figures.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_and_resumed_run_is_the_undisturbed_one(tmp_path, number):
    undisturbed = Run(tmp_path / "a")
    model = undisturbed.train()
    run = Run(tmp_path / "b")
    with pytest.raises(StoppedError, match="after step 6; go on with") as caught:
        run.train(signal_at=5, signal=int(number))
    assert caught.value.exit_code == 128 + number
    assert run.own.steps() == [6]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = run.train(resume=True)
    assert run.losses() == undisturbed.losses()
    for mine, theirs in zip(model.variables, resumed.variables):
        tf.debugging.assert_equal(mine, theirs)


def test_nan_stops_at_the_last_checkpoint_from_where_the_lost_steps_are_repeated(tmp_path):
    undisturbed = Run(tmp_path / "a")
    undisturbed.train()
    run = Run(tmp_path / "b")
    words = "stopped at step 8: norm_loss is nan.*step-00000004"
    with pytest.raises(UserError, match=words) as caught:
        run.train(base={"safety_save": 4}, nan_at=7)
    assert "fit_loss" not in str(caught.value)
    assert run.own.steps() == [4]
    assert list(run.losses()) == [1, 2, 3, 4, 5, 6, 7]
    run.train(resume=True)
    assert run.losses() == undisturbed.losses()
    events = tensorboard.EventAccumulator(str(run.dir.tensorboard)).Reload()
    assert [event.step for event in events.Tensors("losses/fit_loss")] == list(range(1, 13))


def test_a_loss_scale_may_fall_but_not_below_one(run, monkeypatch):
    """After steps 1 and 2 it is 2 and 1."""
    step = FakeModel.train_step

    def scaled(self, batch, number, seed):
        scale = 2.0 / tf.pow(2.0, tf.cast(number, tf.float32))
        return {**step(self, batch, number, seed), "first_loss_scale": scale}

    monkeypatch.setattr(FakeModel, "train_step", scaled)
    with pytest.raises(UserError, match=r"at step 2: no loss scale .* mixed_precision="):
        run.train()


def test_data_that_end_are_an_error(run):
    with pytest.raises(UserError, match="data ended before step 4"):
        run.train(end=3)
    assert run.own.steps() == []


def test_a_full_disk_does_not_read_as_the_end_of_the_data(run):
    full = pytest.raises(UserError, match="checkpoint of step 2 could not be written")
    with full, fakes.file_size_limit(2000):
        run.train(base={"safety_save": 2, "log_every": 100}, width=2000)
    assert run.own.steps() == []
    with (
        pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl"),
        fakes.file_size_limit(300),
    ):
        run.train()


def test_a_finished_run_does_nothing(run, caplog):
    run.train()
    before = run.dir.metrics.read_text()
    with caplog.at_level(logging.INFO):
        run.train(resume=True)
    assert "nothing to do: the run has done 12 of 12 steps" in caplog.text
    assert run.dir.metrics.read_text() == before
