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


@pytest.mark.parametrize(
    ("flags", "expected", "why"),
    [
        ("fpu avx512f avx512_bf16 amx_tile", "bfloat16", "the processor has AVX512-BF16"),
        ("amx_bf16 amx_int8", "bfloat16", "the processor has AMX"),
        ("avx512_bf16 amx_bf16", "bfloat16", "the processor has AVX512-BF16 and AMX"),
        ("fpu avx2 avx512f avx512_bf16x", "none", "the processor has neither AVX512-BF16 nor AMX"),
        (None, "none", "cannot be read"),
    ],
    ids=["avx512", "amx", "both", "neither", "no-cpuinfo"],
)
def test_precision_by_the_processor(tmp_path, monkeypatch, flags, expected, why):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [])
    monkeypatch.setattr(devices, "CPUINFO", tmp_path / "cpuinfo")
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    precision, reason = devices.fast_precision()
    assert precision == expected
    assert why in reason


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [([(8, 0)], "bfloat16"), ([(9, 0), (12, 0)], "bfloat16"), ([(7, 5)], "none"),
     ([(8, 6), (7, 0)], "none"), ([None], "none")],
    ids=["8.0", "newer", "7.5", "one-is-old", "unknown"],
)  # fmt: skip
def test_precision_by_the_gpus(monkeypatch, tmp_path, capabilities, expected):
    """All of them have to have it, and the processor's own does not count."""
    (tmp_path / "cpuinfo").write_text("flags : avx512_bf16")
    monkeypatch.setattr(devices, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: capabilities)
    monkeypatch.setattr(
        "tensorflow.config.experimental.get_device_details",
        lambda gpu: {"compute_capability": gpu} if gpu else {},
    )
    precision, reason = devices.fast_precision()
    assert precision == expected
    assert reason.endswith("compute capability 8.0")
