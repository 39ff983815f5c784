"""Test-time augmentation (TTA): predict a scan many times and measure how much the views differ.

A scan is predicted by each ensemble member, at each scale, not mirrored and mirrored along each
axis. :mod:`hstf.method.uncertainty` computes three maps from all these views. The Dice between each
group of views and the mean (:mod:`hstf.method.view_agreement`) becomes a quality feature of the
case (:mod:`hstf.method.plr.predicted_dice`).
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hstf.imaging.regions import Structures, class_count
from hstf.imaging.spacing import Spacing, axis_zooms
from hstf.method.group_means import GroupMeans
from hstf.method.sliding_window import SlidingWindow, flipped_probabilities
from hstf.method.tta_summary import TtaSummary
from hstf.method.uncertainty import summarise


def predict_with_tta(
    networks: Mapping[str, nn.Module],
    image: Tensor,
    window: SlidingWindow,
    scales: Sequence[float],
    flip_axes: Sequence[int],
    structures: Structures,
    voxel_ml: float,
) -> TtaSummary:
    """Predict ``image`` with every network at every scale, unchanged and mirrored along each axis.

    Args:
        networks: networks of the ensemble, by name.
        image: ``(C, X, Y, Z)``, normalised, on the planned grid.
        window: the sliding window.
        scales: sizes of the anatomy relative to the planned grid.
        flip_axes: axes (0, 1, 2) to mirror, one at a time.
        structures: classes of each structure whose agreement is measured.
        voxel_ml: volume of a voxel of the grid in millilitres.

    Raises:
        HstfError: if GPU memory or temporary disk space is too small.

    Example:
        >>> network = nn.Conv3d(1, 2, kernel_size=1)
        >>> window = SlidingWindow((8, 8, 8), (1, 1, 1), 0.5, 2, "off", torch.device("cpu"))
        >>> image = torch.zeros(1, 8, 8, 8)
        >>> organ = {"organ": (1,)}
        >>> summary = predict_with_tta({"seed_0": network}, image, window, [1.0], [0], organ, 0.001)
        >>> summary.probabilities.shape
        (2, 8, 8, 8)
    """
    axes: dict[str, int | None] = {"none": None}
    for axis in flip_axes:
        axes[str(axis)] = axis
    keys = {
        "scales": [str(float(scale)) for scale in scales],
        "members": list(networks),
        "flips": list(axes),
    }
    shape = (class_count(structures), *image.shape[1:])
    means = GroupMeans(keys, shape)
    for scale in scales:
        zoomed = zoom_image(image, scale, window.spacing)
        for flip, member in product(axes, networks):
            groups = {"scales": str(float(scale)), "members": member, "flips": flip}
            network = networks[member]
            # The view has no name of its own: it is freed before the next one is computed.
            means.add(
                flipped_probabilities(
                    window,
                    network,
                    zoomed,
                    axes[flip],
                    scale,
                ),
                groups,
            )
    return summarise(means, structures, voxel_ml)


def ensemble_label(
    networks: Sequence[nn.Module],
    image: Tensor,
    window: SlidingWindow,
) -> np.ndarray:
    """Return the most likely class ``(X, Y, Z)`` uint8 by the mean of ``networks``, without TTA."""
    total = window.probabilities(networks[0], image)
    # One network after the other: each result is as large as the scan times its classes.
    for network in networks[1:]:
        total += window.probabilities(network, image)
    return total.argmax(0).numpy().astype(np.uint8)


def zoom_image(
    image: Tensor,
    scale: float,
    spacing: Spacing = (1.0, 1.0, 1.0),
) -> Tensor:
    """Resample an image to ``scale`` times its size with trilinear interpolation.

    Thick slices keep their number, as in the views of cross-scale consistency
    (:func:`hstf.imaging.spacing.axis_zooms`). An image that becomes smaller is smoothed first to
    avoid aliasing, with sigma ``(1/scale - 1) / 2`` voxels, as in scikit-image.

    Args:
        image: ``(C, X, Y, Z)``.
        scale: size of the result relative to ``image``.
        spacing: voxel size of ``image`` in mm.
    """
    if scale == 1.0:
        return image
    batch = image[None].float()
    axis_scales = axis_zooms(scale, spacing)
    if scale < 1:
        axes = [axis for axis, axis_scale in enumerate(axis_scales) if axis_scale != 1]
        batch = _smoothed(batch, (1 / scale - 1) / 2, axes)
    size = []
    for voxels, axis_scale in zip(image.shape[1:], axis_scales, strict=True):
        size.append(max(1, round(voxels * axis_scale)))
    return F.interpolate(
        batch,
        size=size,
        mode="trilinear",
        align_corners=False,
    )[0]


def _smoothed(
    image: Tensor,
    sigma: float,
    axes: Sequence[int],
) -> Tensor:
    """Smooth ``image`` ``(B, C, D, H, W)`` with a Gaussian along ``axes`` (0, 1, 2).

    A weight of the kernel is the integral of the Gaussian over a voxel. The border is replicated.
    """
    radius = int(max(4 * sigma, 0.5) + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    factor = math.sqrt(0.5) / sigma
    kernel = 0.5 * ((factor * (offsets + 0.5)).erf() - (factor * (offsets - 0.5)).erf())
    channels = image.shape[1]
    for axis in axes:
        padding = [0] * 6
        padding[4 - 2 * axis : 6 - 2 * axis] = [radius, radius]  # `pad` counts axes from the last
        shape = [1] * 5
        shape[2 + axis] = len(kernel)
        weights = kernel.reshape(shape).expand(channels, *shape[1:])
        image = F.conv3d(F.pad(image, padding, mode="replicate"), weights, groups=channels)
    return image
