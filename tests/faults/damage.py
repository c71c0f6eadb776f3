"""Damaged files, and other processes that are in the way of a command."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from core.checkpoints import Checkpoints
from tests.core.slack_server import TOKEN, SlackServer
from tests.faults.commands import SceneTraining, Training
from tests.faults.harness import STAGE2, Outcome, World, error_of, files_of, wait_until
from tests.SPADE.servers import write_weights


def damaged_checkpoints(world: World, share: float) -> Iterator[Outcome]:
    """Damage the newest checkpoint: the one before is used, and the end is the same."""
    training = Training(world)
    ways = {
        "a flipped bit in its data": lambda newest: _flip(world, next(newest.glob("ckpt.data-*"))),
        "a flipped bit in state.json": lambda newest: _flip(world, newest / "state.json"),
        "its data cut short": lambda newest: _cut(next(newest.glob("ckpt.data-*"))),
        "its index gone": lambda newest: (newest / "ckpt.index").unlink(),
    }
    for way in list(ways)[: max(1, round(len(ways) * share))]:
        folder = world.free_path("damaged")
        shutil.copytree(training.run_folder(training.undisturbed()).root,
                        training.run_folder(folder).root)  # fmt: skip
        newest = Checkpoints(training.run_folder(folder).checkpoints).latest()
        ways[way](newest)
        ended = world.processes.run(training.script, training.argv(folder))

        def check(ended=ended, newest=newest, folder=folder) -> None:
            assert ended.code == 0, ended.stderr[-800:]
            lines = [x for x in ended.stderr.splitlines() if "damaged" in x or "one before" in x]
            assert str(newest) in lines[0] and "going on from the one before" in lines[1], lines
            assert newest.with_name(f"damaged-{newest.name}").is_dir()
            training.check_result(folder)

        yield Outcome("damage", "the newest checkpoint", way, error=error_of(check))


def damaged_files(world: World, share: float) -> Iterator[Outcome]:
    """Damage a file that a training reads: one sentence names it."""
    sets = world.free_path("spoilt")
    for name in ("quickdraw", "crops"):
        shutil.copytree(getattr(world.sets, name), sets / name)
    training = Training(world, f"qdraw_dir={sets}/quickdraw,crops_dir={sets}/crops")
    out = world.free_path("spoilt-run")
    root = training.run_folder(out).root
    drawings, crops = (sorted((sets / n / "train").iterdir())[0] for n in ("quickdraw", "crops"))
    cases: list[tuple[str, Path, Callable[[Path], object]]] = [
        ("a shard of sketches, a flipped bit", drawings, lambda path: _flip(world, path)),
        ("a shard of crops, a flipped bit", crops, lambda path: _flip(world, path)),
        ("a shard of crops, cut short", crops, _cut),
        ("a shard of crops, gone", crops, lambda path: path.unlink()),
        ("meta.json, cut short", sets / "crops/meta.json", _cut),
        ("an index, cut short", sets / "crops/train.index.npz", _cut),
        ("config.json, cut short", root / "config.json", _cut),
    ]
    for what, path, damage in cases if share == 1 else cases[-2:]:
        shutil.rmtree(out, ignore_errors=True)
        if path.name == "config.json":
            shutil.copytree(training.run_folder(training.undisturbed()).root, root)
        before = path.read_bytes()
        damage(path)
        ended = world.processes.run(training.script, training.argv(out))
        path.write_bytes(before)

        def check(ended=ended, path=path) -> None:
            ended.check_sentence(1)
            assert str(path) in ended.last_line, ended.last_line

        yield Outcome("damage", "a file", what, error=error_of(check))


def _flip(world: World, path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[world.rng.randrange(len(data))] ^= 1 << world.rng.randrange(8)
    path.write_bytes(data)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def two_on_one_id(world: World, share: float) -> Iterator[Outcome]:
    """Start a training twice: the second one is refused, and the first does not notice."""
    training, folder = Training(world), world.free_path("two")
    first = world.processes.start(training.script, training.argv(folder))
    wait_until(training.run_folder(folder).config.exists)
    second = world.processes.run(training.script, training.argv(folder))
    ended = world.processes.wait(first)

    def check() -> None:
        second.check_sentence(1)
        assert "is being written by process" in second.last_line
        assert ended.code == 0
        training.check_result(folder)

    yield Outcome("company", "a training", "a second one of the same run", error=error_of(check))


def slack_in_trouble(world: World, share: float) -> Iterator[Outcome]:
    """Let Slack fail: the training neither stops nor differs, and the token stays secret."""
    for trouble in ("hang", (429, 1), 500)[: 3 if share == 1 else 1]:
        server = SlackServer()
        server.trouble = [trouble] * 1000
        secret = world.free_path("token.secret")
        secret.write_text(f"{TOKEN}\n#scenes\n")
        training = Training(world, more=f",slack_config={secret}")
        folder = world.free_path("slack")
        ended = world.processes.run(training.script, training.argv(folder), slack=server.url)
        server.close()

        def check(ended=ended, training=training, folder=folder) -> None:
            assert ended.code == 0 and "Traceback" not in ended.stderr, ended.stderr[-800:]
            assert TOKEN not in ended.stderr
            assert "a message to Slack was lost" in ended.stderr, ended.stderr[-500:]
            training.check_result(folder)

        yield Outcome("company", "a training", f"Slack: {trouble}", error=error_of(check))


def generator_dies(world: World, share: float) -> Iterator[Outcome]:
    """Kill the generator's server in the middle and start it again: the run waits and goes on."""
    weights = world.made_once(
        "weights", lambda folder: (folder.mkdir(), write_weights(folder / "g.npz"))
    )
    out = SceneTraining(world).undisturbed()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def serve() -> tuple[int, Path]:
        argv = ["--weights", str(weights / "g.npz"), "--port", str(port)]
        process = world.processes.start("SPADE.serve", argv)
        wait_until(lambda: _listens(port))
        return process

    def stop(process: tuple[int, Path]) -> None:
        os.kill(process[0], signal.SIGKILL)
        world.processes.wait(process)

    def argv(results: Path) -> list[str]:
        return [
            "generate-images", "--model-name", STAGE2, "--model-id", "S", "-o", str(out),
            "--id", "g", "--exp-hparams",
            f"results={results},generator=http://127.0.0.1:{port},scenes=8",
        ]  # fmt: skip

    undisturbed, results = world.free_path("images"), world.free_path("images-struck")
    server = serve()
    whole = world.processes.run("run-experiment.py", argv(undisturbed))
    client = world.processes.start("run-experiment.py", argv(results))
    wait_until(lambda: len(list(results.glob("*_images/[0-9]*"))) >= 2)
    stop(server)
    server = serve()
    ended = world.processes.wait(client)
    stop(server)

    def check() -> None:
        assert whole.code == ended.code == 0, ended.stderr[-800:]
        assert "answers again" in ended.stderr
        pictures = [
            {name: data for name, data in files_of(each).items() if name.endswith(".png")}
            for each in (undisturbed, results)
        ]
        assert pictures[0] == pictures[1]

    fault = "the generator is killed and started again"
    yield Outcome("company", "generate-images", fault, error=error_of(check))


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
