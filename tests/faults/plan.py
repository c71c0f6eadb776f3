"""Which faults strike which commands. Each part gives outcomes; an AssertionError or an error of
the program in one of them is a failure that the table shows."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from core import features
from core.checkpoints import Checkpoints
from dataloaders import records
from prep_data import make_sample
from tests.core.slack_server import TOKEN, SlackServer
from tests.dataloaders import tiny_sets
from tests.faults import harness
from tests.faults.child import Fault
from tests.faults.harness import KILLED, STAGE1, STAGE2, Processes, Training
from tests.SPADE.servers import write_weights

STEPS = 40
SAVE, CONFIG = "core.checkpoints:Checkpoints.save", "core.cli:_save_config"
NEXT, SHARDS = "core.training:_next", "prep_data.common:PreparedSet.write"
FEATURES, EXTRACT = "core.features:write", "experiments.features:ExtractFeatures._extract"
PATIENCE = 120  # seconds


class Outcome(NamedTuple):
    """window: what the command was doing. where: as what was left behind shows; '' for a fault that
    did not strike. error: '' when everything held."""

    part: str
    window: str
    fault: str
    where: str = ""
    lost: int = 0
    error: str = ""
    note: str = ""


class World:
    """Sets and undisturbed runs, made once in a folder."""

    def __init__(self, folder: Path, processes: Processes, seed: int) -> None:
        self.folder, self.processes, self.rng = folder, processes, random.Random(seed)
        self._made: dict[str, object] = {}

    def _once(self, name: str, make: Callable[[Path], object]) -> Path:
        """A folder that `make` has filled, now or in an earlier start."""
        place = self.folder / name
        if not (self.folder / f"{name}.done").exists():
            shutil.rmtree(place, ignore_errors=True)
            make(place)
            (self.folder / f"{name}.done").touch()
        return place

    def fresh(self, name: str) -> Path:
        """A path that is free."""
        place = self.folder / "work" / name
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    @property
    def sets(self) -> tiny_sets.TinySets:
        place = self._once("sets", tiny_sets.write_all)
        return tiny_sets.TinySets(*(str(place / name) for name in tiny_sets.TinySets._fields))

    @property
    def data(self) -> str:
        return f"qdraw_dir={self.sets.quickdraw},crops_dir={self.sets.crops}"

    def _train(self, training: Training) -> None:
        ended = self.processes.run("train.py", training.argv)
        assert ended.code == 0, ended.stderr

    @property
    def undisturbed(self) -> Training:
        """Of stage 1, id 01."""
        training = Training(self.folder / "runs", "01", self.data, STEPS)
        self._once("runs", lambda place: self._train(training))
        return training

    @property
    def scenes(self) -> Training:
        """Of stage 2, two steps."""
        data = f"coco_dir={self.sets.scenes},qdraw_dir={self.sets.indexed}"
        data += f",crops_dir={self.sets.crops}"
        training = Training(self.undisturbed.out, "S", data, 2, STAGE2)
        self._once("scenes", lambda place: self._train(training))
        return training

    @property
    def drawings(self) -> Path:
        """A few drawn classes, as the official files."""
        sizes = "--train-images 2 --val-images 2 --drawings 12 --eval-drawings 6 --workers 0"
        sizes += " --sl-train-pairs 1 --sl-test-pairs 1"
        place = self._once(
            "sample", lambda place: make_sample.main(["--target-dir", str(place), *sizes.split()])
        )
        return place / "quickdraw"

    def count(self, script: str, argv: list[str], function: str, call: int = 1) -> int:
        """Lines that a call of a function executes."""
        key = f"{script} {function} {call}"
        if key not in self._made:
            self._made[key] = self.processes.lines(script, argv, function, call)
        return self._made[key]


def _told(fault: Fault) -> str:
    where = {"bytes": "at byte", "lines": "before line", "time": "after", "full": "at byte"}
    name = "disk full" if fault.kind == "full" else signal.Signals(fault.signal).name
    at = f"{1000 * fault.at:.0f} ms" if fault.kind == "time" else int(fault.at)
    return f"{name} {where[fault.kind]} {at}, call {fault.call}"


def _expected(fault: Fault) -> int:
    return 1 if fault.kind == "full" else -fault.signal


# ---- trainings -------------------------------------------------------------------------------

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
            CONFIG: world.count("train.py", probe.argv, CONFIG),
        }
        for _ in range(counts.get("checkpoint lines", 0)):
            at, call = rng.randint(1, lines[SAVE]), rng.choice((1, 2))
            faults.append(("a checkpoint", Fault(moments, SAVE, at, call)))
        for _ in range(counts.get("config lines", 0)):
            faults.append(("config.json", Fault(moments, CONFIG, rng.randint(1, lines[CONFIG]))))
    for _ in range(counts.get("steps", 0)):
        faults.append(("a step", Fault("time", NEXT, rng.uniform(0, 0.03), rng.randint(2, 5))))
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
        ended = world.processes.run("train.py", training.argv, fault)
        starts += 1
        if ended.code == 0:
            error = _failure(lambda: training.check_same(world.undisturbed))  # noqa: B023
            yield Outcome(part, "the end", f"{starts} starts", "all steps done", 0, error)
            if fault and starts == 1:
                yield Outcome(part, window, _told(fault))
                pending.pop(0)
            training = None
            if not pending:
                return
            continue
        pending.pop(0)
        yield _struck(part, window, fault, ended, training)


def _struck(
    part: str, window: str, fault: Fault, ended: harness.Ended, training: Training
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
    where = ended.last if fault.kind == "full" else EVIDENCE[window](training.run, fault)
    error = _failure(check)
    return Outcome(part, window, _told(fault), where or "", lost, error)


def _failure(check: Callable[[], object]) -> str:
    try:
        check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:600]
    return ""


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


def _scaled(counts: dict[str, int], share: float) -> dict[str, int]:
    return {name: max(1, round(count * share)) for name, count in counts.items()}


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
            yield Outcome("signals", window, _told(fault), ended.last, 0, _failure(check))
    ended = world.processes.run("train.py", training.argv)
    error = _failure(lambda: training.check_same(world.undisturbed))
    yield Outcome("signals", "the end", f"exit code {ended.code}", "all steps done", 0, error)


# ---- sets ------------------------------------------------------------------------------------


KINDS = {"quickdraw_to_tfrecord": "quickdraw", "index_quickdrawtf": "quickdraw-indexed"}


def faults_in_sets(world: World, share: float) -> Iterator[Outcome]:
    """kill -9, a full disk and signals while sets are written."""
    rng = world.rng
    for command in list(KINDS)[: 2 if share == 1 else 1]:
        script, kind = f"prep_data.{command}", KINDS[command]
        argv = ["--dataset-dir", str(world.drawings), "--workers", "0", "--n-chunks", "4"]
        whole = world._once(
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
            ended = world.processes.run(script, [*argv, "--target-dir", str(target)], fault)
            if ended.code == 0:
                if fault:  # what was left to do did not reach it: it strikes a new set
                    faults.insert(0, fault)
                error = _failure(lambda: _same(harness.contents(target), expected))  # noqa: B023
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
            yield Outcome(part, "shards", _told(fault), where, 0, _failure(check))


def _same(mine: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert mine.keys() == expected.keys(), sorted(mine.keys() ^ expected.keys())
    differing = [name for name in expected if mine[name] != expected[name]]
    assert not differing, differing


# ---- features --------------------------------------------------------------------------------


def _extraction(world: World, results: Path) -> list[str]:
    scenes = world.scenes
    return [
        "extract-features", "--model-name", STAGE2, "--model-id", "S", "-o", str(scenes.out),
        "--id", "f", "--exp-hparams", f"results={results}",
    ]  # fmt: skip


def faults_in_features(world: World, share: float) -> Iterator[Outcome]:
    """kill -9, a full disk and Ctrl-C while features are extracted."""
    rng, script = world.rng, "run-experiment.py"
    whole = world._once(
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
            where = "before the rename" if list(results.glob(".*.partial")) else "before its file"
        yield Outcome(part, "features", _told(fault), where or "", 0, _failure(check))
    ended = world.processes.run(script, _extraction(world, results))

    def compare() -> None:
        found = harness.contents(results)
        _same(found, expected)
        assert features.read(results / sorted(found)[0]).scenes

    error = f"exit code {ended.code}" if ended.code else _failure(compare)
    yield Outcome("kill -9", "the end", "extract-features", "all splits", 0, error)


# ---- company ---------------------------------------------------------------------------------


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it did not come so far"
        time.sleep(0.02)


def two_on_one_id(world: World, share: float) -> Iterator[Outcome]:
    """A second training of the same run is turned away, and the first does not notice."""
    training = Training(world.fresh("two"), "01", world.data, STEPS)
    first = world.processes.start("train.py", training.argv)
    _until(training.run.config.exists)
    second = world.processes.run("train.py", training.argv)
    ended = world.processes.wait(first)

    def check() -> None:
        harness.one_sentence(second, 1)
        assert "is being written by process" in second.last
        assert ended.code == 0
        training.check_same(world.undisturbed)

    yield Outcome("company", "two runs on one id", "", second.last, 0, _failure(check))


def slack_in_trouble(world: World, share: float) -> Iterator[Outcome]:
    """Slack refuses, hangs, or answers 429 or 500: the training neither stops nor waits."""
    troubles = {"refuses": None, "hangs": "hang", "answers 429": (429, 1), "answers 500": 500}
    names = list(troubles) if share == 1 else ["refuses", "answers 500"]
    usual = _seconds(world.undisturbed)
    for name in names:
        server, trouble = SlackServer(), troubles[name]
        server.trouble = [trouble] * 1000
        url = server.url
        if name == "refuses":
            server.close()
        secret = world.fresh("token.secret")
        secret.write_text(f"{TOKEN}\n#scenes\n")
        training = Training(
            world.fresh("slack"), "01", world.data, STEPS, more=f",slack_config={secret}"
        )
        began = time.monotonic()
        ended = world.processes.run("train.py", training.argv, slack=url)
        took = time.monotonic() - began
        asked = len(server.calls)
        if name != "refuses":
            server.close()

        def check(ended=ended, training=training, asked=asked, name=name) -> None:
            assert ended.code == 0 and "Traceback" not in ended.stderr, ended.stderr[-800:]
            assert TOKEN not in ended.stderr
            assert "message" in ended.stderr and "Slack" in ended.stderr, ended.stderr[-500:]
            assert asked or name == "refuses"
            training.check_same(world.undisturbed)

        seconds = _seconds(training)
        note = f"{seconds:.2f} s of steps (undisturbed {usual:.2f} s), {took:.1f} s in all"
        yield Outcome("company", f"Slack {name}", "", "trained on", 0, _failure(check), note)


def _seconds(training: Training) -> float:
    """What the steps after the first took."""
    lines = harness.read_metrics(training.run.metrics)
    return lines[-1]["wall"] - lines[0]["wall"]


def generator_dies(world: World, share: float) -> Iterator[Outcome]:
    """The generator's server is killed in mid-run; it comes back soon, or after the run gave up."""
    weights = world._once("weights", lambda place: (place.mkdir(), write_weights(place / "g.npz")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scenes, made = world.scenes, {}

    def serve() -> tuple[int, Path]:
        process = world.processes.start(
            "SPADE.serve", ["--weights", str(weights / "g.npz"), "--port", str(port)]
        )
        _until(lambda: _listens(port))
        return process

    def stop(process: tuple[int, Path]) -> None:
        os.kill(process[0], signal.SIGKILL)
        world.processes.wait(process)

    def argv(results: Path) -> list[str]:
        return [
            "generate-images", "--model-name", STAGE2, "--model-id", "S", "-o", str(scenes.out),
            "--id", "g", "--exp-hparams",
            f"results={results},generator=http://127.0.0.1:{port},scenes=8",
        ]  # fmt: skip

    def folders(results: Path) -> list[Path]:
        return sorted(results.glob("*_images/[0-9]*"))

    for name in ("undisturbed", "comes back at once", "comes back after the run has given up"):
        results = world.fresh("images")
        server = serve()
        client = world.processes.start("run-experiment.py", argv(results))
        where = ""
        if name != "undisturbed":
            _until(lambda: len(folders(results)) >= 2)  # noqa: B023
            stop(server)
            where = f"after {len(folders(results))} of 8 scenes"
            if name == "comes back at once":
                server = serve()
        ended = world.processes.wait(client)
        first = ended
        if name.endswith("given up"):
            server = serve()
            ended = world.processes.run("run-experiment.py", argv(results))
        stop(server)
        made[name] = {
            str(path.relative_to(results)): path.read_bytes() for path in results.rglob("*.png")
        }

        def check(ended=ended, first=first, name=name) -> None:
            assert ended.code == 0, ended.stderr[-800:]
            if name.endswith("given up"):
                harness.one_sentence(first, 1)
                assert "cannot be reached" in first.last
            _same(made[name], made["undisturbed"])

        if name == "undisturbed":
            assert ended.code == 0, ended.stderr
            continue
        yield Outcome("company", f"the generator dies and {name}", "", where, 0, _failure(check))


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


# ---- damaged files ---------------------------------------------------------------------------


def damaged_checkpoints(world: World, share: float) -> Iterator[Outcome]:
    """The newest checkpoint is damaged: the one before is used, and the end is the same."""
    rng, usual = world.rng, world.undisturbed
    ways = ("a flipped bit in its data", "a flipped bit in state.json", "cut short", "a file gone")
    for way in ways if share == 1 else ways[:1]:
        training = Training(world.fresh("damaged"), "01", world.data, STEPS)
        shutil.copytree(usual.run.root, training.run.root)
        newest = Checkpoints(training.run.checkpoints).latest()
        data = next(newest.glob("ckpt.data-*"))
        at = rng.randrange(data.stat().st_size)
        if way.startswith("a flipped bit in its data"):
            _flip(data, at, rng)
        elif way == "a flipped bit in state.json":
            at = rng.randrange((newest / "state.json").stat().st_size)
            _flip(newest / "state.json", at, rng)
        elif way == "cut short":
            os.truncate(data, at)
        else:
            (newest / "ckpt.index").unlink()
        ended = world.processes.run("train.py", training.argv)

        def check(ended=ended, training=training, newest=newest) -> None:
            assert ended.code == 0, ended.stderr[-800:]
            told = [x for x in ended.stderr.splitlines() if "damaged" in x or "one before" in x]
            assert str(newest) in told[0] and "going on from the one before" in told[1], told
            assert newest.with_name(f"damaged-{newest.name}").is_dir()
            training.check_same(usual)

        note = f"byte {at}" if way != "a file gone" else ""
        yield Outcome("damage", "newest checkpoint", way, "named", 0, _failure(check), note)


def _flip(path: Path, at: int, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def damaged_records(world: World, share: float) -> Iterator[Outcome]:
    """Records with a flipped bit, and a shard cut short: named, or left out when asked to; then a
    run that is killed goes on to the same bits too."""
    rng, sets = world.rng, world.sets
    cases = [(w, how) for w in ("quickdraw", "crops") for how in ("a flipped bit", "cut short")]
    for which, how in cases if share == 1 else cases[:1]:
        own = world.fresh("spoilt")
        for name in ("quickdraw", "crops"):
            shutil.copytree(getattr(sets, name), own / name)
        shard = rng.choice(sorted((own / which / "train").iterdir()))
        offsets = [*records.record_offsets(shard), shard.stat().st_size]
        record = rng.randrange(1, len(offsets) - 1)
        at = rng.randrange(offsets[record] + 12, offsets[record + 1])
        if how == "cut short":
            os.truncate(shard, at)
        else:
            _flip(shard, at, rng)
        data = f"qdraw_dir={own}/quickdraw,crops_dir={own}/crops"
        stops = Training(world.fresh("spoilt-stop"), "01", data, 12)
        skip = Training(world.fresh("spoilt-skip"), "01", data, 12, more=",on_corrupt=skip")
        cut = Training(world.fresh("spoilt-cut"), "01", data, 12, more=",on_corrupt=skip")
        told = world.processes.run("train.py", stops.argv)
        whole = world.processes.run("train.py", skip.argv)
        killed = world.processes.run("train.py", cut.argv, Fault("time", NEXT, 0.01, 6))
        again = world.processes.run("train.py", cut.argv)
        name = f"{shard.parent.name}/{shard.name} record"

        def check(told=told, whole=whole, killed=killed, again=again, skip=skip, cut=cut, name=name,
                  shard=shard, record=record) -> None:  # fmt: skip
            harness.one_sentence(told, 1)
            assert str(shard) in told.last and f"record {record} " in told.last, told.last
            assert (whole.code, killed.code, again.code) == (0, KILLED, 0), again.stderr[-800:]
            notices = [x for x in whole.stderr.splitlines() if "left out" in x]
            assert len(notices) == 1 and name in notices[0], notices
            cut.check_same(skip)

        fault = f"{how} in {which}"
        yield Outcome("damage", "records", fault, "named, left out", 0, _failure(check),
                      f"record {record} of {shard.name}")  # fmt: skip


def unreadable_files(world: World, share: float) -> Iterator[Outcome]:
    """Files that cannot be read, each named in one sentence."""
    usual = world.undisturbed
    own = world.fresh("unreadable")
    shutil.copytree(world.sets.quickdraw, own / "quickdraw")
    shutil.copytree(world.sets.crops, own / "crops")
    shutil.copytree(usual.run.root, own / f"{STAGE1}-01")
    shard = sorted((own / "crops/train").iterdir())[0]
    files = {
        "meta.json, cut short": own / "crops/meta.json",
        "a block index, cut short": own / "crops/train.index.npz",
        "config.json, cut short": own / f"{STAGE1}-01/config.json",
        "a shard, gone": shard,
    }
    data = f"qdraw_dir={own}/quickdraw,crops_dir={own}/crops"
    for name, path in list(files.items())[: 4 if share == 1 else 1]:
        before = path.read_bytes()
        if name.endswith("gone"):
            path.unlink()
        else:
            path.write_bytes(before[: len(before) // 2])
        training = Training(own, "01", data, STEPS + 2)
        ended = world.processes.run("train.py", training.argv)
        path.write_bytes(before)

        def check(ended=ended, path=path) -> None:
            harness.one_sentence(ended, 1)
            assert str(path) in ended.last, ended.last

        yield Outcome("damage", "unreadable files", name, "named", 0, _failure(check))


PARTS: dict[str, Callable[[World, float], Iterator[Outcome]]] = {
    "checkpoint-kills": kills_in_checkpoints,
    "step-kills": kills_in_steps,
    "full": full_disks_in_training,
    "signals": signals_in_training,
    "sets": faults_in_sets,
    "features": faults_in_features,
    "two": two_on_one_id,
    "slack": slack_in_trouble,
    "generator": generator_dies,
    "checkpoints": damaged_checkpoints,
    "records": damaged_records,
    "unreadable": unreadable_files,
}


def run(world: World, part: str, share: float) -> Iterator[Outcome]:
    """The outcomes of a part, one by one; that it cannot go on is one with an error. share: of the
    faults; 1 for all."""
    try:
        yield from PARTS[part](world, share)
    except Exception as error:
        yield Outcome(part, part, "", error=f"{type(error).__name__}: {error}"[:900])
