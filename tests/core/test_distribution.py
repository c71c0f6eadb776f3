"""TF_CONFIG, waiting for machines, and trainings over two devices and two processes, which are
those of one to 4 digits."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from core import distribution
from core.checkpoints import Checkpoints
from core.distribution import Cluster
from core.errors import UsageError, UserError
from core.reporting import read_metrics
from core.run_folder import RunConfig, RunFolder
from tests.dataloaders import tiny_sets

ROOT = Path(__file__).resolve().parents[2]
OBJECTS, SCENES = "multidomain-representation", "graph-attention"
STEPS = 6
LONG = 200  # steps of a training that is ended before; its rate depends on how many they are
STOPPED = 20  # about the step of it that gets a signal; twice as far it is killed
# At the usual rates Adam makes more of rounding within 20 steps than 4 digits can hide, on one
# device too: docs/results.md, "Several devices".
ENCODERS = (
    "learning_rate=1e-5,image_size=32,pretrained_e_model=shallow,pretrained_weights=none,"
    "backbone_alpha=0.25,batch_norm=trained"
)
SMALL = {
    OBJECTS: ENCODERS,
    SCENES: f"{ENCODERS},pt_mdomain_id=objects,mask_width=8,layout_d_arch=verysmall,"
    "gconv_num_layers=1,g_enc_n_layers=1,gconv_dim=32,gconv_hidden_dim=32",
}

TWO = {"worker": ["a:1", "b:2"]}
FIRST = {"type": "worker", "index": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "distribute=multiworker needs TF_CONFIG in the environment of every machine"),
        ("{", "does not fit .*truncated"),
        ({"cluster": TWO}, "missing required field `task`"),
        ({"cluster": TWO, "task": {"type": "chief", "index": 0}}, "'chief'"),
        ({"cluster": {"worker": ["a:1", "b"]}, "task": FIRST}, "matching regex"),
        ({"cluster": {"worker": ["a:1", "a:1"]}, "task": FIRST}, "named twice"),
        ({"cluster": TWO, "task": {"type": "worker", "index": 2}}, "index 2 is not one of 0 to 1"),
    ],
    ids=range(7),
)
def test_a_tf_config_that_does_not_fit(text, message, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(UsageError, match=message) as caught:
        Cluster.from_environment("multiworker")
    assert '"task": {"type": "worker", "index": 0}' in str(caught.value)  # what it should be like
    assert len(str(caught.value)) < 400


def test_a_tf_config_that_fits(monkeypatch, caplog):
    task = {"type": "worker", "index": 1}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": TWO, "task": task, "more": 1}))
    cluster = Cluster.from_environment("multiworker")
    assert (cluster, cluster.chief) == (Cluster(("a:1", "b:2"), 1), False)
    with caplog.at_level(logging.WARNING):
        assert Cluster.from_environment("none") is None
    assert "TF_CONFIG is set, but with distribute=none nothing reads it" in caplog.text


@pytest.fixture
def workers():
    """Three addresses with free ports."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    addresses = tuple(f"127.0.0.1:{s.getsockname()[1]}" for s in sockets)
    for each in sockets:
        each.close()
    return addresses


def listen(worker):
    return socket.create_server(("127.0.0.1", int(worker.rpartition(":")[2])))


def test_machines_wait_for_each_other(workers, caplog):
    """The last to come is named, and a server can take over each port at once."""
    servers = []

    def machine(cluster):
        cluster.wait()
        servers.append(listen(workers[cluster.index]))  # as TensorFlow does

    threads = [
        threading.Thread(target=machine, args=[Cluster(workers, i)], daemon=True) for i in range(3)
    ]
    with caplog.at_level(logging.INFO):
        for thread in threads:
            thread.start()
            time.sleep(0.3)
        for thread in threads:
            thread.join(10)
    assert len(servers) == 3
    assert f"worker 1 ({workers[1]}) waits for worker 2 ({workers[2]})" in caplog.text
    for server in servers:
        server.close()
    assert Cluster(workers, 0).silent() == [1, 2]


def test_a_machine_that_does_not_come_and_a_port_in_use(workers, monkeypatch):
    monkeypatch.setattr(distribution, "WAIT", 0.3)
    with pytest.raises(UserError, match=r"worker 1 \(.*\) did not come within 0 seconds: start"):
        Cluster(workers[:2], 0).wait()
    in_use = pytest.raises(UserError, match=r"cannot listen at port .*Address already in use")
    with listen(workers[0]), in_use:
        Cluster(workers[:2], 0).wait()


class House:
    """Prepared sets, and trainings over them in processes of their own."""

    def __init__(self, folder):
        self.out = folder / "runs"
        self.sets = tiny_sets.write_all(folder / "sets", scenes=24, mask_side=16)

    def argv(self, run_id, model=OBJECTS, distribute="none", resume="none", **base):
        sets = self.sets
        loader = "quickdraw-cococrops-tf" if model == OBJECTS else "coco-tfrecord"
        data = f"qdraw_dir={sets.quickdraw}"
        if model == SCENES:
            data = f"coco_dir={sets.scenes},qdraw_dir={sets.indexed}"
        values = {
            "batch_size": 4, "iterations": STEPS, "log_every": 1, "safety_save": 8,
            "slack_config": "", "distribute": distribute, **base,
        }  # fmt: skip
        return [
            model, "--data-loader", loader, "-o", str(self.out), "--id", run_id,
            "-p", SMALL[model], "-dp", f"{data},crops_dir={sets.crops}", "--resume", resume,
            "--base-hparams", ",".join(f"{name}={value}" for name, value in values.items()),
        ]  # fmt: skip

    def start(self, *trainings, cpus=1, config=None):
        command = [sys.executable, "-m", "tests.core.spread_child", str(cpus)]
        environment = {**os.environ, **({"TF_CONFIG": config} if config else {})}
        return subprocess.Popen(
            [*command, *map(json.dumps, trainings)], cwd=ROOT, env=environment,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def pair(self, addresses, *training):
        """Train in two processes."""
        return [
            self.start(
                training,
                config=json.dumps(
                    {
                        "cluster": {"worker": addresses[:2]},
                        "task": {"type": "worker", "index": index},
                    }
                ),
            )
            for index in range(2)
        ]

    def run(self, run_id, model=OBJECTS):
        return RunFolder(self.out, model, run_id)

    def losses(self, run_id, model=OBJECTS):
        return {
            line["step"]: line["losses"] for line in read_metrics(self.run(run_id, model).metrics)
        }

    def wait_for(self, step, run_id, processes):
        """Until the run has reported a step."""
        end = time.monotonic() + 120
        while max(self.losses(run_id), default=0) < step:
            assert all(process.poll() is None for process in processes), processes[0].stderr.read()
            assert time.monotonic() < end
            time.sleep(0.02)


def ended(process):
    """(exit code, what it wrote to stderr)."""
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def assert_alike(losses, others):
    """To 4 digits; the others may go on longer."""
    assert losses
    for step, values in losses.items():
        assert others[step] == pytest.approx(values, rel=1e-4, abs=1e-4), step


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """After the trainings of one process: `objects` and `scenes` undisturbed, and `mirrored`."""
    house = House(tmp_path_factory.mktemp("house"))
    child = house.start(
        house.argv("objects", iterations=LONG),
        house.argv("scenes", SCENES),
        house.argv("mirrored", SCENES, "mirrored"),
        cpus=2,
    )
    code, said = ended(child)
    assert code == 0, said
    house.said = said
    return house


def test_two_devices_are_one(house):
    assert "every batch is split over 2 devices" in house.said
    losses = house.losses("scenes", SCENES)
    assert len(losses) == STEPS
    assert len({row["global_triplet_loss"] for row in losses.values()}) == STEPS
    assert_alike(losses, house.losses("mirrored", SCENES))


def test_two_processes_are_one_and_stop_together(house, workers):
    """From the start; then one of them gets a signal; then, resumed, one of them is killed. What
    they leave goes on in one process, on one device or on two."""
    undisturbed = house.losses("objects")
    first = house.argv("pair", distribute="multiworker", iterations=LONG, notify_every=15)
    both = house.pair(workers, *first)
    house.wait_for(STOPPED, "pair", both)
    both[1].send_signal(signal.SIGTERM)
    codes, said = zip(*map(ended, both))
    assert codes == (128 + signal.SIGTERM,) * 2, said
    last = max(house.losses("pair"))
    own = Checkpoints(house.run("pair").checkpoints)
    assert own.steps()[-1] == last
    assert all(f"stopped by SIGTERM after step {last}" in text for text in said)

    assert read_metrics(house.run("pair").figures)[0]["step"] == 15  # meanwhile the other waited

    both = house.pair(workers, *first, "--resume", "latest")
    house.wait_for(last + STOPPED, "pair", both)
    both[1].kill()
    began = time.monotonic()
    code, said = ended(both[0])
    assert time.monotonic() - began < 30
    assert (code, "Traceback" in said) == (1, False), said
    # Its port may answer for a moment after it was killed.
    whom = (f"no answer from worker 1 ({workers[1]})", "a connection was lost")
    assert any(f"{what}; what was printed there" in said for what in whom), said
    assert "Start them all again with --resume latest" in said
    ended(both[1])
    newest = own.latest()
    assert last < own.steps()[-1] <= max(house.losses("pair"))
    assert len(RunConfig.read(house.run("pair").config).history) == 2  # the chief's alone
    pair = house.losses("pair")
    assert_alike({step: undisturbed[step] for step in range(1, 2 * STOPPED + 1)}, pair)

    end = own.steps()[-1] + 4
    child = house.start(
        house.argv("on-one", resume=str(newest), iterations=end),
        house.argv("on-two", distribute="mirrored", resume=str(newest), iterations=end),
        cpus=2,
    )
    code, said = ended(child)
    assert code == 0, said
    on_one = house.losses("on-one")
    assert len(on_one) == 4
    assert_alike(on_one, house.losses("on-two"))


def test_what_does_not_fit_is_a_sentence(house, workers):
    """The exit codes and messages of train.py: a TF_CONFIG, the batch size, other hparams."""
    child = house.start(house.argv("x", distribute="multiworker"), config="{")
    odd = house.start(house.argv("odd", distribute="mirrored", batch_size=3), cpus=2)
    one, two = (
        house.start(house.argv("x", distribute="multiworker", seed=seed), config=process_config)
        for seed, process_config in enumerate(
            json.dumps({"cluster": {"worker": workers[:2]}, "task": {"type": "worker", "index": i}})
            for i in range(2)
        )
    )
    code, said = ended(child)
    assert (code, said.startswith("error: TF_CONFIG does not fit")) == (2, True), said
    code, said = ended(odd)
    assert code == 2, said
    assert "batch_size=3 cannot be split evenly over 2 devices: choose a multiple" in said
    for process in (one, two):
        code, said = ended(process)
        assert code == 1, said
        assert f"worker 1 ({workers[1]}) has other hparams than the chief" in said
        assert "Traceback" not in said
    assert not house.run("x").config.exists()
