"""Search in one's own photographs with one's own drawing.

    from search import PhotoIndex, Scene, SceneObject

PhotoIndex, and with it TensorFlow, is imported when it is asked for.
"""

from typing import Any

import core  # noqa: F401  (before TensorFlow: it sets how much that logs)
from search.scene import Scene, SceneObject

__all__ = ["PhotoIndex", "Scene", "SceneObject"]


def __getattr__(name: str) -> Any:
    if name != "PhotoIndex":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from search.index import PhotoIndex

    return PhotoIndex
