"""Which class replaces an object in a triplet or in the synthetic negative scene.

Paper: sections 3.1 and 3.5.
"""

from __future__ import annotations

import tensorflow as tf

from core.errors import UserError
from dataloaders import random_draws
from dataloaders.blocks import ClassPools


def negative_rows(own_rows: tf.Tensor, num_rows: int, words: tf.Tensor) -> tf.Tensor:
    """Another class for each object, all others equally likely: int32 (n,), never own_rows.

    own_rows: int32 (n,), row of the object's class among the classes with crops, -1 when it has
    none. num_rows: C, at least 2. words: uint64 (n,), the draws.
    """
    known = own_rows >= 0
    others = tf.where(known, num_rows - 1, num_rows)
    rows = random_draws.below(words, others)
    return rows + tf.cast(known & (rows >= own_rows), tf.int32)


def check_negatives(crops: ClassPools, where: str) -> None:
    """Raises UserError when there is no other class to draw a negative from."""
    if len(crops.classes) < 2:
        raise UserError(
            f"{where} has crops of one class only: negatives need at least two; "
            "prepare the crops from more photographs"
        )
