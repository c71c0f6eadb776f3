"""Stages 2 and 3, 'graph-attention': whole scenes, for search and for masks and boxes.

    crops, negative crops uint8 (2O, H, W, 3) -> one photo encoder call --\\ vectors
    sketches uint8 (Q, H, W, 1) --------------> sketch encoder -----------/ (2O + Q, D)
    the three views as one batch of 3N scenes (photo, negative, query):
      vectors, triples -> GCN (2O + Q, D) -> slots (3N, S, D) -> Transformer
        scene token (3N, D) -> projection, L2: scene vectors
        contextual objects (2O + Q, D), of which photo and query go on to
          classes (O + Q, K), boxes (O + Q, 4), masks (O + Q, M, M) -> mask discriminator

Paper sections 3.2 (graph and Transformer), 3.3 (heads), 3.5 (synthetic negative scenes). The file
reads from hparams over losses to the model. A new loss is a function, its weight in `loss_weights`
and its row in LOSSES; a new scene vector is a layer, its name in `vector_names` and its row in
`GraphAttention._scene_vectors`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from core import replicas
from core.dataset import Vocabulary
from core.errors import HParamError, UsageError
from core.hparams import hp
from core.model import (
    PLAIN,
    Attention,
    EncodedObjects,
    FrozenEncoder,
    Numerics,
    ObjectScenes,
    SceneGraphModel,
    SceneOutputs,
)
from core.registry import MODELS
from models import losses
from models.encoders import EncoderHParams, ObjectRepresentation
from models.layers.box_head import BoxHead
from models.layers.discriminators import ARCHITECTURES, MaskDiscriminator
from models.layers.graph_conv import (
    ACTIVATIONS,
    POOLINGS,
    GraphConvNet,
    box_attributes,
    join_graphs,
)
from models.layers.mask_net import MaskNet
from models.layers.scene_transformer import SceneSum, SceneTransformer
from models.optimizers import adam, minimise, trainable_variables_without

# --- hparams ---


@dataclass(frozen=True)
class GraphAttentionHParams(EncoderHParams):
    """Hparams of stages 2 and 3. The paper's ablations: `abbl_*`, `no_global_contrastive`,
    `clas_on_final`, `use_pos_encoding`. What is ablated is neither computed nor logged."""

    learning_rate: float = hp(1e-4, "constant; the discriminator's is 4 x this", low=0.0)
    pt_mdomain_id: str = hp("", "id of the stage 1 run to start from")
    pt_mdomain_model: str = hp(
        "multidomain-representation", "model of that run: any of the same encoders"
    )

    # graph
    obj_pred_embedding_dim: int = hp(128, "width of the predicates' embedding", low=1, high=4096)
    gconv_dim: int = hp(
        256, "width of objects after the GCN and in the Transformer", low=1, high=4096
    )
    gconv_hidden_dim: int = hp(512, "width of the GCN's messages", low=1, high=4096)
    gconv_num_layers: int = hp(4, "triple convolutions", low=1, high=64)
    gconv_pooling: str = hp("avg", "what an object does with its messages", choices=POOLINGS)
    gcn_activation: str = hp("leakyrelu", "in the GCN", choices=tuple(ACTIVATIONS))
    mlp_normalization: str = hp("none", "in the GCN", choices=("none", "batch"))
    use_pos_on_graph: bool = hp(False, "tell the GCN where objects are and how large")
    abbl_skip_graph: bool = hp(False, "a Dense layer in place of the GCN")

    # Transformer and scene vectors
    g_enc_n_layers: int = hp(3, "Transformer layers", low=1, high=64)
    g_enc_n_heads: int = hp(16, "attention heads; divides gconv_dim", low=1, high=256)
    dropout: float = hp(0.1, "of the Transformer", low=0.0, high=0.9)
    use_pos_encoding: bool = hp(True, "tell the Transformer where objects are")
    abbl_skip_transformer: bool = hp(False, "scene vector = token + sum of objects instead")
    retrieval_vector: str = hp(
        "token", "what scenes are ranked by", choices=("projection", "token")
    )
    no_global_contrastive: bool = hp(False, "no contrastive loss of scenes, so no projection")
    abbl_no_shuffled_negative: bool = hp(False, "no synthetic negative scenes in that loss")

    # objects and boxes
    obj_emb_weight: float = hp(2.0, "weight of object classes and triplets", low=0.0)
    abbl_clas_loss: float = hp(1.0, "x weight of object classes (0: ablated)", low=0.0)
    abbl_triplet_loss: float = hp(1.0, "x weight of the object triplet (0: ablated)", low=0.0)
    clas_on_final: bool = hp(True, "classify the contextual objects too")
    use_giou_loss: bool = hp(True, "0.1 GIoU beside the squared error of boxes")
    recon_on_sketch: bool = hp(True, "boxes from the query side too")

    # masks
    mask_width: int = hp(256, "channels of the mask net", low=1, high=4096)
    g_mask_norm: str = hp("batch", "in the mask net", choices=("batch", "instance", "none"))
    abbl_mask_recon_loss: float = hp(10.0, "weight of masks' cross entropy (0: ablated)", low=0.0)
    abbl_no_skt_mask_loss: bool = hp(False, "masks are trained from photographs only")
    abbl_no_mask_gan: bool = hp(False, "no mask discriminator")
    layout_d_arch: str = hp("big", "mask discriminator", choices=tuple(ARCHITECTURES))
    # No batch norm: the scores of a mask must not depend on the masks beside it, which are all
    # real or all made.
    d_layout_norm: str = hp("instance", "in the discriminator", choices=("instance", "none"))
    use_sn_mask_dis: bool = hp(True, "spectral norm in the mask discriminator")
    use_lab_smooth: bool = hp(True, "discriminator's real targets ~ N(0.9, 0.1) in place of 1")
    abbl_include_feat_loss: bool = hp(False, "match the discriminator's features too")
    g_layout_feat_weight: float = hp(10.0, "weight of that matching", low=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gconv_dim % self.g_enc_n_heads:
            raise HParamError(
                f"g_enc_n_heads={self.g_enc_n_heads} does not divide gconv_dim={self.gconv_dim}: "
                "every head takes an equal share of the width"
            )
        if self.no_global_contrastive and self.retrieval_vector == "projection":
            raise HParamError(
                "no_global_contrastive=True leaves no projection to rank by: take "
                "retrieval_vector=token"
            )
        if self.no_global_contrastive and self.abbl_skip_transformer:
            raise HParamError(
                "no_global_contrastive=True leaves nothing to train the scene vectors of "
                "abbl_skip_transformer=True: give one of them"
            )
        if self.abbl_no_mask_gan and self.abbl_include_feat_loss:
            raise HParamError(
                "abbl_include_feat_loss=True matches features of the discriminator, which "
                "abbl_no_mask_gan=True takes away: give one of them"
            )
        if self.abbl_no_mask_gan and self.abbl_mask_recon_loss == 0:
            raise HParamError(
                "abbl_no_mask_gan=True and abbl_mask_recon_loss=0 leave nothing to train the "
                "masks: give one of them"
            )


# --- outputs ---


class MaskScores(NamedTuple):
    """Scores of the mask discriminator, and the maps of its inner layers, for feature matching.

    Predicted masks are of the photo side and, unless that is ablated, of the query side."""

    real: tf.Tensor  # float32 (O, h, w), of the true masks
    predicted: list[tf.Tensor]  # of each side: float32 (O, h, w)
    real_features: list[tf.Tensor]  # of each layer: (O, ...)
    predicted_features: list[tuple[tf.Tensor, ...]]  # of each side, of each layer: (O, ...)


class Outputs(NamedTuple):
    """Forward pass of a training batch."""

    photo: SceneOutputs
    query: SceneOutputs
    crops: EncodedObjects  # O, each out of its context
    sketches: EncodedObjects  # Q
    negative_crops: EncodedObjects  # O
    # Of the synthetic negative scenes, as `SceneOutputs.vectors`; None: no loss needs them.
    negative_vectors: dict[str, tf.Tensor] | None
    mask_scores: MaskScores | None = None  # None: no discriminator, or no masks in the batch


# --- losses: each a float32 scalar, unweighted, of (outputs, batch, hparams) ---


def object_triplet(outputs: Outputs, batch: Any, hps: GraphAttentionHParams) -> tf.Tensor:
    """Pull each sketch to the crop it depicts and push it from a crop of another class."""
    depicts, rows = _depicted(batch)
    positive = tf.gather(outputs.crops.embedding, rows)
    negative = tf.gather(outputs.negative_crops.embedding, rows)
    return losses.triplet(outputs.sketches.embedding, positive, negative, valid=depicts)


def sketch_classes(outputs: Outputs, batch: Any, hps: GraphAttentionHParams) -> tf.Tensor:
    """Classify sketches out of context."""
    return losses.cross_entropy(outputs.sketches.logits, batch.query.classes)


def crop_classes(outputs: Outputs, batch: Any, hps: GraphAttentionHParams) -> tf.Tensor:
    """Classify crops out of context."""
    positive = losses.cross_entropy(outputs.crops.logits, batch.photo.classes)
    negative = losses.cross_entropy(outputs.negative_crops.logits, batch.negative_classes)
    return 0.5 * positive + 0.5 * negative


def scene_contrastive(outputs: Outputs, batch: Any, hps: GraphAttentionHParams) -> tf.Tensor:
    """Pull each query to its photograph, push it from others and from synthetic negatives."""
    negative = outputs.negative_vectors and outputs.negative_vectors["projection"]
    sides = (side.vectors["projection"] for side in (outputs.query, outputs.photo))
    return losses.scene_contrastive(*sides, negative)


def boxes(outputs: Outputs, batch: Any, hps: GraphAttentionHParams) -> tf.Tensor:
    """Regress boxes from contextual objects."""
    loss = losses.box_regression(batch.photo.boxes, outputs.photo.boxes, hps.use_giou_loss)
    if hps.recon_on_sketch:
        loss += losses.box_regression(batch.query.boxes, outputs.query.boxes, hps.use_giou_loss)
    return loss


def contextual_classes(outputs: Outputs, batch: Any, hps: GraphAttentionHParams) -> tf.Tensor:
    """Classify contextual objects of both sides."""
    photo = losses.cross_entropy(outputs.photo.logits, batch.photo.classes)
    return photo + losses.cross_entropy(outputs.query.logits, batch.query.classes)


def photo_mask_gan(outputs: Outputs, batch: Any, hps: GraphAttentionHParams) -> tf.Tensor:
    """Make the discriminator take masks predicted from photographs for real ones."""
    return losses.least_squares_gan(outputs.mask_scores.predicted[0], 1.0)


def query_mask_gan(outputs: Outputs, batch: Any, hps: GraphAttentionHParams) -> tf.Tensor:
    """Make the discriminator take masks predicted from queries for real ones."""
    return losses.least_squares_gan(outputs.mask_scores.predicted[1], 1.0)


def mask_reconstruction(outputs: Outputs, batch: Any, hps: GraphAttentionHParams) -> tf.Tensor:
    """Predict each object's true mask, from queries that of the object they depict."""
    true = tf.cast(batch.masks, tf.float32)
    every = tf.ones_like(batch.photo.classes, tf.bool)
    loss = losses.mask_cross_entropy(true, outputs.photo.mask_logits, every)
    if not hps.abbl_no_skt_mask_loss:
        depicts, rows = _depicted(batch)
        depicted = tf.gather(true, rows)
        loss += losses.mask_cross_entropy(depicted, outputs.query.mask_logits, depicts)
    return loss


def mask_features(outputs: Outputs, batch: Any, hps: GraphAttentionHParams) -> tf.Tensor:
    """Match the discriminator's features of predicted and true masks."""
    scores = outputs.mask_scores
    loss = losses.feature_matching(scores.real_features, scores.predicted_features[0])
    if not hps.abbl_no_skt_mask_loss:
        depicts, rows = _depicted(batch)
        depicted = [tf.gather(maps, rows) for maps in scores.real_features]
        loss += losses.feature_matching(depicted, scores.predicted_features[1], depicts)
    return 0.8 * loss  # 4 / (layers + 1), of four layers


def _depicted(batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Return which query objects depict a photo object, bool (Q,), and its row, int32 (Q,), 0 for
    the others."""
    return batch.query_to_photo >= 0, tf.maximum(batch.query_to_photo, 0)


LOSSES = {  # by the name that is logged
    "obj_triplet_loss": object_triplet,
    "enc_sketch_clas_loss": sketch_classes,
    "enc_obj_clas_loss": crop_classes,
    "global_triplet_loss": scene_contrastive,
    "bbox_recon_loss": boxes,
    "end_clas_loss": contextual_classes,
    "g_mask_loss": photo_mask_gan,
    "g_mask_sketch_loss": query_mask_gan,
    "mask_recon_loss": mask_reconstruction,
    "g_mask_feat_loss": mask_features,
}


def loss_weights(hps: GraphAttentionHParams, has_masks: bool = True) -> dict[str, float]:
    """Return the weight of each loss in the total. One of weight 0 is ablated: it is left out, so
    it is neither computed nor logged. has_masks: of the batch."""
    adversarial = 0.0 if hps.abbl_no_mask_gan else 0.5
    features = hps.g_layout_feat_weight if hps.abbl_include_feat_loss else 0.0
    weights = {
        "obj_triplet_loss": hps.obj_emb_weight * hps.abbl_triplet_loss,
        "enc_sketch_clas_loss": hps.obj_emb_weight * hps.abbl_clas_loss,
        "enc_obj_clas_loss": hps.obj_emb_weight * hps.abbl_clas_loss,
        "global_triplet_loss": 0.0 if hps.no_global_contrastive else 1.0,
        "bbox_recon_loss": 10.0,
        "end_clas_loss": 1.0 if hps.clas_on_final else 0.0,
    }
    if has_masks:
        weights |= {
            "g_mask_loss": adversarial,
            "g_mask_sketch_loss": 0.0 if hps.abbl_no_skt_mask_loss else adversarial,
            "mask_recon_loss": hps.abbl_mask_recon_loss,
            "g_mask_feat_loss": features,
        }
    return {name: weight for name, weight in weights.items() if weight}


def discriminator_loss(
    scores: MaskScores, noise_seed: tf.Tensor, label_smoothing: bool
) -> tf.Tensor:
    """Return the discriminator's least-squares GAN loss: real masks towards 1, or targets drawn
    from N(0.9, 0.1) with `label_smoothing`; predicted masks towards 0. noise_seed: int (2,)."""
    target: Any = 1.0
    if label_smoothing:
        shape = tf.shape(scores.real)
        first, total = replicas.row_offset(shape[0])  # drawn for the global batch
        global_shape = tf.concat([[total], shape[1:]], axis=0)
        drawn = tf.random.stateless_normal(global_shape, noise_seed, 0.9, 0.1)
        target = drawn[first : first + shape[0]]
    loss = 0.5 * losses.least_squares_gan(scores.real, target)
    for predicted in scores.predicted:
        loss += 0.5 / len(scores.predicted) * losses.least_squares_gan(predicted, 0.0)
    return loss


# --- the model ---


@MODELS.register("graph-attention")
class GraphAttention(SceneGraphModel):
    """Stage 1's encoders, then GCN, Transformer and heads over whole scenes."""

    name = "graph-attention"
    HParams = GraphAttentionHParams
    batch_type = "SceneBatch"
    # An encoder may have moved: checkpoints know it by its digest.
    warm_start_may_differ = ("learning_rate", "encoder")
    metrics = (
        *(
            f"{kind}-{at}"
            for kind in ("sbir", "obj-sbir")
            for at in ("mAP", "top1", "top5", "top10")
        ),
        "sbir-ndcg@10",
        "embedding-obj-accuracy",
        "embedding-skt-accuracy",
        "mask-iou",
        "sbir-on-valid",
        "generated-masks",
        "common-embedding-tsne",
    )

    def __init__(
        self,
        hparams: GraphAttentionHParams,
        vocabulary: Vocabulary,
        iterations: int,
        mask_size: int = 64,
        numerics: Numerics = PLAIN,
    ):
        super().__init__(hparams, vocabulary, iterations, mask_size, numerics)
        dim, classes = hparams.gconv_dim, vocabulary.num_classes
        with numerics.layers():
            self.objects = ObjectRepresentation(hparams, classes)
            self.gcn = self._make_gcn()
            self.transformer = self._make_transformer()
            self.mask_net = MaskNet(mask_size, hparams.mask_width, hparams.g_mask_norm)
            self.discriminator = self._make_discriminator()
        self.projection = None if hparams.no_global_contrastive else tf.keras.layers.Dense(dim)
        self.classifier = tf.keras.layers.Dense(classes) if hparams.clas_on_final else None
        self.box_head = BoxHead(512)
        self._build()

        rate, clip_norm = hparams.learning_rate, numerics.clip_norm
        self.optimizers = {"main": adam(rate, clip_norm=clip_norm)}
        self.optimizers["main"].build(self.main_variables())
        if self.discriminator is not None:
            self.optimizers["discriminator"] = adam(4 * rate, 0.5, 0.999, clip_norm)
            self.optimizers["discriminator"].build(self.discriminator.trainable_variables)

        # A tuple, by `with_masks`: checkpoints take no dict with keys that are no strings.
        self._compiled_side = tuple(
            self._compile(functools.partial(self._side, with_masks=masks))
            for masks in (False, True)
        )
        self._compiled_attention = self._compile(self._attention)

    def _make_gcn(self) -> tf.keras.layers.Layer:
        hps = self.hparams
        if hps.abbl_skip_graph:
            return tf.keras.layers.Dense(hps.gconv_dim)
        return GraphConvNet(
            num_predicates=len(self.vocabulary.predicates),
            predicate_dim=hps.obj_pred_embedding_dim,
            dim=hps.gconv_dim,
            hidden=hps.gconv_hidden_dim,
            layers=hps.gconv_num_layers,
            pooling=hps.gconv_pooling,
            activation=hps.gcn_activation,
            norm=hps.mlp_normalization,
        )

    def _make_transformer(self) -> tf.keras.layers.Layer:
        hps = self.hparams
        if hps.abbl_skip_transformer:
            return SceneSum()
        return SceneTransformer(
            dim=hps.gconv_dim,
            heads=hps.g_enc_n_heads,
            hidden=512,
            layers=hps.g_enc_n_layers,
            dropout=hps.dropout,
            use_positions=hps.use_pos_encoding,
        )

    def _make_discriminator(self) -> MaskDiscriminator | None:
        hps = self.hparams
        if hps.abbl_no_mask_gan:
            return None
        filters, strided = ARCHITECTURES[hps.layout_d_arch]
        return MaskDiscriminator(
            self.vocabulary.num_classes, filters, strided, hps.use_sn_mask_dis, hps.d_layout_norm
        )

    def _build(self) -> None:
        """Make all variables, by a pass of one blank object."""
        blank = tf.zeros((1, self.hparams.edge_repr_net_hidden_size))
        zero = tf.zeros((1,), tf.int32)
        graph = (tf.zeros((1, 4)), zero, tf.zeros((1, 3), tf.int32))
        self._side(ObjectScenes(blank, *graph, tf.constant(1)), with_masks=True)
        if self.discriminator is not None:
            self.discriminator(tf.zeros((1, self.mask_size, self.mask_size)), zero)

    @classmethod
    def crop_size(cls, hparams: GraphAttentionHParams) -> int:
        return hparams.image_size

    @classmethod
    def warm_start_from(cls, hparams: GraphAttentionHParams) -> tuple[str, str]:
        if not hparams.pt_mdomain_id:
            raise HParamError(
                "graph-attention starts from a stage 1 run: name its id with "
                "--hparams pt_mdomain_id=ID (and the same -o)"
            )
        return (hparams.pt_mdomain_model, hparams.pt_mdomain_id)

    def warm_start_parts(self) -> dict[str, tf.Module]:
        return {"objects": self.objects}

    def main_variables(self, has_masks: bool = True) -> tuple[tf.Variable, ...]:
        """Return what the main optimizer trains: all variables but the discriminator's, those of
        stage 1 whose losses are ablated and, for a batch without masks, the mask network's."""
        weights = self.loss_weights()
        untrained = [] if self.discriminator is None else [self.discriminator]
        if not has_masks:
            untrained.append(self.mask_net)
        if "enc_obj_clas_loss" not in weights:
            untrained += [self.objects.photo_classifier, self.objects.sketch_classifier]
        if "obj_triplet_loss" not in weights:
            untrained.append(self.objects.projection)
        return trainable_variables_without(self, untrained)

    # --- the network ---

    def _relate(self, scenes: ObjectScenes, training: bool = False) -> tf.Tensor:
        """Return object vectors (O, D) that know of their relations."""
        vectors = scenes.vectors
        if self.hparams.use_pos_on_graph:
            vectors = tf.concat([vectors, box_attributes(scenes.boxes)], axis=1)
        if self.hparams.abbl_skip_graph:
            return self.gcn(vectors)
        return self.gcn(vectors, scenes.triples, training=training)

    def _scene_vectors(self, tokens: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the scene vectors in `vector_names`, float32 (N, D), of scene tokens (N, D)."""
        vectors = {"token": tokens}
        if self.projection is not None:
            vectors["projection"] = tf.math.l2_normalize(self.projection(tokens), axis=-1)
        return vectors

    def _predict(
        self, objects: tf.Tensor, masked: tf.Tensor | None, training: bool = False
    ) -> tuple[tf.Tensor | None, tf.Tensor, tf.Tensor | None]:
        """Return class logits (None without classifier) and boxes of contextual objects (O, D),
        and the mask logits of the objects `masked` (None: none)."""
        masks = None if masked is None else self.mask_net(masked, training=training)
        logits = None if self.classifier is None else self.classifier(objects)
        return logits, self.box_head(objects), masks

    # --- training ---

    def forward(self, batch: Any, dropout_seed: tf.Tensor | None, training: bool) -> Outputs:
        """Return the outputs for all views of a batch, with each image encoded once. dropout_seed:
        int (2,), None: no dropout. Masks are predicted only for a batch that has them."""
        hps = self.hparams
        scenes = tf.shape(batch.image_ids)[0]
        crops = tf.concat([batch.crops, batch.negative_crops], axis=0)
        halves = zip(*(tf.split(part, 2) for part in self.objects.photos(crops, training)))
        photo, negative = (EncodedObjects(*half) for half in halves)
        sketch = self.objects.sketches(batch.sketches, training)

        views = [(photo, batch.photo), (negative, batch.photo), (sketch, batch.query)]
        if hps.no_global_contrastive or hps.abbl_no_shuffled_negative:
            del views[1]  # no loss reads the synthetic negative scenes
        encoded, graphs = zip(*views)
        joined = ObjectScenes(
            tf.concat([view.vector for view in encoded], axis=0),
            *join_graphs(graphs, scenes),
            len(views) * scenes,
        )
        related = self._relate(joined, training)
        tokens, objects = self.transformer(
            related, joined.boxes, joined.obj_to_img, joined.num_scenes, dropout_seed, len(views)
        )
        by_name = {k: tf.split(v, len(views)) for k, v in self._scene_vectors(tokens).items()}
        vectors = [dict(zip(by_name, rows)) for rows in zip(*by_name.values())]
        objects = tf.split(objects, [tf.shape(view.vector)[0] for view in encoded])

        sides = self._predict_sides(objects[0], objects[-1], batch.masks is not None, training)
        return Outputs(
            SceneOutputs(vectors[0], objects[0], *sides[0]),
            SceneOutputs(vectors[-1], objects[-1], *sides[1]),
            photo,
            sketch,
            negative,
            vectors[1] if len(views) == 3 else None,
        )

    def _predict_sides(
        self, photo: tf.Tensor, query: tf.Tensor, with_masks: bool, training: bool
    ) -> list[tuple[tf.Tensor | None, ...]]:
        """Return (class logits, boxes, mask logits) of the photo's contextual objects (O, D) and
        of the query's (Q, D), by one call of each head."""
        sizes = [tf.shape(photo)[0], tf.shape(query)[0]]
        both = tf.concat([photo, query], axis=0)
        photo_masks_only = self.hparams.abbl_no_skt_mask_loss
        masked = photo if photo_masks_only else both
        logits, boxes, masks = self._predict(both, masked if with_masks else None, training)
        split_masks = [masks, None] if photo_masks_only else _split(masks, sizes)
        return list(zip(_split(logits, sizes), _split(boxes, sizes), split_masks))

    def score_masks(self, outputs: Outputs, batch: Any) -> MaskScores:
        """Return the discriminator's scores of true and predicted masks, and move its spectral
        norms by a step.

        Two passes, so that the generator's gradient does not run through the true masks too."""
        sides = [(outputs.photo, batch.photo), (outputs.query, batch.query)]
        if self.hparams.abbl_no_skt_mask_loss:
            del sides[1]
        scores, features = self.discriminator(
            tf.concat([side.masks for side, _ in sides], axis=0),
            tf.concat([graph.classes for _, graph in sides], axis=0),
            training=True,
        )
        # training=False: the norms have moved already.
        real, real_features = self.discriminator(
            tf.cast(batch.masks, tf.float32), batch.photo.classes, training=False
        )
        sizes = [tf.shape(graph.classes)[0] for _, graph in sides]
        by_side = list(zip(*(tf.split(maps, sizes) for maps in features)))
        return MaskScores(real, tf.split(scores, sizes), real_features, by_side)

    def loss_weights(self, has_masks: bool = True) -> dict[str, float]:
        """Return the weight of each loss that is not ablated; has_masks: of the batch."""
        return loss_weights(self.hparams, has_masks)

    def compute_losses(self, outputs: Outputs, batch: Any) -> dict[str, tf.Tensor]:
        """Return the unweighted losses that have a weight, by name."""
        names = self.loss_weights(batch.masks is not None)
        return {name: LOSSES[name](outputs, batch, self.hparams) for name in names}

    @tf.autograph.experimental.do_not_convert  # no tensor decides a branch: tracing takes half
    def train_step(self, batch: Any, step: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        step_seed = tf.stack([tf.cast(seed, tf.int64), step])
        dropout_seed, noise_seed = tf.unstack(tf.random.experimental.stateless_split(step_seed, 2))
        has_masks = batch.masks is not None  # of the loader, so known when this is traced
        critic = {}
        with tf.GradientTape() as tape:
            outputs = self.forward(batch, dropout_seed, training=True)
            if self.discriminator is not None and has_masks:
                # One pass of it serves both optimizers: this inner tape sees nothing before it.
                with tf.GradientTape() as critic_tape:
                    scores = self.score_masks(outputs, batch)
                    smooth = self.hparams.use_lab_smooth
                    critic["d_mask_loss"] = discriminator_loss(scores, noise_seed, smooth)
                outputs = outputs._replace(mask_scores=scores)
            named = self.compute_losses(outputs, batch)
            weights = self.loss_weights(has_masks)
            total = tf.add_n([weights[name] * loss for name, loss in named.items()])
        if critic:
            minimise(
                self.optimizers["discriminator"],
                critic["d_mask_loss"],
                critic_tape,
                self.discriminator.trainable_variables,
                self.numerics.scales_losses,
            )
        minimise(
            self.optimizers["main"],
            total,
            tape,
            self.main_variables(has_masks),
            self.numerics.scales_losses,
        )
        return {**named, **critic, "total_loss": total, **self.loss_scales()}

    # --- inference ---

    @property
    def vector_names(self) -> tuple[str, ...]:
        if self.hparams.no_global_contrastive:
            return ("token",)
        first = self.hparams.retrieval_vector
        return (first, *(name for name in ("token", "projection") if name != first))

    def frozen_encoders(self) -> tuple[FrozenEncoder, FrozenEncoder]:
        if self.hparams.encoder_training != "frozen":
            return super().frozen_encoders()
        return self.objects.frozen_encoders()

    def embed_photos(self, crops: tf.Tensor) -> EncodedObjects:
        return self.objects.embed_photos(crops)

    def embed_sketches(self, sketches: tf.Tensor) -> EncodedObjects:
        return self.objects.embed_sketches(sketches)

    def contextualise(self, scenes: ObjectScenes, with_masks: bool = True) -> SceneOutputs:
        return self._compiled_side[with_masks](scenes)

    def attention(self, scenes: ObjectScenes) -> Attention:
        if self.hparams.abbl_skip_transformer:
            raise UsageError(
                "a model with abbl_skip_transformer=True has no Transformer, so no attention to "
                "show: choose another run"
            )
        return self._compiled_attention(scenes)

    def _side(self, scenes: ObjectScenes, with_masks: bool) -> SceneOutputs:
        tokens, objects = self.transformer(
            self._relate(scenes), scenes.boxes, scenes.obj_to_img, scenes.num_scenes
        )
        heads = self._predict(objects, objects if with_masks else None)
        return SceneOutputs(self._scene_vectors(tokens), objects, *heads)

    def _attention(self, scenes: ObjectScenes) -> Attention:
        return self.transformer.attention(
            self._relate(scenes), scenes.boxes, scenes.obj_to_img, scenes.num_scenes
        )

    def _compile(self, function: Callable) -> Callable:
        """Compile a function of some scenes, once for all sizes."""
        signature = ObjectScenes(
            vectors=tf.TensorSpec((None, self.hparams.edge_repr_net_hidden_size), tf.float32),
            boxes=tf.TensorSpec((None, 4), tf.float32),
            obj_to_img=tf.TensorSpec((None,), tf.int32),
            triples=tf.TensorSpec((None, 3), tf.int32),
            num_scenes=tf.TensorSpec((), tf.int32),
        )
        return tf.function(function, input_signature=[signature], autograph=False)


def _split(rows: tf.Tensor | None, sizes: list[tf.Tensor]) -> list[tf.Tensor | None]:
    return [None] * len(sizes) if rows is None else tf.split(rows, sizes)
