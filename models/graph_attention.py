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

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from core.dataset import Vocabulary
from core.errors import HParamError, UsageError
from core.model import (
    PLAIN,
    Attention,
    EncodedObjects,
    Numerics,
    SceneGraphModel,
    SceneOutputs,
)
from core.registry import MODELS
from models.encoders import ObjectRepresentation
from models.graph_attention_hparams import GraphAttentionHParams
from models.layers.box_head import BoxHead
from models.layers.discriminators import ARCHITECTURES, MaskDiscriminator
from models.layers.graph_conv import GraphConvNet, box_attributes, join_graphs
from models.layers.mask_net import MaskNet
from models.layers.scene_transformer import SceneSum, SceneTransformer
from models.optimizers import FusedAdam, descend, trained
from models.scene_losses import (
    Outputs,
    Scores,
    discriminator_loss,
    loss_weights,
    scene_losses,
)


@MODELS.register("graph-attention")
class GraphAttention(SceneGraphModel):
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
        numerics: Numerics = PLAIN,
    ):
        super().__init__(hparams, vocabulary, iterations, mask_size, numerics)
        dim, classes = hparams.gconv_dim, vocabulary.num_classes
        gcn = functools.partial(tf.keras.layers.Dense, dim)
        with numerics.layers():
            self.objects = ObjectRepresentation(hparams, classes)
            self.gcn = gcn() if hparams.abbl_skip_graph else self._make_gcn()
            sums = hparams.abbl_skip_transformer
            self.transformer = SceneSum() if sums else self._make_transformer()
            self.mask_net = MaskNet(mask_size, hparams.mask_width, hparams.g_mask_norm)
            without = hparams.abbl_no_mask_gan
            self.discriminator = None if without else self._make_discriminator()
        self.projection = None if hparams.no_global_contrastive else tf.keras.layers.Dense(dim)
        self.classifier = tf.keras.layers.Dense(classes) if hparams.clas_on_final else None
        self.box_head = BoxHead(512)
        self._build()

        rate = hparams.learning_rate
        self.optimizers = {"main": FusedAdam(rate, numerics=numerics)}
        self.optimizers["main"].build(self.generator_variables())
        if self.discriminator is not None:
            self.optimizers["discriminator"] = FusedAdam(4 * rate, 0.5, 0.999, numerics)
            self.optimizers["discriminator"].build(self.discriminator.trainable_variables)

        # A tuple: checkpoints cannot walk through a dict with keys that are no strings.
        self._contextualised = tuple(
            self._inference(functools.partial(self._side, with_masks=masks))
            for masks in (False, True)
        )
        self._attended = self._inference(self._attention)

    def _make_gcn(self) -> GraphConvNet:
        hps = self.hparams
        return GraphConvNet(
            len(self.vocabulary.predicates),
            hps.obj_pred_embedding_dim,
            hps.gconv_dim,
            hps.gconv_hidden_dim,
            hps.gconv_num_layers,
            hps.gconv_pooling,
            hps.gcn_activation,
            hps.mlp_normalization,
        )

    def _make_transformer(self) -> SceneTransformer:
        hps = self.hparams
        return SceneTransformer(
            hps.gconv_dim,
            hps.g_enc_n_heads,
            512,
            hps.g_enc_n_layers,
            hps.dropout,
            hps.use_pos_encoding,
        )

    def _make_discriminator(self) -> MaskDiscriminator:
        hps = self.hparams
        filters, strided = ARCHITECTURES[hps.layout_d_arch]
        return MaskDiscriminator(
            self.vocabulary.num_classes, filters, strided, hps.use_sn_mask_dis, hps.d_layout_norm
        )

    def _build(self) -> None:
        """Makes all variables, by a pass of one blank object."""
        blank = tf.zeros((1, self.hparams.edge_repr_net_hidden_size))
        zero = tf.zeros((1,), tf.int32)
        graph = (tf.zeros((1, 4)), zero, tf.zeros((1, 3), tf.int32))
        self._side(blank, *graph, tf.constant(1), with_masks=True)
        if self.discriminator is not None:
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

    def generator_variables(self, masked: bool = True) -> tuple[tf.Variable, ...]:
        """All that the main optimizer trains: not the discriminator, nor the parts of stage 1 that
        nothing trains here because their loss is ablated, nor, unless the batch is `masked`, the
        mask network."""
        losses_here = self.loss_weights()
        idle = [] if self.discriminator is None else [self.discriminator]
        if not masked:
            idle.append(self.mask_net)
        if "enc_obj_clas_loss" not in losses_here:
            idle += [self.objects.photo_classifier, self.objects.sketch_classifier]
        if "obj_triplet_loss" not in losses_here:
            idle.append(self.objects.projection)
        return trained(self, idle)

    # --- training ---

    def forward(self, batch: Any, dropout_seed: tf.Tensor | None, training: bool) -> Outputs:
        """All views of a batch, each thing computed once. dropout_seed: int (2,), None: none.
        Masks are made only for a batch that has them."""
        hps = self.hparams
        scenes = tf.shape(batch.image_ids)[0]
        crops = tf.concat([batch.crops, batch.negative_crops], axis=0)
        both = self.objects.photos(crops, training)
        photo, negative = (
            EncodedObjects(*parts) for parts in zip(*(tf.split(part, 2) for part in both))
        )
        sketch = self.objects.sketches(batch.sketches, training)

        views = [(photo, batch.photo), (negative, batch.photo), (sketch, batch.query)]
        if hps.no_global_contrastive or hps.abbl_no_shuffled_negative:
            del views[1]  # nothing reads the synthetic negative scenes
        encoded, graphs = zip(*views)
        joined, contextual = self._contextualise(
            tf.concat([view.vector for view in encoded], axis=0),
            *join_graphs(graphs, scenes),
            len(views) * scenes,
            dropout_seed,
            training,
            len(views),
        )
        tokens = tf.split(joined, len(views))
        vectors = self._scene_vectors(joined)
        vectors = [None] * len(views) if vectors is None else tf.split(vectors, len(views))
        objects = tf.split(contextual, [tf.shape(view.vector)[0] for view in encoded])

        sizes = [tf.shape(batch.crops)[0], tf.shape(batch.sketches)[0]]
        ends = tf.concat([objects[0], objects[-1]], axis=0)  # (O + Q, D)
        masked = objects[0] if hps.abbl_no_skt_mask_loss else ends
        masked = None if batch.masks is None else masked
        logits, boxes, masks = self._heads(ends, masked, training)
        logits = [None, None] if logits is None else tf.split(logits, sizes)
        boxes = tf.split(boxes, sizes)
        both_sides = masks is not None and not hps.abbl_no_skt_mask_loss
        masks = tf.split(masks, sizes) if both_sides else [masks, None]
        photo_side, query_side = (
            SceneOutputs(
                tokens[i],
                vectors[i],
                objects[i],
                logits[i],
                boxes[i],
                masks[i],
            )
            for i in (0, -1)
        )
        scrambled = vectors[1] if len(views) == 3 else None
        return Outputs(photo_side, query_side, photo, sketch, negative, scrambled)

    def _contextualise(
        self,
        vectors: tf.Tensor,
        boxes: tf.Tensor,
        obj_to_img: tf.Tensor,
        triples: tf.Tensor,
        num_scenes: tf.Tensor,
        dropout_seed: tf.Tensor | None = None,
        training: bool = False,
        views: int = 1,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Object vectors (O, D) -> scene tokens (N, D), contextual objects (O, D)."""
        related = self._relate(vectors, boxes, triples, training)
        return self.transformer(related, boxes, obj_to_img, num_scenes, dropout_seed, views)

    def _relate(
        self, vectors: tf.Tensor, boxes: tf.Tensor, triples: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Object vectors (O, D) -> (O, D) that know of their relations."""
        if self.hparams.use_pos_on_graph:
            vectors = tf.concat([vectors, box_attributes(boxes)], axis=1)
        if self.hparams.abbl_skip_graph:
            return self.gcn(vectors)
        return self.gcn(vectors, triples, training=training)

    def _scene_vectors(self, tokens: tf.Tensor) -> tf.Tensor | None:
        if self.projection is None:
            return None
        return tf.math.l2_normalize(self.projection(tokens), axis=-1)

    def _heads(
        self, objects: tf.Tensor, masked: tf.Tensor | None, training: bool = False
    ) -> tuple[tf.Tensor | None, tf.Tensor, tf.Tensor | None]:
        """Contextual objects (O, D) -> class logits (None: not clas_on_final), boxes, and the mask
        logits of the objects `masked` (None: none)."""
        masks = None if masked is None else self.mask_net(masked, training=training)
        classes = None if self.classifier is None else self.classifier(objects)
        return classes, self.box_head(objects), masks

    def score_masks(self, outputs: Outputs, batch: Any) -> Scores:
        """The discriminator on real masks and on those made; moves its spectral norms by a step.

        Two passes, so that what trains the generator is not led back through the real masks too.
        """
        sides = [(outputs.photo, batch.photo), (outputs.query, batch.query)]
        if self.hparams.abbl_no_skt_mask_loss:
            del sides[1]
        made, made_features = self.discriminator(
            tf.concat([side.masks for side, _ in sides], axis=0),
            tf.concat([graph.classes for _, graph in sides], axis=0),
            training=True,
        )
        # training=False: the norms have moved already.
        real, real_features = self.discriminator(
            tf.cast(batch.masks, tf.float32), batch.photo.classes, training=False
        )
        sizes = [tf.shape(graph.classes)[0] for _, graph in sides]
        features = list(zip(*(tf.split(maps, sizes) for maps in made_features)))
        return Scores(real, tf.split(made, sizes), real_features, features)

    def loss_weights(self, masked: bool = True) -> dict[str, float]:
        """The weight of each loss in the total; ablated ones are left out, and those of masks for
        batches that are not `masked`."""
        return loss_weights(self.hparams, masked)

    @tf.autograph.experimental.do_not_convert  # no tensor decides a branch: tracing takes half
    def train_step(self, batch: Any, step: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        step_seed = tf.stack([tf.cast(seed, tf.int64), step])
        dropout_seed, noise_seed = tf.unstack(tf.random.experimental.stateless_split(step_seed, 2))
        masked = batch.masks is not None  # of the loader, so known when this is traced
        scores, critic = None, {}
        with tf.GradientTape() as tape:
            outputs = self.forward(batch, dropout_seed, training=True)
            if self.discriminator is not None and masked:
                # One pass of it serves both optimizers: this inner tape sees nothing before it.
                with tf.GradientTape() as critic_tape:
                    scores = self.score_masks(outputs, batch)
                    smooth = self.hparams.use_lab_smooth
                    critic["d_mask_loss"] = discriminator_loss(scores, noise_seed, smooth)
            named = scene_losses(self.hparams, outputs, scores, batch)
            weights = self.loss_weights(masked)
            total = tf.add_n([weights[name] * loss for name, loss in named.items()])
        if critic:
            descend(
                self.optimizers["discriminator"],
                critic_tape,
                critic["d_mask_loss"],
                self.discriminator.trainable_variables,
            )
        descend(self.optimizers["main"], tape, total, self.generator_variables(masked))
        return {**named, **critic, "total_loss": total, **self.loss_scales()}

    # --- inference ---

    @classmethod
    def crop_size(cls, hparams: GraphAttentionHParams) -> int:
        return hparams.image_size

    @property
    def vector_names(self) -> tuple[str, ...]:
        if self.hparams.no_global_contrastive:
            return ("token",)
        names = ("token", "projection")
        return names if self.hparams.retrieval_vector == "token" else names[::-1]

    def embed_photos(self, crops: tf.Tensor) -> EncodedObjects:
        return self.objects.embed_photos(crops)

    def embed_sketches(self, sketches: tf.Tensor) -> EncodedObjects:
        return self.objects.embed_sketches(sketches)

    def contextualise(
        self,
        vectors: tf.Tensor,
        boxes: tf.Tensor,
        obj_to_img: tf.Tensor,
        triples: tf.Tensor,
        num_scenes: int,
        with_masks: bool = True,
    ) -> SceneOutputs:
        count = tf.cast(num_scenes, tf.int32)
        return self._contextualised[with_masks](vectors, boxes, obj_to_img, triples, count)

    def attention(
        self,
        vectors: tf.Tensor,
        boxes: tf.Tensor,
        obj_to_img: tf.Tensor,
        triples: tf.Tensor,
        num_scenes: int,
    ) -> Attention:
        if self.hparams.abbl_skip_transformer:
            raise UsageError(
                "a model with abbl_skip_transformer=True has no Transformer, so no attention to "
                "show: choose another run"
            )
        count = tf.cast(num_scenes, tf.int32)
        return self._attended(vectors, boxes, obj_to_img, triples, count)

    def _inference(self, function: Callable) -> Callable:
        """A compiled function of one side of some scenes, for sizes of any kind."""
        signature = [
            tf.TensorSpec((None, self.hparams.edge_repr_net_hidden_size), tf.float32),  # vectors
            tf.TensorSpec((None, 4), tf.float32),  # boxes
            tf.TensorSpec((None,), tf.int32),  # obj_to_img
            tf.TensorSpec((None, 3), tf.int32),  # triples
            tf.TensorSpec((), tf.int32),  # num_scenes
        ]
        return tf.function(function, input_signature=signature, autograph=False)

    def _side(self, vectors, boxes, obj_to_img, triples, num_scenes, with_masks) -> SceneOutputs:
        token, objects = self._contextualise(vectors, boxes, obj_to_img, triples, num_scenes)
        heads = self._heads(objects, objects if with_masks else None)
        return SceneOutputs(token, self._scene_vectors(token), objects, *heads)

    def _attention(self, vectors, boxes, obj_to_img, triples, num_scenes) -> Attention:
        related = self._relate(vectors, boxes, triples)
        return self.transformer.attention(related, boxes, obj_to_img, num_scenes)
