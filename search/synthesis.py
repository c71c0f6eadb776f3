"""Layouts of drawn scenes, and pictures of them, over background stuff that a person paints.

scene -> run.masks, in their boxes -> core.label_maps, over the stuff -> generator -> picture
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from core.errors import UserError, first_line
from core.label_colours import PALETTE, coco_names, legend
from core.label_maps import BACKGROUND, FIRST_STUFF, SIDE, coco_labels, label_maps
from core.run import Run
from dataloaders import images
from search.index import encode, layout_objects
from search.scene import Scene, data_url, open_data_url
from SPADE.generators import Generator, to_image


class Layout(NamedTuple):
    """Maps of a scene, uint8 (256, 256) each."""

    labels: np.ndarray  # COCO-Stuff id - 1, 255 = unknown
    instances: np.ndarray  # objects from 1, then pieces of stuff


class Synthesis:
    """Makes layouts with a run whose classes have COCO-Stuff ids, and pictures with a generator."""

    def __init__(self, run: Run, generator: Generator | None = None) -> None:
        self._run, self.generator = run, generator
        self._labels = coco_labels(run.vocabulary.ids)  # uint8 (K,), of each class
        self._names = coco_names(run.vocabulary)

    def about(self) -> dict[str, Any]:
        """Return the materials that can be painted, the colours of objects, and whether there is a
        generator."""
        names = sorted((name, label) for label, name in self._names.items())
        vocabulary = self._run.vocabulary
        return {
            "stuff": [
                {"name": name, "label": label, "colour": _hex(PALETTE[label])}
                for name, label in names
                if label >= FIRST_STUFF
            ],
            "objects": {
                vocabulary.names[i]: _hex(PALETTE[self._labels[i]]) for i in vocabulary.objects
            },
            "picture": self.generator is not None,
        }

    def read_stuff(self, url: str) -> np.ndarray:
        """Return the painted stuff of a data URL: uint8 (256, 256), labels, 255 = none. UserError
        for what is no 8-bit grey PNG of that size, and for labels that are no stuff of the run."""
        try:
            image = open_data_url(url, SIDE)
            if (image.format, image.mode, image.size) != ("PNG", "L", (SIDE, SIDE)):
                raise ValueError(f"{image.format} {image.mode}, {image.width} x {image.height}")
            stuff = np.asarray(images.rgb_picture(image, "picture"))[..., 0]
        except (ValueError, images.Skip) as error:
            raise UserError(
                f"stuff must be a data URL of an 8-bit grey PNG of {SIDE} x {SIDE} pixels "
                f"({first_line(error)})"
            ) from None
        for label in np.unique(stuff).tolist():
            if label != BACKGROUND and (label < FIRST_STUFF or label not in self._names):
                raise UserError(
                    f"stuff holds {label}, which is no background material of this run: take the "
                    f"labels that /api/about lists, or {BACKGROUND} for none"
                )
        return stuff

    def layout(self, scene: Scene | None, stuff: np.ndarray | None) -> Layout:
        """Return the layout of a drawn scene over painted stuff. Pixels without either take the
        nearest stuff. UserError where there is neither."""
        kinds = np.setdiff1d([] if stuff is None else stuff, BACKGROUND).astype(np.uint8)
        if scene is None and not len(kinds):
            raise UserError("there is nothing to show: draw an object, or paint the background")
        side = self._run.mask_size
        masks, boxes = np.zeros((0, side, side), np.float32), np.zeros((0, 4), np.float32)
        labels = np.zeros(0, np.uint8)
        if scene is not None:
            encoded = encode(self._run, scene)
            masks = self._run.masks(encoded)
            boxes, probabilities = layout_objects(self._run, scene, encoded)
            labels = self._labels[probabilities.argmax(axis=1)]
        pieces = None
        if len(kinds):
            whole = np.tile(np.array([0, 0, 1, 1], np.float32), (len(kinds), 1))
            painted = (stuff == kinds[:, None, None]).astype(np.float32)
            pieces = (painted, whole, kinds, np.zeros(len(kinds), np.int32))
        first = np.zeros(len(labels), np.int32)
        maps = label_maps(masks, boxes, labels, first, 1, SIDE, pieces)
        return Layout(*(each[0].numpy() for each in maps))

    def describe(self, layout: Layout) -> dict[str, Any]:
        """Return a layout as the page shows it: pictures as data URLs, and a legend."""
        return {
            "labels": data_url(Image.fromarray(layout.labels)),
            "layout": data_url(Image.fromarray(PALETTE[layout.labels])),
            "legend": [[name, _hex(colour)] for name, colour in legend(layout.labels, self._names)],
        }

    def picture(self, layout: Layout) -> dict[str, str]:
        """Return the picture that the generator makes of a layout. UserError when it makes none."""
        photo = np.zeros((SIDE, SIDE, 3), np.uint8)  # for one that has an encoder
        return {"picture": data_url(to_image(self.generator.generate(*layout, photo)))}


def _hex(colour: Any) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
