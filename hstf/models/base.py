"""What all networks have in common: the specification, the base class and the result."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from hstf.imaging.spacing import Triple
from hstf.models.levels import total_stride

Zoom = float | Sequence[float]
"""How much larger than planned the anatomy appears in an image: a factor for each axis, or one
factor for all axes."""


@dataclass(frozen=True)
class NetworkSpec:
    """Everything that is needed to build a network again.

    The specification has plain JSON values only and is stored with the weights.
    """

    name: str
    """A name in :data:`hstf.config.networks.NETWORKS`, or ``pair``."""
    inputs: int
    """Number of channels of the image."""
    classes: int
    """Number of classes, with the background."""
    channels: tuple[int, ...]
    """Channels of each level, finest first."""
    strides: tuple[Triple, ...]
    """Stride into each level; the first is (1, 1, 1)."""
    kernels: tuple[Triple, ...]
    """Size of the convolution kernels of each level."""
    spacing: tuple[float, float, float]
    """Voxel size (mm) of the input."""
    transformer_layers: int = 4
    transformer_heads: int = 8
    transformer_stride: int = 8
    """Maximum in-plane stride of the level with the transformer."""
    drop_path: float = 0.1
    """Probability that the last transformer layer is skipped for a case during training."""
    dropout: float = 0.0
    """Dropout probability of channels of the deepest feature map."""
    patch_size: Triple = (96, 96, 96)
    """Planned patch (voxels). The network also accepts other sizes."""
    pair: tuple[str, ...] = ()
    """Names of the two networks of a ``pair``."""
    regions: tuple[tuple[int, ...], ...] = ()
    """Class indices of each sigmoid head (:mod:`hstf.models.regions`); if empty, the network has a
    softmax over the classes."""
    shortest_mm: tuple[float, float, float] = (4.0, 4.0, 4.0)
    """Minimum wavelength (mm) of the positions of the transformer along each axis."""


@dataclass
class Pyramid:
    """The result of a network at every level of its decoder."""

    logits: list[Tensor]
    """``(B, K, D/s, H/s, W/s)``, finest (s = 1) first. A network without a pyramid returns one
    level."""
    features: Tensor
    """``(B, C, d, h, w)``: a deep feature map with the same field of view as the image."""


class SegmentationNetwork(nn.Module):
    """Base class of networks that return class logits for every voxel."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits ``(B, K, D, H, W)`` of the image ``x`` ``(B, C, D, H, W)``.

        The sizes of ``x`` must be multiples of :attr:`divisor`.
        """
        return self.pyramid(x).logits[0]

    def pyramid(
        self,
        x: Tensor,
        zoom: Zoom = 1.0,
    ) -> Pyramid:
        """Compute the logits of every decoder level and the deep features.

        Args:
            x: the image ``(B, C, D, H, W)``.
            zoom: how much larger than planned the anatomy appears in ``x``. Networks whose
                positions are in millimetres need it.
        """
        raise NotImplementedError

    def encode(self, x: Tensor) -> Tensor:
        """Compute the deepest feature map ``(B, C, d, h, w)`` of the image ``x``.

        Networks whose encoder cannot be computed without the decoder return the deep features of
        :meth:`pyramid`.
        """
        return self.pyramid(x).features

    @property
    def divisor(self) -> Triple:
        """The total stride of the planned levels. Input sizes must be multiples of it."""
        return total_stride(self.spec.strides)

    @property
    def parts(self) -> tuple["SegmentationNetwork", ...]:
        """The networks with a loss of their own: this one, or the two of a pair."""
        return (self,)
