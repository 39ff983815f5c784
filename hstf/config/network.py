"""``network:``, the segmentation network."""

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from hstf.config.networks import NETWORKS
from hstf.config.section import FileName, Section

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
    start: FileName | None = None
    """File of weights, of another experiment or of another program, from which all trainings start
    that would start from random weights. Tensors are taken where name and shape fit, without the
    output layers. The first layers are adapted to the number of channels. null: the result of
    ``pretrain:``, or random weights if it is off."""
    start_keys: dict[str, str] = {}
    """Names in this file: ``{their prefix: our prefix}``. The longest prefix that fits is
    replaced, all other names stay."""
    start_part: Literal["network", "encoder"] = "network"
    """What is taken from ``start`` or from ``pretrain:``: all that fits (``network``), or only the
    encoder and the transformer (``encoder``). The decoder then starts from random weights."""
    start_rate: float = Field(1.0, ge=0)
    """Factor on the learning rate of the weights that were taken from ``start`` or from
    ``pretrain:``, in the trainings that start from them."""

    @model_validator(mode="after")
    def _check_start_keys(self) -> Self:
        if self.start_keys and self.start is None:
            raise ValueError("start_keys has no effect without start: name the file of the weights")
        return self


START_KEYS = ("start", "start_keys", "start_part", "start_rate")
"""Keys about the initial weights. All others are about the architecture."""
