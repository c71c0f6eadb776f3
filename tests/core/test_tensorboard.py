"""core.tensorboard: read back as TensorBoard reads it."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing import plugin_event_accumulator as tensorboard

from core.tensorboard import EventFiles
from tests.core.fakes import file_size_limit


def read(folder):
    """tag -> list of (step, value)."""
    events = tensorboard.EventAccumulator(str(folder), {tensorboard.TENSORS: 0}).Reload()
    return {
        tag: [(event.step, tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_scalars_and_pictures(tmp_path):
    picture = tmp_path / "p.png"
    pixels = np.arange(300, dtype=np.uint16).reshape(10, 10, 3).astype(np.uint8)
    Image.fromarray(pixels).save(picture)
    events = EventFiles(tmp_path / "tb", 0)
    events.write(1, {"losses/a b": 0.5})
    events.write(2, {"losses/a b": 0.25}, {"map": picture})
    events.close()
    found = read(tmp_path / "tb")
    assert found["losses/a b"] == [(1, 0.5), (2, 0.25)]
    ((step, (width, height, png)),) = found["map"]
    assert (step, width, height) == (2, b"10", b"10")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), pixels)


def test_after_a_resume_no_step_comes_twice(tmp_path):
    for start, steps, value in ((0, (1, 2, 3, 4, 5), 1.0), (3, (4, 5, 6), 2.0)):
        events = EventFiles(tmp_path, start)
        for step in steps:
            events.write(step, {"a": value})
        events.close()
    assert read(tmp_path)["a"] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]


@pytest.mark.parametrize("at", ["start", "later", "close"])
def test_trouble_with_the_disk_is_one_warning(tmp_path, caplog, at):
    if at == "start":
        (tmp_path / "tb").write_text("a file where the folder should be")
    events = EventFiles(tmp_path / "tb", 0)
    with file_size_limit(100):
        for step in range(2 if at == "close" else 100):  # ten wait in memory
            events.write(step, {"a" * 50: 1.0})
        events.close()
    (record,) = caplog.records
    assert f"{tmp_path / 'tb'}: nothing more is written for TensorBoard (" in record.getMessage()
    assert "function_node" not in record.getMessage()
