"""Overlapping regions: a network with a sigmoid head for each, that answers with the logits of classes as any other does.

Let z be the log-odds that the heads give the regions, and M the 0/1 matrix of which class (row) lies in which region; the
background lies in none. Independent sigmoids give a voxel the set b of regions with probability proportional to
exp(b . z). Of all sets, only the rows of M can be written as a label. Restricted to them, class k has the probability
softmax(M z)_k: logits y = M z are all that it takes, and teacher, refinement, consistency and prediction see classes.
The probability of a region is the sum over its classes (:func:`hstf.training.losses.region_log_odds`).

The region-based training of nnU-Net (Isensee et al., nnU-Net for brain tumor segmentation, BrainLes 2020) leaves the
sigmoids independent: an enhancing tumour may be likelier than the whole tumour around it, and an order of writing settles
the contradictions. Here a part is never likelier than the whole, and what is trained is what is written.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hstf.models.base import NetworkSpec, Pyramid, SegmentationNetwork, Triple, Zoom


class RegionNetwork(SegmentationNetwork):
    """``network`` gives the log-odds of the regions of ``spec``; this one the logits of the classes."""

    def __init__(self, spec: NetworkSpec, network: SegmentationNetwork) -> None:
        super().__init__(spec)
        self.network = network

    @property
    def divisor(self) -> Triple:
        """See :class:`SegmentationNetwork`."""
        return self.network.divisor

    def pyramid(self, x: Tensor, zoom: Zoom = 1.0) -> Pyramid:
        """See :class:`SegmentationNetwork`."""
        answer = self.network.pyramid(x, zoom)
        levels = [
            class_logits(level, self.spec.regions, self.spec.classes) for level in answer.logits
        ]
        return Pyramid(levels, answer.features)


def class_logits(z: Tensor, regions: Sequence[Sequence[int]], classes: int) -> Tensor:
    """``y = M z`` ``(B, K, ...)`` float32 of the log-odds ``(B, R, ...)`` of regions, given by the indices of their classes.

    Sums, not a matrix product: that would be taken in half precision where the network computes so.
    """
    heads = z.float().unbind(1)
    nothing = torch.zeros_like(heads[0])
    rows = [
        [head for head, members in zip(heads, regions, strict=True) if k in members]
        for k in range(classes)
    ]
    return torch.stack([sum(row, nothing) for row in rows], dim=1)
