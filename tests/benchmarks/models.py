"""Training steps at the paper's sizes: MobileNetV2, 96 px, frozen batch norm statistics. Weights
are random, which costs the same."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

from tests.benchmarks.harness import (
    Bench,
    Numbers,
    Row,
    Setting,
    compared,
    faster,
    repeat,
    slower,
    stopwatch,
)

HPARAMS = "pretrained_weights=none,batch_norm=frozen"
SIDE, MASK, CLASSES = 96, 64, 173


# ---------------------------------------------------------------- helpers


def random_model(name: str, setting: Setting, cls: type | None = None, precision: str = "none"):
    """A model of the paper's sizes, at random weights."""
    from core.dataset import Vocabulary
    from core.hparams import parse
    from core.model import Numerics
    from core.registry import MODELS
    from dataloaders.scene_graph import PREDICATES

    cls = cls or MODELS[name]
    text = HPARAMS + ",pretrained_e_model=shallow" * setting.quick
    if name == "graph-attention":
        text += f",pt_mdomain_id=01,mask_width={setting.size(256, 16)}"
    names = (*(f"class {i}" for i in range(CLASSES - 1)), "__image__")
    vocabulary = Vocabulary(names, tuple(PREDICATES), tuple(range(91)))
    return cls(parse(text, cls.HParams), vocabulary, 1000, MASK, Numerics(precision))


def stepper(model, spec, jit_compile: bool | None = None):
    """train_step compiled as the training loop compiles it, for batches of any size."""
    import tensorflow as tf

    scalars = (tf.TensorSpec((), tf.int64), tf.TensorSpec((), tf.int32))
    return tf.function(model.train_step, (spec, *scalars), jit_compile=jit_compile)


def measure_step(model, batch, times: int, step=None) -> Numbers:
    """step: compiled already, for batches of another form too."""
    import tensorflow as tf

    from tests.models.helpers import signature_of

    step = step or stepper(model, signature_of(batch))
    arguments = tf.constant(0, tf.int64), tf.constant(0)
    return repeat(lambda: [float(v) for v in step(batch, *arguments).values()], times)


def _images(n: int, channels: int):
    import tensorflow as tf

    pixels = np.random.default_rng(n).integers(0, 256, (n, SIDE, SIDE, channels), np.uint8)
    return tf.constant(pixels)


# ---------------------------------------------------------------- the floor


def operations(graph) -> int:
    """Operations that a traced function needs, two a multiplication: of its convolutions, and of
    products of two matrices whose sizes are known. Left out are those of the Transformer, which has
    under 1 % of a step's."""
    needed, ahead = set(), [each.op for each in graph.outputs] + graph.control_outputs
    while ahead:
        if (op := ahead.pop()) not in needed:
            needed.add(op)
            ahead += [*(each.op for each in op.inputs), *op.control_inputs]
    total = 0
    for op in needed:
        forward, _, backward = op.type.partition("Backprop")
        if forward in ("Conv2D", "DepthwiseConv2dNative"):
            # The kernel meets each place of the smaller maps: what comes out, or its gradient.
            kernel = op.outputs[0] if backward == "Filter" else op.inputs[1]
            places = (op.inputs[2] if backward else op.outputs[0]).shape[:3]
            total += 2 * kernel.shape.num_elements() * places.num_elements()
        elif op.type == "MatMul":
            sizes = [each.shape.num_elements() for each in (*op.inputs, *op.outputs)]
            if None not in sizes:  # (m k) (k n) (m n) = (m k n)^2
                total += 2 * math.isqrt(math.prod(sizes))
    return total


def _with_floor(
    bench: Bench, stage: str, name: str, batch: Callable, precision: str = "float32"
) -> Bench:
    """Add the floor of a step: its operations at the peak of a large product of matrices."""

    def count(setting: Setting) -> Numbers:
        import tensorflow as tf

        spec = tf.data.Dataset.from_tensors(batch(setting)).element_spec  # all sizes known
        step = stepper(random_model(name, setting), spec)
        return {"operations": operations(step.get_concrete_function().graph)}

    def peak(setting: Setting) -> Numbers:
        import tensorflow as tf

        from core.devices import fast_precision

        if precision == "bfloat16" != fast_precision()[0]:
            return {}  # the processor would only imitate it
        side = setting.size(4096, 64)
        square = tf.cast(tf.random.normal((side, side)), precision)
        seconds = repeat(lambda: tf.matmul(square, square).numpy(), setting.size(5, 1))["median"]
        return {"seconds": seconds / (2 * side**3)}

    def rows(found: dict[str, Numbers]) -> list[Row]:
        if not found["peak"].get("seconds"):
            return bench.rows(found)
        count, seconds = found["count"]["operations"], np.array(found["peak"]["seconds"])
        at = f"{count / 1e9:.0f} G operations at {1e-9 / seconds[1]:.0f} G a CPU-second"
        what = f"{stage} step in {precision} (naive: the floor, {at})"
        ours = found["bfloat16" if precision == "bfloat16" else "ours"]["median"]
        return [*bench.rows(found), slower(what, "s", ours, seconds * count)]

    return Bench({**bench.parts, "count": count, "peak": peak}, rows)


# ---------------------------------------------------------------- stage 1


def _triplets(setting: Setting):
    import tensorflow as tf

    from dataloaders.batches import TripletBatch

    n = setting.size(64, 8)
    labels = tf.constant(np.arange(n) % 90, tf.int32)
    return TripletBatch(_images(n, 1), _images(n, 3), _images(n, 3), labels, labels + 1)


def _stage_1(setting: Setting, precision: str = "none") -> Numbers:
    model = random_model("multidomain-representation", setting, precision=precision)
    return measure_step(model, _triplets(setting), setting.size(9, 1))


def _bare_backbones(setting: Setting) -> Numbers:
    """Keras' MobileNetV2 for both domains, forward and backward, nothing else."""
    import tensorflow as tf

    batch = _triplets(setting)
    backbones = []
    for _ in range(2):
        full = tf.keras.applications.MobileNetV2((SIDE, SIDE, 3), include_top=False, weights=None)
        backbones.append(tf.keras.Model(full.input, full.get_layer("block_16_project_BN").output))
    variables = [v for backbone in backbones for v in backbone.trainable_variables]

    @tf.function
    def step(crops, sketches):
        with tf.GradientTape() as tape:
            crops = tf.cast(crops, tf.float32) / 127.5 - 1.0
            sketches = tf.tile(tf.cast(sketches, tf.float32) / 255.0, [1, 1, 1, 3])
            # training=False: frozen statistics; gamma, beta and weights have gradients all the same
            maps = [net(x, training=False) for net, x in zip(backbones, (crops, sketches))]
            loss = tf.add_n([tf.reduce_mean(m**2) for m in maps])
        return tf.add_n([tf.reduce_sum(g) for g in tape.gradient(loss, variables)])

    crops = tf.concat([batch.positives, batch.negatives], axis=0)
    return repeat(lambda: float(step(crops, batch.sketches)), setting.size(9, 1))


STAGE_1_ROWS = compared(
    (
        "stage 1 step (naive: bare backbones)",
        "median",
        "at least 0.91 times (1.1 x the bare passes)",
    ),
    ("stage 1 peak memory (naive: same)", "peak", ""),
    ("stage 1 first step (naive: same)", "first", ""),
    naive="bare",
)


# ---------------------------------------------------------------- stage 1 on frozen encoders


def _alignment(setting: Setting) -> Numbers:
    """A step of object-alignment on cached features, and how fast they were cached."""
    import tempfile

    import tensorflow as tf

    from tests.benchmarks.data import loader

    model, size = random_model("object-alignment", setting), setting.size(256, 8)
    photos, _ = model.frozen_encoders()
    images = _images(64, 3)
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        data = loader("quickdraw-cococrops-features", setting, size, cache_dir=folder)
        passed = stopwatch()
        data.prepare_for(model)
        seconds = passed()
        cached = sum(1 for _ in tf.data.TFRecordDataset(_shards(folder)))
        encoder = repeat(lambda: photos.encode(images), setting.size(20, 1))["median"]
        batches = data.train_batches()
        step, iterator = stepper(model, batches.element_spec), iter(batches)
        arguments = tf.constant(0, tf.int64), tf.constant(0)
        found = repeat(
            lambda: float(step(next(iterator), *arguments)["total_loss"]), setting.size(100, 2)
        )
    return {**found, "cached": cached / seconds, "encoder": 64 / encoder}


def _shards(folder: str) -> list[str]:
    return [str(shard) for shard in Path(folder).rglob("*.tfrecord")]


def _alignment_rows(found: dict[str, Numbers]) -> list[Row]:
    numbers = found["ours"]
    return [
        slower("object-alignment step on cached features", "s", numbers["median"],
               aim="under 0.03"),
        faster("features cached (naive: the encoder alone)", "images/s", numbers["cached"],
               numbers["encoder"], "at least 0.9 times"),
    ]  # fmt: skip


# ---------------------------------------------------------------- mask net


def _naive_upsample_conv():
    import tensorflow as tf

    class UpsampleThenConv(tf.keras.layers.Layer):
        """Nearest x2, then a 3x3 convolution."""

        def __init__(self, filters: int, use_bias: bool = True, **kwargs):
            super().__init__(**kwargs)
            self.up = tf.keras.layers.UpSampling2D(2)
            self.conv = tf.keras.layers.Conv2D(filters, 3, padding="same", use_bias=use_bias)

        def call(self, maps):
            return self.conv(self.up(maps))

    return mock.patch("models.layers.mask_net.UpsampleConv", UpsampleThenConv)


def _mask_net(setting: Setting) -> Numbers:
    import tensorflow as tf

    from models.layers.mask_net import MaskNet

    net = MaskNet(MASK, setting.size(256, 16))
    rows = np.random.default_rng(0).standard_normal((setting.size(85, 4), 256))
    objects = tf.constant(rows, tf.float32)
    net(objects)

    @tf.function
    def step(objects):
        with tf.GradientTape() as tape:
            tape.watch(objects)
            loss = tf.reduce_mean(net(objects, training=True) ** 2)
        gradients = tape.gradient(loss, [objects, *net.trainable_variables])
        return tf.add_n([tf.reduce_sum(g) for g in gradients])

    return repeat(lambda: float(step(objects)), setting.size(5, 1))


def _mask_net_naive(setting: Setting) -> Numbers:
    with _naive_upsample_conv():
        return _mask_net(setting)


MASK_NET_ROWS = compared(
    ("mask net, 85 objects, both passes", "median", "at least 1.8 times"),
    ("mask net peak memory", "peak", ""),
)


# ---------------------------------------------------------------- stage 2


def scenes(setting: Setting):
    """16 scenes of 85 objects in all, the sizes in which the aims are given."""
    import tensorflow as tf

    from dataloaders.batches import SceneBatch, SceneGraph
    from dataloaders.scene_graph import triples

    scenes, objects = setting.size(16, 3), setting.size(85, 10)
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.random((objects, 2, 2)), axis=1).reshape(objects, 4)
    boxes = tf.constant(boxes, tf.float32)
    obj_to_img = tf.constant(np.arange(objects) * scenes // objects, tf.int32)
    classes = tf.constant(rng.integers(0, 90, objects), tf.int32)
    graph = SceneGraph(classes, boxes, obj_to_img, triples(boxes, obj_to_img))
    return SceneBatch(
        image_ids=tf.range(scenes, dtype=tf.int64),
        images=tf.zeros((scenes, 256, 256, 3), tf.uint8),
        photo=graph,
        crops=_images(objects, 3),
        masks=tf.constant(rng.integers(0, 2, (objects, MASK, MASK)), tf.uint8),
        query=graph,
        sketches=_images(objects, 1),
        query_to_photo=tf.range(objects),
        negative_crops=_images(objects, 3),
        negative_classes=classes + 1,
    )


def _stage_2(setting: Setting, precision: str = "none") -> Numbers:
    model = random_model("graph-attention", setting, precision=precision)
    return measure_step(model, scenes(setting), setting.size(5, 1))


def _stage_2_naive(setting: Setting) -> Numbers:
    """A step done as one would first write it: crops encoded once for the object losses and
    again for their scene, one view after the other, masks by upsampling then convolving."""
    import tensorflow as tf

    from core.model import ObjectScenes, SceneOutputs
    from models.graph_attention import GraphAttention, Outputs

    class ViewByView(GraphAttention):
        def forward(self, batch, dropout_seed, training):
            photos, sketches = self.objects.photos, self.objects.sketches
            scenes = tf.shape(batch.image_ids)[0]
            sides = []
            for crops, graph, domain in (
                (batch.crops, batch.photo, photos),
                (batch.negative_crops, batch.photo, photos),
                (batch.sketches, batch.query, sketches),
            ):
                alone, again = domain(crops, training), domain(crops, training)
                side = ObjectScenes(
                    again.vector, graph.boxes, graph.obj_to_img, graph.triples, scenes
                )
                token, objects = self.transformer(
                    self._relate(side, training), *side[1:3], scenes, dropout_seed
                )
                sides.append((alone, self._scene_vectors(token), objects))
            heads = [self._predict(side[2], side[2], training) for side in (sides[0], sides[2])]
            photo, query = (
                SceneOutputs(vectors, objects, *head)
                for (_, vectors, objects), head in zip((sides[0], sides[2]), heads)
            )
            crops, negatives, sketched = (side[0] for side in sides)
            return Outputs(photo, query, crops, sketched, negatives, sides[1][1])

    with _naive_upsample_conv():
        model = random_model("graph-attention", setting, ViewByView)
        return measure_step(model, scenes(setting), setting.size(2, 1))


STAGE_2_ROWS = compared(
    ("stage 2 step, 85 objects", "median", "under 6 s"),
    ("stage 2 first step", "first", "under 30 s"),
    ("stage 2 peak memory", "peak", "under 7,000 MB"),
)


# ---------------------------------------------------------------- whole scenes


def _whole_scene(setting: Setting) -> Numbers:
    """A drawing encoded, and all photographs ranked by its vector."""
    import tensorflow as tf

    model = random_model("whole-scene", setting)
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((setting.size(10_000, 100), 256), np.float32)
    side = model.scene_size
    drawing = tf.constant(rng.integers(0, 256, (1, side, side, 1)), tf.uint8)

    def rank() -> None:
        (vector,) = model.embed_drawings(drawing)["scene"].numpy()
        np.argsort(-(gallery @ vector))

    return repeat(rank, setting.size(50, 2))


def _whole_scene_rows(found: dict[str, Numbers]) -> list[Row]:
    what = "whole-scene: a drawing encoded, 10,000 photographs ranked"
    return [slower(what, "s", found["ours"]["median"], aim="under 0.1 s")]


# ---------------------------------------------------------------- precision


def _in_bfloat16(stage: str, step: Callable[..., Numbers]) -> Bench:
    """Its step beside the same in float32."""

    title = f"{stage} {{}} in bfloat16 (naive: float32)"
    rows = compared(
        (title.format("step"), "median", ""),
        (title.format("peak memory"), "peak", ""),
        ours="bfloat16",
        naive="float32",
    )
    return Bench({"float32": step, "bfloat16": functools.partial(step, precision="bfloat16")}, rows)


# ---------------------------------------------------------------- waiting for data


def waiting(step, data, times: int) -> Numbers:
    """Seconds of a step and how much of it the model waits for its batch."""
    import time

    import tensorflow as tf

    arguments = tf.constant(0, tf.int64), tf.constant(0)
    waited, batches = 0.0, iter(data)
    float(step(next(batches), *arguments)["total_loss"])
    start = time.perf_counter()
    for _ in range(times):
        before = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - before
        float(step(batch, *arguments)["total_loss"])
    total = time.perf_counter() - start
    return {"step": total / times, "share": waited / total}


def _waiting_1(setting: Setting) -> Numbers:
    from tests.benchmarks.data import loader

    data = loader("quickdraw-cococrops-tf", setting, setting.size(64, 8)).train_batches(0)
    step = stepper(random_model("multidomain-representation", setting), data.element_spec)
    return waiting(step, data, setting.size(12, 2))


def _waiting_2(setting: Setting) -> Numbers:
    from tests.benchmarks.data import loader

    data = loader("coco-tfrecord", setting, setting.size(16, 3)).train_batches(0)
    step = stepper(random_model("graph-attention", setting), data.element_spec)
    return waiting(step, data, setting.size(4, 1))


def _waiting_rows(found: dict[str, Numbers]) -> list[Row]:
    return [
        faster(
            f"{stage}: time the model waits for data",
            "% of a step",
            100 * found[stage]["share"],
            None,
            "under 5 %",
        )
        for stage in ("stage 1", "stage 2")
    ]


_1 = "stage 1", "multidomain-representation", _triplets
_2 = "stage 2", "graph-attention", scenes
BENCHES = {
    "stage1": _with_floor(Bench({"ours": _stage_1, "bare": _bare_backbones}, STAGE_1_ROWS), *_1),
    "alignment": Bench({"ours": _alignment}, _alignment_rows),
    "masknet": Bench({"ours": _mask_net, "naive": _mask_net_naive}, MASK_NET_ROWS),
    "stage2": _with_floor(Bench({"ours": _stage_2, "naive": _stage_2_naive}, STAGE_2_ROWS), *_2),
    "whole-scene": Bench({"ours": _whole_scene}, _whole_scene_rows),
    "bfloat16-1": _with_floor(_in_bfloat16("stage 1", _stage_1), *_1, "bfloat16"),
    "bfloat16-2": _with_floor(_in_bfloat16("stage 2", _stage_2), *_2, "bfloat16"),
    "waiting": Bench({"stage 1": _waiting_1, "stage 2": _waiting_2}, _waiting_rows),
}
