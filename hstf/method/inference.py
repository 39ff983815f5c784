"""Predict whole scans with networks that see patches: the sliding window and the predictor.

A window moves over the scan. Logits of overlapping windows are averaged with Gaussian weights
(sigma is an eighth of the patch) and then turned into probabilities, as in nnU-Net (Isensee et al.,
Nature Methods 2021). The window grows with the zoom of the scan: it always covers the anatomy of
the planned patch, which is also what cross-scale consistency trains (:mod:`hstf.method.csc`).

:class:`Predictor` is the path from a native scan to a native segmentation. The commands ``predict``
and ``evaluate`` both use it, so that test scores hold for the exported model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, prod
from pathlib import Path

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from hstf.config.evaluate import PredictConfig
from hstf.config.preprocess import PreprocessConfig
from hstf.config.teacher import TeacherConfig
from hstf.experiment.plan import Plan
from hstf.imaging.geometry import Geometry
from hstf.imaging.preparation import prepare_image
from hstf.imaging.regions import Structures
from hstf.imaging.slabs import plane_slabs
from hstf.imaging.spacing import Spacing, axis_zooms
from hstf.imaging.volumes import Volume
from hstf.method.plr.anatomy_rules import AnatomyRules
from hstf.models.registry import load_network
from hstf.runtime.devices import autocast, choose_device
from hstf.runtime.errors import HstfError


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
        batch = sliding_window_inference(
            image[None].to(volume_device, torch.float32),
            tuple(patch_size),
            window_batch,
            logits,
            overlap=overlap,
            mode="gaussian",
            sw_device=device,
            device=volume_device,
        )
        return batch[0]

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
        section: TeacherConfig | PredictConfig,
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


@dataclass(frozen=True)
class Prediction:
    """A segmentation in the space of the scan."""

    label: np.ndarray
    """``(X, Y, Z)`` uint8, class indices (not the values in the file)."""
    members: dict[str, np.ndarray] = field(default_factory=dict)
    """The same for each ensemble member; empty unless requested."""
    probabilities: dict[str, np.ndarray] = field(default_factory=dict)
    """``(X, Y, Z)`` uint8, 255 times the probability of each requested structure."""


def _to_uint8(probability: Tensor) -> np.ndarray:
    """Convert probabilities (0 to 1) to uint8 (0 to 255)."""
    return (probability * 255).round_().to(torch.uint8).numpy()


@dataclass(frozen=True)
class Predictor:
    """Segment native scans with an ensemble. Create it with :meth:`load`."""

    networks: Mapping[str, nn.Module]
    """Network of each ensemble member. The mean of their probabilities is the prediction."""
    plan: Plan
    window: SlidingWindow
    flip_axes: tuple[int, ...]
    """Axes of test-time augmentation, mirrored one at a time."""
    preprocess: PreprocessConfig
    modalities: Mapping[str, str]
    """Kind of each input channel, by its name."""
    anatomy_rules: AnatomyRules | None = None
    """Rules that are applied to the segmentation; None for no clean-up."""

    @classmethod
    def load(
        cls,
        weights: Sequence[Path],
        plan: Plan,
        predict: PredictConfig,
        modalities: Mapping[str, str],
        device: torch.device | str = "auto",
        preprocess: PreprocessConfig | None = None,
        anatomy_rules: AnatomyRules | None = None,
    ) -> "Predictor":
        """Load the networks of a model.

        Args:
            weights: weights file of each ensemble member.
            plan: plan of the experiment.
            predict: settings of the prediction.
            modalities: kind of each input channel, by its name.
            device: ``auto``, ``cpu``, ``cuda`` or a device.
            preprocess: settings of the preprocessing; None for the defaults.
            anatomy_rules: rules that are applied to the segmentation; None for no clean-up.

        Raises:
            HstfError: if weights are missing or damaged.
        """
        if isinstance(device, str):
            device = choose_device(device)
        networks: dict[str, nn.Module] = {}
        for path in weights:
            network, meta = load_network(path, device)
            networks[str(meta["member"])] = network
        return cls(
            networks=networks,
            plan=plan,
            window=SlidingWindow.of(plan, predict, device),
            flip_axes=predict.flip_axes,
            preprocess=preprocess or PreprocessConfig(),
            modalities=modalities,
            anatomy_rules=anatomy_rules,
        )

    def predict(
        self,
        volumes: list[Volume],
        members: bool = True,
        probabilities_of: Structures | None = None,
    ) -> Prediction:
        """Segment a scan.

        Args:
            volumes: one volume for each modality, in channel order, on the same voxels.
            members: whether to return also the segmentation of each ensemble member.
            probabilities_of: structures whose probabilities are returned.

        Raises:
            HstfError: if the volumes do not match or contain no usable intensities.
        """
        image, geometry = prepare_image(
            volumes,
            self.plan,
            self.preprocess,
            self.modalities,
        )
        several = len(self.networks) > 1
        mean, member_labels = self._mean(
            torch.as_tensor(image),
            geometry,
            members and several,
        )
        label = self.label(mean, geometry)
        if members and not several:
            member_labels = dict.fromkeys(self.networks, label)
        probabilities = {}
        for name, classes in (probabilities_of or {}).items():
            on_grid = _to_uint8(mean[list(classes)].sum(0))
            probabilities[name] = geometry.scalar_to_native(on_grid)
        return Prediction(label, member_labels, probabilities)

    def label(self, probabilities: Tensor, geometry: Geometry) -> np.ndarray:
        """Return the segmentation in native space.

        Args:
            probabilities: ``(K, X, Y, Z)`` on the planned grid. The anatomy rules change them in
                place.
            geometry: position of the grid in the scan.

        Returns:
            ``(X, Y, Z)`` uint8, class indices.
        """
        array = probabilities.numpy()
        if self.anatomy_rules:
            self.anatomy_rules.apply_to_probabilities(array, prod(geometry.spacing))
        return geometry.probabilities_to_native(array)

    def _mean(
        self,
        image: Tensor,
        geometry: Geometry,
        members: bool,
    ) -> tuple[Tensor, dict[str, np.ndarray]]:
        """Compute the mean probabilities and, with ``members``, the segmentation of each member."""
        (first, network), *others = self.networks.items()
        mean = self.probabilities(network, image)
        labels = {}
        if members:
            labels[first] = self.label(mean.clone(), geometry)
        for member, network in others:
            probabilities = self.probabilities(network, image)
            mean += probabilities
            if members:
                labels[member] = self.label(probabilities, geometry)
            # As large as the scan times its classes: freed before the next member predicts.
            del probabilities
        return mean.div_(len(self.networks)), labels

    def probabilities(
        self,
        network: nn.Module,
        image: Tensor,
        zoom: float = 1.0,
    ) -> Tensor:
        """Compute the class probabilities of a prepared image, averaged over the flips.

        Args:
            network: network of an ensemble member.
            image: ``(C, X, Y, Z)``, normalised, on the planned grid.
            zoom: size of the anatomy in ``image`` relative to the planned grid.

        Returns:
            ``(K, X, Y, Z)`` float32 on the CPU.
        """
        total = flipped_probabilities(
            self.window,
            network,
            image,
            None,
            zoom,
        )
        for axis in self.flip_axes:
            total += flipped_probabilities(
                self.window,
                network,
                image,
                axis,
                zoom,
            )
        return total.div_(1 + len(self.flip_axes))
