"""Prepared sets that the tests of all loaders read; none may change them."""

import pytest

from tests.dataloaders import tiny_sets


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    return tiny_sets.write_all(tmp_path_factory.mktemp("sets"), scenes=24, mask_side=16)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """SketchyCOCO-SL."""
    return tiny_sets.write_sl(tmp_path_factory.mktemp("sl"))
