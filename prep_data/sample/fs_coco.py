"""The sample's part in the layout of FS-COCO: photographs, each with a drawing of the whole scene.

The world and the way to draw from memory are those of the other parts. Of the published files,
strokes (vector_sketches/) and captions (text/) are left out: nothing reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from prep_data.sample.scenes import make_scene
from prep_data.sample.sketchycoco_sl import draw_from_memory, visible_objects

_USERS = 10
_FIRST_ID = 950_000_000  # far from those of the other parts
_KINDS = ("images", "raster_sketches")


def folders(folder: Path) -> Iterator[Path]:
    """Yield the folders that `write_pair` writes into."""
    for kind in _KINDS:
        for user in range(1, _USERS + 1):
            yield folder / kind / str(user)


def write_pair(folder: Path, seed: int, index: int) -> None:
    """Write one pair, of the user whose turn it is."""
    rng = np.random.default_rng([seed, 4, index])
    seen = []
    while not seen:
        scene = make_scene(rng)
        seen = visible_objects(scene)
    drawing, _ = draw_from_memory(seen, scene.labels, rng)
    for kind, picture in zip(_KINDS, (Image.fromarray(scene.image), drawing)):
        path = folder / kind / str(index % _USERS + 1) / f"{_FIRST_ID + index:012d}.jpg"
        picture.save(path, quality=90)


def write_lists(folder: Path, count: int) -> None:
    """Write both lists for `count` pairs: three of ten of each user, or all of three users."""
    for name, listed in (
        ("val_normal.txt", lambda index: index // _USERS % 10 in (0, 3, 6)),
        ("val_unseen_user.txt", lambda index: index % _USERS >= 7),
    ):
        lines = [f"{_FIRST_ID + index:012d}\n" for index in range(count) if listed(index)]
        (folder / name).write_text("".join(lines), encoding="utf-8")
