"""Shared fixtures: the real samples, when they are there."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real samples named by SCENE_DESIGNER_DATA; the test is skipped without it."""
    folder = os.environ.get("SCENE_DESIGNER_DATA")
    if not folder:
        pytest.skip("SCENE_DESIGNER_DATA is not set: no real photographs and drawings here")
    path = Path(folder)
    assert path.is_dir(), f"SCENE_DESIGNER_DATA names a missing folder: {path}"
    return path
