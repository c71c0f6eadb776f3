"""What graph-attention says of scenes, the losses of that, and their weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from core import replicas
from core.model import EncodedObjects, SceneOutputs
from models import losses
from models.graph_attention_hparams import GraphAttentionHParams


class Outputs(NamedTuple):
    """Forward pass of a training batch."""

    photo: SceneOutputs
    query: SceneOutputs
    crops: EncodedObjects  # out of context, (O, ...)
    sketches: EncodedObjects  # (Q, ...)
    negative_crops: EncodedObjects  # (O, ...)
    negative_scene_vector: tf.Tensor | None  # float32 (N, D), L2 norm 1; None: not trained with


class Scores(NamedTuple):
    """The discriminator on the real masks, and on those made from the photo and, unless that is
    ablated, from the query side."""

    real: tf.Tensor  # float32 (O, h, w)
    made: list[tf.Tensor]  # a side: float32 (O, h, w)
    real_features: list[tf.Tensor]  # maps (O, ...) of the inner layers
    made_features: list[tuple[tf.Tensor, ...]]  # a side: maps (O, ...)


def loss_weights(hparams: GraphAttentionHParams, masked: bool = True) -> dict[str, float]:
    """The weight of each loss in the total. One of weight 0 is ablated: it is left out here, so
    it is neither computed nor logged. masked: of batches that have masks."""
    weights = {
        "obj_triplet_loss": hparams.obj_emb_weight * hparams.abbl_triplet_loss,
        "enc_sketch_clas_loss": hparams.obj_emb_weight * hparams.abbl_clas_loss,
        "enc_obj_clas_loss": hparams.obj_emb_weight * hparams.abbl_clas_loss,
        "global_triplet_loss": 0.0 if hparams.no_global_contrastive else 1.0,
        "bbox_recon_loss": 10.0,
        "end_clas_loss": 1.0 if hparams.clas_on_final else 0.0,
    }
    if masked:
        gan = 0.0 if hparams.abbl_no_mask_gan else 0.5
        features = hparams.g_layout_feat_weight if hparams.abbl_include_feat_loss else 0.0
        weights["g_mask_loss"] = gan
        weights["g_mask_sketch_loss"] = 0.0 if hparams.abbl_no_skt_mask_loss else gan
        weights["mask_recon_loss"] = hparams.abbl_mask_recon_loss
        weights["g_mask_feat_loss"] = features
    return {name: weight for name, weight in weights.items() if weight}


def scene_losses(
    hparams: GraphAttentionHParams, outputs: Outputs, scores: Scores | None, batch: Any
) -> dict[str, tf.Tensor]:
    """The unweighted losses of all but the discriminator, those that have a weight, by name.

    batch: a SceneBatch. scores: None without a discriminator or masks.
    """
    photo, query = outputs.photo, outputs.query
    crops, sketches, negative_crops = outputs.crops, outputs.sketches, outputs.negative_crops
    depicts = batch.query_to_photo >= 0  # (Q,), the others have no photo object as truth
    own = tf.maximum(batch.query_to_photo, 0)

    def triplet() -> tf.Tensor:
        near, far = (tf.gather(each.embedding, own) for each in (crops, negative_crops))
        return losses.triplet(sketches.embedding, near, far, valid=depicts)

    def crop_classes() -> tf.Tensor:
        loss = 0.5 * losses.cross_entropy(crops.logits, batch.photo.classes)
        return loss + 0.5 * losses.cross_entropy(negative_crops.logits, batch.negative_classes)

    def boxes() -> tf.Tensor:
        loss = losses.box_regression(batch.photo.boxes, photo.boxes, hparams.use_giou_loss)
        if hparams.recon_on_sketch:
            loss += losses.box_regression(batch.query.boxes, query.boxes, hparams.use_giou_loss)
        return loss

    def context_classes() -> tf.Tensor:
        loss = losses.cross_entropy(photo.logits, batch.photo.classes)
        return loss + losses.cross_entropy(query.logits, batch.query.classes)

    def masks() -> tf.Tensor:
        true = tf.cast(batch.masks, tf.float32)
        everything = tf.ones_like(batch.photo.classes, tf.bool)
        loss = losses.mask_cross_entropy(true, photo.mask_logits, everything)
        if not hparams.abbl_no_skt_mask_loss:
            loss += losses.mask_cross_entropy(tf.gather(true, own), query.mask_logits, depicts)
        return loss

    def features() -> tf.Tensor:
        real, made = scores.real_features, scores.made_features
        loss = losses.feature_matching(real, made[0])
        if not hparams.abbl_no_skt_mask_loss:
            of_query = [tf.gather(maps, own) for maps in real]
            loss += losses.feature_matching(of_query, made[1], depicts)
        return 0.8 * loss  # 4 / (layers + 1), of four layers

    compute = {
        "obj_triplet_loss": triplet,
        "enc_sketch_clas_loss": lambda: losses.cross_entropy(sketches.logits, batch.query.classes),
        "enc_obj_clas_loss": crop_classes,
        "global_triplet_loss": lambda: losses.scene_contrastive(
            query.scene_vector, photo.scene_vector, outputs.negative_scene_vector
        ),
        "bbox_recon_loss": boxes,
        "end_clas_loss": context_classes,
        "g_mask_loss": lambda: losses.least_squares_gan(scores.made[0], 1.0),
        "g_mask_sketch_loss": lambda: losses.least_squares_gan(scores.made[1], 1.0),
        "mask_recon_loss": masks,
        "g_mask_feat_loss": features,
    }
    return {name: compute[name]() for name in loss_weights(hparams, batch.masks is not None)}


def discriminator_loss(scores: Scores, noise_seed: tf.Tensor, smooth: bool) -> tf.Tensor:
    """Least-squares GAN: real masks towards 1 (smooth: N(0.9, 0.1)), made ones towards 0."""
    target: Any = 1.0
    if smooth:
        shape = tf.shape(scores.real)
        first, of_all = replicas.place(shape[0])  # drawn for the global batch
        drawn = tf.concat([[of_all], shape[1:]], axis=0)
        target = tf.random.stateless_normal(drawn, noise_seed, 0.9, 0.1)[first : first + shape[0]]
    loss = 0.5 * losses.least_squares_gan(scores.real, target)
    for made in scores.made:
        loss += 0.5 / len(scores.made) * losses.least_squares_gan(made, 0.0)
    return loss
