"""What a process says before it does anything: our messages only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOAD = "import dataloaders.coco_tfrecord"  # TensorFlow first among its imports
SHOW = "import os, core; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"


def _python(code, **environment):
    clean = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**clean, **environment},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip


def test_loading_tensorflow_says_nothing():
    assert _python(LOAD).stderr == ""


@pytest.mark.parametrize(
    ("environment", "level"), [({}, "3"), ({"TF_CPP_MIN_LOG_LEVEL": "0"}, "0")]
)
def test_the_users_own_log_level_wins(environment, level):
    assert _python(SHOW, **environment).stdout.split() == [level]
