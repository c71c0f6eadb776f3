"""Faults that strike what writes sets and features."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

from core import features
from core.dataset import SPLITS
from tests.faults import harness
from tests.faults.child import Fault
from tests.faults.harness import KILLED, STAGE2
from tests.faults.world import Outcome, World, described, failure, same

SHARDS, FEATURES = "prep_data.set_writer:SetWriter.write", "core.features:write"
KINDS = {"quickdraw_to_tfrecord": "quickdraw", "index_quickdrawtf": "quickdraw-indexed"}


def faults_in_sets(world: World, share: float) -> Iterator[Outcome]:
    """kill -9, a full disk and signals while sets are written."""
    rng = world.rng
    for command in list(KINDS)[: 2 if share == 1 else 1]:
        script, kind = f"prep_data.{command}", KINDS[command]
        argv = ["--dataset-dir", str(world.drawings), "--workers", "0", "--n-chunks", "4"]
        whole = world.once(
            command,
            lambda place: world.processes.run(script, [*argv, "--target-dir", str(place)]),  # noqa: B023
        )
        assert harness.check_set(whole, kind)
        expected = harness.contents(whole)
        sizes = [len(data) for name, data in expected.items() if name.endswith(".tfrecord")]
        lines = world.count(script, [*argv, "--target-dir", str(world.fresh("count"))], SHARDS)
        kills, full = max(2, round(6 * share)), max(1, round(2 * share))
        faults = [Fault("bytes", SHARDS, rng.randrange(1, rng.choice(sizes))) for _ in range(kills)]
        faults += [Fault("lines", SHARDS, rng.randint(1, lines)) for _ in range(kills)]
        faults += [Fault("full", SHARDS, rng.randrange(1, rng.choice(sizes))) for _ in range(full)]
        faults += [Fault("lines", SHARDS, rng.randint(lines // 9, lines // 2), 1, number)
                   for number in (signal.SIGTERM, signal.SIGINT)]  # fmt: skip
        rng.shuffle(faults)
        target, number = None, 0
        while faults or target:
            if target is None:
                number += 1
                target = world.fresh(f"{command}-{number}")
            fault = faults.pop(0) if faults else None
            new = not target.exists()
            ended = world.processes.run(script, [*argv, "--target-dir", str(target)], fault)
            if ended.code == 0:
                if fault and new:  # nor does a whole preparation come by there
                    yield Outcome("kill -9", "shards", described(fault), "", 0, "")
                elif fault:  # what was left to do did not reach it: it strikes a new set
                    faults.insert(0, fault)
                error = failure(lambda: same(harness.contents(target), expected))  # noqa: B023
                yield Outcome("kill -9", "the end", command, "complete", 0, error)
                target = None
                continue

            def check(ended=ended, fault=fault, target=target) -> None:
                polite = fault.signal != signal.SIGKILL
                if fault.kind == "full" or polite:
                    harness.one_sentence(ended, 128 + fault.signal if polite else 1)
                    assert not list(target.rglob("*.tfrecord.partial"))
                else:
                    assert ended.code == KILLED, ended.stderr[-800:]
                assert harness.check_set(target, kind) in (False, True)  # noqa: B023

            part = "disk full" if fault.kind == "full" else (
                "kill -9" if fault.signal == signal.SIGKILL else "signals"
            )  # fmt: skip
            told = ended.last if part != "kill -9" else harness.set_evidence(target, fault)
            where = told if told else f"exit code {ended.code}" * (part == "signals")
            yield Outcome(part, "shards", described(fault), where, 0, failure(check))


def _extraction(world: World, results: Path) -> list[str]:
    scenes = world.scenes
    return [
        "extract-features", "--model-name", STAGE2, "--model-id", "S", "-o", str(scenes.out),
        "--id", "f", "--exp-hparams", f"results={results}",
    ]  # fmt: skip


def faults_in_features(world: World, share: float) -> Iterator[Outcome]:
    """kill -9, a full disk and Ctrl-C while features are extracted."""
    rng, script = world.rng, "run-experiment.py"
    whole = world.once(
        "features", lambda place: world.processes.run(script, _extraction(world, place))
    )
    assert harness.check_features(whole) == 3
    expected = harness.contents(whole)
    size = min(len(data) for data in expected.values())
    results = world.fresh("features")
    lines = world.count(script, _extraction(world, world.fresh("count")), FEATURES)
    faults = [Fault("bytes", FEATURES, rng.randrange(size), rng.randint(1, 3))
              for _ in range(max(1, round(6 * share)))]  # fmt: skip
    faults += [Fault("lines", FEATURES, rng.randint(1, lines), rng.randint(1, 3))
               for _ in range(round(3 * share))]  # fmt: skip
    faults.append(Fault("full", FEATURES, rng.randrange(size), 2))
    if share == 1:
        faults.append(Fault("lines", FEATURES, lines // 2, 1, signal.SIGINT))
    for fault in faults:
        before, written = harness.partials(results), _written(results, fault)
        ended = world.processes.run(script, _extraction(world, results), fault)

        def check(ended=ended, fault=fault) -> None:
            if fault.kind == "full" or fault.signal == signal.SIGINT:
                harness.one_sentence(ended, 1 if fault.kind == "full" else 130)
            else:
                assert ended.code == KILLED, ended.stderr[-800:]
            harness.check_features(results)

        part = "disk full" if fault.kind == "full" else (
            "kill -9" if fault.signal == signal.SIGKILL else "signals"
        )  # fmt: skip
        if part != "kill -9":
            where = ended.last
        elif fault.kind == "bytes":
            where = harness.file_of_size(results, ".*.partial", int(fault.at))
            where = where and "its bytes"
        else:
            where = "before its file"
            if harness.partials(results) - before:
                where = "before the rename"
            elif _written(results, fault) != written:
                where = "after the rename"
        yield Outcome(part, "features", described(fault), where or "", 0, failure(check))
    ended = world.processes.run(script, _extraction(world, results))

    def compare() -> None:
        found = harness.contents(results)
        same(found, expected)
        assert features.read(results / sorted(found)[0]).scenes

    error = f"exit code {ended.code}" if ended.code else failure(compare)
    yield Outcome("kill -9", "the end", "extract-features", "all splits", 0, error)


def _written(results: Path, fault: Fault) -> list[int]:
    """When the features file of the split that the fault is meant for was written."""
    split = SPLITS[fault.call - 1]
    return [path.stat().st_mtime_ns for path in results.glob(f"*_{split}_feats.npz")]
