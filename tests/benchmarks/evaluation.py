"""Evaluation of scenes of the drawn sample, with the networks of `make demo` at 96 pixels."""

from __future__ import annotations

import contextlib
import io

from tests.benchmarks import data
from tests.benchmarks.harness import Bench, Numbers, Row, Setting, slower, stopwatch

SCENES = 96
METRICS = ("sbir-on-valid", "sbir-mAP", "sbir-top1", "sbir-top5", "sbir-top10", "generated-masks")
HPARAMS = (
    "pretrained_e_model=shallow,pretrained_weights=none,gconv_num_layers=2,"
    "gconv_hidden_dim=256,g_enc_n_layers=2,mask_width=32,layout_d_arch=verysmall,pt_mdomain_id=01"
)


def _six_metrics(setting: Setting) -> Numbers:
    """Untrained weights cost the same. On the test split, for the set has few of validation."""
    from core.evaluation import report
    from core.hparams import parse
    from core.registry import MODELS

    cls = MODELS["graph-attention"]
    hparams = parse(HPARAMS, cls.HParams)
    dataset = data.loader("coco-tfrecord", setting, 16)
    model = cls(hparams, dataset.vocabulary, 1, dataset.sizes.mask)
    names = [f"{name}-test" for name in METRICS]
    passed = stopwatch()
    with contextlib.redirect_stdout(io.StringIO()):
        found = report.run(model, dataset, setting.folder / "evaluation", names, limit=SCENES)
    scenes = next(result.n for result in found if result.metric == "sbir-top1-test")
    if scenes != setting.size(SCENES, scenes):
        raise RuntimeError(f"the sample gave {scenes} scenes")
    return {"seconds": passed()}


def _rows(found: dict[str, Numbers]) -> list[Row]:
    seconds = found["six metrics"]["seconds"]
    what = f"evaluation of {SCENES} scenes, six metrics"
    return [slower(what, "s", seconds, aim="under 15 s")]


BENCHES = {"evaluation": Bench({"six metrics": _six_metrics}, _rows)}
