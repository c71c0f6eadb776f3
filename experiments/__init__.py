"""What `run-experiment.py` runs, one file an experiment."""

import core  # noqa: F401  (before a module of this package loads TensorFlow: see core/__init__.py)
