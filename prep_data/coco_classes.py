"""Hyper-parameters, class lists and vocabulary of the sets made from COCO-Stuff."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import UsageError, UserError
from core.files import read_json
from core.hparams import hp

IMAGE_NODE = "__image__"  # the last name of every vocabulary, ID 0
_CLASS_LISTS = "prep_data/coco/mats_objs_sketchables_v2.json"


@dataclass(frozen=True)
class CocoHParams:
    """Hyper-parameters: rules for keeping objects, and sizes in pixels."""

    image_size: int = hp(256, "side of a scene's image, pixels", low=8, high=4096)
    mask_size: int = hp(64, "side of an object's mask, pixels, a multiple of 4", low=4, high=1024)
    min_object_size: float = hp(0.05, "share of the image a box must exceed", low=0.0, high=1.0)
    min_objects_per_image: int = hp(1, "kept objects an image needs", low=1, high=1000)
    max_objects_per_image: int = hp(8, "kept objects an image may have", low=1, high=1000)
    crop_size: int = hp(96, "side of an object crop or a paired sketch, pixels", low=8, high=4096)
    excluded_meta_file: str = hp(_CLASS_LISTS, "JSON file with the class lists")

    def __post_init__(self) -> None:
        if self.mask_size % 4:
            raise UsageError(f"mask_size is {self.mask_size}: it must be a multiple of 4")
        if self.min_objects_per_image > self.max_objects_per_image:
            raise UsageError(
                f"min_objects_per_image ({self.min_objects_per_image}) exceeds "
                f"max_objects_per_image ({self.max_objects_per_image})"
            )


@dataclass(frozen=True)
class CropHParams(CocoHParams):
    """Hyper-parameters of crops: more objects an image are allowed, as each stands for itself."""

    max_objects_per_image: int = hp(10, "kept objects an image may have", low=1, high=1000)


# ---- class lists -----------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassLists:
    """Names, each in the order of the file of hparam `excluded_meta_file`."""

    objects: tuple[str, ...]  # can be sketched: the objects of scenes
    materials: tuple[str, ...]  # background stuff, never objects
    fully_excluded: tuple[str, ...]  # neither


def read_class_lists(file_name: str) -> ClassLists:
    """Read class lists. file_name: relative to the working folder or to the project.

    Raises UserError when the file is missing or its lists contradict each other.
    """
    path = Path(file_name)
    if not path.is_absolute() and not path.is_file():
        path = Path(__file__).parents[1] / path
    if not path.is_file():
        raise UserError(f"excluded_meta_file {file_name} does not exist")
    lists = read_json(path, ClassLists)
    both = sorted(set(lists.objects) & set(lists.materials))
    if both:
        raise UserError(f"{path}: {both[0]!r} is both in 'objects' and in 'materials'")
    # 'other' is a catch-all, no object.
    return replace(lists, objects=tuple(name for name in lists.objects if name != "other"))


# ---- vocabulary ------------------------------------------------------------------------------


class Vocabulary(NamedTuple):
    """Every category in ascending ID, then IMAGE_NODE. K = len(names)."""

    ids: tuple[int, ...]  # (K,), the last is 0
    names: tuple[str, ...]  # (K,)

    def meta(self, lists: ClassLists, predicates: Sequence[str]) -> dict[str, Any]:
        """Return the vocabulary's keys of meta.json."""
        return {
            "obj_name_to_ID": dict(zip(self.names, self.ids)),
            "obj_ID_to_name": {str(i): name for i, name in zip(self.ids, self.names)},
            "obj_idx_to_ID": list(self.ids),
            "obj_ID_to_idx": {str(id_): i for i, id_ in enumerate(self.ids)},
            "obj_idx_to_name": list(self.names),
            "pred_idx_to_name": list(predicates),
            "pred_name_to_idx": {name: i for i, name in enumerate(predicates)},
            "concrete_objs": list(lists.objects),
            "allowed_materials": list(lists.materials),
            "fully_excluded_objs": list(lists.fully_excluded),
        }


def make_vocabulary(categories: Iterable[tuple[Path, int, str]]) -> Vocabulary:
    """Return the vocabulary of the categories of all annotation files: (file, id, name).

    Raises UserError when files contradict each other, or an id or a name stands for two things.
    """
    by_id: dict[int, str] = {}
    for path, id_, name in categories:
        if by_id.setdefault(id_, name) != name:
            raise UserError(
                f"{path}: category {id_} is {name!r}, in another annotation file "
                f"{by_id[id_]!r}; the four files must belong together"
            )
    if not by_id:
        raise UserError("the annotation files list no categories")
    names = [by_id[id_] for id_ in sorted(by_id)] + [IMAGE_NODE]
    repeated = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if repeated is not None:
        raise UserError(f"category name {repeated!r} stands for more than one id")
    return Vocabulary((*sorted(by_id), 0), tuple(names))
