"""Importing the program says nothing and changes nothing in the process."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATE = """
import logging, signal, warnings
def state():
    root = logging.getLogger()
    return (list(root.handlers), root.level, list(warnings.filters),
            [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)])
"""


def _stderr(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"},
        stderr=subprocess.PIPE, text=True, check=True, timeout=120,
    ).stderr  # fmt: skip


def test_tensorflow_says_nothing():
    code = "import models.backbones, tensorflow as tf\nlist(tf.data.Dataset.range(2))"
    assert _stderr(code) == ""


def test_a_notebook_that_imports_everything_is_as_before():
    code = f"""{STATE}
import matplotlib, tensorflow as tf, tensorflow_addons
before, policy = state(), tf.keras.mixed_precision.global_policy().name
import core.cli, core.reporting, core.notifier, core.training
from core.registry import EXPERIMENTS, LOADERS, METRICS, MODELS
assert all(registry.names() for registry in (EXPERIMENTS, LOADERS, METRICS, MODELS))
assert state() == before, (state(), before)
assert tf.keras.mixed_precision.global_policy().name == policy
"""
    _stderr(code)


def test_windows_is_told_in_one_sentence():
    code = "import sys; sys.platform = 'win32'; import core"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: Scene Designer runs on Linux")
