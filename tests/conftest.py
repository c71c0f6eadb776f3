"""Shared fixtures: the real samples, when they are there."""

import gc
import os
import signal
from pathlib import Path

import pytest

from core import commands  # before any test module loads TensorFlow: it sets how much that logs

commands.keep_freed_memory()

# In the background of a script Ctrl-C is ignored, also by what is started from there: tests of it
# would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = ("test_main_job.py", "test_readme.py", "test_real_data.py")  # chains of commands


def pytest_collection_modifyitems(items):
    """Workers of pytest-xdist take whole files: the longest first, so that none is left over when
    the other workers have ended."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish():
    """Leave what is imported out of garbage collection, which took a tenth of each tracing."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Prepared sets and untrained runs over them, a `tests.test_experiments.World`; to be read."""
    from tests.test_experiments import make_world  # here, because it loads TensorFlow

    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def scene_run(world):
    """The run graph-attention-SD01 of `world`, opened once; to be left as it is."""
    from core.run import Run

    return Run.open(world.out / "graph-attention-SD01")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real samples named by SCENE_DESIGNER_DATA; the test is skipped without it."""
    folder = os.environ.get("SCENE_DESIGNER_DATA")
    if not folder:
        pytest.skip("SCENE_DESIGNER_DATA is not set: no real photographs and drawings here")
    path = Path(folder)
    assert path.is_dir(), f"SCENE_DESIGNER_DATA names a missing folder: {path}"
    return path


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """With the data present, a real-data test that skips is a failure, not a shrug."""
    outcome = yield
    report = outcome.get_result()
    # Workers of pytest-xdist can send only UTF-8; tests of odd names log halves of characters.
    report.sections = [
        tuple(text.encode(errors="backslashreplace").decode() for text in section)
        for section in report.sections
    ]
    real = "real_data" in getattr(item, "fixturenames", ())
    if report.skipped and real and os.environ.get("SCENE_DESIGNER_DATA"):
        report.outcome = "failed"
        report.longrepr = f"skipped although SCENE_DESIGNER_DATA is set: {report.longrepr}"
