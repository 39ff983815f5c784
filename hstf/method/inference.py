"""Networks on whole volumes: the sliding window, and the predictor that ``predict`` and ``evaluate`` share."""

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
from hstf.imaging.geometry import Geometry, Spacing, zooms
from hstf.imaging.preparation import prepare_image
from hstf.imaging.regions import Structures
from hstf.imaging.volumes import Volume
from hstf.method.plr.anatomy_rules import KnownStructure
from hstf.models.registry import load_network
from hstf.runtime.devices import autocast, choose_device
from hstf.runtime.errors import HstfError

SLAB = 16  # planes along X turned into probabilities at a time: no second copy of a volume is held


def sliding_probabilities(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    patch_size: Sequence[int],
    overlap: float,
    window_batch: int,
    amp: str,
    device: torch.device,
) -> Tensor:
    """Class probabilities of a whole image, window by window.

    Logits of overlapping windows are averaged with Gaussian weights (sigma an eighth of the patch), then turned into
    probabilities, as in nnU-Net. An image smaller than the patch is padded with zeros on both sides and cropped
    back.

    Args:
        network: ``(B, C, *patch)`` to logits ``(B, K, *patch)``, on ``device``.
        image: ``(C, X, Y, Z)``, normalised, on the CPU.
        overlap: of neighbouring windows, as a share of the patch.
        amp: ``auto``, ``bf16`` or ``off``: see :func:`hstf.runtime.devices.autocast`.

    Returns:
        ``(K, X, Y, Z)`` float32 on the CPU. The volume is put together on the GPU when it fits there.

    Raises:
        HstfError: the GPU is too small for the windows of one batch.
    """

    def logits(windows: Tensor) -> Tensor:
        with autocast(device, amp):
            return network(windows).float()

    def stitched_on(where: torch.device) -> Tensor:
        return sliding_window_inference(
            image[None].to(where, torch.float32), tuple(patch_size), window_batch, logits, overlap=overlap,
            mode="gaussian", sw_device=device, device=where,
        )[0]  # fmt: skip

    with torch.no_grad():  # not inference_mode: its tensors could not be added to later
        return _softmax(_first_that_fits(stitched_on, device)).cpu()


def _first_that_fits(stitched_on: Callable[[torch.device], Tensor], device: torch.device) -> Tensor:
    try:
        return stitched_on(device)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
    try:
        return stitched_on(torch.device("cpu"))
    except torch.OutOfMemoryError as error:
        raise HstfError(
            f"one batch of windows does not fit into the GPU memory ({error}). Lower window_batch or the patch."
        ) from error


def _softmax(logits: Tensor) -> Tensor:
    for slab in logits.split(SLAB, dim=1):
        slab.copy_(slab.softmax(dim=0))
    return logits


@dataclass(frozen=True)
class SlidingWindow:
    """How windows are laid over a volume, at any zoom of it."""

    patch_size: tuple[int, ...]
    divisor: tuple[int, ...]
    """Sizes that the network takes are multiples of this."""
    overlap: float
    batch: int
    amp: str
    device: torch.device
    spacing: Spacing = (1.0, 1.0, 1.0)
    """mm; along thick slices there is no zoom."""

    @classmethod
    def of(
        cls, plan: Plan, section: TeacherConfig | PredictConfig, device: torch.device
    ) -> "SlidingWindow":
        """The window of a plan, with the overlap, batch and precision of a configuration section."""
        divisor = tuple(prod(stride[axis] for stride in plan.strides) for axis in range(3))
        return cls(
            tuple(plan.patch_size), divisor, section.overlap, section.window_batch, section.amp, device, plan.spacing
        )  # fmt: skip

    def probabilities(self, network: nn.Module, image: Tensor, zoom: float = 1.0) -> Tensor:
        """``(K, X, Y, Z)`` float32 of ``image`` ``(C, X, Y, Z)``, in which anatomy is ``zoom`` times its planned size
        (within the slices, where they are thick: :func:`hstf.imaging.geometry.zooms`).

        The window grows with the zoom: it covers the same anatomy as the planned patch, which is the view that
        cross-scale consistency trains, and as many windows cover the scan. As there, an axis with two voxels or more at the
        deepest level keeps two.
        """
        each = zooms(zoom, self.spacing)
        patch = [
            d * max(min(2, n // d), ceil(n * z / d - 1e-6))
            for n, z, d in zip(self.patch_size, each, self.divisor, strict=True)
        ]
        return sliding_probabilities(
            _at_zoom(network, each), image, patch, self.overlap, self.batch, self.amp, self.device
        )


def _at_zoom(network: nn.Module, zoom: Sequence[float]) -> Callable[[Tensor], Tensor]:
    """The network, told how large anatomy appears along each axis, for its positions in millimetres."""
    if all(z == 1.0 for z in zoom):
        return network
    return lambda windows: network.pyramid(windows, zoom).logits[0]  # type: ignore[operator]


def flipped_probabilities(
    window: SlidingWindow, network: nn.Module, image: Tensor, axis: int | None, zoom: float = 1.0
) -> Tensor:
    """Probabilities of ``image`` mirrored along ``axis`` (0, 1, 2; None: not mirrored), mirrored back."""
    if axis is None:
        return window.probabilities(network, image, zoom)
    return window.probabilities(network, image.flip(axis + 1), zoom).flip(axis + 1)


@dataclass(frozen=True)
class Prediction:
    """A segmentation in the space of the scan."""

    label: np.ndarray
    """``(X, Y, Z)`` uint8, class indices (not file values)."""
    members: dict[str, np.ndarray] = field(default_factory=dict)
    """The same of each member alone; empty unless asked for."""
    probabilities: dict[str, np.ndarray] = field(default_factory=dict)
    """``(X, Y, Z)`` uint8, 0..255 for 0..1, of the structures asked for."""


def _as_bytes(probability: Tensor) -> np.ndarray:
    """A map of 0..1 as uint8 0..255."""
    return (probability * 255).round_().to(torch.uint8).numpy()


@dataclass(frozen=True)
class Predictor:
    """Native scans to native segmentations: the one path of ``hstf predict`` and ``hstf evaluate``."""

    networks: Mapping[str, nn.Module]
    """By member; the mean of their probabilities is the prediction."""
    plan: Plan
    window: SlidingWindow
    flip_axes: tuple[int, ...]
    preprocess: PreprocessConfig
    modalities: Mapping[str, str]
    known: KnownStructure | None = None
    """What segmentations are brought to."""

    @classmethod
    def load(
        cls,
        weights: Sequence[Path],
        plan: Plan,
        predict: PredictConfig,
        modalities: Mapping[str, str],
        device: torch.device | str = "auto",
        preprocess: PreprocessConfig | None = None,
        known: KnownStructure | None = None,
    ) -> "Predictor":
        """Load the members of a model; each is called as its training named it.

        Raises:
            HstfError: weights are missing or damaged.
        """
        device = choose_device(device) if isinstance(device, str) else device
        loaded = [load_network(path, device) for path in weights]
        networks = {str(meta["member"]): network for network, meta in loaded}
        window = SlidingWindow.of(plan, predict, device)
        preprocess = preprocess or PreprocessConfig()
        return cls(networks, plan, window, predict.flip_axes, preprocess, modalities, known)

    def predict(
        self,
        volumes: list[Volume],
        members: bool = True,
        probabilities_of: Structures | None = None,
    ) -> Prediction:
        """Segment one scan.

        Args:
            volumes: one per modality, in channel order, on one voxel grid.
            members: also give each member's own segmentation.
            probabilities_of: structures whose probabilities are wanted too.

        Raises:
            HstfError: the volumes do not fit together or hold no usable intensities.
        """
        image, geometry = prepare_image(volumes, self.plan, self.preprocess, self.modalities)
        mean, labels = self._mean(
            torch.as_tensor(image), geometry, members and len(self.networks) > 1
        )
        label = self.label(mean, geometry)
        shown = {
            name: geometry.scalar_to_native(_as_bytes(mean[list(classes)].sum(0)))
            for name, classes in (probabilities_of or {}).items()
        }
        return Prediction(
            label, labels or (dict.fromkeys(self.networks, label) if members else {}), shown
        )

    def label(self, probabilities: Tensor, geometry: Geometry) -> np.ndarray:
        """The segmentation in native space, of ``probabilities`` on the grid, which are cleaned in place."""
        array = probabilities.numpy()
        if self.known:
            self.known.clean(array, prod(geometry.spacing))
        return geometry.probabilities_to_native(array)

    def _mean(
        self, image: Tensor, geometry: Geometry, members: bool
    ) -> tuple[Tensor, dict[str, np.ndarray]]:
        """Mean probabilities of all networks, and with ``members`` the segmentation of each."""
        (first, network), *others = self.networks.items()
        mean = self.probabilities(network, image)
        labels = {first: self.label(mean.clone(), geometry)} if members else {}
        for member, network in others:
            probabilities = self.probabilities(network, image)
            mean += probabilities
            if members:
                labels[member] = self.label(probabilities, geometry)
            del (
                probabilities
            )  # as large as the scan times its classes: not kept while the next is made
        return mean.div_(len(self.networks)), labels

    def probabilities(self, network: nn.Module, image: Tensor, zoom: float = 1.0) -> Tensor:
        """Class probabilities of a prepared image, the mean over the flips; ``zoom`` is how large it shows anatomy."""
        total = flipped_probabilities(self.window, network, image, None, zoom)
        for axis in self.flip_axes:
            total += flipped_probabilities(self.window, network, image, axis, zoom)
        return total.div_(1 + len(self.flip_axes))
