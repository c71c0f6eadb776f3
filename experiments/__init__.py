"""The experiments of `run-experiment.py`, one file each."""

import core  # noqa: F401  (before a module of this package loads TensorFlow: see core/__init__.py)
