"""An index of photographs, to search with drawn scenes: what each ranking says of each photograph.

    drawn scene -> Query (scene vectors, objects) -> rankings -> z-scores, weighted -> hits

search.building makes what is searched, search.index_folder keeps it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from core import layout_match
from core.errors import UsageError, UserError, first_line
from core.evaluation.fusion import z_scores
from core.layout_match import LayoutObjects, Match
from core.registry import closest
from core.run import EncodedScene, Run
from dataloaders import images
from search import building, index_folder
from search.detector import Detector
from search.index_folder import PHOTOS, IndexPart
from search.objects import BoxesFile, ObjectSource, Size
from search.photographs import decoded, photographs_in
from search.scene import Scene
from search.stores import distances, store_class

LABELS = 5  # classes told of a drawn object
CANDIDATES = 2000  # photographs that are ranked where a store does not compare them all
# Of the rankings, `PhotoIndex.scores`; an index without a run that sees whole pictures has two.
# Validation, with annotated boxes, would take layout alone; with boxes of a detector and of people,
# equal weights find more: docs/results.md, "Weights of the rankings".
WEIGHTS = {"learned": 1.0, "layout": 1.0, "whole": 1.0}


class Query(NamedTuple):
    """A drawn scene, or one of the photographs, to compare photographs with."""

    learned: np.ndarray  # float32 (D,): the scene vector that ranks
    objects: LayoutObjects
    whole: np.ndarray  # float32 (E,): of the whole picture; E = 0 in an index without that ranking


class Hit(NamedTuple):
    """A photograph that was found, with its n objects."""

    path: Path
    row: int  # in the index
    size: Size
    rank: int  # from 1
    score: float  # sum of the rankings' z-scores over the photographs ranked, weighted
    parts: dict[str, float]  # ranking -> its own score, the more the better
    matches: list[Match]  # drawn objects and those they were assigned to
    boxes: np.ndarray  # float32 (n, 4)
    labels: list[str | None]  # (n,): classes that a detector or a file named


class PhotoIndex:
    """Photographs to search with the runs that they were encoded by.

    whole: the run that sees whole pictures, None: the index has no such ranking. weights: of its
    rankings by default."""

    def __init__(self, run: Run, whole: Run | None, part: IndexPart, home: Path) -> None:
        self.run, self.whole, self.home = run, whole, home
        self.weights = {name: WEIGHTS[name] for name in WEIGHTS if name != "whole" or whole}
        saved = index_folder.resolved(part.saved.store, home)
        opener = store_class(saved.name)
        self.store = opener.open(part.arrays["learned"], home / PHOTOS, saved)
        self.place = photographs_in(Path(os.path.normpath(home / part.saved.folder)))
        self.folder = self.place.folder
        self.files = part.saved.files
        self.broken = part.saved.broken
        self.learned = part.arrays["learned"]
        self.ends = np.cumsum(part.arrays["counts"])
        self.objects = LayoutObjects(part.arrays["boxes"], part.arrays["probabilities"])
        self._part = part

    def __len__(self) -> int:
        return len(self.files)

    @property
    def ranked(self) -> int:
        """The number of photographs that a query ranks."""
        return len(self) if self.store.exhaustive else min(len(self), CANDIDATES)

    # ---- building and opening --------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        run: Run,
        photographs: str | Path,
        home: str | Path,
        detector: str | Path | None = None,
        boxes: str | Path | None = None,
        objects: ObjectSource | None = None,
        store: str | None = None,
        uri: str | None = None,
        whole: Run | None = None,
    ) -> PhotoIndex:
        """Index the photographs in a folder and below, of a prepared set of scenes or of a features
        file; return the index, open.

        home: folder of the index. What it holds already of files that have not changed is kept,
        also after a build that was stopped; deleted files are left out. detector: folder of a
        SavedModel. boxes: a COCO file, of annotations or of a detector's results. objects: another
        source. Without any a photograph has the objects of its set or file, or is one. store: of
        search.stores.STORES; by default the one that the index has, `exact` in a new one. uri: of
        the store's database. whole: a run that sees whole pictures, for a third ranking; an index
        that was built without it, or with another, is made anew.

        Pictures that cannot be read are listed in `broken`, and told in one warning. UserError for
        a folder without pictures, and while another process builds the index.
        """
        home, place = Path(home), photographs_in(Path(photographs))
        with index_folder.held(home):
            kept = index_folder.chosen(home, store, uri)
            files = place.files()
            if detector is not None:
                objects = Detector(detector, run.vocabulary.ids)
            elif boxes is not None:
                objects = BoxesFile(boxes, run.vocabulary, [file.path for file in files])
            elif objects is None:
                objects = place.objects(run.vocabulary, files)
            building.build(run, whole, place, files, objects, home, kept)
        return cls(run, whole, index_folder.read(home), home)

    @classmethod
    def open(cls, home: str | Path, run: Run | None = None, whole: Run | None = None) -> PhotoIndex:
        """Open the index in a folder. run, whole: by default those that it was built with, from
        where they were then. UserError for a folder without an index, and for another run."""
        home = Path(home)
        part = index_folder.read(home)
        run = _opened(run, part.saved.run, part.saved.weights, home)
        seen_whole = part.saved.whole
        whole = seen_whole and _opened(whole, seen_whole.folder, seen_whole.weights, home)
        return cls(run, whole, part, home)

    def picture(self, row: int, side: int) -> Image.Image:
        """Return a photograph as it was indexed, at most `side` pixels high and wide. UserError for
        a file that is gone or broken, and for a link to what lies outside the folder."""
        file, size = self.files[row], self._part.arrays["sizes"][row]
        try:
            return decoded(self.place.open(file), side, tuple(size.tolist()))[0]
        except (images.Skip, OSError) as error:
            raise UserError(f"{file.path}: {first_line(error)}") from None

    def thumbnail(self, row: int) -> bytes:
        """Return the JPEG of a photograph that the index keeps, at most 320 pixels a side."""
        return self._part.thumbnail(row).tobytes()

    # ---- searching -------------------------------------------------------------------------------

    def search(
        self,
        scene: Scene,
        k: int = 20,
        weights: Mapping[str, float] | None = None,
        first: int = 0,
    ) -> list[Hit]:
        """Return the k photographs that fit a drawn scene best, the best first. first: how many
        better ones are left out.

        weights: of the rankings, whose scores are brought to mean 0 and standard deviation 1 over
        the gallery and added; one left out weighs nothing; None: `self.weights`. UserError for a
        scene that cannot be encoded or names a class that the run does not know.
        """
        return self._ranked(self.query(scene), range(first, first + k), weights)

    def more_like(
        self,
        path: str | Path,
        k: int = 20,
        weights: Mapping[str, float] | None = None,
        first: int = 0,
    ) -> list[Hit]:
        """Return the k photographs most like one of the index, without that one. path: a hit's, or
        relative to the folder of photographs. UserError for one not in the index."""
        names = [file.path for file in self.files]
        name = str(path) if str(path) in names else str(path).removeprefix(f"{self.folder}/")
        if name not in names:
            raise UserError(f"{path} is no photograph of the index {self.home}")
        row = names.index(name)
        query = Query(self.learned[row], self.photographed(row), self._part.arrays["whole"][row])
        return self._ranked(query, range(first, first + k), weights, without=row)

    def labels(self, scene: Scene) -> list[list[tuple[str, float]]]:
        """Return of each drawn object the classes that it most likely is, and how likely."""
        found = encode(self.run, scene).class_probabilities
        order = np.argsort(-found, axis=1)[:, :LABELS]
        names = self.run.vocabulary.names
        return [[(names[c], float(row[c])) for c in best] for best, row in zip(order, found)]

    def query(self, scene: Scene) -> Query:
        """Encode a drawn scene. UserError as `search`."""
        encoded = encode(self.run, scene)
        (learned,) = self.run.ranking_vectors([encoded])
        seen_whole = np.zeros(0, np.float32)
        if self.whole:
            drawn = list(scene.sketches(self.whole.sizes.sketch))  # cut-outs leave nothing
            encoded_whole = self.whole.encode_sketches(drawn, scene.boxes, fit=False)
            (seen_whole,) = self.whole.ranking_vectors([encoded_whole])
        return Query(learned, layout_objects(self.run, scene, encoded), seen_whole)

    def scores(self, query: Query, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return the score of photographs by each ranking: float (n,), the more the better.

        rows: int (n,) of the photographs, None = all."""
        learned, objects, ends = self.learned, self.objects, self.ends
        whole = self._part.arrays["whole"]
        if rows is not None:
            counts = self._part.arrays["counts"][rows]
            ends = np.cumsum(counts)
            found = np.arange(ends[-1]) + np.repeat(self.ends[rows] - ends, counts)
            objects = LayoutObjects(*(column[found] for column in objects))
            learned, whole = learned[rows], whole[rows]
        scores = {
            "learned": -distances(query.learned, learned),
            "layout": layout_match.layout_scores(query.objects, objects, ends),
        }
        return scores | ({"whole": -distances(query.whole, whole)} if self.whole else {})

    def _ranked(
        self,
        query: Query,
        places: range,
        weights: Mapping[str, float] | None,
        without: int = -1,
    ) -> list[Hit]:
        """Return the photographs at some places of the ranking, from 0 on. without: a row that is
        not ranked."""
        weights = self.weights if weights is None else weights
        for name, weight in weights.items():
            if name not in self.weights:
                raise UsageError(f"the index has no ranking {name!r}: {', '.join(self.weights)}")
            if not 0 <= weight < np.inf:
                raise UsageError(f"the weight of {name!r} is {weight}: give one from 0 on")
        if self.store.exhaustive:
            rows, scores = np.arange(len(self)), self.scores(query)
        else:
            rows, _ = self.store.nearest(query.learned, CANDIDATES)
            scores = self.scores(query, rows)
        fused = sum(weights.get(name, 0.0) * z_scores(each) for name, each in scores.items())
        order = np.argsort(-fused, kind="stable")
        order = order[rows[order] != without][places.start : places.stop]
        names = self.run.vocabulary.names
        hits = []
        for rank, place in enumerate(order.tolist(), places.start + 1):
            row = int(rows[place])
            there = self.photographed(row)
            labels = self._part.arrays["labels"][self._object_rows(row)]
            hits.append(
                Hit(
                    self.folder / self.files[row].path,
                    row,
                    tuple(self._part.arrays["sizes"][row].tolist()),
                    rank,
                    float(fused[place]),
                    {name: float(each[place]) for name, each in scores.items()},
                    layout_match.match(query.objects, there),
                    there.boxes,
                    [None if label < 0 else names[label] for label in labels],
                )
            )
        return hits

    def _object_rows(self, row: int) -> slice:
        return slice(self.ends[row - 1] if row else 0, self.ends[row])

    def photographed(self, row: int) -> LayoutObjects:
        """Return the objects of a photograph."""
        return LayoutObjects(*(column[self._object_rows(row)] for column in self.objects))


def _opened(run: Run | None, folder: str, weights: str, home: Path) -> Run:
    """Return the run given, or that of a folder relative to the index; UserError for other weights
    than the index was built with."""
    run = run or Run.open(os.path.normpath(home / folder))
    if run.model.weights_digest() != weights:
        raise UserError(
            f"the index {home} was built with other weights than those of the run {run.folder}: "
            "build it anew, or open it with the run and the checkpoint that built it"
        )
    return run


def encode(run: Run, scene: Scene) -> EncodedScene:
    """Encode a drawn scene; its cut-outs of photographs as photographs."""
    drawn = run.encode_sketches(list(scene.sketches(run.sizes.sketch)), scene.boxes, fit=False)
    cut_outs = [each.is_photo for each in scene.objects]
    if not any(cut_outs):
        return drawn
    photos = [each.picture for each in scene.objects if each.is_photo]
    whole = np.array([[0, 0, 1, 1]], np.float32)
    encoded = run.encode_photos(photos, [whole] * len(photos))
    return run.replace_objects(drawn, np.flatnonzero(cut_outs), encoded)


def layout_objects(run: Run, scene: Scene, encoded: EncodedScene) -> LayoutObjects:
    """Return the drawn objects for layout match: of the label given, else as the run sees."""
    names = run.vocabulary.names
    probabilities = encoded.class_probabilities * np.float32(layout_match.GUESS_WEIGHT)
    for number, each in enumerate(scene.objects):
        if each.label is None:
            continue
        if each.label not in names:
            raise UserError(
                f"object {number}: the run knows no class {each.label!r}."
                f"{closest(each.label, names)}"
            )
        probabilities[number] = np.arange(len(names)) == names.index(each.label)
    return LayoutObjects(scene.boxes, probabilities)
