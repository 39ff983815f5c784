"""``network:``, the segmentation network."""

from typing import Literal

from pydantic import Field

from hstf.config.section import Section

Name = Literal["hybrid", "hybrid_identity", "cnn", "vit", "swin", "unetpp", "utnet", "vnet"]


class NetworkConfig(Section):
    """One network for warm-up and student; its levels and channels come from ``plan.json``."""

    name: Name | Literal["pair"] = "hybrid"
    """``hybrid``: residual CNN with transformer layers on the deep feature map; ``hybrid_identity``: the same without
    the transformer; ``cnn``: with as many parameters of residual convolutions in its place; ``utnet``: U-Net with
    efficient attention (UTNet in 3D); MONAI's ``vit`` (UNETR), ``swin`` (Swin UNETR), ``unetpp`` (UNet++) and ``vnet``;
    ``pair``: two of them, see there. `hstf models` prints parameters and operations of each."""
    pair: tuple[Name, Name] = ("hybrid", "cnn")
    """With ``name: pair``: the two networks. They predict with the mean of their probabilities."""
    transformer_layers: int = Field(4, ge=1)
    """Transformer layers on the deep feature map."""
    transformer_heads: int = Field(8, ge=1)
    """Attention heads; halved until twice their number divides the width of the level that attends (in `utnet` of every
    level)."""
    transformer_stride: int = Field(8, ge=2)
    """Largest in-plane stride of the feature map that the transformer sees (the deepest level with at most this stride)."""
    drop_path: float = Field(0.1, ge=0, lt=1)
    """Stochastic depth: the chance that a transformer layer is skipped for a case in training."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the deepest feature map."""
    deep_supervision: bool = True
    """Also train the coarser decoder levels."""
