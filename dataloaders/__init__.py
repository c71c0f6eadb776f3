"""From prepared sets to batches: record formats, readers, scene graphs, one file a loader."""

import core  # noqa: F401  (before a module of this package loads TensorFlow: see core/__init__.py)
