"""Deep features of the slices of a scan: how similar two slices look to a network."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hstf.method.sliding_window import window_boxes
from hstf.models.base import SegmentationNetwork


@torch.no_grad()
def slice_features(
    network: SegmentationNetwork,
    image: Tensor,
    window: Sequence[int],
    axis: int,
    device: torch.device,
) -> np.ndarray:
    """Return the mean deep features of each slice.

    Args:
        network: in evaluation mode, on ``device``.
        image: ``(C, X, Y, Z)``, normalised, on the planned grid.
        window: size of the window (voxels), a multiple of the divisor of the network.
        axis: the axis across the slices.
        device: where the network computes.

    Returns:
        ``(S, F)`` float32.

    Example:
        >>> from hstf.models.base import NetworkSpec
        >>> from hstf.models.registry import build
        >>> once, twice = (1, 1, 1), (2, 2, 2)
        >>> spec = NetworkSpec("cnn", 1, 2, (4, 8), (once, twice), (once, once), (1.0, 1.0, 1.0))
        >>> image = torch.zeros(1, 8, 8, 6)
        >>> slice_features(build(spec).eval(), image, (8, 8, 4), 2, torch.device("cpu")).shape
        (6, 8)
    """
    slices = image.shape[axis + 1]
    padding: list[int] = []
    for size, edge in zip(image.shape[1:], window, strict=True):
        padding = [0, max(0, edge - size), *padding]  # pad counts axes from the last
    padded = F.pad(image, padding)
    planes = tuple(other + 1 for other in range(3) if other != axis)
    total = torch.zeros(0)
    count = torch.zeros(padded.shape[axis + 1])
    for box in window_boxes(padded.shape[1:], window, 0.0):
        features = network.pyramid(padded[:, *box][None].to(device)).features[0].float()
        by_depth = features.mean(dim=planes).cpu()
        inside = F.interpolate(by_depth[None], size=window[axis], mode="nearest")[0]
        if not len(total):
            total = torch.zeros(len(inside), len(count))
        total[:, box[axis]] += inside
        count[box[axis]] += 1
    return (total / count.clamp_min(1))[:, :slices].T.contiguous().numpy()
