"""Choose the devices of TensorFlow, and how repeatable it is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from core.errors import UsageError

log = logging.getLogger(__name__)

CPUINFO = Path("/proc/cpuinfo")  # of Linux
BFLOAT16_FLAGS = {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX"}
BFLOAT16_CAPABILITY = (8, 0)  # compute capability of the first GPUs with bfloat16


def setup(gpus: Sequence[int] | None, seed: int, deterministic: bool) -> None:
    """Choose the GPUs and seed the initial weights.

    gpus: indices as TensorFlow lists them, None: all. UsageError for an index that is not there; a
    machine without a GPU is a notice.
    """
    found = tf.config.list_physical_devices("GPU")
    if gpus is not None:
        if not found:
            log.info("no GPU found: running on CPU")
        else:
            _choose(gpus, found)
    for device in tf.config.get_visible_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(device, True)
        except RuntimeError:  # already running: the choice of the first call stays
            break
    # Initial weights are drawn from the global generator; nothing after them is.
    tf.keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def _choose(gpus: Sequence[int], found: list) -> None:
    for index in gpus:
        if not 0 <= index < len(found):
            raise UsageError(
                f"--gpu {index}: there is no such GPU; this machine has "
                f"{', '.join(str(i) for i in range(len(found)))}"
            )
    if len(gpus) > 1:
        log.info("--gpu names %d GPUs: distribute=mirrored trains on all of them", len(gpus))
    try:
        tf.config.set_visible_devices([found[index] for index in gpus], "GPU")
    except RuntimeError as error:
        log.warning("--gpu has no effect any more: %s", error)


def fast_precision() -> tuple[str, str]:
    """Return the `mixed_precision` that this machine computes fast, 'bfloat16' or 'none', and the
    reason. GPUs decide where there are any, else the processor."""
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        details = map(tf.config.experimental.get_device_details, gpus)
        oldest = min(each.get("compute_capability", (0, 0)) for each in details)
        fast = oldest >= BFLOAT16_CAPABILITY
        why = "the GPU has" if fast else "the GPU does not have"
        return "bfloat16" if fast else "none", f"{why} compute capability 8.0"
    try:
        words = set(CPUINFO.read_text("utf-8").split())
    except OSError:  # not Linux
        return "none", f"{CPUINFO}, which lists what a processor has, cannot be read"
    has = [name for flag, name in BFLOAT16_FLAGS.items() if flag in words]
    if has:
        return "bfloat16", f"the processor has {' and '.join(has)}"
    return "none", f"the processor has neither {' nor '.join(BFLOAT16_FLAGS.values())}"
