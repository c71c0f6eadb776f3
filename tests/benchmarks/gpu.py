"""A stage 2 step on one GPU: seconds, memory, waiting for data.

    python -m tests.benchmarks.gpu [--device cpu --quick]

In float32, float16 and bfloat16, with and without XLA (`jit_compile`, which is of this script: it
compiles anew for every number of objects, so it meets one batch, and no loader). Each in a process
of its own; what is not done five minutes after the start is said. The table is for
docs/performance.md."""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tabulate import tabulate

from core import commands
from tests.benchmarks import data, models
from tests.benchmarks.harness import Numbers, Setting, peak_megabytes

SECONDS = 300
PRECISIONS = ("float32", "float16", "bfloat16")
HEADERS = (
    "precision",
    "XLA",
    "first step, s",
    "step, s",
    "peak memory, MB",
    "waiting, % of a step",
)
Cells = tuple[str, ...]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--quick", action="store_true", help="small sizes: only to see it work")
    parser.add_argument("--only", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--folder", type=Path, default=Path("bench"), help="of data and the table")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # run here, by the process that asked
    args = parser.parse_args(argv)
    setting = Setting(args.quick, args.folder)
    if args.part:
        commands.keep_freed_memory()
        precision, xla = args.part.split("/")
        print(json.dumps(measure(precision, xla == "yes", setting, args.device == "gpu")))
        return 0
    device = device_name() if args.device == "gpu" else "CPU"
    if not device:
        print("TensorFlow finds no GPU here: --device cpu --quick shows that the script works")
        return 1
    deadline = time.monotonic() + SECONDS
    for name in ("indexed", "scenes", "crops"):
        data.prepared(name, small(setting))
    rows = [
        (precision, xla, *cells(precision, xla, args, deadline - time.monotonic()))
        for xla, precision in itertools.product(("no", "yes"), args.only)
    ]
    quick = ", QUICK sizes: no figures to quote" if args.quick else ""
    table = tabulate(rows, HEADERS, "github", disable_numparse=True)
    text = f"{device}, 16 scenes of 85 objects{quick}:\n\n{table}\n"
    print(text)
    path = args.folder / "gpu.md"
    path.write_text(text, "utf-8")
    print(f"saved: {path}")
    return 0


def small(setting: Setting) -> Setting:
    """The small sample: a batch of it takes as long as of the large one."""
    return Setting(True, setting.folder)


def device_name() -> str:
    """Return the name of the first GPU, or ''."""
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
    return ""


def measure(precision: str, xla: bool, setting: Setting, on_gpu: bool) -> Numbers:
    """Measure one kind of step, in this process. 'waiting' is missing with XLA."""
    import tensorflow as tf

    from core import devices

    if on_gpu:
        devices.setup([0], 0, False)
    else:
        tf.config.set_visible_devices([], "GPU")
    numerics = "none" if precision == "float32" else precision
    model = models.random_model("graph-attention", setting, precision=numerics)
    loader = data.loader("coco-tfrecord", small(setting), setting.size(16, 3))
    batches, times = loader.train_batches(0), setting.size(20, 1)
    batch = models.scenes(setting)._replace(stuff=next(iter(batches)).stuff)  # the loader has some
    step = models.stepper(model, batches.element_spec, jit_compile=xla)
    found = models.measure_step(model, batch, times, step)
    found = {name: float(np.array(seconds)[0]) for name, seconds in found.items()}
    if on_gpu:
        found["peak"] = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    else:
        found["peak"] = peak_megabytes()["peak"]
    if not xla:
        found["waiting"] = models.waiting(step, batches, times)["share"]
    return found


def cells(precision: str, xla: str, args: argparse.Namespace, seconds: float) -> Cells:
    """Return the measured cells of a row; in the first, why there are none."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--part", f"{precision}/{xla}"]
    command += ["--device", args.device, "--folder", str(args.folder)]
    command += ["--quick"] * args.quick
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(seconds, 0))
    except subprocess.TimeoutExpired:
        return (f"not done {SECONDS} s after the start", "", "", "")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return (f"failed: {last[:100]}", "", "", "")
    found = json.loads(done.stdout.splitlines()[-1])
    waiting = f"{100 * found['waiting']:.1f}" if "waiting" in found else ""
    return (f"{found['first']:.1f}", f"{found['median']:.3f}", f"{found['peak']:,.0f}", waiting)


if __name__ == "__main__":
    sys.exit(main())
