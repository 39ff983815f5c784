"""Overlapping regions: a network with one sigmoid head for each region that returns class logits.

Let z be the log-odds of the regions from the heads. Let M be the 0/1 matrix with M[k, r] = 1 if
class k belongs to region r; the background belongs to no region. With independent sigmoids, the set
b of regions of a voxel has a probability proportional to exp(b . z). Only the rows of M are sets
that a label can have. If b is restricted to them, class k has the probability softmax(M z)[k].
Hence the logits y = M z are all that is needed, and teacher, refinement, consistency and prediction
work with classes. The probability of a region is the sum over its classes
(:func:`hstf.training.losses.region_log_odds`).

The region-based training of nnU-Net (Isensee et al., nnU-Net for brain tumor segmentation, BrainLes
2020) keeps the sigmoids independent: the probability of an enhancing tumour may be higher than that
of the whole tumour around it, and the order of writing resolves such contradictions. Here, the
probability of a part is at most that of the whole, and training and prediction use the same
classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hstf.imaging.spacing import Triple
from hstf.models.base import NetworkSpec, Pyramid, SegmentationNetwork, Zoom


class RegionNetwork(SegmentationNetwork):
    """A network that computes class logits from the region log-odds of another network.

    Args:
        spec: the specification, with ``regions``.
        network: returns the log-odds of each region.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        network: SegmentationNetwork,
    ) -> None:
        super().__init__(spec)
        self.network = network

    @property
    def divisor(self) -> Triple:
        """Input sizes must be multiples of it."""
        return self.network.divisor

    def pyramid(
        self,
        x: Tensor,
        zoom: Zoom = 1.0,
    ) -> Pyramid:
        """Compute logits and features, see :class:`SegmentationNetwork`."""
        result = self.network.pyramid(x, zoom)
        levels = []
        for level in result.logits:
            levels.append(class_logits(level, self.spec.regions, self.spec.classes))
        return Pyramid(levels, result.features)

    def encode(self, x: Tensor) -> Tensor:
        """Compute the deepest feature map, see :class:`SegmentationNetwork`."""
        return self.network.encode(x)


def class_logits(
    z: Tensor,
    regions: Sequence[Sequence[int]],
    classes: int,
) -> Tensor:
    """Compute the class logits y = M z ``(B, K, ...)`` float32.

    They are sums and not a matrix product, because autocast would compute a product in half
    precision.

    Args:
        z: log-odds of the regions ``(B, R, ...)``.
        regions: class indices of each region.
        classes: number of classes K.
    """
    heads = z.float().unbind(1)
    rows = []
    for index in range(classes):
        row = torch.zeros_like(heads[0])
        for head, region in zip(heads, regions, strict=True):
            if index in region:
                row = row + head
        rows.append(row)
    return torch.stack(rows, dim=1)
