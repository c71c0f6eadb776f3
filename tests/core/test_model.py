"""core.model: what all models share."""

import hashlib

from core.dataset import Vocabulary
from tests.core.fakes import FakeHParams, FakeModel


def test_the_digest_is_of_all_variables():
    model = FakeModel(FakeHParams(), Vocabulary(("cat", "__image__")), 10)
    values = b"".join(variable.numpy().tobytes() for variable in model.variables)
    # 4 x 3 + 3 and 3 x 1 + 1 weights of 4 bytes, and a counter of 8.
    assert len(values) == 4 * (15 + 4) + 8
    before = model.weights_digest()
    assert before == hashlib.sha256(values).hexdigest()
    model.steps_seen.assign_add(1)
    assert model.weights_digest() != before
    model.steps_seen.assign_sub(1)
    assert model.weights_digest() == before
