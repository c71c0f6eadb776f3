"""Faults that strike trainings: kills, full disks, signals."""

from __future__ import annotations

import signal
from collections.abc import Iterator

from core.checkpoints import Checkpoints
from tests.faults import harness
from tests.faults.child import Fault
from tests.faults.harness import Training
from tests.faults.world import NEXT, STEPS, Outcome, World, described, failure

SAVE, CONFIG = "core.checkpoints:Checkpoints.save", "core.cli:_save_config"

EVIDENCE = {
    "a step": harness.step_evidence,
    "a checkpoint": harness.checkpoint_evidence,
    "config.json": harness.config_evidence,
}


def _training_faults(
    world: World, counts: dict[str, int], kinds: tuple[str, str]
) -> list[tuple[str, Fault]]:
    """kinds: of faults at bytes ('bytes' or 'full') and at moments ('lines' or '')."""
    rng, at_bytes, moments = world.rng, *kinds
    probe = Training(world.fresh("count"), "01", world.data, 4 * harness.SAFETY)
    start = Training(world.fresh("count-config"), "01", world.data, 1)
    newest = Checkpoints(world.undisturbed.run.checkpoints).latest()
    data = sum(file.stat().st_size for file in newest.glob("ckpt.data-*"))
    config = world.undisturbed.run.config.stat().st_size
    faults = [("a checkpoint", Fault(at_bytes, SAVE, rng.randrange(data), rng.choice((1, 2))))
              for _ in range(counts.get("checkpoint bytes", 0))]  # fmt: skip
    faults += [("config.json", Fault(at_bytes, CONFIG, rng.randrange(config)))
               for _ in range(counts.get("config bytes", 0))]  # fmt: skip
    if moments:
        lines = {
            SAVE: world.count("train.py", probe.argv, SAVE, 4),  # it removes an older one too
            CONFIG: world.count("train.py", start.argv, CONFIG),
        }
        for _ in range(counts.get("checkpoint lines", 0)):
            at, call = rng.randint(1, lines[SAVE]), rng.choice((1, 2))
            faults.append(("a checkpoint", Fault(moments, SAVE, at, call)))
        for _ in range(counts.get("config lines", 0)):
            faults.append(("config.json", Fault(moments, CONFIG, rng.randint(1, lines[CONFIG]))))
    for _ in range(counts.get("steps", 0)):
        faults.append(("a step", Fault("time", NEXT, rng.uniform(0, 0.012), rng.randint(2, 5))))
    rng.shuffle(faults)
    return faults


def _struck_trainings(
    part: str, world: World, faults: list[tuple[str, Fault]]
) -> Iterator[Outcome]:
    """One fault after the other strikes a run; when it has ended all the same, it must be the
    undisturbed one, and the rest strike another."""
    number, starts = 0, 0
    pending = list(faults)
    training = None
    while True:
        if training is None:
            number += 1
            out = world.fresh(f"{part}-{number}")
            training = Training(out, "01", world.data, STEPS)
            starts = 0
        window, fault = pending[0] if pending else ("", None)
        before = harness.Before.of(training.run)
        ended = world.processes.run("train.py", training.argv, fault)
        starts += 1
        if ended.code == 0:
            error = failure(lambda: training.check_same(world.undisturbed))  # noqa: B023
            yield Outcome(part, "the end", f"{starts} starts", "all steps done", 0, error)
            if fault and starts == 1:
                yield Outcome(part, window, described(fault))
                pending.pop(0)
            training = None
            if not pending:
                return
            continue
        pending.pop(0)
        yield _struck(part, window, fault, ended, training, before)


def _struck(
    part: str,
    window: str,
    fault: Fault,
    ended: harness.Ended,
    training: Training,
    before: harness.Before,
) -> Outcome:
    lost = 0

    def check() -> None:
        nonlocal lost
        if fault.kind == "full":
            harness.one_sentence(ended, 1)
        else:
            assert ended.code == -fault.signal, ended.stderr[-800:]
        lost = training.check_left()

    # A full disk is cleaned up after: what is left does not show it, but the sentence does.
    where = ended.last if fault.kind == "full" else EVIDENCE[window](training.run, fault, before)
    error = failure(check)
    return Outcome(part, window, described(fault), where or "", lost, error)


def _scaled(counts: dict[str, int], share: float) -> dict[str, int]:
    return {name: max(1, round(count * share)) for name, count in counts.items()}


def kills_in_checkpoints(world: World, share: float) -> Iterator[Outcome]:
    """kill -9 while checkpoints are written."""
    counts = _scaled({"checkpoint bytes": 14, "checkpoint lines": 12}, share)
    faults = _training_faults(world, counts, ("bytes", "lines"))
    yield from _struck_trainings("kill -9", world, faults)


def kills_in_steps(world: World, share: float) -> Iterator[Outcome]:
    """kill -9 in steps and while config.json is written."""
    counts = _scaled({"config bytes": 4, "config lines": 4, "steps": 10}, share)
    faults = _training_faults(world, counts, ("bytes", "lines"))
    yield from _struck_trainings("kill -9", world, faults)


def full_disks_in_training(world: World, share: float) -> Iterator[Outcome]:
    """The same windows, on a disk that is full."""
    counts = _scaled({"checkpoint bytes": 3, "config bytes": 2}, share)
    yield from _struck_trainings("disk full", world, _training_faults(world, counts, ("full", "")))


def signals_in_training(world: World, share: float) -> Iterator[Outcome]:
    """SIGTERM and Ctrl-C: the step is finished and saved, nothing is lost."""
    rng = world.rng
    training = Training(world.fresh("signals"), "01", world.data, STEPS)
    for function in (NEXT, SAVE)[: 2 if share == 1 else 1]:
        for number in (signal.SIGTERM, signal.SIGINT):
            kind, at = ("time", rng.uniform(0, 0.02)) if function == NEXT else ("lines", 40)
            fault = Fault(kind, function, at, 2, number)
            ended = world.processes.run("train.py", training.argv, fault)

            def check(ended=ended, number=number) -> None:
                harness.one_sentence(ended, 128 + number)
                assert "go on with --resume latest" in ended.last, ended.stderr[-500:]
                assert training.check_left() == 0

            window = "a step" if function == NEXT else "a checkpoint"
            yield Outcome("signals", window, described(fault), ended.last, 0, failure(check))
    ended = world.processes.run("train.py", training.argv)
    error = failure(lambda: training.check_same(world.undisturbed))
    yield Outcome("signals", "the end", f"exit code {ended.code}", "all steps done", 0, error)
