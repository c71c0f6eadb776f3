"""Colours of classes in pictures of layouts, for people to read.

Well-known stuff and things have the colours they have in photographs: sky is light blue, grass
green, a road grey. All others look as different from those, and from each other, as
can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from core.dataset import Vocabulary
from core.label_maps import BACKGROUND, coco_labels

WHITE = (255, 255, 255)
# COCO-Stuff id -> red, green, blue
NATURAL = {
    1: (222, 62, 58),  # person
    6: (250, 190, 30),  # bus
    11: (200, 16, 28),  # fire hydrant
    13: (160, 0, 48),  # stop sign
    15: (122, 78, 24),  # bench
    17: (244, 164, 80),  # cat
    18: (150, 86, 30),  # dog
    19: (112, 52, 28),  # horse
    20: (240, 230, 200),  # sheep
    21: (94, 54, 60),  # cow
    22: (142, 138, 160),  # elephant
    23: (64, 40, 30),  # bear
    24: (62, 62, 66),  # zebra
    25: (220, 166, 48),  # giraffe
    52: (252, 228, 64),  # banana
    53: (168, 24, 20),  # apple
    54: (222, 186, 120),  # sandwich
    55: (255, 146, 0),  # orange
    56: (16, 130, 20),  # broccoli
    57: (252, 112, 24),  # carrot
    58: (200, 84, 44),  # hot dog
    59: (232, 138, 52),  # pizza
    61: (252, 206, 190),  # cake
    62: (176, 98, 28),  # chair
    64: (30, 152, 96),  # potted plant
    67: (134, 74, 44),  # dining table
    68: (130, 176, 196),  # window
    72: (24, 24, 34),  # tv
    73: (76, 80, 94),  # laptop
    94: (110, 84, 46),  # branch
    95: (140, 124, 138),  # bridge
    96: (182, 124, 116),  # building-other
    97: (70, 134, 52),  # bush
    100: (200, 156, 106),  # cardboard
    102: (238, 222, 226),  # ceiling-other
    103: (216, 206, 238),  # ceiling-tile
    106: (200, 212, 230),  # clouds
    111: (150, 112, 74),  # dirt
    112: (144, 96, 58),  # door-stuff
    113: (168, 128, 96),  # fence
    114: (224, 204, 206),  # floor-marble
    115: (190, 166, 148),  # floor-other
    116: (168, 160, 154),  # floor-stone
    117: (212, 188, 166),  # floor-tile
    118: (206, 142, 72),  # floor-wood
    119: (230, 96, 170),  # flower
    120: (170, 184, 200),  # fog
    122: (242, 90, 90),  # fruit
    124: (112, 190, 72),  # grass
    125: (164, 158, 132),  # gravel
    126: (180, 150, 112),  # ground-other
    127: (132, 154, 92),  # hill
    128: (214, 130, 104),  # house
    129: (152, 190, 56),  # leaves
    130: (255, 246, 170),  # light
    132: (152, 166, 180),  # metal
    133: (176, 214, 206),  # mirror-stuff
    134: (108, 126, 40),  # moss
    135: (104, 116, 134),  # mountain
    136: (88, 62, 38),  # mud
    139: (250, 244, 228),  # paper
    140: (166, 150, 174),  # pavement
    142: (88, 164, 106),  # plant-other
    144: (132, 114, 98),  # platform
    145: (64, 172, 76),  # playingfield
    147: (118, 92, 100),  # railroad
    148: (66, 152, 196),  # river
    149: (94, 94, 100),  # road
    150: (126, 128, 122),  # rock
    151: (168, 70, 56),  # roof
    153: (166, 218, 96),  # salad
    154: (234, 214, 148),  # sand
    155: (26, 98, 168),  # sea
    157: (134, 194, 242),  # sky-other
    158: (120, 142, 176),  # skyscraper
    159: (224, 240, 255),  # snow
    161: (180, 174, 166),  # stairs
    162: (146, 138, 112),  # stone
    163: (226, 194, 98),  # straw
    165: (168, 96, 60),  # table
    169: (32, 106, 44),  # tree
    170: (96, 176, 24),  # vegetable
    171: (184, 82, 70),  # wall-brick
    172: (190, 190, 182),  # wall-concrete
    173: (228, 212, 182),  # wall-other
    174: (210, 178, 140),  # wall-panel
    175: (162, 138, 140),  # wall-stone
    176: (206, 226, 204),  # wall-tile
    177: (186, 128, 76),  # wall-wood
    178: (72, 130, 220),  # water-other
    179: (146, 220, 236),  # waterdrops
    181: (150, 200, 216),  # window-other
    182: (180, 112, 52),  # wood
}


def oklab(colours: np.ndarray) -> np.ndarray:
    """Return colours in Oklab (Ottosson 2020), where distances are as large as they look: float
    (n, 3). colours: (n, 3) of 0..255, red, green and blue."""
    shares = np.asarray(colours) / 255
    light = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    cones = light @ np.array([
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ])  # fmt: skip
    return np.cbrt(cones) @ np.array([
        [0.2104542553, 1.9779984951, 0.0259040371],
        [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660],
    ])  # fmt: skip


def spread(colours: Sequence[tuple[int, int, int]], count: int) -> np.ndarray:
    """Return `count` more colours, each looking as different as can be from `colours` and those
    before it: uint8 (count, 3), red, green and blue."""
    steps = np.arange(0, 256, 17)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    cube = cube[cube.max(axis=1) > 100]  # the darkest look alike on screens
    places, found = oklab(cube), []
    nearest = np.full(len(cube), np.inf)
    for place in oklab(colours):
        nearest = np.minimum(nearest, ((places - place) ** 2).sum(axis=1))
    for _ in range(count):
        found.append(nearest.argmax())
        nearest = np.minimum(nearest, ((places - places[found[-1]]) ** 2).sum(axis=1))
    return cube[found].astype(np.uint8)


def _palette() -> np.ndarray:
    rest = iter(spread([WHITE, *NATURAL.values()], BACKGROUND - len(NATURAL)))
    rows = [NATURAL.get(number) for number in range(1, BACKGROUND + 1)]
    return np.array([next(rest) if row is None else row for row in rows] + [WHITE], np.uint8)


# uint8 (256, 3): red, green and blue by label: a COCO-Stuff id - 1, then spare ones;
# the background is white.
PALETTE = _palette()
# uint8 (256, 3): of instances; 0 is the background.
INSTANCE_PALETTE = np.concatenate([[WHITE], spread([WHITE], 255)]).astype(np.uint8)


def class_palette(vocabulary: Vocabulary) -> np.ndarray:
    """Return the colours of a vocabulary's classes by their index, those of PALETTE: uint8
    (256, 3)."""
    labels = np.full(256, BACKGROUND)
    labels[: len(vocabulary.ids)] = coco_labels(vocabulary.ids)
    other = np.flatnonzero(labels[: vocabulary.num_classes] == BACKGROUND)
    labels[other] = np.setdiff1d(np.arange(BACKGROUND), labels)[::-1][: len(other)]
    return PALETTE[labels]


def coco_names(vocabulary: Vocabulary) -> dict[int, str]:
    """Return the names of a vocabulary's classes by their labels in maps for SPADE."""
    names = dict(zip(coco_labels(vocabulary.ids).tolist(), vocabulary.names))
    names.pop(BACKGROUND, None)
    return names


def legend(
    labels: np.ndarray, names: Mapping[int, str], colours: np.ndarray = PALETTE
) -> list[tuple[str, tuple[int, int, int]]]:
    """Return the names and colours of what a layout holds, the largest first.

    labels: uint8 (S, S). names: of labels; the others are unlabelled. colours: uint8 (256, 3)."""
    found, areas = np.unique(labels, return_counts=True)
    return [
        (names.get(label, "unlabelled"), tuple(colours[label].tolist()))
        for label in found[np.argsort(-areas, kind="stable")].tolist()
    ]
