"""'spade' trained by train.py, and python -m SPADE.export: the weights file draws what the trained
model draws. (That SPADE.serve serves that file is in test_contract.py.)"""

import numpy as np
import tensorflow as tf

from core.commands import run
from core.reporting import read_metrics
from core.run import Run
from core.run_folder import RunConfig
from models.layers.semantic import semantic_maps
from SPADE import export, weights


def test_a_training_is_logged_and_looked_at(spade_run):
    logged = read_metrics(spade_run.metrics)
    assert [line["step"] for line in logged] == [1, 2, 3]
    for line in logged:
        values = line["losses"]
        assert {"g_gan_loss", "g_feat_loss", "d_loss", "total_loss"} <= set(values)
        assert np.isfinite(list(values.values())).all()
    (line,) = read_metrics(spade_run.figures)
    assert (line["step"], line["failed"]) == (3, [])
    measures = [figure["labels"]["measure"] for figure in line["figures"]]
    assert measures == ["l1", "ssim"]
    assert (spade_run.plots / "generated-pictures-coco-tfrecord-step-3.png").is_file()


def test_draws_what_the_model_draws(spade_run, exported):
    model = Run.open(spade_run.root).model
    shape = (2, 64, 96)
    maps = [
        tf.random.stateless_uniform(shape, (0, i), 0, most, tf.int32)
        for i, most in enumerate((182, 3))
    ]
    labels, instances = (tf.cast(each, tf.uint8) for each in maps)
    found = weights.load_generator(exported)(semantic_maps(labels, instances))
    spread = np.std(found)
    np.testing.assert_allclose(found, model.generate(labels, instances), atol=0.01 * spread)
    assert spread > 1e-4, spread  # after three steps


def test_runs_that_cannot_be_exported(spade_run, exported, tmp_path, capsys):
    def refused(*argv):
        assert run(export.main, [str(each) for each in argv]) == 1
        return capsys.readouterr().err

    config, out = RunConfig.read(spade_run.config), tmp_path / "g.npz"
    assert "is no run" in refused(tmp_path, out)
    config.write(tmp_path / "config.json")
    assert "has no checkpoint yet" in refused(tmp_path, out)
    assert "cannot write to the folder" in refused(spade_run.root, exported / "x" / "g.npz")
    assert not out.exists()
