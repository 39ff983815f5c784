"""``network:``, the segmentation network."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hstf.config.networks import NETWORKS
from hstf.config.section import Section

if TYPE_CHECKING:
    Name = str
    NameOrPair = str
else:
    # The names come from the list of networks, so that a new network needs no second edit here.
    Name = Literal[tuple(NETWORKS)]
    NameOrPair = Literal[(*NETWORKS, "pair")]


class NetworkConfig(Section):
    """The network of the warm-up and the students.

    The numbers of levels and channels come from ``plan.json``.
    """

    name: NameOrPair = "hybrid"
    """``hybrid``: residual CNN with transformer layers on a deep feature map;
    ``hybrid_identity``: ``hybrid`` without the transformer; ``cnn``: ``hybrid`` with residual
    convolutions of the same number of parameters instead of the transformer; ``utnet``: U-Net with
    efficient attention (UTNet in 3D); ``vit`` (UNETR), ``swin`` (Swin UNETR), ``unetpp`` (UNet++)
    and ``vnet``, all from MONAI; ``pair``: the two networks of the key ``pair``. The command
    ``hstf models`` prints the number of parameters and operations of each network."""
    pair: tuple[Name, Name] = ("hybrid", "cnn")
    """The two networks of ``name: pair``. The prediction is the mean of their probabilities."""
    transformer_layers: int = Field(4, ge=1)
    """Number of transformer layers."""
    transformer_heads: int = Field(8, ge=1)
    """Maximum number of attention heads. A head has at least 32 channels, and twice the number of
    heads divides the channels of the level with the transformer (in ``utnet``: of every level; its
    heads may be narrower)."""
    transformer_stride: int = Field(8, ge=2)
    """Maximum in-plane stride of the feature map that the transformer sees. It is the deepest level
    with at most this stride."""
    drop_path: float = Field(0.1, ge=0, lt=1)
    """Stochastic depth: probability that the last transformer layer is skipped for a case during
    training. The probability grows linearly from the first layer to the last."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropout of the channels of the deepest feature map."""
    deep_supervision: bool = True
    """Also compute the loss on the coarser levels of the decoder."""
