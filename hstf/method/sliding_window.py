"""Predict whole images with networks that see patches: the sliding window.

A window moves over the image. Logits of overlapping windows are averaged with Gaussian weights and
then turned into probabilities, as in nnU-Net (Isensee et al., Nature Methods 2021). The window
grows with the zoom of the image: it always covers the anatomy of the planned patch, which is also
what cross-scale consistency trains (:mod:`hstf.method.csc`).

The means are those of ``sliding_window_inference`` of MONAI, whose import takes longer than the
prediction of a small scan.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hstf.config.evaluate import PredictConfig
from hstf.config.teacher import TtaConfig
from hstf.experiment.plan import Plan
from hstf.imaging.regions import Box
from hstf.imaging.slabs import plane_slabs
from hstf.imaging.spacing import Spacing, axis_zooms
from hstf.runtime.devices import autocast
from hstf.runtime.errors import HstfError

SIGMA = 0.125
"""Standard deviation of the weights of a window, as a fraction of its size."""
MINIMUM_WEIGHT = 1e-3
"""Lower bound of the weights of a window."""


def sliding_probabilities(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    patch_size: Sequence[int],
    overlap: float,
    window_batch: int,
    amp: str,
    device: torch.device,
) -> Tensor:
    """Compute the class probabilities of a whole image with a sliding window.

    An image that is smaller than the patch is padded with zeros on both sides and cropped back.

    Args:
        network: maps ``(B, C, *patch_size)`` to logits ``(B, K, *patch_size)``, on ``device``.
        image: ``(C, X, Y, Z)``, normalised, on the CPU.
        patch_size: size of the window in voxels.
        overlap: overlap of neighbouring windows as a fraction of the window.
        window_batch: number of windows that are predicted at once.
        amp: ``auto``, ``bf16`` or ``off``; see :func:`hstf.runtime.devices.autocast`.
        device: device of the network. The volume is assembled there if it fits.

    Returns:
        ``(K, X, Y, Z)`` float32 on the CPU.

    Raises:
        HstfError: if one batch of windows does not fit into the GPU memory.

    Example:
        >>> network = nn.Conv3d(1, 2, kernel_size=1)
        >>> image = torch.zeros(1, 20, 20, 12)
        >>> cpu = torch.device("cpu")
        >>> probabilities = sliding_probabilities(network, image, (8, 8, 8), 0.5, 2, "off", cpu)
        >>> probabilities.shape
        torch.Size([2, 20, 20, 12])
    """

    def logits(windows: Tensor) -> Tensor:
        with autocast(device, amp):
            return network(windows).float()

    def assemble_on(volume_device: torch.device) -> Tensor:
        return blended_windows(
            logits,
            image.to(volume_device, torch.float32),
            patch_size,
            overlap,
            window_batch,
            device,
        )

    # Not inference_mode: its tensors cannot be modified in place later.
    with torch.no_grad():
        return _softmax(_assemble_where_it_fits(assemble_on, device)).cpu()


def _assemble_where_it_fits(
    assemble_on: Callable[[torch.device], Tensor], device: torch.device
) -> Tensor:
    """Assemble the volume on ``device`` or, if it is out of memory, on the CPU."""
    try:
        return assemble_on(device)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
    try:
        return assemble_on(torch.device("cpu"))
    except torch.OutOfMemoryError as error:
        raise HstfError(
            f"one batch of windows does not fit into the GPU memory ({error})."
            " Lower window_batch or the patch size."
        ) from error


def _softmax(logits: Tensor) -> Tensor:
    """Replace ``logits`` ``(K, X, Y, Z)`` by probabilities, in place."""
    # In slabs, so that no second volume is allocated.
    for planes in plane_slabs(logits.shape[1]):
        slab = logits[:, planes]
        slab.copy_(slab.softmax(dim=0))
    return logits


@dataclass(frozen=True)
class SlidingWindow:
    """Size, overlap and precision of the windows over a scan, at any zoom of the scan."""

    patch_size: tuple[int, ...]
    """Size of the window at zoom 1 in voxels."""
    divisor: tuple[int, ...]
    """Input sizes of the network must be multiples of this."""
    overlap: float
    """Overlap of neighbouring windows as a fraction of the window."""
    batch: int
    """Number of windows that are predicted at once."""
    amp: str
    """``auto``, ``bf16`` or ``off``; see :func:`hstf.runtime.devices.autocast`."""
    device: torch.device
    spacing: Spacing = (1.0, 1.0, 1.0)
    """Voxel size in mm. Coarse axes are not zoomed."""

    @classmethod
    def of(
        cls,
        plan: Plan,
        section: TtaConfig | PredictConfig,
        device: torch.device,
    ) -> "SlidingWindow":
        """Create the window of a plan with the settings of a configuration section."""
        divisor = []
        for axis in range(3):
            divisor.append(prod(stride[axis] for stride in plan.strides))
        return cls(
            patch_size=tuple(plan.patch_size),
            divisor=tuple(divisor),
            overlap=section.overlap,
            batch=section.window_batch,
            amp=section.amp,
            device=device,
            spacing=plan.spacing,
        )

    def probabilities(
        self,
        network: nn.Module,
        image: Tensor,
        zoom: float = 1.0,
    ) -> Tensor:
        """Compute the class probabilities of an image at a zoom.

        Args:
            network: a segmentation network.
            image: ``(C, X, Y, Z)``, normalised, on the CPU.
            zoom: size of the anatomy in ``image`` relative to the planned grid. Coarse axes keep
                their size (:func:`hstf.imaging.spacing.axis_zooms`).

        Returns:
            ``(K, X, Y, Z)`` float32 on the CPU.

        Raises:
            HstfError: if one batch of windows does not fit into the GPU memory.
        """
        scales = axis_zooms(zoom, self.spacing)
        return sliding_probabilities(
            _at_zoom(network, scales),
            image,
            self._zoomed_patch(scales),
            self.overlap,
            self.batch,
            self.amp,
            self.device,
        )

    def _zoomed_patch(self, scales: Sequence[float]) -> list[int]:
        """Return the size of the window that covers the anatomy of the planned patch."""
        patch = []
        axes = zip(self.patch_size, scales, self.divisor, strict=True)
        for size, scale, divisor in axes:
            # Two voxels remain at the deepest level: instance norm cannot normalise a single one.
            minimum = min(2, size // divisor)
            multiples = ceil(size * scale / divisor - 1e-6)
            patch.append(divisor * max(minimum, multiples))
        return patch


def _at_zoom(network: nn.Module, scales: Sequence[float]) -> Callable[[Tensor], Tensor]:
    """Return a function from windows to logits that passes the zoom of each axis to the network.

    The network needs the zoom for its positions in millimetres.
    """
    if all(scale == 1.0 for scale in scales):
        return network
    return lambda windows: network.pyramid(windows, scales).logits[0]  # type: ignore[operator]


def flipped_probabilities(
    window: SlidingWindow,
    network: nn.Module,
    image: Tensor,
    axis: int | None,
    zoom: float = 1.0,
) -> Tensor:
    """Compute the probabilities of a mirrored image, mirrored back.

    Args:
        window: the sliding window.
        network: a segmentation network.
        image: ``(C, X, Y, Z)``, normalised, on the CPU.
        axis: 0, 1 or 2; None for an image that is not mirrored.
        zoom: size of the anatomy in ``image`` relative to the planned grid.

    Returns:
        ``(K, X, Y, Z)`` float32 on the CPU.
    """
    if axis is None:
        return window.probabilities(network, image, zoom)
    mirrored = image.flip(axis + 1)
    return window.probabilities(network, mirrored, zoom).flip(axis + 1)


def blended_windows(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    window: Sequence[int],
    overlap: float,
    batch: int,
    device: torch.device,
) -> Tensor:
    """Predict an image window by window; return the weighted mean of overlapping windows.

    An image that is smaller than the window is padded with zeros on both sides and cropped back.

    Args:
        predict: maps windows ``(B, C, *window)`` on ``device`` to ``(B, K, *window)``.
        image: ``(C, X, Y, Z)`` float32. The result is assembled on its device.
        window: size of the window (voxels).
        overlap: overlap of neighbouring windows as a fraction of the window.
        batch: number of windows that are predicted at once.
        device: device of ``predict``.

    Returns:
        ``(K, X, Y, Z)`` float32 on the device of ``image``.
    """
    padded, inside = _padded(image, window)
    grid = padded.shape[1:]
    boxes = window_boxes(grid, window, overlap)
    weight = window_weights(window).to(device)
    total = torch.empty(0)
    for first in range(0, len(boxes), batch):
        chosen = boxes[first : first + batch]
        windows = torch.stack([padded[:, *box] for box in chosen]).to(device)
        predictions = (predict(windows) * weight).to(image.device)
        if first == 0:
            total = image.new_zeros(predictions.shape[1], *grid)
        for box, prediction in zip(chosen, predictions, strict=True):
            total[:, *box] += prediction
    weights = image.new_zeros(grid)
    for box in boxes:
        weights[box] += weight.to(image.device)
    total /= weights
    return total[:, *inside]


def _padded(image: Tensor, window: Sequence[int]) -> tuple[Tensor, Box]:
    """Pad ``image`` to the size of the window; also return the position of the image in it."""
    padding: list[int] = []
    inside = []
    for size, edge in zip(image.shape[1:], window, strict=True):
        missing = max(edge - size, 0)
        before = missing // 2
        padding = [before, missing - before, *padding]  # `pad` counts axes from the last
        inside.append(slice(before, before + size))
    if any(padding):
        image = F.pad(image, padding)
    return image, tuple(inside)


def window_boxes(
    grid: Sequence[int],
    window: Sequence[int],
    overlap: float,
) -> list[Box]:
    """Return all positions of the window, the last axis moving fastest.

    Args:
        grid: size of the image (voxels), at least that of the window.
        window: size of the window (voxels).
        overlap: overlap of neighbouring windows as a fraction of the window. The last window of an
            axis ends with the image, so that it may overlap more.
    """
    starts = []
    for size, edge in zip(grid, window, strict=True):
        last = size - edge
        step = max(1, int(edge * (1 - overlap)))
        starts.append([*range(0, last, step), last])
    boxes = []
    for corner in product(*starts):
        sides = zip(corner, window, strict=True)
        boxes.append(tuple(slice(start, start + edge) for start, edge in sides))
    return boxes


def window_weights(window: Sequence[int]) -> Tensor:
    """Return the weight of each voxel of a window."""
    weights = torch.ones(())
    for edge in window:
        offsets = torch.arange(edge) - (edge - 1) / 2
        weights = weights[..., None] * torch.exp(offsets**2 / (-2 * (SIGMA * edge) ** 2))
    return weights.clamp_min(max(float(weights.min()), MINIMUM_WEIGHT))
