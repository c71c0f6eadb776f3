"""Checkpoints of a run: written whole or not at all, and verified when they are read.

    <run>/checkpoints/step-00000100/
        ckpt.index  ckpt.data-00000-of-00001    TensorFlow's files: model and optimizers
        state.json                              CheckpointState
    <run>/checkpoints/damaged-step-00000200/    one that could not be read, moved out of the way

A folder is filled under a temporary name and renamed, so a folder named step-* is complete.
`verify` finds what a disk has damaged since, before anything is restored.
Three restores: `resume` the same run, `warm_start` parts of another model, `load` for use.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import tensorflow as tf

from core.dataset import STANDARD_SIZES, DataSizes, Vocabulary
from core.errors import UserError, file_error, first_line
from core.files import (
    atomic_folder,
    read_versioned_json,
    remove_folder,
    remove_leftovers,
    write_json,
)
from core.run_folder import CHECKPOINT, checkpoint_steps

log = logging.getLogger(__name__)

KEEP_SAFETY = 2
_PREFIX = "ckpt"  # to write; read by `_readable_prefix`
_STATE = "state.json"
SCHEMA = 1  # of state.json


class DamagedError(UserError):
    """A checkpoint whose files are not as they were written."""


class CheckpointState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of state.json: which checkpoint this is, and what its model was built for.

    step: steps done. optimizer_steps: optimizer name -> its own count of updates. permanent: kept
    for ever. files: file name -> bytes. vocabulary: the classes that weights of classifiers are
    bound to. sizes: of the pictures and masks of the data. checksum: of all the rest.
    """

    schema: int
    model: str
    step: int
    optimizer_steps: dict[str, int]
    permanent: bool
    files: dict[str, int]
    vocabulary: Vocabulary
    sizes: DataSizes
    checksum: str = ""

    def write(self, folder: Path) -> None:
        """Write state.json, with its checksum."""
        whole = msgspec.structs.replace(self, checksum=self._digest())
        write_json(folder / _STATE, msgspec.to_builtins(whole))

    def _digest(self) -> str:
        plain = msgspec.structs.replace(self, checksum="")
        return hashlib.sha256(msgspec.json.encode(plain)).hexdigest()

    @classmethod
    def read(cls, folder: Path) -> CheckpointState:
        """Read state.json; DamagedError when it or the size of a file is not as it was written."""
        path = folder / _STATE
        if not path.is_file():
            raise DamagedError(
                f"{folder} is not a checkpoint: it has no {_STATE}; name a folder like "
                "<run>/checkpoints/step-00000100"
            )
        try:
            state = read_versioned_json(path, cls, SCHEMA)
        except UserError as error:
            raise _damaged(folder, str(error)) from None
        if state.checksum != state._digest():
            raise _damaged(folder, f"{_STATE} is not as it was written")
        for name, size in state.files.items():
            file = folder / name
            actual = file.stat().st_size if file.is_file() else None
            if actual != size:
                found = "is missing" if actual is None else f"has {actual} bytes instead of {size}"
                raise _damaged(folder, f"{name} {found}")
        return state


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, ascending."""
        return checkpoint_steps(self.folder)

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint of that step."""
        return self.folder / f"step-{step:08d}"

    def latest(self) -> Path | None:
        """Return the folder of the newest checkpoint, or None."""
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def set_aside(self, newer_than: Path) -> None:
        """Rename later checkpoints to damaged-*. Only the holder of the run's lock may."""
        last = int(CHECKPOINT.match(newer_than.name)[1])
        for folder in (self.path(step) for step in self.steps() if step > last):
            aside, number = folder.with_name(f"damaged-{folder.name}"), 1
            while aside.exists():
                number += 1
                aside = folder.with_name(f"damaged-{folder.name}-{number}")
            folder.rename(aside)
            log.warning("%s is kept as %s", folder, aside.name)

    def clean(self) -> None:
        """Remove what killed runs left unfinished. Only the holder of the run's lock may."""
        if self.folder.is_dir():
            remove_leftovers(self.folder)

    def save(
        self, model: Any, step: int, permanent: bool, sizes: DataSizes = STANDARD_SIZES
    ) -> Path:
        """Write the checkpoint of `step`; older safety checkpoints but the last two go.

        UserError when a variable is not finite (nothing is written) or the disk does not take it;
        earlier checkpoints stay.
        """
        _check_finite(model, step)
        final = self.path(step)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_folder(final, flush=True) as temporary:
                _root(model).write(str(temporary / _PREFIX))
                state = CheckpointState(
                    schema=SCHEMA,
                    model=model.name,
                    step=step,
                    optimizer_steps=_optimizer_steps(model),
                    permanent=permanent,
                    files={file.name: file.stat().st_size for file in sorted(temporary.iterdir())},
                    vocabulary=model.vocabulary,
                    sizes=sizes,
                )
                state.write(temporary)
        except (tf.errors.OpError, OSError, UserError) as error:
            kept = self.latest()
            last = f"the last complete one is {kept}" if kept else "there is none before it"
            raise UserError(
                f"the checkpoint of step {step} could not be written to {self.folder} "
                f"({file_error(error)}); {last}. Go on with --resume latest"
            ) from None
        self._prune()
        return final

    def _prune(self) -> None:
        safety = []
        for step in self.steps():
            with contextlib.suppress(UserError):  # a damaged one is not ours to delete
                if not CheckpointState.read(self.path(step)).permanent:
                    safety.append(step)
        for step in safety[:-KEEP_SAFETY]:
            remove_folder(self.path(step))


def find(resume: str, checkpoints: Checkpoints) -> Path | None:
    """Return the checkpoint folder that `--resume none|latest|PATH` asks for, verified.

    none: None. latest: the newest that is not damaged, with a warning when it is not the newest;
    None where there is none. PATH: a checkpoint folder, TensorFlow's prefix inside it, or a run's
    folder (its newest checkpoint). UserError when PATH holds no checkpoint, DamagedError when that
    one is damaged, or all of a run's.
    """
    if resume == "none":
        return None
    if resume == "latest":
        return _newest_undamaged(checkpoints)
    path = Path(resume)
    if not path.is_dir() and path.name == _PREFIX:
        path = path.parent
    for folder in (path, path / "checkpoints"):
        newest = Checkpoints(folder).latest()
        if newest:
            path = newest
    if not path.is_dir():
        raise UserError(
            f"there is no such checkpoint folder: {resume}; name one like "
            "<run>/checkpoints/step-00000100, or latest"
        )
    verify(path)
    return path


def _newest_undamaged(checkpoints: Checkpoints) -> Path | None:
    first = None
    for step in reversed(checkpoints.steps()):
        folder = checkpoints.path(step)
        try:
            verify(folder)
        except DamagedError as error:
            if not folder.is_dir():  # its run has gone on, and pruned it
                return _newest_undamaged(checkpoints)
            log.warning("%s", error)
            first = first or error
            continue
        if first:
            log.warning("going on from the one before, %s", folder)
        return folder
    if first:
        raise DamagedError(f"{first}. No other checkpoint of {checkpoints.folder} can be read")
    return None


def verify(folder: Path) -> CheckpointState:
    """Return a checkpoint's state; DamagedError when any checksum of its values does not fit."""
    state = CheckpointState.read(folder)
    try:
        with _readable_prefix(folder) as prefix:
            reader = tf.train.load_checkpoint(prefix)
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)
    # What TensorFlow makes of a damaged file: any of these, by the place of the damage.
    except (tf.errors.OpError, OSError, RuntimeError, ValueError, IndexError) as error:
        raise _damaged(folder, f"its files cannot be read ({file_error(error)})") from None
    return state


def resume(model: Any, folder: Path, hint: str = "") -> CheckpointState:
    """Restore everything, optimizers included, so that training goes on as if never stopped.

    The learning rate stays the one the model was built with: Keras keeps a constant rate in a
    variable, and the checkpoint's would silently undo a change of the hparam.
    hint: ends the message when the checkpoint does not fit (which hparams differ).
    """
    rates = {
        name: optimizer.learning_rate.numpy()
        for name, optimizer in model.optimizers.items()
        if isinstance(optimizer.learning_rate, tf.Variable)
    }
    state = load(model, folder, hint)
    for name, rate in rates.items():
        model.optimizers[name].learning_rate.assign(rate)
    steps = _optimizer_steps(model)
    if steps != state.optimizer_steps:
        raise UserError(
            f"the checkpoint {folder} did not restore the optimizers: they count {steps} updates, "
            f"and it was saved with {state.optimizer_steps}"
        )
    return state


def load(model: Any, folder: Path, hint: str = "") -> CheckpointState:
    """Restore a model to evaluate it; every variable on both sides must be matched."""
    state = CheckpointState.read(folder)
    if state.model != model.name:
        raise UserError(
            f"the checkpoint {folder} is of the model {state.model!r}, not {model.name!r}"
        )
    check_vocabulary(model, state.vocabulary, model.vocabulary, f"the checkpoint {folder}")
    with _explained(folder, hint), _readable_prefix(folder) as prefix:
        status = _root(model).read(prefix)
        try:
            status.assert_consumed()
        except AssertionError:
            status.expect_partial()  # or TensorFlow warns of every value that is left over
            raise
    return state


def warm_start(model: Any, folder: Path, source: str) -> CheckpointState:
    """Restore all `warm_start_parts` of a model from a checkpoint of another one, `source`."""
    state = CheckpointState.read(folder)
    if state.model != source:
        raise UserError(f"the checkpoint {folder} is of the model {state.model!r}, not {source!r}")
    check_vocabulary(model, state.vocabulary, model.vocabulary, f"the checkpoint {folder}")
    with _explained(folder, ""), _readable_prefix(folder) as prefix:
        root = tf.train.Checkpoint(model=tf.train.Checkpoint(**model.warm_start_parts()))
        status = root.read(prefix).expect_partial()
        status.assert_existing_objects_matched()
    return state


@contextlib.contextmanager
def _readable_prefix(folder: Path) -> Iterator[str]:
    """Yield the prefix by which TensorFlow reads a checkpoint.

    It takes a prefix for a pattern, without an escape, so a folder with brackets or the like in its
    path is read through a link."""
    if not re.search(r"[][*?\\]", str(folder)):
        yield str(folder / _PREFIX)
        return
    with tempfile.TemporaryDirectory() as plain:
        link = Path(plain) / "checkpoint"
        link.symlink_to(folder.resolve(), target_is_directory=True)
        yield str(link / _PREFIX)


# Causes outside a checkpoint, which may be whole.
_OUTSIDE = tuple(map(os.strerror, (errno.EMFILE, errno.ENFILE, errno.EACCES)))


def _damaged(folder: Path, what: str) -> UserError:
    """Return the error of a checkpoint that cannot be read: a DamagedError, if it is its own."""
    if any(cause in what for cause in _OUTSIDE):
        return UserError(f"the checkpoint {folder} cannot be read: {what}")
    return DamagedError(f"the checkpoint {folder} is damaged: {what}")


def _root(model: Any) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(model=model, optimizers=dict(model.optimizers))


def _optimizer_steps(model: Any) -> dict[str, int]:
    return {name: int(o.iterations.numpy()) for name, o in model.optimizers.items()}


def _check_finite(model: Any, step: int) -> None:
    variables = list(model.variables)
    for optimizer in model.optimizers.values():
        variables.extend(optimizer.variables)
    for variable in variables:
        if variable.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(variable))):
            raise UserError(
                f"the variable {variable.name} has values that are not finite at step {step}: "
                "nothing was saved; go on from the last checkpoint with a lower learning_rate"
            )


def check_vocabulary(model: Any, trained: Vocabulary, given: Vocabulary, what: str) -> None:
    """Raise UserError naming the first label that differs, for a model that sees labels. what:
    begins the message, and was trained with the one vocabulary; the data have the other."""
    if not model.needs_objects or trained.names == given.names:
        return
    count = min(len(trained.names), len(given.names))
    differing = (i for i in range(count) if trained.names[i] != given.names[i])
    label = next(differing, count)
    then, now = (
        repr(v.names[label]) if label < len(v.names) else "nothing" for v in (trained, given)
    )
    raise UserError(
        f"{what} was trained with other classes than the data has: label {label} was {then} "
        f"({len(trained.names)} classes) and is {now} ({len(given.names)}); use sets prepared "
        "from the same annotations"
    )


@contextlib.contextmanager
def _explained(folder: Path, hint: str):
    """TensorFlow's errors of a restore as one sentence."""
    try:
        yield
    except (AssertionError, ValueError, IndexError) as error:
        because = hint or first_line(error)
        raise UserError(f"the checkpoint {folder} does not fit this model: {because}") from None
    except (tf.errors.OpError, OSError) as error:
        raise _damaged(folder, f"its files cannot be read ({file_error(error)})") from None
