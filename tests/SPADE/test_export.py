"""python -m SPADE.export: the weights file draws what the trained model draws."""

import numpy as np
import pytest

from core.checkpoints import Checkpoints
from core.errors import UserError
from core.hparams import BaseHParams, to_dict
from core.run_dir import RunConfig
from models.layers.semantic import semantic_maps
from SPADE import export, weights
from tests.models.helpers import build, compiled_step, scene_batch, step_args


def _config(folder, model="spade"):
    groups = to_dict(BaseHParams()), to_dict(build("spade").hparams)
    RunConfig(model, "coco-tfrecord", *groups, {}).write(folder / "config.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder of a run, its model after two steps, a batch)."""
    folder = tmp_path_factory.mktemp("runs") / "spade-01"
    model, batch = build("spade"), scene_batch(0, [1, 2])
    step = compiled_step(model, batch)
    for number in range(2):
        step(batch, *step_args(number))
    Checkpoints(folder / "checkpoints").save(model, 2, True, model.vocabulary.names)
    _config(folder)
    return folder, model, batch


def test_draws_what_the_model_draws(trained, tmp_path, capsys):
    folder, model, batch = trained
    export.main([str(folder), str(tmp_path / "g.npz")])
    assert "step 2" in capsys.readouterr().out
    labels, instances = model.layouts(batch)
    exported = weights.load_generator(tmp_path / "g.npz")(semantic_maps(labels, instances))
    np.testing.assert_allclose(exported, model.generate(labels, instances), atol=1e-5)


def test_runs_that_cannot_be_exported(trained, tmp_path):
    out = str(tmp_path / "g.npz")
    _config(tmp_path)
    with pytest.raises(UserError, match="has no checkpoint to export"):
        export.main([str(tmp_path), out])
    _config(tmp_path, "graph-attention")
    with pytest.raises(UserError, match="is of the model 'graph-attention', not 'spade'"):
        export.main([str(tmp_path), out])
    assert not (tmp_path / "g.npz").exists()
