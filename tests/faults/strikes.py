"""Kills, full disks and signals that strike commands while they write."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

from core.checkpoints import Checkpoints
from tests.faults.child import Fault
from tests.faults.commands import Command, Extraction, Preparation, Training
from tests.faults.harness import Outcome, World, error_of

SAVE, CONFIG = "core.checkpoints:Checkpoints.save", "core.run_folder:RunConfig.write"
NEXT_BATCH = "core.training:_next_batch"
SHARDS, FEATURES = "prep_data.set_writer:SetWriter.write", "core.features:write"
WINDOWS = {
    SAVE: "a checkpoint", CONFIG: "config.json", NEXT_BATCH: "a step", SHARDS: "a set",
    FEATURES: "features",
}  # fmt: skip


def kills_in_training(world: World, share: float) -> Iterator[Outcome]:
    """Strike trainings with kill -9: in checkpoints, in config.json and in steps."""
    training, rng = Training(world), world.rng
    data, config = _sizes(training)
    save_lines = training.count_lines(SAVE, 4)  # this one removes an older one too
    config_lines = training.count_lines(CONFIG)
    faults = [
        *(Fault("bytes", SAVE, rng.randrange(data), rng.choice((1, 2)))
          for _ in range(_scaled(14, share))),
        *(Fault("lines", SAVE, rng.randint(1, save_lines), rng.choice((1, 2)))
          for _ in range(_scaled(12, share))),
        *(Fault("bytes", CONFIG, rng.randrange(config)) for _ in range(_scaled(4, share))),
        *(Fault("lines", CONFIG, rng.randint(1, config_lines)) for _ in range(_scaled(4, share))),
        *(Fault("time", NEXT_BATCH, rng.uniform(0, 0.012), rng.randint(2, 5))
          for _ in range(_scaled(10, share))),
    ]  # fmt: skip
    yield from strike(training, faults)


def full_disks_in_training(world: World, share: float) -> Iterator[Outcome]:
    """Fill the disk in checkpoints and in config.json."""
    training, rng = Training(world), world.rng
    data, config = _sizes(training)
    faults = [Fault("full", SAVE, rng.randrange(data), 2) for _ in range(_scaled(3, share))]
    faults += [Fault("full", CONFIG, rng.randrange(config)) for _ in range(_scaled(2, share))]
    yield from strike(training, faults)


def signals_in_training(world: World, share: float) -> Iterator[Outcome]:
    """Send SIGTERM and Ctrl-C: the step is finished and saved."""
    faults = [
        Fault(kind, function, at, 2, number)
        for kind, function, at in (("time", NEXT_BATCH, world.rng.uniform(0, 0.02)),
                                   ("lines", SAVE, 20))
        for number in (signal.SIGTERM, signal.SIGINT)
    ]  # fmt: skip
    yield from strike(Training(world), faults)


def faults_in_sets(world: World, share: float) -> Iterator[Outcome]:
    """Strike the preparation of a set with kills, full disks and signals."""
    preparation, rng = Preparation(world), world.rng
    result = preparation.result(preparation.undisturbed())
    sizes = [len(data) for name, data in result.items() if name.endswith(".tfrecord")]
    lines = preparation.count_lines(SHARDS)
    faults = [
        *(Fault("bytes", SHARDS, rng.randrange(1, rng.choice(sizes)))
          for _ in range(_scaled(12, share))),
        *(Fault("lines", SHARDS, rng.randint(1, lines)) for _ in range(_scaled(12, share))),
        *(Fault("full", SHARDS, rng.randrange(1, rng.choice(sizes)))
          for _ in range(_scaled(4, share))),
        *(Fault("lines", SHARDS, rng.randint(lines // 9, lines // 2), 1, number)
          for number in (signal.SIGTERM, signal.SIGINT)),
    ]  # fmt: skip
    yield from strike(preparation, faults)


def faults_in_features(world: World, share: float) -> Iterator[Outcome]:
    """Strike the extraction of features with kills, a full disk and Ctrl-C."""
    extraction, rng = Extraction(world), world.rng
    size = min(map(len, extraction.result(extraction.undisturbed()).values()))
    lines = extraction.count_lines(FEATURES)
    faults = [
        *(Fault("bytes", FEATURES, rng.randrange(size), rng.randint(1, 3))
          for _ in range(_scaled(6, share))),
        *(Fault("lines", FEATURES, rng.randint(1, lines), rng.randint(1, 3))
          for _ in range(_scaled(3, share))),
        Fault("full", FEATURES, rng.randrange(size), 2),
        Fault("lines", FEATURES, lines // 2, 1, signal.SIGINT),
    ]  # fmt: skip
    yield from strike(extraction, faults)


def strike(command: Command, faults: list[Fault]) -> Iterator[Outcome]:
    """Strike a command with one fault after the other, and go on with it to its end.

    A command that has ended must have the undisturbed one's result; the faults that are left strike
    it in another folder.
    """
    faults = list(faults)
    command.world.rng.shuffle(faults)
    number = 0
    while faults:
        number += 1
        folder = command.world.free_path(f"{command.name}-{number}")
        starts = 0
        while True:
            fault = faults[0] if faults else None
            before = _unfinished(folder)
            ended = command.world.processes.run(command.script, command.argv(folder), fault)
            starts += 1
            if ended.code == 0:
                break
            yield _outcome(command, folder, faults.pop(0), ended, before)
        error = error_of(lambda: command.check_result(folder))  # noqa: B023
        yield Outcome("the end", command.name, f"{starts} starts", error=error)
        if faults and starts == 1:  # a whole command does not come by there
            missed = faults.pop(0)
            yield Outcome(_part(missed), WINDOWS[missed.function], str(missed), struck=False)


def _outcome(command: Command, folder: Path, fault: Fault, ended, before: set[Path]) -> Outcome:
    left = _unfinished(folder) - before
    lost = 0

    def check() -> None:
        nonlocal lost
        if fault.kind == "full":
            ended.check_sentence(1)
        elif fault.signal != signal.SIGKILL:
            ended.check_sentence(128 + fault.signal)
        else:
            assert ended.code == -signal.SIGKILL, ended.stderr[-800:]
        lost = command.check(folder)
        assert not left or fault.kind != "full", f"{left} is left"
        assert lost == 0 or _part(fault) != "signals", f"{lost} steps lost"

    error = error_of(check)
    window = WINDOWS[fault.function]
    return Outcome(_part(fault), window, str(fault), True, _described(left, fault), lost, error)


def _unfinished(folder: Path) -> set[Path]:
    """Return the temporary files and folders that were not renamed."""
    return set(folder.rglob("*.partial")) if folder.is_dir() else set()


def _described(left: set[Path], fault: Fault) -> str:
    files = [file for path in left for file in (path, *path.rglob("*")) if file.is_file()]
    if fault.kind == "bytes" and any(file.stat().st_size == fault.at for file in files):
        return "a file that ends at that byte"
    return "an unfinished file or folder" if left else "nothing unfinished"


def _part(fault: Fault) -> str:
    if fault.kind == "full":
        return "disk full"
    return "kill -9" if fault.signal == signal.SIGKILL else "signals"


def _sizes(training: Training) -> tuple[int, int]:
    """Return the bytes of a checkpoint's data and of config.json."""
    run = training.run_folder(training.undisturbed())
    newest = Checkpoints(run.checkpoints).latest()
    data = sum(file.stat().st_size for file in newest.glob("ckpt.data-*"))
    return data, run.config.stat().st_size


def _scaled(count: int, share: float) -> int:
    return max(1, round(count * share))
