"""Profiles of fuzzing: `ci`, the same few examples each time, or HYPOTHESIS_PROFILE=long, other
ones each time and many. A failure prints what repeats it."""

import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, configuration, settings

configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")

COMMON = {
    "deadline": None,  # times are bounded where a test says so: a busy machine is no failure
    "database": None,  # nothing is written beside the sources
    "print_blob": True,
    "suppress_health_check": list(HealthCheck),
}
settings.register_profile("ci", derandomize=True, max_examples=40, **COMMON)
settings.register_profile("long", max_examples=3000, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
