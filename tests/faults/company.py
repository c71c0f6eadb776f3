"""Others that are in the way of a run: a second one, Slack, a generator that dies."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.core.slack_server import TOKEN, SlackServer
from tests.faults import harness
from tests.faults.harness import STAGE2, Training
from tests.faults.world import STEPS, Outcome, World, failure, same
from tests.SPADE.servers import write_weights

PATIENCE = 120  # seconds


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

    yield Outcome("company", "two runs on one id", "", second.last, 0, failure(check))


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
        yield Outcome("company", f"Slack {name}", "", "trained on", 0, failure(check), note)


def _seconds(training: Training) -> float:
    """What the steps after the first took."""
    lines = harness.read_metrics(training.run.metrics)
    return lines[-1]["wall"] - lines[0]["wall"]


def generator_dies(world: World, share: float) -> Iterator[Outcome]:
    """The generator's server is killed in mid-run; it comes back soon, or after the run gave up."""
    weights = world.once("weights", lambda place: (place.mkdir(), write_weights(place / "g.npz")))
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
            same(made[name], made["undisturbed"])

        if name == "undisturbed":
            assert ended.code == 0, ended.stderr
            continue
        what = f"the generator dies and {name}"
        yield Outcome("company", what, "kill -9", where, 0, failure(check), where)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
