"""Evaluation of scenes of the drawn sample, with networks of the paper's sizes. Untrained weights
cost the same. On the test split, for the set has few of validation."""

from __future__ import annotations

import contextlib
import io

import numpy as np

from tests.benchmarks import data
from tests.benchmarks.harness import Bench, Numbers, Setting, compared, stopwatch
from tests.benchmarks.models import HPARAMS

SCENES = 96
METRICS = ("sbir-on-valid", "sbir-mAP", "sbir-top1", "sbir-top5", "sbir-top10", "generated-masks")


def _model_and_data(setting: Setting):
    from core.hparams import parse
    from core.registry import MODELS

    cls = MODELS["graph-attention"]
    text = f"{HPARAMS},pt_mdomain_id=01,mask_width={setting.size(256, 16)}"
    dataset = data.loader("coco-tfrecord", setting, 16)
    model = cls(parse(text, cls.HParams), dataset.vocabulary, 1, dataset.sizes.mask)
    return model, dataset


def _six_metrics(setting: Setting) -> Numbers:
    from core.evaluation import report

    model, dataset = _model_and_data(setting)
    names = [f"{name}-test" for name in METRICS]
    passed = stopwatch()
    with contextlib.redirect_stdout(io.StringIO()):
        found = report.run(model, dataset, setting.folder / "evaluation", names, limit=SCENES)
    scenes = next(result.n for result in found if result.metric == "sbir-top1-test")
    if scenes != setting.size(SCENES, scenes):
        raise RuntimeError(f"the sample gave {scenes} scenes")
    return {"seconds": passed()}


def _naive(setting: Setting) -> Numbers:
    """A forward pass a batch of the photographs, and one of the queries of each protocol (which
    boxes and sketches they show costs the same), each with the masks of all objects; ranks by one
    product of matrices; no intervals and no pictures."""
    import tensorflow as tf

    from core.evaluation.query_protocols import standard_protocols
    from core.model import ObjectScenes

    model, dataset = _model_and_data(setting)
    passed = stopwatch()
    protocols = standard_protocols(dataset.own_boxes)
    vectors = [[] for _ in ("photographs", *protocols)]
    masks = []
    for batch in dataset.eval_batches("test", SCENES):
        queries = [(batch.query, model.embed_sketches, batch.sketches)] * len(protocols)
        sides = [(batch.photo, model.embed_photos, batch.crops), *queries]
        for rows, (graph, embed, images) in zip(vectors, sides):
            objects = embed(images).vector, graph.boxes, graph.obj_to_img, graph.triples
            outputs = model.contextualise(ObjectScenes(*objects, tf.size(batch.image_ids)))
            rows.append(outputs.vectors["token"].numpy())
            masks.append(outputs.masks.numpy() >= 0.5)
    gallery, *found = map(np.concatenate, vectors)
    for side in found:
        away = (gallery**2).sum(1) - 2 * side @ gallery.T
        ranks = (away <= np.diag(away)[:, None]).sum(1)
        np.mean([1 / ranks, *(ranks <= k for k in (1, 5, 10))], axis=1)
    return {"seconds": passed()}


WHAT = f"evaluation of {SCENES} scenes, six metrics"
ROWS = compared((WHAT, "seconds", "25 s of CPU"))
BENCHES = {"evaluation": Bench({"ours": _six_metrics, "naive": _naive}, ROWS)}
