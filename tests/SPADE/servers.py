"""Servers started as a user starts them, in processes of their own."""

import contextlib
import http.client
import json
import subprocess
import sys
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
        parser.add_argument("--how_many", type=int, default=0)
        options = parser.parse_args()
        options.gpu_ids = [int(each) for each in options.gpu_ids.split(",") if int(each) >= 0]
        if options.gpu_ids:
            torch.cuda.set_device(options.gpu_ids[0])
        return options
"""
NETWORK = """
import time

import torch
from models.sync_batchnorm import Norm


class Pix2PixModel(torch.nn.Module):
    busy = 0

    def __init__(self, options):
        super().__init__()
        if options.name != "coco_pretrained":
            raise FileNotFoundError(2, "No such file", f"checkpoints/{options.name}")
        if options.how_many == 3:
            raise RuntimeError("Error(s) in loading state_dict:\\n  size mismatch for fc.weight")
        self.weight = torch.nn.Parameter(torch.ones(1))

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


def make_clone(folder: Path) -> Path:
    """A folder that api.py takes for a clone."""
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


def write_weights(path: Path) -> Path:
    """Weights of a small generator, for python -m SPADE.serve."""
    tf.keras.utils.set_random_seed(0)
    generator = SpadeGenerator(1, 2)
    generator.make_variables()
    weights.save_generator(path, generator)
    return path


@contextlib.contextmanager
def started(*arguments, cwd=ROOT):
    """The port that `python <arguments> --port 0` says it listens at, while it runs."""
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments), "--port", "0"], cwd=cwd, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        line = process.stdout.readline().strip()
        assert line.startswith("listening at http://127.0.0.1:"), line
        yield int(line.rpartition(":")[2])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ask(port, body=None, method="POST", path="/"):
    """(status, content of the JSON answer)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body)
        answer = connection.getresponse()
        assert answer.getheader("Content-Type") == "application/json"
        return answer.status, json.loads(answer.read())
