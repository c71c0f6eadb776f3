"""core.checkpoints: whole or not at all, and every restore verified."""

import errno
import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tensorflow as tf

from core import checkpoints
from core.checkpoints import Checkpoints, CheckpointState, DamagedError
from core.dataset import Vocabulary
from core.errors import UserError
from tests.core.fakes import FakeBatch, FakeModel, FakeSecond, file_size_limit

NAMES = ("cat", "dog", "__image__")


def _model(cls=FakeModel, names=NAMES, **hparams):
    return cls(cls.HParams(**hparams), Vocabulary(names), 100)


def _step(model, step):
    features = tf.random.stateless_normal((5, 4), [1, step])
    batch = FakeBatch(tf.constant(step, tf.int64), features)
    return model.train_step(batch, tf.constant(step, tf.int64), tf.constant(0))


@pytest.fixture
def trained():
    model = _model()
    for step in range(3):
        _step(model, step)
    return model


@pytest.fixture
def own(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


def test_resume_restores_variables_and_optimizers(trained, own):
    path = own.save(trained, 3, False)
    other = _model()
    state = checkpoints.resume(other, path)
    assert (state.step, state.permanent) == (3, False)
    assert state.optimizer_steps == {"first": 3, "second": 3}
    # The next step shows that the optimizers' moments came back too.
    a, b = _step(trained, 3), _step(other, 3)
    assert {k: v.numpy() for k, v in a.items()} == {k: v.numpy() for k, v in b.items()}
    for mine, theirs in zip(trained.variables, other.variables):
        np.testing.assert_array_equal(mine, theirs)
    assert other.steps_seen.numpy() == 4


def test_a_changed_learning_rate_survives_the_resume(trained, own):
    path = own.save(trained, 3, False)
    other = _model(learning_rate=0.5)
    checkpoints.resume(other, path)
    rates = [o.learning_rate.numpy() for o in other.optimizers.values()]
    assert rates == [0.5, 0.5]


def test_the_last_two_safety_checkpoints_and_all_permanent_ones_stay(trained, own):
    for step in range(1, 8):
        own.save(trained, step, step in (2, 4))
    assert own.steps() == [2, 4, 6, 7]
    assert own.latest() == own.path(7)
    # The same step again, now for ever.
    own.save(trained, 7, True)
    assert CheckpointState.read(own.path(7)).permanent
    assert sorted(entry.name for entry in own.folder.iterdir()) == [
        f"step-{step:08d}" for step in (2, 4, 6, 7)
    ]


def test_variables_that_are_not_finite_are_not_saved(trained, own):
    own.save(trained, 3, False)
    trained.hidden.kernel.assign(trained.hidden.kernel * float("inf"))
    with pytest.raises(UserError, match=r"hidden/kernel.* not finite at step 4|kernel.*step 4"):
        own.save(trained, 4, False)
    assert own.steps() == [3]


def test_a_full_disk_is_an_error_and_keeps_what_is_there(trained, own):
    # A file size limit makes TensorFlow's writer raise OutOfRangeError, as a full disk can.
    own.save(trained, 3, False)
    wide = _model(width=5000)
    words = r"step 4 could not be written .*File too large; raise the limit .*step-00000003"
    with pytest.raises(UserError, match=words), file_size_limit(4096):
        own.save(wide, 4, False)
    assert [entry.name for entry in own.folder.iterdir()] == ["step-00000003"]
    checkpoints.resume(_model(), own.latest())


def test_leftovers_of_killed_runs_do_not_count_and_are_cleaned(trained, own):
    own.save(trained, 3, False)
    shutil.copytree(own.path(3), own.folder / ".step-00000004.999999999.partial")
    assert own.steps() == [3]
    own.clean()
    assert [entry.name for entry in own.folder.iterdir()] == ["step-00000003"]


def test_find(trained, own):
    assert checkpoints.find("none", own) is None
    assert checkpoints.find("latest", own) is None
    path = own.save(trained, 3, False)
    assert checkpoints.find("latest", own) == path
    for given in (path, path / "ckpt", own.folder, own.folder.parent):
        assert checkpoints.find(str(given), own) == path
    with pytest.raises(UserError, match="no such checkpoint"):
        checkpoints.find(str(own.folder / "step-00000009"), own)
    (own.folder / "empty").mkdir()
    with pytest.raises(UserError, match=r"not a checkpoint: it has no state\.json"):
        checkpoints.find(str(own.folder / "empty"), own)


@pytest.mark.parametrize("name", ["lr[1e-3]", "b[2", "a\\b", "what?", "all*"])
def test_a_folder_whose_name_looks_like_a_pattern(trained, tmp_path, name):
    """TensorFlow takes a prefix for a pattern when it reads, not when it writes."""
    own = Checkpoints(tmp_path / name / "checkpoints")
    path = own.save(trained, 3, False)
    assert checkpoints.find("latest", own) == path
    assert checkpoints.resume(_model(), path).step == 3
    second = _model(FakeSecond)
    checkpoints.warm_start(second, path, "fake-model")
    np.testing.assert_array_equal(second.hidden.kernel, trained.hidden.kernel)
    _flip(path)
    with pytest.raises(DamagedError, match="its files cannot be read"):
        checkpoints.load(_model(), path)


def _data_file(path):
    return next(path.glob("ckpt.data-*"))


@pytest.mark.parametrize("name", ["state.json", "ckpt.index"])
def test_what_may_not_be_read_is_not_called_damaged(trained, own, monkeypatch, name):
    """Nor passed over: the run would go on from an older one and put this one aside."""
    own.save(trained, 3, False)
    path = own.save(trained, 4, False)

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    if name == "state.json":
        monkeypatch.setattr(Path, "read_bytes", refuse)
    else:
        monkeypatch.setattr(tf.train, "load_checkpoint", refuse)
    with pytest.raises(UserError, match=r"cannot be read: .*Permission denied") as caught:
        checkpoints.find("latest", own)
    assert not isinstance(caught.value, DamagedError)


def _values(path):
    reader = tf.train.load_checkpoint(str(path / "ckpt"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(trained, own):
    path = own.save(trained, 3, False)
    before, rng = _values(path), np.random.default_rng(0)
    harmless = 0
    for file in sorted(path.iterdir()):
        content = file.read_bytes()
        for place in rng.integers(0, len(content), 60).tolist():
            changed = bytearray(content)
            changed[place] ^= 1 << int(rng.integers(8))
            file.write_bytes(changed)
            try:
                checkpoints.verify(path)
            except DamagedError:
                continue
            # A few bytes at the end of the index say nothing.
            assert file.suffix == ".index"
            harmless += 1
            for name, value in _values(path).items():
                np.testing.assert_array_equal(value, before[name])
        file.write_bytes(content)
    assert harmless < 15


def _edit_state(path, **changes):
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, **changes}))


def _write_state(path, **changes):
    """With the checksum that fits."""
    msgspec.structs.replace(CheckpointState.read(path), **changes).write(path)


def _flip(path):
    data = bytearray(_data_file(path).read_bytes())
    data[-40] ^= 1
    _data_file(path).write_bytes(data)


DAMAGE = {
    "other bytes": (_flip, "its files cannot be read"),
    "other size": (lambda path: _data_file(path).write_bytes(b""), "has 0 bytes instead of"),
    "a file is gone": (lambda path: (path / "ckpt.index").unlink(), r"ckpt\.index is missing"),
    "no state": (lambda path: (path / "state.json").unlink(), r"has no state\.json"),
    "no JSON": (lambda path: (path / "state.json").write_text("{"), "damaged: .*not valid JSON"),
    "edited": (lambda path: _edit_state(path, permanent=True), "is not as it was written"),
    "a file it does not have": (
        lambda path: _write_state(path, files={"ckpt.data-9": 7}),
        r"ckpt\.data-9 is missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", DAMAGE)
def test_latest_takes_the_one_before_a_damaged_one(trained, own, caplog, how):
    older, newest = (own.save(trained, step, False) for step in (3, 4))
    damage, words = DAMAGE[how]
    damage(newest)
    with pytest.raises(DamagedError, match=words):  # asked for by name, it is an error
        checkpoints.find(str(newest), own)
    assert checkpoints.find("latest", own) == older
    assert [str(path) in line for path, line in zip((newest, older), caplog.messages)] == [True] * 2
    own.set_aside(newer_than=older)
    assert own.steps() == [3]
    # It happens again at the same step.
    damage(own.save(trained, 4, False))
    own.set_aside(newer_than=older)
    kept = {entry.name for entry in own.folder.iterdir()}
    assert kept == {"step-00000003", "damaged-step-00000004", "damaged-step-00000004-2"}
    damage(older)
    with pytest.raises(DamagedError, match=r"No other checkpoint of .* can be read"):
        checkpoints.find("latest", own)


def test_a_checkpoint_of_another_model(trained, own):
    path = own.save(trained, 3, False)
    with pytest.raises(UserError, match="of the model 'fake-model', not 'fake-second'"):
        checkpoints.load(_model(FakeSecond), path)


def test_a_checkpoint_of_another_size_says_which_hparam(trained, own):
    path = own.save(trained, 3, False)
    with pytest.raises(UserError, match="does not fit this model: width was 3 and is 4"):
        checkpoints.resume(_model(width=4), path, "width was 3 and is 4")
    with pytest.raises(UserError, match=r"does not fit this model: .*shape"):
        checkpoints.resume(_model(width=4), path)


def test_a_variable_on_one_side_only_is_an_error(trained, own):
    path = own.save(trained, 3, False)
    more = _model()
    more.extra = tf.Variable(1.0)
    with pytest.raises(UserError, match="does not fit this model"):
        checkpoints.load(more, path)
    less = _model()
    del less.steps_seen
    with pytest.raises(UserError, match="does not fit this model"):
        checkpoints.load(less, path)


def test_other_classes_are_an_error(trained, own):
    path = own.save(trained, 3, False)
    with pytest.raises(UserError, match=r"label 1 was 'dog' \(3 classes\) and is 'cow' \(3\)"):
        checkpoints.load(_model(names=("cat", "cow", "__image__")), path)
    with pytest.raises(UserError, match=r"label 2 was '__image__' .*is nothing \(2\)"):
        checkpoints.load(_model(names=("cat", "dog")), path)


def test_optimizers_that_did_not_come_back_are_an_error(trained, own):
    path = own.save(trained, 3, False)
    _write_state(path, optimizer_steps={"first": 2, "second": 3})
    with pytest.raises(UserError, match="did not restore the optimizers"):
        checkpoints.resume(_model(), path)


def test_warm_start_takes_the_parts_and_nothing_else(trained, own):
    path = own.save(trained, 3, False)
    second = _model(FakeSecond)
    before = second.out.kernel.numpy()
    checkpoints.warm_start(second, path, "fake-model")
    np.testing.assert_array_equal(second.hidden.kernel, trained.hidden.kernel)
    np.testing.assert_array_equal(second.out.kernel, before)
    assert second.optimizers["first"].iterations.numpy() == 0


def test_warm_start_must_find_every_variable(trained, own):
    path = own.save(trained, 3, False)
    with pytest.raises(UserError, match="'fake-model', not 'other'"):
        checkpoints.warm_start(_model(FakeSecond), path, "other")
    with pytest.raises(UserError, match="does not fit"):
        checkpoints.warm_start(_model(FakeSecond, width=7), path, "fake-model")
