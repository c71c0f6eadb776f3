"""The sample's objects: their areas in photographs and their lines in drawings.

A class is a function of a random generator that gives one *individual*: coloured areas (the
photograph) and pen lines over the same outline (the drawing). Individuals differ in proportions,
hue, texture, aspect, tilt and handedness. Everything is in a plane with x to the right and y
downwards, about one unit a side; `_finish` brings an individual's areas into the unit box.

All functions are pure: the same generator state gives the same object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Points = np.ndarray  # float64 (P, 2) x, y


class Area(NamedTuple):
    """A filled polygon. colour: RGB in [0, 1] (3,); texture: see `paint`."""

    outline: Points
    colour: np.ndarray
    texture: str = "plain"


class Individual(NamedTuple):
    """One object of the world, its areas in the unit box (later areas lie on top)."""

    areas: list[Area]
    lines: list[Points]  # as a person draws it: outlines first, details after
    outlines: int  # so many of the lines are never left out
    aspect: float  # natural width : height


class ObjectClass(NamedTuple):
    """A class of the sample. sketch_classes: its Quick, Draw! classes (one file each)."""

    name: str  # COCO-Stuff name
    category_id: int  # official id: 1-90 things, 92-182 stuff
    supercategory: str
    sketch_classes: tuple[str, ...]
    make: Callable[[np.random.Generator], Individual]


# ---- curves ------------------------------------------------------------------------------------


def _poly(*points: Sequence[float], closed: bool = True) -> Points:
    outline = np.array(points, np.float64)
    return np.concatenate([outline, outline[:1]]) if closed else outline


def _ellipse(
    cx: float, cy: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0
) -> Points:
    """Return an arc; start, end: degrees, clockwise on the picture from the right."""
    angle = np.radians(np.linspace(start, end, max(8, int(abs(end - start) / 9))))
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], axis=1)


def _smooth(*points: Sequence[float], closed: bool = True) -> Points:
    """Return a Catmull-Rom curve through the points."""
    p = np.array(points, np.float64)
    if closed:
        p = np.concatenate([p[-1:], p, p[:2]])
    else:
        p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, 1, 8, endpoint=False)[:, None, None]  # (8, 1, 1)
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    curve = 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )  # (8, segments, 2)
    curve = curve.transpose(1, 0, 2).reshape(-1, 2)
    return np.concatenate([curve, p[-2:-1]])


def _box(x0: float, y0: float, x1: float, y1: float) -> Points:
    return _poly((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def hsv(rng: np.random.Generator, hue: float, saturation: float, value: float) -> np.ndarray:
    """Return RGB (3,) in [0, 1] near a colour; hue in degrees."""
    h = (hue + rng.uniform(-12, 12)) / 60 % 6
    s = np.clip(saturation + rng.uniform(-0.12, 0.12), 0, 1) if saturation else 0.0
    v = np.clip(value + rng.uniform(-0.1, 0.1), 0.05, 1)
    k = (np.array([5, 3, 1]) + h) % 6
    return v - v * s * np.clip(np.minimum(k, 4 - k), 0, 1)


def _finish(areas: list[Area], lines: list[Points], outlines: int) -> Individual:
    corners = np.concatenate([area.outline for area in areas])
    low = corners.min(axis=0)
    size = corners.max(axis=0) - low
    return Individual(
        [area._replace(outline=(area.outline - low) / size) for area in areas],
        [(line - low) / size for line in lines],
        outlines,
        float(size[0] / size[1]),
    )


# ---- the classes -------------------------------------------------------------------------------


def _airplane(rng: np.random.Generator) -> Individual:
    body = hsv(rng, rng.choice([0, 210, 0]), rng.choice([0.0, 0.25]), 0.88)
    trim = hsv(rng, rng.choice([0, 215, 130]), 0.8, 0.65)
    fat, sweep = rng.uniform(0.075, 0.11), rng.uniform(-0.04, 0.06)
    hull = _smooth(
        (0.0, 0.5), (0.1, 0.5 - fat), (0.5, 0.5 - fat), (0.85, 0.46), (1.0, 0.44), (0.85, 0.53),
        (0.5, 0.5 + fat), (0.1, 0.5 + fat),
    )  # fmt: skip
    near = _poly((0.36, 0.53), (0.53, 0.53), (0.72 + sweep, 0.88), (0.62 + sweep, 0.88))
    far = _poly((0.38, 0.43), (0.53, 0.43), (0.68 + sweep, 0.16), (0.6 + sweep, 0.16))
    fin = _poly((0.82, 0.46), (0.97, 0.22), (1.03, 0.22), (0.97, 0.46))
    windows = [_ellipse(x, 0.475, 0.02, 0.022) for x in np.arange(0.16, 0.8, 0.1)]
    areas = [Area(far, trim), Area(fin, trim), Area(hull, body, "plain"), Area(near, trim * 0.9)]
    areas += [Area(w, np.array([0.15, 0.2, 0.3])) for w in windows]
    return _finish(areas, [hull, near, far, fin, *windows[:: rng.integers(1, 4)]], 2)


def _apple(rng: np.random.Generator) -> Individual:
    skin = hsv(rng, rng.choice([0, 8, 95]), 0.8, 0.75)
    fat = rng.uniform(0.42, 0.5)
    fruit = _smooth(
        (0.5, 0.3), (0.66, 0.22), (0.5 + fat * 0.95, 0.34), (0.5 + fat, 0.58),
        (0.5 + fat * 0.7, 0.88), (0.58, 1.0), (0.5, 0.97), (0.42, 1.0), (0.5 - fat * 0.7, 0.88),
        (0.5 - fat, 0.58), (0.5 - fat * 0.95, 0.34), (0.34, 0.22),
    )  # fmt: skip
    lean = rng.uniform(0.0, 0.08)
    stem = _poly((0.48, 0.32), (0.48 + lean, 0.05), (0.54 + lean, 0.06), (0.53, 0.32))
    leaf = _smooth((0.53, 0.18), (0.66, 0.03), (0.84, 0.05), (0.7, 0.17))
    areas = [
        Area(fruit, skin, "ball"),
        Area(stem, hsv(rng, 30, 0.6, 0.35)),
        Area(leaf, hsv(rng, 115, 0.7, 0.5)),
    ]
    stalk = _poly((0.5, 0.32), (0.51 + lean, 0.06), closed=False)
    return _finish(areas, [fruit, stalk, leaf], 1)


def _banana(rng: np.random.Generator) -> Individual:
    bend, thick = rng.uniform(0.42, 0.6), rng.uniform(0.17, 0.24)
    t = np.linspace(0, 1, 24)
    spine = np.stack([t, bend * 4 * t * (1 - t) * 0.8 + 0.1 * t], axis=1)
    width = thick * np.sin(np.pi * (0.1 + 0.85 * t)) ** 0.7
    upper = spine + np.stack([0.25 * (0.5 - t) * width, -width / 2], axis=1)
    lower = spine + np.stack([-0.25 * (0.5 - t) * width, width / 2], axis=1)
    fruit = np.concatenate([upper, lower[::-1], upper[:1]])
    tip = _poly((0.98, 0.14), (1.04, 0.0), (1.1, 0.03), (1.0, 0.2))
    areas = [
        Area(fruit, hsv(rng, 52, 0.75, 0.92), "streaks"),
        Area(tip, hsv(rng, 60, 0.6, 0.4)),
    ]
    rib = spine[4:-3] + np.array([0, -0.02])
    return _finish(areas, [fruit, tip, rib], 1)


def _boat(rng: np.random.Generator) -> Individual:
    hull_colour = hsv(rng, rng.choice([15, 220, 0]), 0.75, 0.45)
    sail = hsv(rng, rng.choice([0, 30, 350]), rng.choice([0.03, 0.35]), 0.95)
    mast, deep = rng.uniform(0.46, 0.56), rng.uniform(0.92, 1.02)
    hull = _poly((0.0, 0.76), (1.0, 0.76), (0.82, deep), (0.16, deep))
    main = _smooth((mast + 0.03, 0.05), (0.8, 0.4), (0.93, 0.66), closed=False)
    main = np.concatenate([main, _poly((mast + 0.03, 0.66), (mast + 0.03, 0.05), closed=False)])
    jib = _poly((mast - 0.03, 0.14), (mast - 0.03, 0.66), (0.1, 0.66))
    pole = _box(mast - 0.018, 0.0, mast + 0.018, 0.77)
    areas = [
        Area(pole, np.array([0.35, 0.25, 0.15])),
        Area(main, sail, "stripes"),
        Area(jib, sail * 0.92),
        Area(hull, hull_colour, "planks"),
    ]
    pole_line = _poly((mast, 0.0), (mast, 0.76), closed=False)
    return _finish(areas, [hull, pole_line, main, jib], 3)


def _car(rng: np.random.Generator) -> Individual:
    paint = hsv(rng, rng.uniform(0, 360), 0.8, 0.7)
    front, back, roof = rng.uniform(0.24, 0.32), rng.uniform(0.78, 0.88), rng.uniform(0.0, 0.08)
    body = _poly(
        (0.0, 0.6), (0.03, 0.4), (front - 0.06, 0.35), (front + 0.1, roof), (back - 0.1, roof),
        (back, 0.35), (0.98, 0.4), (1.0, 0.6), (0.97, 0.68), (0.03, 0.68),
    )  # fmt: skip
    wheels = [(0.22, 0.68), (0.78, 0.68)]
    tyre = rng.uniform(0.1, 0.125)
    middle = (front + back) / 2
    glass = [
        _poly((front + 0.02, 0.34), (front + 0.13, roof + 0.06), (middle - 0.02, roof + 0.06),
              (middle - 0.02, 0.34)),
        _poly((middle + 0.02, 0.34), (middle + 0.02, roof + 0.06), (back - 0.13, roof + 0.06),
              (back - 0.04, 0.34)),
    ]  # fmt: skip
    areas = [Area(body, paint, "shine")]
    areas += [Area(pane, hsv(rng, 200, 0.3, 0.75)) for pane in glass]
    rims = [_ellipse(x, y, tyre * 0.45, tyre * 0.45) for x, y in wheels]
    tyres = [_ellipse(x, y, tyre, tyre) for x, y in wheels]
    areas += [Area(t, np.array([0.1, 0.1, 0.11])) for t in tyres]
    areas += [Area(r, np.array([0.7, 0.7, 0.72])) for r in rims]
    lines = [
        body,
        *tyres,
        *(glass if rng.random() < 0.8 else []),
        *(rims if rng.random() < 0.4 else []),
    ]
    return _finish(areas, lines, 3)


def _cat(rng: np.random.Generator) -> Individual:
    fur = hsv(rng, rng.choice([28, 35, 30]), rng.choice([0.65, 0.1]), rng.choice([0.75, 0.4]))
    ear = rng.uniform(0.0, 0.08)
    head = _smooth(
        (0.5, 0.28), (0.75, 0.3), (0.95, 0.5), (0.93, 0.76), (0.7, 0.97), (0.5, 1.0), (0.3, 0.97),
        (0.07, 0.76), (0.05, 0.5), (0.25, 0.3),
    )  # fmt: skip
    left = _poly((0.08, 0.48), (0.1 - ear / 2, ear), (0.4, 0.3))
    right = _poly((0.92, 0.48), (0.9 + ear / 2, ear), (0.6, 0.3))
    eyes = [_ellipse(x, 0.56, 0.065, 0.075) for x in (0.32, 0.68)]
    pupils = [_ellipse(x, 0.56, 0.025, 0.06) for x in (0.32, 0.68)]
    nose = _poly((0.45, 0.7), (0.55, 0.7), (0.5, 0.76))
    mouth = _smooth(
        (0.36, 0.84), (0.43, 0.87), (0.5, 0.77), (0.57, 0.87), (0.64, 0.84), closed=False
    )
    whiskers = [
        _poly((x, 0.73 + dy), (x + side * 0.34, 0.7 + 2.2 * dy), closed=False)
        for x, side in ((0.36, -1), (0.64, 1))
        for dy in (-0.02, 0.03)
    ]
    # The drawing's outline is one line round head and ears, as people draw it.
    outline = np.concatenate([left[:3], head[3:6], right[2::-1], head[12:-8], left[:1]])
    areas = [Area(left, fur * 0.9, "fur"), Area(right, fur * 0.9, "fur"), Area(head, fur, "fur")]
    areas += [Area(e, hsv(rng, 80, 0.6, 0.85)) for e in eyes]
    areas += [Area(p, np.array([0.05, 0.05, 0.05])) for p in pupils]
    areas += [Area(nose, np.array([0.85, 0.5, 0.5]))]
    return _finish(areas, [outline, *eyes, nose, mouth, *whiskers], 1)


def _clock(rng: np.random.Generator) -> Individual:
    case = hsv(rng, rng.choice([350, 165, 275]), 0.75, 0.6)
    hours, minutes = rng.uniform(0, 2 * np.pi, 2)
    rim, face = _ellipse(0.5, 0.56, 0.42, 0.4), _ellipse(0.5, 0.56, 0.33, 0.315)
    bells = [_ellipse(0.22, 0.17, 0.17, 0.13, 165, 345), _ellipse(0.78, 0.17, 0.17, 0.13, 195, 375)]
    bells = [np.concatenate([bell, bell[:1]]) for bell in bells]
    feet = [
        _poly((0.22, 0.84), (0.1, 1.0), (0.18, 1.02), (0.32, 0.9)),
        _poly((0.78, 0.84), (0.9, 1.0), (0.82, 1.02), (0.68, 0.9)),
    ]

    def hand(angle: float, length: float, half: float) -> tuple[Points, Points]:
        along = np.array([np.sin(angle), -np.cos(angle)])
        across = np.array([along[1], -along[0]]) * half
        centre = np.array([0.5, 0.56])
        end = centre + along * length
        return (
            np.stack(
                [centre + across, end + across, end - across, centre - across, centre + across]
            ),
            np.stack([centre, end]),
        )

    hands = [hand(hours, 0.17, 0.022), hand(minutes, 0.26, 0.016)]
    areas = [Area(part, case * 0.8) for part in feet + bells]
    areas += [Area(rim, case), Area(face, hsv(rng, 50, 0.06, 0.95))]
    areas += [Area(fill, np.array([0.1, 0.1, 0.1])) for fill, _ in hands]
    inner = [face] if rng.random() < 0.5 else []
    return _finish(areas, [rim, *bells, *inner, *[line for _, line in hands], *feet], 3)


def _cup(rng: np.random.Generator) -> Individual:
    glaze = hsv(rng, rng.choice([190, 20, 310]), 0.55, 0.75)
    taper, grip = rng.uniform(0.02, 0.12), rng.uniform(0.24, 0.32)
    rim = _ellipse(0.35, 0.12, 0.35, 0.09)
    base = _ellipse(0.35, 0.92, 0.35 - taper, 0.07, 0, 180)
    wall = np.concatenate(
        [_ellipse(0.35, 0.12, 0.35, 0.09, 180, 0), base, _poly((0.0, 0.12), closed=False)]
    )
    outer = _ellipse(0.66, 0.48, grip, 0.27, -80, 80)
    inner = _ellipse(0.66, 0.48, grip - 0.09, 0.17, 75, -75)
    handle = np.concatenate([outer, inner, outer[:1]])
    areas = [
        Area(handle, glaze * 0.9),
        Area(wall, glaze, "bands"),
        Area(rim, glaze * 1.1),
        Area(_ellipse(0.35, 0.13, 0.3, 0.065), hsv(rng, 25, 0.6, 0.3)),
    ]
    sides = np.concatenate([rim[20:21], base[::-1], rim[:1]])
    return _finish(areas, [rim, sides, outer, inner], 3)


def _traffic_light(rng: np.random.Generator) -> Individual:
    housing = hsv(rng, 50, rng.choice([0.0, 0.75]), rng.choice([0.2, 0.3]))
    wide = rng.uniform(0.17, 0.21)
    box = _smooth(
        (0.5 - wide, 0.03), (0.5, 0.0), (0.5 + wide, 0.03), (0.5 + wide + 0.01, 0.4),
        (0.5 + wide, 0.77), (0.5, 0.8), (0.5 - wide, 0.77), (0.5 - wide - 0.01, 0.4),
    )  # fmt: skip
    pole = _box(0.46, 0.79, 0.54, 1.05)
    lit = rng.integers(3)
    lamps = [_ellipse(0.5, y, 0.1, 0.095) for y in (0.16, 0.4, 0.64)]
    hues = [(0, 0.9), (45, 0.9), (130, 0.8)]
    areas = [Area(pole, np.array([0.4, 0.4, 0.42])), Area(box, housing)]
    for i, lamp in enumerate(lamps):
        areas.append(Area(lamp, hsv(rng, *hues[i], 0.95) * (1.0 if i == lit else 0.55)))
    post = [
        _poly((0.47, 0.79), (0.47, 1.05), closed=False),
        _poly((0.53, 0.79), (0.53, 1.05), closed=False),
    ]
    return _finish(areas, [box, *lamps, *(post if rng.random() < 0.7 else [])], 4)


def _umbrella(rng: np.random.Generator) -> Individual:
    cloth = hsv(rng, rng.choice([285, 330, 205]), 0.7, 0.75)
    flat = rng.uniform(0.42, 0.5)
    dome = _ellipse(0.5, 0.5, 0.5, flat, 180, 360)
    scallops = [_ellipse(x, 0.5, 0.125, 0.07, 0, -180) for x in (0.875, 0.625, 0.375, 0.125)]
    canopy = np.concatenate([dome, *scallops])
    stick = _box(0.485, 0.42, 0.515, 0.9)
    hook = np.concatenate(
        [_ellipse(0.42, 0.9, 0.095, 0.1, 0, 180), _ellipse(0.42, 0.9, 0.06, 0.065, 180, 0)]
    )
    hook = np.concatenate([hook, hook[:1]])
    wood = hsv(rng, 30, 0.6, 0.35)
    panel = np.concatenate([_ellipse(0.5, 0.5, 0.13, flat, 180, 360), scallops[1][::4]])
    areas = [Area(stick, wood), Area(hook, wood), Area(canopy, cloth), Area(panel, cloth * 0.75)]
    handle = np.concatenate(
        [_poly((0.5, 0.44), (0.5, 0.9), closed=False), _ellipse(0.42, 0.9, 0.08, 0.09, 0, 180)]
    )
    ribs = [
        _smooth((0.5, 0.5 - flat), (0.5 + s * 0.1, 0.3), (0.5 + s * 0.13, 0.46), closed=False)
        for s in (-1, 1)
    ]
    return _finish(areas, [canopy, handle, *(ribs if rng.random() < 0.6 else [])], 2)


def _clouds(rng: np.random.Generator) -> Individual:
    n = int(rng.integers(6, 9))
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False) + rng.uniform(0, 1)
    radius = rng.uniform(0.85, 1.1, n)
    knots = np.stack([0.5 + 0.5 * radius * np.cos(angle), 0.3 + 0.27 * radius * np.sin(angle)], 1)
    puffs = []
    for a, b in zip(knots, np.roll(knots, -1, axis=0)):
        middle, half = (a + b) / 2, (b - a) / 2
        out = np.array([half[1], -half[0]])
        t = np.linspace(0, np.pi, 10)[:, None]
        puffs.append(middle - np.cos(t) * half + np.sin(t) * out * 0.85)
    outline = np.concatenate([*puffs, puffs[0][:1]])
    white = hsv(rng, 210, 0.06, 0.95)
    return _finish([Area(outline, white, "soft")], [outline], 1)


def _flower(rng: np.random.Generator) -> Individual:
    petals = int(rng.integers(5, 8))
    hue = rng.choice([330, 280, 12])
    turn = rng.uniform(0, np.pi)
    angle = np.linspace(0, 2 * np.pi, 90)
    radius = 0.2 + 0.11 * np.abs(np.cos((angle + turn) * petals / 2)) ** 0.6
    bloom = np.stack([0.5 + radius * np.cos(angle), 0.31 + radius * np.sin(angle)], axis=1)
    heart = _ellipse(0.5, 0.31, 0.1, 0.1)
    sway = rng.uniform(-0.06, 0.06)
    left = _smooth((0.49, 0.5), (0.47 + sway, 0.75), (0.48, 1.05), closed=False)
    stalk = np.concatenate([left, left[::-1] + np.array([0.04, 0.0])])
    leaf = _smooth((0.5 + sway, 0.82), (0.62, 0.68), (0.8, 0.66), (0.68, 0.8))
    green = hsv(rng, 120, 0.7, 0.42)
    areas = [
        Area(stalk, green),
        Area(leaf, green * 1.15),
        Area(bloom, hsv(rng, hue, 0.65, 0.9), "rays"),
        Area(heart, hsv(rng, 48, 0.85, 0.9)),
    ]
    return _finish(
        areas,
        [heart, bloom, left + np.array([0.02, 0.0]), *([leaf] if rng.random() < 0.85 else [])],
        3,
    )


def _house(rng: np.random.Generator) -> Individual:
    wall_colour = hsv(rng, rng.choice([15, 40, 25]), 0.45, 0.75)
    roof_colour = hsv(rng, rng.choice([5, 215, 20]), 0.6, 0.4)
    eaves, door = rng.uniform(0.35, 0.45), rng.uniform(0.15, 0.45)
    wall = _box(0.08, eaves, 0.92, 1.0)
    roof = _poly((0.0, eaves), (0.5, 0.0), (1.0, eaves))
    chimney = _poly((0.7, eaves - 0.08), (0.7, 0.03), (0.82, 0.03), (0.82, eaves - 0.08))
    entrance = _box(door, 0.64, door + 0.2, 1.0)
    window = _box(door + 0.3, 0.56, door + 0.47, 0.76)
    cross = [
        _poly((door + 0.385, 0.56), (door + 0.385, 0.76), closed=False),
        _poly((door + 0.3, 0.66), (door + 0.47, 0.66), closed=False),
    ]
    areas = [
        Area(chimney, hsv(rng, 10, 0.6, 0.45)),
        Area(wall, wall_colour, "bricks"),
        Area(roof, roof_colour, "tiles"),
        Area(entrance, hsv(rng, 25, 0.6, 0.35)),
        Area(window, hsv(rng, 200, 0.35, 0.85)),
    ]
    lines = [wall, roof, entrance, window, *(cross if rng.random() < 0.6 else [])]
    if rng.random() < 0.6:
        lines.append(chimney[:-1])
    return _finish(areas, lines, 2)


def _mountain(rng: np.random.Generator) -> Individual:
    high, low = rng.uniform(0.32, 0.42), rng.uniform(0.68, 0.78)
    valley, second = rng.uniform(0.42, 0.55), rng.uniform(0.18, 0.34)
    ridge = [
        (0.0, 0.8), (high * 0.45, 0.42), (high * 0.55, 0.4), (high, 0.0),
        ((high + low) / 2, valley),
        (low, second), (low + 0.12, 0.5), (1.0, 0.8),
    ]  # fmt: skip
    outline = _poly(*ridge)
    rock = hsv(rng, rng.choice([225, 30, 260]), 0.22, 0.45)

    def snow(x: float, y: float, slope: float) -> Points:
        return _poly(
            (x - slope, y + 0.16), (x, y), (x + slope * 0.9, y + 0.17), (x + slope * 0.4, y + 0.11),
            (x, y + 0.18), (x - slope * 0.45, y + 0.12),
        )  # fmt: skip

    caps = [snow(high, 0.0, 0.075), snow(low, second, 0.06)]
    areas = [Area(outline, rock, "rock")]
    areas += [Area(cap, np.array([0.93, 0.95, 0.98])) for cap in caps]
    zigzag = [cap[2:] for cap in caps]
    line = outline if rng.random() < 0.5 else outline[:-1]
    return _finish(areas, [line, *(zigzag if rng.random() < 0.8 else [])], 1)


CLASSES = (
    ObjectClass("car", 3, "vehicle", ("car",), _car),
    ObjectClass("airplane", 5, "vehicle", ("airplane",), _airplane),
    ObjectClass("boat", 9, "vehicle", ("sailboat",), _boat),
    ObjectClass("traffic light", 10, "outdoor", ("traffic light",), _traffic_light),
    ObjectClass("cat", 17, "animal", ("cat",), _cat),
    ObjectClass("umbrella", 28, "accessory", ("umbrella",), _umbrella),
    ObjectClass("cup", 47, "kitchen", ("coffee cup", "mug"), _cup),
    ObjectClass("banana", 52, "food", ("banana",), _banana),
    ObjectClass("apple", 53, "food", ("apple",), _apple),
    ObjectClass("clock", 85, "indoor", ("alarm clock",), _clock),
    ObjectClass("clouds", 106, "sky", ("cloud",), _clouds),
    ObjectClass("flower", 119, "plant", ("flower",), _flower),
    ObjectClass("house", 128, "building", ("house",), _house),
    ObjectClass("mountain", 135, "solid", ("mountain",), _mountain),
)

GRASS, SAND, SEA, SKY = 124, 154, 155, 157
BACKGROUNDS = (
    ("grass", GRASS, "plant"),
    ("sand", SAND, "ground"),
    ("sea", SEA, "water"),
    ("sky-other", SKY, "sky"),
)
OTHER = ("other", 183, "other")


def variant_of(object_class: ObjectClass, rng: np.random.Generator) -> Individual:
    """Make an individual in the orientation its class is defined in."""
    individual = object_class.make(rng)
    return individual._replace(aspect=individual.aspect * float(np.exp(rng.normal(0, 0.1))))


def individual_of(object_class: ObjectClass, rng: np.random.Generator) -> Individual:
    """Make an individual; half of them are mirrored."""
    individual = variant_of(object_class, rng)
    return mirrored(individual) if rng.random() < 0.5 else individual


def mirrored(individual: Individual) -> Individual:
    """Exchange left and right."""

    def flip(points: Points) -> Points:
        return np.stack([1 - points[:, 0], points[:, 1]], axis=1)

    return individual._replace(
        areas=[area._replace(outline=flip(area.outline)) for area in individual.areas],
        lines=[flip(line) for line in individual.lines],
    )
