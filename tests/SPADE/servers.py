"""Servers started as a user starts them, in processes of their own."""

import contextlib
import http.client
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import tensorflow as tf

from models.layers.spade import SpadeGenerator
from SPADE import weights

ROOT = Path(__file__).resolve().parents[2]

# What api.py uses of a clone of NVlabs/SPADE. The network says what it was given: red is the label,
# green the instance, blue the photograph; some layouts it cannot do.
OPTIONS = """
import argparse

import torch


class TestOptions:
    def parse(self):
        parser = argparse.ArgumentParser()
        parser.add_argument("--name", default="label2coco")
        parser.add_argument("--gpu_ids", default="0")
        parser.add_argument("--checkpoints_dir", default="./checkpoints")
        parser.add_argument("--which_epoch", default="latest")
        parser.add_argument("--dataset_mode", default="coco")
        parser.add_argument("--aspect_ratio", type=float, default=1.0)
        parser.add_argument("--crop_size", type=int, default=256)
        parser.add_argument("--no_instance", action="store_true")
        parser.add_argument("--use_vae", action="store_true")
        options = parser.parse_args()
        options.label_nc = {"coco": 182, "ade20k": 150}[options.dataset_mode]
        options.contain_dontcare_label = True
        options.gpu_ids = [int(each) for each in options.gpu_ids.split(",") if int(each) >= 0]
        if options.gpu_ids:
            torch.cuda.set_device(options.gpu_ids[0])
        return options
"""
NETWORK = """
import pathlib
import time

import torch
from models.sync_batchnorm import Norm


class Pix2PixModel(torch.nn.Module):
    busy = 0

    def __init__(self, options):
        super().__init__()
        print("the network is loaded")
        self.weight = torch.nn.Parameter(torch.zeros(1))
        folder = pathlib.Path(options.checkpoints_dir) / options.name
        self.load_state_dict(torch.load(folder / f"{options.which_epoch}_net_G.pth"))

    def forward(self, data, mode):
        assert mode == "inference" and not self.training and set(data) == {
            "label", "instance", "image"
        }
        label, instance, image = data["label"], data["instance"], data["image"]
        assert label.shape == instance.shape == (1, 1, 256, 256) and label.is_floating_point()
        assert image.shape == (1, 3, 256, 256)
        assert not Pix2PixModel.busy, "two threads at a time"
        Pix2PixModel.busy = 1
        time.sleep(0.02)
        Pix2PixModel.busy = 0
        if (label == 7).all():
            raise RuntimeError("SECRET of the network")
        picture = torch.cat([label / 182, instance / 255, image.mean(1, keepdim=True)], 1)
        if (label == 8).all():
            picture = picture * float("nan")
        return picture * self.weight
"""


class Program:
    """A call that a pickle must not make."""

    def __reduce__(self):
        return (open, ("executed", "w"))


def make_clone(folder: Path) -> Path:
    """A folder that api.py takes for a clone, with weights that fit and others in checkpoints."""
    import torch

    for name, state in {
        "coco_pretrained": {"weight": torch.ones(1)},
        "wide": {"weight": torch.ones(2)},
        "program": {"weight": Program()},
    }.items():
        weights_of(folder, name).parent.mkdir(parents=True)
        torch.save(state, weights_of(folder, name))
    weights_of(folder, "text").parent.mkdir()
    weights_of(folder, "text").write_text("<html>404</html>")
    for name, text in (
        ("options/test_options", OPTIONS),
        ("models/pix2pix_model", NETWORK),
        ("models/sync_batchnorm", "Norm = None"),
    ):
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "api.py").write_bytes((ROOT / "SPADE" / "api.py").read_bytes())
    return folder


def weights_of(clone: Path, name: str) -> Path:
    """The file that holds a network's weights."""
    return clone / "checkpoints" / name / "latest_net_G.pth"


def write_weights(path: Path) -> Path:
    """Weights of a small generator, for python -m SPADE.serve."""
    tf.keras.utils.set_random_seed(0)
    generator = SpadeGenerator(1, 2)
    generator.make_variables()
    weights.save_generator(path, generator)
    return path


@contextlib.contextmanager
def started(*arguments, cwd=ROOT):
    """The port that `python <arguments> --port 0` says it listens at, while it runs. Ctrl-C ends it
    without a traceback."""
    with tempfile.TemporaryFile("w+") as errors, subprocess.Popen(
        [sys.executable, *map(str, arguments), "--port", "0"], cwd=cwd, text=True,
        stdout=subprocess.PIPE, stderr=errors,
    ) as process:  # fmt: skip
        try:
            place = "listening at http://127.0.0.1:"
            line = next((each for each in process.stdout if each.startswith(place)), "")
            assert line, errors.seek(0) or errors.read()
            yield int(line.rpartition(":")[2])
            before = errors.seek(0, 2)
            process.send_signal(signal.SIGINT)
            process.wait(30)
            errors.seek(before)
            assert "Traceback" not in errors.read()
        finally:
            process.kill()


def ask(port, body=None, method="POST", path="/"):
    """(status, content of the JSON answer)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body)
        answer = connection.getresponse()
        assert answer.getheader("Content-Type") == "application/json"
        return answer.status, json.loads(answer.read())
