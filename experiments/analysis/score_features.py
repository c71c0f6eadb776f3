"""'score-features': the feature vectors of any system, scored by the code that scores our own.

files of queries and gallery, with ids -> ranks of all gallery rows with a query's id -> figures,
beside those of blank queries (of the same system) and of queries whose ids are shuffled

docs/data_formats.md says what the files hold. The vectors of a .npy are mapped into memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.errors import UsageError, UserError, file_error, first_line
from core.evaluation import ranking, retrieval
from core.evaluation.figures import Figure
from core.experiment import Experiment, ExperimentHParams, Trained
from core.files import open_npz, read_utf8, regular_file
from core.hparams import hp
from core.registry import EXPERIMENTS
from experiments import common

KS = (1, 5, 10, 50, 100)
SEED = 0  # of the bootstrap and the shuffled ids
MAX_ID_LENGTH = 250  # characters; a text array takes the longest id for all
NOTES = (
    "sketches=shuffled: the same queries, each looking for what another one looks for",
    "recall counts queries with a right answer among the k nearest; queries of one id are redrawn "
    "together",
)
FORMAT = "docs/data_formats.md says what is expected"


@dataclass(frozen=True)
class ScoreFeaturesHParams(ExperimentHParams):
    """Hparams of 'score-features'."""

    queries: str = hp("", "vectors of the queries: .npz with ids and vectors, or .npy")
    gallery: str = hp("", "vectors that are searched, likewise")
    query_ids: str = hp("", "ids of queries that are .npy: .npy, or a text file with an id a line")
    gallery_ids: str = hp("", "ids of a gallery that is .npy, likewise")
    blank: str = hp("", "vectors of the same queries with nothing drawn, the control; likewise")
    distance: str = hp("euclidean", "what is near", choices=("euclidean", "cosine"))


class Vectors(NamedTuple):
    """ids: integers or texts (n,). vectors: float (n, D), finite."""

    ids: np.ndarray
    vectors: np.ndarray


@EXPERIMENTS.register("score-features")
class ScoreFeatures(Experiment):
    """Writes <results>/<queries file>_in_<gallery file>_score_features.json."""

    name = "score-features"
    HParams = ScoreFeaturesHParams

    def prepare(self) -> None:
        """Read the files. UsageError for files that are not named, UserError for unusable ones."""
        super().prepare()
        given = self.hparams
        self.queries = self._read("queries", given.query_ids, "query_ids")
        self.gallery = self._read("gallery", given.gallery_ids, "gallery_ids")
        self.blank = self._read("blank", given.query_ids, "query_ids") if given.blank else None
        if self.blank and not np.array_equal(self.blank.ids, self.queries.ids):
            raise UserError(f"{given.blank} has other ids than {given.queries}, or another order")
        if self.queries.ids.dtype.kind != self.gallery.ids.dtype.kind:  # 7 is '7' then
            self.queries, self.gallery = (
                side._replace(ids=side.ids.astype(str)) for side in (self.queries, self.gallery)
            )
        width = self.gallery.vectors.shape[1]
        for path, side in ((given.queries, self.queries), (given.blank, self.blank)):
            if side and side.vectors.shape[1] != width:
                raise UserError(
                    f"the vectors of {path} are {side.vectors.shape[1]} wide, those of "
                    f"{given.gallery} {width}: they are not of one space"
                )
        missing = self.queries.ids[~np.isin(self.queries.ids, self.gallery.ids)]
        if len(missing):
            raise UserError(
                f"{given.gallery} lacks the ids of {len(missing)} of {len(self.queries.ids)} "
                f"queries, first {missing[0]}: leave these out, or add what they look for"
            )

    def run(self, trained: Trained | None) -> None:
        given, ids = self.hparams, self.queries.ids
        ranks = {"real": self._ranks(self.queries, ids)}
        if self.blank:
            ranks["blank"] = self._ranks(self.blank, ids)
        ranks["shuffled"] = self._ranks(self.queries, shuffled(ids))
        stems = f"{Path(given.queries).stem}_in_{Path(given.gallery).stem}"
        common.save_report(
            self.results / f"{stems}_score_features.json", None,
            f"{len(self.gallery.ids)} vectors of {Path(given.gallery).name}",
            [figures(ranks, ids, len(self.gallery.ids), given.distance)], NOTES,
            featsfile=Path(given.queries).name, seed=SEED,
        )  # fmt: skip

    def _ranks(self, queries: Vectors, ids: np.ndarray) -> list[np.ndarray]:
        return retrieval.all_ranks(queries.vectors, self.gallery.vectors, ids, self.gallery.ids)

    def _read(self, hparam: str, ids: str, ids_hparam: str) -> Vectors:
        """Read the file that an hparam names; for the cosine distance its vectors have length 1."""
        name = getattr(self.hparams, hparam)
        if not name:
            raise UsageError(f"--exp-hparams {hparam} is missing: name a .npz or .npy of vectors")
        path = Path(name)
        if path.suffix not in (".npz", ".npy"):
            raise UsageError(f"{hparam}={name} is neither .npz nor .npy")
        if path.suffix == ".npy" and not ids:
            raise UsageError(f"{hparam}={name} holds no ids: name them with {ids_hparam}")
        if path.suffix == ".npz" and ids:
            raise UsageError(
                f"{hparam}={name} has ids of its own: leave out {ids_hparam}, or give .npy vectors"
            )
        found = Vectors(read_ids(Path(ids)), read_array(path)) if ids else _read_npz(path)
        _check(found, name, ids or name)
        try:
            norms = ranking.squared_norms(found.vectors, hparam)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None
        if self.hparams.distance == "cosine":
            return found._replace(vectors=_unit(found.vectors, norms, name))
        return found


def figures(
    ranks: dict[str, list[np.ndarray]], ids: np.ndarray, gallery: int, distance: str
) -> list[Figure]:
    """Return every score of the 'real' queries and of their controls 'blank' and 'shuffled'.

    ranks: as of `retrieval.all_ranks`, of the same queries. ids: (Q,). gallery: how many rows."""
    labels = {name: {"sketches": name, "distance": distance} for name in ranks}
    controls = {"real": {name: name for name in ranks if name != "real"}}
    recall = common.recall_metrics(*(k for k in KS if k < gallery or k == 1))
    metrics = {"sbir-mAP": "mAP", **recall}
    return retrieval.rank_figures(ranks, labels, controls, metrics, gallery, "-", SEED, ids)


def shuffled(ids: np.ndarray) -> np.ndarray:
    """Return the ids (Q,) in an order in which every query has that of another one."""
    order = np.random.default_rng(SEED).permutation(len(ids))
    out = np.empty_like(ids)
    out[order] = ids[np.roll(order, 1)]
    return out


# ---- files ---------------------------------------------------------------------------------------


def read_ids(path: Path) -> np.ndarray:
    """Read ids (n,) from a .npy, or from a text file with one a line."""
    if path.suffix == ".npy":
        return read_array(path)
    try:
        lines = read_utf8(path).decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {file_error(error)}") from None
    except ValueError:
        raise UserError(f"{path} is neither .npy nor UTF-8 text") from None
    if max(map(len, lines)) > MAX_ID_LENGTH:
        raise UserError(f"{path} has a line of more than {MAX_ID_LENGTH} characters: is it of ids?")
    return np.array(lines, str)


def read_array(path: Path) -> np.ndarray:
    """Map the array of a .npy into memory. UserError for a file that is none."""
    try:
        array = np.load(regular_file(path), mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise UserError(f"cannot read {path}: {file_error(error)}") from None
    except Exception as error:  # a damaged file shows as any of half a dozen types
        raise UserError(f"{path} is not a .npy ({first_line(error)}); {FORMAT}") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} is an archive, not a .npy; {FORMAT}")
    return array


def _read_npz(path: Path) -> Vectors:
    with open_npz(path, "a file of ids and vectors", FORMAT) as file:
        return Vectors(file.array("ids"), file.array("vectors"))


def _check(found: Vectors, name: str, ids_name: str) -> None:
    """Raise UserError for arrays of other types or shapes."""
    ids, vectors = found
    if ids.dtype.kind not in "iuU" or ids.ndim != 1:
        raise UserError(
            f"the ids of {ids_name} are {ids.dtype} {ids.shape}: expected integers or texts (n,)"
        )
    if vectors.dtype.kind != "f" or vectors.dtype.itemsize > 8 or vectors.ndim != 2:
        raise UserError(
            f"the vectors of {name} are {vectors.dtype} {vectors.shape}: expected float16, "
            "float32 or float64 (n, D)"
        )
    if not vectors.size:
        raise UserError(f"{name} holds no vectors")
    if len(ids) != len(vectors):
        raise UserError(f"{name} has {len(vectors)} vectors, but there are {len(ids)} ids")


def _unit(vectors: np.ndarray, norms: np.ndarray, name: str) -> np.ndarray:
    """Return the vectors at length 1, float32 or float64 (n, D): Euclidean distance orders them as
    the cosine does."""
    if not norms.all():
        row = int(np.argmin(norms))
        raise UserError(f"vector {row} of {name} is zero: it has no cosine distance to any other")
    out = np.empty(vectors.shape, np.result_type(vectors.dtype, np.float32))
    step = ranking.block_rows(vectors)
    for start in range(0, len(vectors), step):
        rows = slice(start, start + step)
        out[rows] = vectors[rows] / np.sqrt(norms[rows, None])
    return out
