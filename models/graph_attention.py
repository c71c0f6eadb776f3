"""Stages 2 and 3, 'graph-attention': whole scenes, for search and for masks and boxes.

    photo crops, negative crops uint8 (2O, H, W, 3) -> one photo encoder call    -\\ vectors
    sketches uint8 (Q, H, W, 1) --------------------> sketch encoder              -/ (2O + Q, D)
    the three views as one batch of 3N scenes (photo, negative, query):
      vectors, triples -> GCN (2O + Q, D) -> slots (3N, S, D) -> Transformer
        scene token (3N, D) -> projection, L2: scene vectors
        contextual objects (2O + Q, D), of which photo and query go on to
          classes (O + Q, K), boxes (O + Q, 4), masks (O + Q, M, M) -> mask discriminator

Paper sections 3.2 (graph and Transformer), 3.3 (heads), 3.5 (synthetic negative scenes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from core.dataset import Vocabulary
from core.errors import HParamError
from core.hparams import hp
from core.model import Model
from core.registry import MODELS
from models import losses
from models.encoders import Encoded, EncoderHParams, ObjectRepresentation
from models.layers.box_head import BoxHead
from models.layers.discriminators import ARCHITECTURES, MaskDiscriminator
from models.layers.graph_conv import Graph, GraphConvNet, join_graphs
from models.layers.mask_net import MaskNet
from models.layers.scene_transformer import SceneTransformer
from models.optimizers import FusedAdam


@dataclass(frozen=True)
class GraphAttentionHParams(EncoderHParams):
    """Stages 2 and 3."""

    learning_rate: float = hp(1e-4, "constant; the discriminator's is 4 x this", low=0.0)
    pt_mdomain_id: str = hp("", "id of the stage 1 run to start from")
    obj_pred_embedding_dim: int = hp(128, "width of the predicates' embedding", low=1)
    gconv_dim: int = hp(256, "width of objects after the GCN and in the Transformer", low=1)
    gconv_hidden_dim: int = hp(512, "width of the GCN's messages", low=1)
    gconv_num_layers: int = hp(4, "triple convolutions", low=1)
    g_enc_n_layers: int = hp(3, "Transformer layers", low=1)
    g_enc_n_heads: int = hp(16, "attention heads; divides gconv_dim", low=1)
    dropout: float = hp(0.1, "of the Transformer", low=0.0, high=0.9)
    use_pos_encoding: bool = hp(True, "tell the Transformer where objects are")
    mask_width: int = hp(256, "channels of the mask net", low=1)
    mask_precision: str = hp(
        "float32",
        "maps inside the mask net; bfloat16 is twice as fast where the processor has it",
        choices=("float32", "bfloat16"),
    )
    use_sn_mask_dis: bool = hp(True, "spectral norm in the mask discriminator")
    use_lab_smooth: bool = hp(True, "discriminator's real targets ~ N(0.9, 0.1) in place of 1")
    layout_d_arch: str = hp("big", "mask discriminator", choices=tuple(ARCHITECTURES))
    retrieval_vector: str = hp(
        "token", "what scenes are ranked by", choices=("projection", "token")
    )
    obj_emb_weight: float = hp(2.0, "weight of object classes and triplets", low=0.0)
    abbl_clas_loss: float = hp(1.0, "x weight of object classes (0: ablated)", low=0.0)
    abbl_triplet_loss: float = hp(1.0, "x weight of the object triplet (0: ablated)", low=0.0)
    abbl_mask_recon_loss: float = hp(10.0, "weight of the masks' cross entropy", low=0.0)
    abbl_include_feat_loss: bool = hp(False, "match the discriminator's features too")
    g_layout_feat_weight: float = hp(10.0, "weight of that matching", low=0.0)
    use_giou_loss: bool = hp(True, "0.1 GIoU beside the squared error of boxes")
    recon_on_sketch: bool = hp(True, "boxes from the query side too")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gconv_dim % self.g_enc_n_heads:
            raise HParamError(
                f"g_enc_n_heads={self.g_enc_n_heads} does not divide gconv_dim={self.gconv_dim}: "
                "every head takes an equal share of the width"
            )


class SideOutputs(NamedTuple):
    """What the model says of one side (photo or query) of N scenes with O objects; float32."""

    scene_token: tf.Tensor  # (N, D), the Transformer's scene token
    scene_vector: tf.Tensor  # (N, D), its projection, L2 norm 1: what the contrastive loss trains
    objects: tf.Tensor  # (O, D), contextual object vectors
    embedding: tf.Tensor  # (O, E), common embedding of objects out of context, L2 norm 1
    logits: tf.Tensor  # (O, K), classes from the encoder, out of context
    context_logits: tf.Tensor  # (O, K), classes from the contextual vectors
    boxes: tf.Tensor  # (O, 4), predicted
    mask_logits: tf.Tensor | None  # (O, M, M) within the box; None when not asked for

    @property
    def masks(self) -> tf.Tensor | None:
        """(O, M, M), probabilities within the box."""
        return None if self.mask_logits is None else tf.nn.sigmoid(self.mask_logits)


class Outputs(NamedTuple):
    """Forward pass of a training batch."""

    photo: SideOutputs
    query: SideOutputs
    negative: Encoded  # negative crops, (O, ...)
    negative_scene_vector: tf.Tensor  # float32 (N, D), L2 norm 1


class Scores(NamedTuple):
    """The discriminator on the real masks, and on those made from each side."""

    real: tf.Tensor  # float32 (O, h, w)
    photo: tf.Tensor  # float32 (O, h, w)
    query: tf.Tensor  # float32 (Q, h, w)
    real_features: list[tf.Tensor]  # maps (O, ...) of the inner layers
    photo_features: list[tf.Tensor]
    query_features: list[tf.Tensor]


@MODELS.register("graph-attention")
class GraphAttention(Model):
    """Stage 1's encoders, then GCN, Transformer and heads over whole scenes."""

    name = "graph-attention"
    HParams = GraphAttentionHParams
    batch_type = "SceneBatch"
    metrics = (
        *(
            f"{kind}-{at}"
            for kind in ("sbir", "obj-sbir")
            for at in ("mAP", "top1", "top5", "top10")
        ),
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
    ):
        super().__init__(hparams, vocabulary, iterations, mask_size)
        dim, classes = hparams.gconv_dim, vocabulary.num_classes
        self.objects = ObjectRepresentation(hparams, classes)
        self.gcn = GraphConvNet(
            len(vocabulary.predicates),
            hparams.obj_pred_embedding_dim,
            dim,
            hparams.gconv_hidden_dim,
            hparams.gconv_num_layers,
        )
        self.transformer = SceneTransformer(
            dim,
            hparams.g_enc_n_heads,
            512,
            hparams.g_enc_n_layers,
            hparams.dropout,
            hparams.use_pos_encoding,
        )
        self.projection = tf.keras.layers.Dense(dim)
        self.classifier = tf.keras.layers.Dense(classes)
        self.box_head = BoxHead(512)
        self.mask_net = MaskNet(mask_size, hparams.mask_width, hparams.mask_precision)
        filters, strided = ARCHITECTURES[hparams.layout_d_arch]
        self.discriminator = MaskDiscriminator(classes, filters, strided, hparams.use_sn_mask_dis)
        self._build()

        rate = hparams.learning_rate
        adam = FusedAdam(rate)
        critic_adam = FusedAdam(4 * rate, 0.5, 0.999)
        adam.build(self.generator_variables())
        critic_adam.build(self.discriminator.trainable_variables)
        self.optimizers = {"main": adam, "discriminator": critic_adam}

        self._encode_photo = self._inference(self.objects.photos, 3)
        self._encode_query = self._inference(self.objects.sketches, 1)

    def _build(self) -> None:
        """Makes all variables, by a pass of one blank object."""
        blank = Encoded(tf.zeros((1, self.hparams.edge_repr_net_hidden_size)), None, None)
        zero = tf.zeros((1,), tf.int32)
        graph = (tf.zeros((1, 4)), zero, tf.zeros((1, 3), tf.int32))
        self._side(blank, *graph, tf.constant(1), with_masks=True)
        self.discriminator(tf.zeros((1, self.mask_size, self.mask_size)), zero)

    @classmethod
    def warm_start_from(cls, hparams: GraphAttentionHParams) -> tuple[str, str]:
        if not hparams.pt_mdomain_id:
            raise HParamError(
                "graph-attention starts from a stage 1 run: name its id with "
                "--hparams pt_mdomain_id=ID (and the same -o)"
            )
        return ("multidomain-representation", hparams.pt_mdomain_id)

    def warm_start_parts(self) -> dict[str, tf.Module]:
        return {"objects": self.objects}

    def generator_variables(self) -> tuple[tf.Variable, ...]:
        """All that trains but the discriminator."""
        critic = {variable.ref() for variable in self.discriminator.trainable_variables}
        return tuple(v for v in self.trainable_variables if v.ref() not in critic)

    # --- training ---

    def forward(self, batch: Any, dropout_seed: tf.Tensor | None, training: bool) -> Outputs:
        """All views of a batch, each thing computed once. dropout_seed: int (2,), None: none."""
        objects, queries = tf.shape(batch.crops)[0], tf.shape(batch.sketches)[0]
        scenes = tf.shape(batch.image_ids)[0]
        crops = tf.concat([batch.crops, batch.negative_crops], axis=0)
        both = self.objects.photos(crops, training)
        photo, negative = (Encoded(*parts) for parts in zip(*(tf.split(part, 2) for part in both)))
        sketch = self.objects.sketches(batch.sketches, training)

        tokens, contextual = self._contextualise(
            tf.concat([both.vector, sketch.vector], axis=0),
            *join_graphs([batch.photo, batch.photo, batch.query], scenes),
            3 * scenes,
            dropout_seed,
        )
        vectors = self._scene_vectors(tokens)
        photo_token, _, query_token = tf.split(tokens, 3)
        photo_vector, negative_vector, query_vector = tf.split(vectors, 3)
        photo_objects, _, query_objects = tf.split(contextual, [objects, objects, queries])

        heads = self._heads(tf.concat([photo_objects, query_objects], axis=0), True, training)
        photo_heads, query_heads = zip(*(tf.split(head, [objects, queries]) for head in heads))
        return Outputs(
            SideOutputs(
                photo_token,
                photo_vector,
                photo_objects,
                photo.embedding,
                photo.logits,
                *photo_heads,
            ),
            SideOutputs(
                query_token,
                query_vector,
                query_objects,
                sketch.embedding,
                sketch.logits,
                *query_heads,
            ),
            negative,
            negative_vector,
        )

    def _contextualise(self, vectors, boxes, obj_to_img, triples, num_scenes, dropout_seed=None):
        """Object vectors (O, D) -> scene tokens (N, D), contextual objects (O, D)."""
        related = self.gcn(vectors, triples)
        return self.transformer(related, boxes, obj_to_img, num_scenes, dropout_seed)

    def _scene_vectors(self, tokens: tf.Tensor) -> tf.Tensor:
        return tf.math.l2_normalize(self.projection(tokens), axis=-1)

    def _heads(self, objects, with_masks: bool, training: bool = False) -> tuple:
        """Contextual objects (O, D) -> class logits, boxes, mask logits or None."""
        masks = self.mask_net(objects, training=training) if with_masks else None
        return self.classifier(objects), self.box_head(objects), masks

    def score_masks(self, outputs: Outputs, batch: Any) -> Scores:
        """The discriminator on real masks and on both sides'; moves its spectral norms by a step.

        Two passes, so that what trains the generator is not led back through the real masks too.
        """
        made, made_features = self.discriminator(
            tf.concat([outputs.photo.masks, outputs.query.masks], axis=0),
            tf.concat([batch.photo.classes, batch.query.classes], axis=0),
            training=True,
        )
        # training=False: the norms have moved already.
        real, real_features = self.discriminator(
            tf.cast(batch.masks, tf.float32), batch.photo.classes, training=False
        )
        sizes = [tf.shape(batch.crops)[0], tf.shape(batch.sketches)[0]]
        split = [tf.split(maps, sizes) for maps in made_features]
        return Scores(real, *tf.split(made, sizes), real_features, *map(list, zip(*split)))

    def discriminator_loss(self, scores: Scores, noise_seed: tf.Tensor) -> tf.Tensor:
        """Least-squares GAN: real masks towards 1 (smoothed: N(0.9, 0.1)), made ones towards 0."""
        target: Any = 1.0
        if self.hparams.use_lab_smooth:
            target = tf.random.stateless_normal(tf.shape(scores.real), noise_seed, 0.9, 0.1)
        return (
            0.5 * losses.least_squares_gan(scores.real, target)
            + 0.25 * losses.least_squares_gan(scores.photo, 0.0)
            + 0.25 * losses.least_squares_gan(scores.query, 0.0)
        )

    def compute_losses(self, outputs: Outputs, scores: Scores, batch: Any) -> dict[str, tf.Tensor]:
        """The unweighted losses of all but the discriminator, by name."""
        photo, query, negative = outputs.photo, outputs.query, outputs.negative
        depicts = batch.query_to_photo >= 0  # (Q,), the others have no photo object as truth
        own = tf.maximum(batch.query_to_photo, 0)
        masks = tf.cast(batch.masks, tf.float32)
        everything = tf.ones_like(batch.photo.classes, tf.bool)
        giou = self.hparams.use_giou_loss

        boxes = losses.box_regression(batch.photo.boxes, photo.boxes, giou)
        if self.hparams.recon_on_sketch:
            boxes += losses.box_regression(batch.query.boxes, query.boxes, giou)
        named = {
            "obj_triplet_loss": losses.triplet(
                query.embedding,
                tf.gather(photo.embedding, own),
                tf.gather(negative.embedding, own),
                valid=depicts,
            ),
            "enc_sketch_clas_loss": losses.cross_entropy(query.logits, batch.query.classes),
            "enc_obj_clas_loss": 0.5 * losses.cross_entropy(photo.logits, batch.photo.classes)
            + 0.5 * losses.cross_entropy(negative.logits, batch.negative_classes),
            "global_triplet_loss": losses.scene_contrastive(
                query.scene_vector, photo.scene_vector, outputs.negative_scene_vector
            ),
            "bbox_recon_loss": boxes,
            "end_clas_loss": losses.cross_entropy(photo.context_logits, batch.photo.classes)
            + losses.cross_entropy(query.context_logits, batch.query.classes),
            "g_mask_loss": losses.least_squares_gan(scores.photo, 1.0),
            "g_mask_sketch_loss": losses.least_squares_gan(scores.query, 1.0),
            "mask_recon_loss": losses.mask_cross_entropy(masks, photo.mask_logits, everything)
            + losses.mask_cross_entropy(tf.gather(masks, own), query.mask_logits, depicts),
        }
        if self.hparams.abbl_include_feat_loss:
            real_of_query = [tf.gather(maps, own) for maps in scores.real_features]
            named["g_mask_feat_loss"] = losses.feature_matching(
                scores.real_features, scores.photo_features
            ) + losses.feature_matching(real_of_query, scores.query_features, depicts)
        return named

    def loss_weights(self) -> dict[str, float]:
        """The weight of each loss in the total."""
        hps = self.hparams
        return {
            "obj_triplet_loss": hps.obj_emb_weight * hps.abbl_triplet_loss,
            "enc_sketch_clas_loss": hps.obj_emb_weight * hps.abbl_clas_loss,
            "enc_obj_clas_loss": hps.obj_emb_weight * hps.abbl_clas_loss,
            "global_triplet_loss": 1.0,
            "bbox_recon_loss": 10.0,
            "end_clas_loss": 1.0,
            "g_mask_loss": 0.5,
            "g_mask_sketch_loss": 0.5,
            "mask_recon_loss": hps.abbl_mask_recon_loss,
            "g_mask_feat_loss": hps.g_layout_feat_weight,
        }

    @tf.autograph.experimental.do_not_convert  # no tensor decides a branch: tracing takes half
    def train_step(self, batch: Any, step: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        step_seed = tf.stack([tf.cast(seed, tf.int64), step])
        dropout_seed, noise_seed = tf.unstack(tf.random.experimental.stateless_split(step_seed, 2))
        with tf.GradientTape() as tape:
            outputs = self.forward(batch, dropout_seed, training=True)
            # One pass of the discriminator serves both: this inner tape sees nothing before it.
            with tf.GradientTape() as critic_tape:
                scores = self.score_masks(outputs, batch)
                critic_loss = self.discriminator_loss(scores, noise_seed)
            named = self.compute_losses(outputs, scores, batch)
            weights = self.loss_weights()
            total = tf.add_n([weights[name] * loss for name, loss in named.items()])
        critic_variables = self.discriminator.trainable_variables
        critic_gradients = critic_tape.gradient(critic_loss, critic_variables)
        variables = self.generator_variables()
        gradients = tape.gradient(total, variables)
        self.optimizers["main"].apply_gradients(zip(gradients, variables))
        self.optimizers["discriminator"].apply_gradients(zip(critic_gradients, critic_variables))
        return {**named, "d_mask_loss": critic_loss, "total_loss": total}

    # --- inference ---

    def encode_photo(
        self, crops: tf.Tensor, graph: Graph, num_scenes: int | None = None, with_masks: bool = True
    ) -> SideOutputs:
        """Photo side of N scenes. crops: uint8 (O, H, W, 3). num_scenes: N, by default up to the
        last scene that has an object. with_masks=False leaves out the costliest part."""
        return self._encode_photo[with_masks](crops, *_graph_arguments(graph, num_scenes))

    def encode_query(
        self,
        sketches: tf.Tensor,
        graph: Graph,
        num_scenes: int | None = None,
        with_masks: bool = True,
    ) -> SideOutputs:
        """Query side of N scenes. sketches: uint8 (Q, H, W, 1); the rest as `encode_photo`."""
        return self._encode_query[with_masks](sketches, *_graph_arguments(graph, num_scenes))

    def _side(self, encoded, boxes, obj_to_img, triples, num_scenes, with_masks) -> SideOutputs:
        token, objects = self._contextualise(encoded.vector, boxes, obj_to_img, triples, num_scenes)
        return SideOutputs(
            token,
            self._scene_vectors(token),
            objects,
            encoded.embedding,
            encoded.logits,
            *self._heads(objects, with_masks),
        )

    def _inference(self, encode: Callable, channels: int) -> tuple[Callable, Callable]:
        """Compiled functions of images and graph for sizes of any kind, without and with masks."""
        side = self.hparams.image_size
        signature = [
            tf.TensorSpec((None, side, side, channels), tf.uint8),
            tf.TensorSpec((None, 4), tf.float32),  # boxes
            tf.TensorSpec((None,), tf.int32),  # obj_to_img
            tf.TensorSpec((None, 3), tf.int32),  # triples
            tf.TensorSpec((), tf.int32),  # num_scenes
        ]

        def compiled(with_masks: bool) -> Callable:
            def run(images, boxes, obj_to_img, triples, num_scenes):
                encoded = encode(images)
                return self._side(encoded, boxes, obj_to_img, triples, num_scenes, with_masks)

            return tf.function(run, input_signature=signature, autograph=False)

        # A tuple: checkpoints cannot walk through a dict with keys that are no strings.
        return compiled(False), compiled(True)


def _graph_arguments(graph: Graph, num_scenes: int | None) -> tuple[tf.Tensor, ...]:
    if num_scenes is None:
        num_scenes = tf.reduce_max(graph.obj_to_img) + 1
    return graph.boxes, graph.obj_to_img, graph.triples, tf.cast(num_scenes, tf.int32)
