"""Stage 2: the sides of a scene, its losses and their weights."""

import numpy as np
import pytest
import tensorflow as tf

from core.errors import UsageError
from core.model import ObjectScenes
from models.graph_attention import discriminator_loss
from models.layers.box_head import BoxHead
from models.layers.graph_conv import GraphConvNet, join_graphs
from tests.models.helpers import (
    CLASSES,
    MASK,
    build,
    compiled_step,
    photo_side,
    query_side,
    scene_batch,
    scene_graph,
    step_args,
)

LOGGED = {
    "obj_triplet_loss", "enc_sketch_clas_loss", "enc_obj_clas_loss", "global_triplet_loss",
    "bbox_recon_loss", "end_clas_loss", "g_mask_loss", "g_mask_sketch_loss", "mask_recon_loss",
    "d_mask_loss", "total_loss",
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return build("graph-attention")


@pytest.fixture(scope="module")
def batch():
    return scene_batch(0, [2, 1, 3])


def projected(side):
    return side.vectors["projection"]


def test_join_graphs_by_hand():
    rng = np.random.default_rng(0)
    first, second = scene_graph(rng, [2, 1]), scene_graph(rng, [1, 2])
    boxes, obj_to_img, triples = join_graphs([first, second], tf.constant(2))
    np.testing.assert_array_equal(boxes, np.concatenate([first.boxes, second.boxes]))
    assert obj_to_img.numpy().tolist() == [0, 0, 1, 2, 3, 3]
    assert triples.numpy()[:, [0, 2]].tolist() == [[0, 1], [2, 2], [3, 3], [4, 5]]
    np.testing.assert_array_equal(
        triples[:, 1], np.concatenate([first.triples[:, 1], second.triples[:, 1]])
    )


def test_box_head_gives_boxes():
    head = BoxHead(8)
    boxes = head(100.0 * tf.random.stateless_normal((50, 4), [0, 1])).numpy()
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    assert np.all(boxes[:, :2] <= boxes[:, 2:])


def test_views_together_equal_views_apart(model, batch):
    """One pass of the three views = each view alone, without dropout and batch statistics."""
    together = model.forward(batch, dropout_seed=None, training=False)
    photo = photo_side(model, batch.crops, batch.photo)
    query = query_side(model, batch.sketches, batch.query)
    negative = photo_side(model, batch.negative_crops, batch.photo)
    pairs = [(together.photo, photo), (together.query, query)]
    pairs.append((together.negative_vectors, negative.vectors))
    for a, b in zip(tf.nest.flatten([a for a, _ in pairs]), tf.nest.flatten([b for _, b in pairs])):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_inference_shapes_and_ranges(model, batch):
    side = query_side(model, batch.sketches, batch.query)
    objects, dim = batch.sketches.shape[0], model.hparams.gconv_dim
    assert set(side.vectors) == set(model.vector_names)
    assert {vector.shape for vector in side.vectors.values()} == {(3, dim)}
    assert side.objects.shape == (objects, dim)
    encoded = model.embed_sketches(batch.sketches)
    assert encoded.embedding.shape == (objects, 128)
    assert side.logits.shape == encoded.logits.shape == (objects, CLASSES)
    assert side.masks.shape == (objects, MASK, MASK)
    assert 0 <= np.min(side.masks) <= np.max(side.masks) <= 1
    for vectors in (projected(side), encoded.embedding):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    bare = query_side(model, batch.sketches, batch.query, with_masks=False)
    assert bare.masks is None
    np.testing.assert_array_equal(projected(bare), projected(side))


def test_attention_is_that_of_the_scenes(model, batch):
    """Of each object a share, less than 1 for those of a scene together."""
    rows = batch.query.boxes, batch.query.obj_to_img, batch.query.triples, 3
    vectors = model.embed_sketches(batch.sketches).vector
    found = model.attention(ObjectScenes(vectors, *rows))
    for values in found:
        totals = np.bincount(batch.query.obj_to_img, values)
        assert values.shape == batch.query.obj_to_img.shape
        assert np.min(values) > 0 and np.max(totals) < 1
    with pytest.raises(UsageError, match="no Transformer, so no attention"):
        build("graph-attention", abbl_skip_transformer=True).attention(ObjectScenes(vectors, *rows))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("", ("token", "projection")),
        ("retrieval_vector=projection", ("projection", "token")),
        ("no_global_contrastive=True", ("token",)),
    ],
)
def test_scene_vectors_by_name(options, names):
    assert build("graph-attention", options).vector_names == names


def test_inference_does_not_retrace(model):
    for seed in range(3):
        other = scene_batch(seed, [1 + seed, 2])
        photo_side(model, other.crops, other.photo)
    assert model._compiled_side[True].experimental_get_tracing_count() == 1


def test_scenes_do_not_see_each_other(model, batch):
    """The last scene alone gives what it gives in the batch."""
    whole = photo_side(model, batch.crops, batch.photo)
    rng = np.random.default_rng(5)
    lone = scene_graph(rng, [3])
    own = lone._replace(boxes=batch.photo.boxes[3:], triples=batch.photo.triples[-3:] - [3, 0, 3])
    alone = photo_side(model, batch.crops[3:], own)
    np.testing.assert_allclose(
        alone.vectors["projection"][0], whole.vectors["projection"][2], rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(alone.masks, whole.masks[3:], rtol=1e-3, atol=1e-4)


def test_order_of_objects_does_not_matter(model):
    graph = scene_graph(np.random.default_rng(0), [4])
    crops = scene_batch(0, [4]).crops
    order = np.array([2, 0, 3, 1])
    place = np.argsort(order)
    triples = graph.triples.numpy()
    moved_graph = graph._replace(
        boxes=tf.gather(graph.boxes, order),
        triples=tf.constant(
            np.stack([place[triples[:, 0]], triples[:, 1], place[triples[:, 2]]], 1), tf.int32
        ),
    )
    side = photo_side(model, crops, graph)
    moved = photo_side(model, tf.gather(crops, order), moved_graph)
    np.testing.assert_allclose(
        moved.vectors["projection"], side.vectors["projection"], rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(moved.objects, tf.gather(side.objects, order), rtol=1e-3, atol=1e-3)


def test_scene_without_objects_is_its_token(model, batch):
    side = photo_side(model, batch.crops, batch.photo, num_scenes=5)
    assert side.vectors["projection"].shape[0] == 5
    np.testing.assert_allclose(
        side.vectors["projection"][3], side.vectors["projection"][4], rtol=1e-5
    )
    assert np.all(np.isfinite(side.vectors["projection"]))


def test_names_and_weighted_sum_with_feature_matching(batch):
    model = build("graph-attention", abbl_include_feat_loss=True, abbl_mask_recon_loss=7.0)
    named = {k: float(v) for k, v in model.train_step(batch, *step_args()).items()}
    assert set(named) == LOGGED | {"g_mask_feat_loss"}
    weights = {
        "obj_triplet_loss": 2, "enc_sketch_clas_loss": 2, "enc_obj_clas_loss": 2,
        "global_triplet_loss": 1, "bbox_recon_loss": 10, "end_clas_loss": 1, "g_mask_loss": 0.5,
        "g_mask_sketch_loss": 0.5, "mask_recon_loss": 7, "g_mask_feat_loss": 10,
    }  # fmt: skip
    expected = sum(weight * named[name] for name, weight in weights.items())
    assert named["total_loss"] == pytest.approx(expected, rel=1e-5)


def test_logged_names_by_default(batch):
    assert set(build("graph-attention").train_step(batch, *step_args())) == LOGGED


def losses_of(model, batch):
    outputs = model.forward(batch, None, training=False)
    scores = model.score_masks(outputs, batch)
    named = model.compute_losses(outputs._replace(mask_scores=scores), batch)
    return {k: float(v) for k, v in named.items()}, outputs


def test_masks_and_triplets_of_queries_go_by_query_to_photo(model, batch):
    """Against a loop over the query objects that depict something; the others change nothing."""
    named, outputs = losses_of(model, batch)
    own = batch.query_to_photo.numpy()
    assert np.sum(own < 0) == 3  # the last query object of each scene has no photo object

    def cross(mask, logits):
        p = 1 / (1 + np.exp(-logits.numpy().astype(np.float64)))
        return -np.mean(np.where(mask.numpy() == 1, np.log(p), np.log(1 - p)))

    photo, query = outputs.photo, outputs.query
    pairs = [(q, o) for q, o in enumerate(own) if o >= 0]
    masks = np.mean([cross(batch.masks[o], query.mask_logits[q]) for q, o in pairs])
    masks += np.mean([cross(batch.masks[o], photo.mask_logits[o]) for o in range(len(batch.masks))])
    assert named["mask_recon_loss"] == pytest.approx(masks, rel=1e-4)

    def distance(a, b):
        return np.sum((a.numpy() - b.numpy()) ** 2)

    triplet = [
        max(
            0,
            distance(outputs.sketches.embedding[q], outputs.crops.embedding[o])
            - distance(outputs.sketches.embedding[q], outputs.negative_crops.embedding[o])
            + 0.5,
        )
        for q, o in pairs
    ]
    assert named["obj_triplet_loss"] == pytest.approx(np.mean(triplet), rel=1e-4)


def test_query_boxes_are_the_querys_own(model, batch):
    """Moving the query's boxes moves the loss of boxes; recon_on_sketch=False takes it out."""
    named, outputs = losses_of(model, batch)
    moved = batch._replace(query=batch.query._replace(boxes=batch.query.boxes * 0.5))
    scores = model.score_masks(outputs, batch)
    other = model.compute_losses(outputs._replace(mask_scores=scores), moved)
    assert float(other["bbox_recon_loss"]) != pytest.approx(named["bbox_recon_loss"])


def test_batch_where_no_query_depicts_anything(batch):
    model = build("graph-attention")
    lost = batch._replace(query_to_photo=-tf.ones_like(batch.query_to_photo))
    named = model.train_step(lost, *step_args())
    assert all(np.isfinite(float(value)) for value in named.values())
    assert float(named["obj_triplet_loss"]) == 0


def test_discriminator_loss_by_hand(model, batch):
    outputs = model.forward(batch, None, training=False)
    scores = model.score_masks(outputs, batch)
    real = 0.5 * np.mean((scores.real.numpy() - 1) ** 2)
    photo, query = (np.mean(each.numpy() ** 2) for each in scores.predicted)
    expected = pytest.approx(real + 0.25 * photo + 0.25 * query, rel=1e-5)
    seed = tf.constant([0, 1])
    assert float(discriminator_loss(scores, seed, label_smoothing=False)) == expected
    assert float(discriminator_loss(scores, seed, label_smoothing=True)) != expected
    # Made from photographs only: they weigh as much as the real ones.
    lone = scores._replace(predicted=scores.predicted[:1])
    assert float(discriminator_loss(lone, seed, label_smoothing=False)) == pytest.approx(
        real + 0.5 * photo, rel=1e-5
    )


def test_generator_and_discriminator_have_their_own_variables(model):
    ours = {v.ref() for v in model.main_variables()}
    theirs = {v.ref() for v in model.discriminator.trainable_variables}
    assert ours.isdisjoint(theirs)
    assert ours | theirs == {v.ref() for v in model.trainable_variables}


def test_one_pass_gives_the_gradients_of_two():
    """The discriminator's gradient through shared, undetached masks = with detached masks."""
    model, batch = build("graph-attention"), scene_batch(0, [2, 1])
    outputs = model.forward(batch, None, training=False)
    variables = model.discriminator.trainable_variables
    state = [v for v in model.discriminator.variables if not v.trainable]
    start = [tf.identity(v) for v in state]
    gradients = []
    for detach in (tf.identity, tf.stop_gradient):
        for variable, value in zip(state, start):
            variable.assign(value)
        photo, query = (
            side._replace(mask_logits=detach(side.mask_logits))
            for side in (outputs.photo, outputs.query)
        )
        with tf.GradientTape() as tape:
            scores = model.score_masks(outputs._replace(photo=photo, query=query), batch)
            loss = discriminator_loss(scores, tf.constant([0, 1]), label_smoothing=True)
        gradients.append(tape.gradient(loss, variables))
    for shared, detached in zip(*gradients):
        np.testing.assert_allclose(shared, detached, rtol=1e-4, atol=1e-7)


# --- batches without masks ---

OF_MASKS = {"g_mask_loss", "g_mask_sketch_loss", "mask_recon_loss", "d_mask_loss"}


def changed(model, before):
    """Names of the variables that are no longer what they were."""
    pairs = zip(before, model.variables)
    return {v.name for old, v in pairs if not np.array_equal(old, v.numpy())}


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ("", set()),
        ("abbl_no_skt_mask_loss=True", {"g_mask_sketch_loss"}),
        ("abbl_no_mask_gan=True,abbl_include_feat_loss=False", OF_MASKS - {"mask_recon_loss"}),
        ("abbl_include_feat_loss=True", set()),
    ],
)
def test_without_masks_everything_else_is_as_with_them(batch, options, more):
    """Of two equal models one sees the batch without its masks: its first step has the same other
    losses, changes all but the mask net and the discriminator (their states too), and counts in
    the main optimizer alone."""
    plain, blind = (build("graph-attention", options, batch_norm="trained") for _ in range(2))
    before = [v.numpy() for v in blind.variables]
    full = {k: float(v) for k, v in plain.train_step(batch, *step_args()).items()}
    bare = batch._replace(masks=None)
    step = blind.train_step if options else compiled_step(blind, bare)  # tracing takes its time
    named = {k: float(v) for k, v in step(bare, *step_args()).items()}
    assert set(named) == LOGGED - OF_MASKS
    total = 0.0
    for name, value in named.items():
        if name != "total_loss":
            assert value == pytest.approx(full[name], rel=1e-4, abs=1e-6), name
            total += blind.loss_weights()[name] * value
    assert named["total_loss"] == pytest.approx(total, rel=1e-5)
    assert set(full) - set(named) - {"g_mask_feat_loss"} == OF_MASKS - more

    idle = [blind.mask_net] + ([blind.discriminator] if blind.discriminator else [])
    still = {v.name for part in idle for v in part.variables}
    after = changed(blind, before)
    assert not after & still
    assert after >= {v.name for v in blind.trainable_variables} - still
    assert {name: int(o.iterations) for name, o in blind.optimizers.items()} == {
        name: int(name == "main") for name in blind.optimizers
    }


def test_masks_may_come_and_go(batch, tmp_path):
    """From a set with masks to one without and back, over checkpoints: nothing is lost."""
    bare = batch._replace(masks=None)
    model, other = build("graph-attention"), build("graph-attention")
    model.train_step(batch, *step_args(0))
    model.train_step(bare, *step_args(1))
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "ckpt"))
    tf.train.Checkpoint(model=other).read(path).assert_consumed()
    for steps in ([(bare, 2)], [(bare, 3), (batch, 4)]):
        for each, number in steps:
            first, second = (m.train_step(each, *step_args(number)) for m in (model, other))
            for name, value in first.items():
                assert float(second[name]) == pytest.approx(float(value), rel=1e-5), name
    assert {name: int(o.iterations) for name, o in other.optimizers.items()} == {
        "main": 5, "discriminator": 2,
    }  # fmt: skip


# --- ablations and options ---


def test_skip_transformer_is_the_sum_of_token_and_objects(batch):
    model = build("graph-attention", abbl_skip_transformer=True)
    model.transformer.token.assign_add(tf.ones_like(model.transformer.token))
    side = photo_side(model, batch.crops, batch.photo)
    rows = batch.photo.obj_to_img.numpy()
    for n in range(3):
        expected = 1 + side.objects.numpy()[rows == n].sum(0)
        np.testing.assert_allclose(side.vectors["token"][n], expected, rtol=1e-4, atol=1e-4)


def test_skip_graph_reads_no_relations(model, batch):
    others = batch.photo._replace(triples=batch.photo.triples[:1])
    for whole, changes in ((model, True), (build("graph-attention", abbl_skip_graph=True), False)):
        before = photo_side(whole, batch.crops, batch.photo, with_masks=False)
        after = photo_side(whole, batch.crops, others, with_masks=False)
        assert np.any(before.objects != after.objects) == changes


@pytest.mark.parametrize("option", ["use_pos_on_graph", "use_pos_encoding"])
def test_boxes_are_seen_where_the_option_says(option, batch):
    """Larger boxes of the same centres: only the graph's attributes know sizes."""
    centre = (batch.photo.boxes[:, :2] + batch.photo.boxes[:, 2:]) / 2
    near, far = (
        batch.photo._replace(boxes=tf.concat([centre - r, centre + r], 1)) for r in (0.05, 0.25)
    )
    moved = near._replace(boxes=1 - tf.gather(near.boxes, [2, 3, 0, 1], axis=1))
    off = {"use_pos_on_graph": False, "use_pos_encoding": False}
    seen = {}
    for name, changes in (("on", {**off, option: True}), ("off", off)):
        model = build("graph-attention", **changes)
        sides = [photo_side(model, batch.crops, g, with_masks=False) for g in (near, far, moved)]
        seen[name] = [bool(np.any(sides[0].objects != side.objects)) for side in sides[1:]]
    assert seen == {"on": [option == "use_pos_on_graph", True], "off": [False, False]}


@pytest.mark.parametrize("change", ["abbl_no_shuffled_negative", "no_global_contrastive"])
def test_negative_scenes_that_nothing_reads_are_left_out(monkeypatch, batch, change):
    rows = []
    call = GraphConvNet.call

    def counting(self, objects, triples, training=False):
        rows.append(int(objects.shape[0]))
        return call(self, objects, triples, training=training)

    monkeypatch.setattr(GraphConvNet, "call", counting)
    model = build("graph-attention", **{change: True})
    rows.clear()
    outputs = model.forward(batch, None, training=True)
    assert rows == [6 + 9]  # photo and query objects, without 6 negatives
    assert outputs.negative_vectors is None
    # The object losses still read the negative crops.
    assert outputs.negative_crops.embedding.shape[0] == 6


def test_no_skt_mask_loss_makes_masks_of_photographs_only(batch):
    model = build("graph-attention", abbl_no_skt_mask_loss=True, abbl_include_feat_loss=True)
    outputs = model.forward(batch, None, training=True)
    assert outputs.photo.masks.shape[0] == 6
    assert outputs.query.masks is None
    scores = model.score_masks(outputs, batch)
    assert [each.shape[0] for each in scores.predicted] == [6]
    named = model.compute_losses(outputs._replace(mask_scores=scores), batch)
    assert set(named) == {*LOGGED, "g_mask_feat_loss"} - {
        "g_mask_sketch_loss",
        "d_mask_loss",
        "total_loss",
    }
    # They are still made of sketches when asked for.
    assert query_side(model, batch.sketches, batch.query).masks.shape[0] == 9
