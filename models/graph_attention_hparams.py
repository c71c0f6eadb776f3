"""Hparams of stages 2 and 3. Ablations of the paper: `abbl_*`, `no_global_contrastive`,
`clas_on_final`, `use_pos_encoding`. What is ablated is neither computed nor logged."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import HParamError
from core.hparams import hp
from models.encoders import EncoderHParams
from models.layers.discriminators import ARCHITECTURES
from models.layers.graph_conv import ACTIVATIONS, POOLINGS


@dataclass(frozen=True)
class GraphAttentionHParams(EncoderHParams):
    """Stages 2 and 3."""

    learning_rate: float = hp(1e-4, "constant; the discriminator's is 4 x this", low=0.0)
    pt_mdomain_id: str = hp("", "id of the stage 1 run to start from")

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
