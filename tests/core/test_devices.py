"""core.devices: GPUs by number, on a machine that may have none."""

import logging

import pytest
import tensorflow as tf

from core import devices
from core.errors import UsageError


def test_no_gpu_is_a_notice(monkeypatch, caplog):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with caplog.at_level(logging.INFO):
        devices.setup([0], 0, False)
    assert "no GPU found: running on CPU" in caplog.text


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu0", "gpu1"])
    with pytest.raises(UsageError, match="--gpu 2: there is no such GPU; this machine has 0, 1"):
        devices.setup([2], 0, False)


def test_the_gpus_named_become_visible(monkeypatch):
    chosen = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu0", "gpu1"])
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda which, kind: chosen.extend(which))
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [])
    devices.setup([1], 0, False)
    assert chosen == ["gpu1"]


def test_the_seed_fixes_initial_weights():
    draws = []
    for _ in range(2):
        devices.setup(None, 7, False)
        draws.append(tf.keras.layers.Dense(3).kernel_initializer((2, 3)).numpy().tolist())
    assert draws[0] == draws[1]
