"""Segment native scans with an ensemble.

:class:`Predictor` is the path from a native scan to a native segmentation. The commands ``predict``
and ``evaluate`` both use it, so that test scores hold for the exported model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hstf.config.evaluate import PredictConfig
from hstf.config.preprocess import PreprocessConfig
from hstf.config.teacher import TtaConfig
from hstf.experiment.plan import Plan
from hstf.imaging.geometry import Geometry
from hstf.imaging.preparation import prepare_image
from hstf.imaging.regions import Structures
from hstf.imaging.volumes import Volume
from hstf.method.ensemble import member_networks
from hstf.method.plr.anatomy_rules import AnatomyRules
from hstf.method.sliding_window import SlidingWindow, flipped_probabilities
from hstf.method.tta import predict_with_tta
from hstf.method.tta_summary import TtaSummary
from hstf.models.base import SegmentationNetwork
from hstf.models.layout import in_fast_layout
from hstf.models.registry import load_network
from hstf.runtime.devices import choose_device


@dataclass(frozen=True)
class Prediction:
    """A segmentation in the space of the scan.

    Example:
        >>> prediction = Prediction(np.zeros((4, 4, 2), np.uint8))
        >>> prediction.members
        {}
    """

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

    networks: Mapping[str, SegmentationNetwork]
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
        networks: dict[str, SegmentationNetwork] = {}
        for path in weights:
            network, meta = load_network(path, device)
            networks[str(meta["member"])] = in_fast_layout(network, device, predict.amp)
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
        image, geometry = self.prepare(volumes)
        return self.predict_prepared(image, geometry, members, probabilities_of)

    def prepare(self, volumes: list[Volume]) -> tuple[Tensor, Geometry]:
        """Return a scan ``(C, X, Y, Z)`` on the planned grid, and the position of the grid.

        Raises:
            HstfError: if the volumes do not match or contain no usable intensities.
        """
        image, geometry = prepare_image(
            volumes,
            self.plan,
            self.preprocess,
            self.modalities,
        )
        return torch.as_tensor(image), geometry

    def predict_prepared(
        self,
        image: Tensor,
        geometry: Geometry,
        members: bool = True,
        probabilities_of: Structures | None = None,
    ) -> Prediction:
        """Segment a scan that :meth:`prepare` has brought to the planned grid.

        Args:
            image: ``(C, X, Y, Z)``, normalised, on the planned grid.
            geometry: position of the grid in the scan.
            members: whether to return also the segmentation of each ensemble member.
            probabilities_of: structures whose probabilities are returned.
        """
        several = len(self.networks) > 1
        mean, member_labels = self._mean(
            image,
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

    def summarise(self, image: Tensor, structures: Structures, views: TtaConfig) -> TtaSummary:
        """Predict a prepared scan with the TTA views of a teacher and summarise them.

        Args:
            image: ``(C, X, Y, Z)``, normalised, on the planned grid.
            structures: classes of each structure whose agreement is measured.
            views: scales, flips and sliding window.
        """
        networks: dict[str, nn.Module] = {}
        for member, network in self.networks.items():
            networks |= member_networks(member, network)
        return predict_with_tta(
            networks,
            image.float(),
            SlidingWindow.of(self.plan, views, self.window.device),
            views.scales,
            views.flip_axes,
            structures,
            prod(self.plan.spacing) / 1000,
        )

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
