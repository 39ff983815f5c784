"""What every network has in common: its specification, the sizes that it takes, its answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

Triple = tuple[int, int, int]
Zoom = float | Sequence[float]
"""How much larger than planned the anatomy appears in an image, along each axis or along all alike."""


@dataclass(frozen=True)
class NetworkSpec:
    """All that it takes to build a network again; plain JSON values, stored beside its weights."""

    name: str
    """A key of :data:`hstf.models.registry.NETWORKS`."""
    inputs: int
    """Channels of the image."""
    classes: int
    channels: tuple[int, ...]
    """Channels of each level, finest first."""
    strides: tuple[Triple, ...]
    """Stride into each level; the first is (1, 1, 1)."""
    kernels: tuple[Triple, ...]
    spacing: tuple[float, float, float]
    """Voxel size (mm) of the input."""
    transformer_layers: int = 4
    transformer_heads: int = 8
    transformer_stride: int = 8
    drop_path: float = 0.1
    dropout: float = 0.0
    patch_size: Triple = (96, 96, 96)
    """Patch (voxels) of the plan; others are taken as well."""
    pair: tuple[str, ...] = ()
    """The names of the two networks of a ``pair``."""
    regions: tuple[tuple[int, ...], ...] = ()
    """Class indices of each sigmoid head (:mod:`hstf.models.registry.regions`); none: a softmax over the classes."""
    shortest_mm: tuple[float, float, float] = (4.0, 4.0, 4.0)
    """Shortest wavelength of the transformer's positions along each axis (mm)."""


@dataclass
class Pyramid:
    """What a network says at every level of its decoder."""

    logits: list[Tensor]
    """``(B, K, D/s, H/s, W/s)``, finest (s = 1) first; a network without a decoder pyramid gives one level."""
    features: Tensor
    """``(B, C, d, h, w)``: a deep feature map that covers the same field of view as the image."""


class SegmentationNetwork(nn.Module):
    """A network that gives every voxel the logits of its classes."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K, D, H, W)`` of the image ``(B, C, D, H, W)``; sizes are multiples of :attr:`divisor`."""
        return self.pyramid(x).logits[0]

    def pyramid(self, x: Tensor, zoom: Zoom = 1.0) -> Pyramid:
        """Logits of every decoder level and the deep features.

        Args:
            zoom: how much larger than planned the anatomy appears in ``x``, for positions in true millimetres.
        """
        raise NotImplementedError

    @property
    def divisor(self) -> Triple:
        """Input sizes must be multiples of this: the total stride of the plan's levels."""
        return tuple(prod(s[axis] for s in self.spec.strides) for axis in range(3))  # type: ignore[return-value]

    @property
    def parts(self) -> tuple["SegmentationNetwork", ...]:
        """The networks that learn each on its own: itself, or the two of a pair."""
        return (self,)
