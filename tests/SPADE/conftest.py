"""A run of 'spade', trained by train.py, and what SPADE.export makes of it."""

import pytest

from core import cli, commands
from core.commands import run
from core.run_folder import RunFolder
from SPADE import export
from tests.dataloaders import tiny_sets


@pytest.fixture(scope="session")
def spade_run(tmp_path_factory):
    """Three steps on photographs of 64 pixels, not traced: that would take longer."""
    folder = tmp_path_factory.mktemp("spade")
    sets = tiny_sets.write_all(folder, scenes=8, mask_side=16, side=64)
    argv = [
        "spade", "--data-loader", "coco-tfrecord", "-o", str(folder / "runs"), "--id", "01",
        "--hparams", "generator_width=1,spade_hidden=2,discriminator_width=2",
        "--base-hparams",
        "batch_size=2,iterations=3,log_every=1,notify_every=3,autograph=False,slack_config=",
        "--data-hparams",
        f"coco_dir={sets.scenes},crops_dir={sets.crops},qdraw_dir={sets.indexed}",
    ]  # fmt: skip
    assert commands.run(cli.train, argv) == 0
    return RunFolder(folder / "runs", "spade", "01")


@pytest.fixture(scope="session")
def exported(spade_run, tmp_path_factory):
    """The weights file of its generator."""
    path = tmp_path_factory.mktemp("exported") / "new" / "generator.npz"
    assert run(export.main, [str(spade_run.root), str(path)]) == 0
    return path
