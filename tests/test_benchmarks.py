"""The quick benches run; both clocks and the ratios by each."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.benchmarks import data, gpu, models, scale, search, serving
from tests.benchmarks.harness import Setting, faster, peak_megabytes, repeat, slower, stopwatch


@pytest.mark.parametrize("bench", [*search.BENCHES.values(), *scale.BENCHES.values()])
def test_quick(bench, tmp_path: Path):
    setting = Setting(True, tmp_path)
    found = {part: {**peak_megabytes(), **run(setting)} for part, run in bench.parts.items()}
    rows = bench.rows(found)
    assert all(row.value > 0 for row in rows)
    timed = [row for row in rows if row.unit == "s" or row.unit.endswith("/s")]
    assert all(row.cpu > 0 for row in timed)
    assert not list(tmp_path.iterdir())


def test_a_server_under_load(tmp_path: Path):
    bench = serving.BENCHES["serve-load"]
    rows = bench.rows({"server": bench.parts["server"](Setting(True, tmp_path))})
    found = {row.what.rpartition(": ")[2]: row.value for row in rows}
    assert 0 < found["a search, p50"] <= found["a search, p95"] <= found["a search, p99"] < 60
    assert found["searches answered"] > 0


BUSY = "import time\nwhile time.process_time() < 0.3: pass"


def test_both_clocks():
    """Sleep takes time of the wall alone; work in a child takes time of the processors."""
    passed = stopwatch()
    time.sleep(0.2)
    wall, cpu = passed()
    assert wall >= 0.2 > 0.1 > cpu
    passed = stopwatch()
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    assert passed()[1] >= 0.29
    found = repeat(lambda: time.sleep(0.05), 3)
    assert all(found[name][0] >= 0.05 > found[name][1] for name in ("first", "median"))


def test_ratios_by_each_clock():
    ours, naive = np.array([2.0, 1.0]), [6.0, 4.0]
    row = slower("step", "s", ours, naive)
    assert (row.value, row.naive, row.gain) == (2, 6, 3)
    assert (row.cpu, row.cpu_naive, row.cpu_gain) == (1, 4, 4)
    row = faster("loader", "scenes/s", naive, ours)
    assert (row.gain, row.cpu_gain) == (3, 4)
    row = slower("memory", "MB", 100, 250.0)
    assert (row.gain, row.cpu, row.cpu_naive, row.cpu_gain) == (2.5, None, None, None)
    row = slower("build", "s", naive)
    assert (row.value, row.cpu, row.naive, row.gain, row.cpu_gain) == (6, 4, None, None, None)


def test_operations_by_hand():
    """A convolution to 4 x 4 places: 2 * (3 * 3 * 3 * 5) * 16 for each of 2 pictures, and as much
    for either gradient. Depthwise, by 8 x 8 places: 2 * (3 * 3 * 3) * 64 for each, of which only
    the maps' gradient is taken. A product of 3 x 4 and 4 x 7, transposed: 2 * 84."""

    @tf.function
    def traced(maps, kernel, depthwise, a, b):
        with tf.GradientTape() as tape:
            tape.watch([maps, kernel])
            wide = tf.nn.depthwise_conv2d(maps, depthwise, [1, 1, 1, 1], "SAME")
            loss = tf.reduce_sum(tf.nn.conv2d(wide, kernel, 2, "SAME"))
        return loss, tape.gradient(loss, [maps, kernel]), tf.matmul(a, b, transpose_a=True)

    shapes = [(2, 8, 8, 3), (3, 3, 3, 5), (3, 3, 3, 1), (4, 3), (4, 7)]
    graph = traced.get_concrete_function(*map(tf.TensorSpec, shapes)).graph
    convolution, depthwise = 2 * 135 * 16 * 2, 2 * 27 * 64 * 2
    assert models.operations(graph) == 3 * convolution + 2 * depthwise + 2 * 84


def test_the_step_of_the_gpu_bench(tmp_path: Path, monkeypatch, capsys):
    setting = Setting(True, tmp_path)

    class Same:
        def train_batches(self, step):
            return tf.data.Dataset.from_tensors(models.scenes(setting)).repeat()

    monkeypatch.setattr(data, "loader", lambda *_: Same())
    found = gpu.measure("float32", False, setting, on_gpu=False)
    assert min(found["first"], found["median"], found["peak"]) > 0 and 0 < found["waiting"] < 1
    monkeypatch.setattr(gpu, "device_name", lambda: "")
    assert gpu.main(["--folder", str(tmp_path)]) == 1
    assert "no GPU" in capsys.readouterr().out
