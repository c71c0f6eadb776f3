"""Search in one's own photographs with one's own drawing."""

import core  # noqa: F401  (before TensorFlow: it sets how much that logs)
