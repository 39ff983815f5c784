"""A batch of patches, from which an objective computes its loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hstf.config.training import AugmentationConfig
from hstf.runtime.devices import to_device
from hstf.training.augmentations.acquisition import ISOTROPIC_MR, Acquisition
from hstf.training.augmentations.intensity import change_intensity
from hstf.training.augmentations.spatial import draw_geometry
from hstf.training.fourier import mix_amplitudes
from hstf.training.patches import PatchSource, RawBatch

ROUNDING = 1e-3
"""Fractions of ignored voxels below this value are rounding errors of the interpolation."""


@dataclass(frozen=True)
class Batch:
    """Patches of images, targets and weights.

    The geometry of the patches is drawn once. Their intensities may be drawn several times with
    :meth:`strong`.
    """

    weak: Tensor
    """``(B, C, D, H, W)``: the weakly augmented patches, with changes of geometry only."""
    target: Tensor
    """``(B, K, D, H, W)``: class probabilities. They sum to 0 outside the scan. All classes have
    the same probability where the label is ignored."""
    weight: Tensor
    """``(B, 1, D, H, W)``, 0 to 1; 0 where the label is ignored."""
    pseudo: Tensor
    """``(B, 1, D, H, W)`` bool: voxels whose target is no manual label."""
    unlabelled: tuple[bool, ...]
    """Whether each patch has voxels whose target is no manual label; known on the host."""
    augmentation: AugmentationConfig
    generator: torch.Generator
    """Source of all random numbers of the step, on the host."""
    acquisition: Acquisition = ISOTROPIC_MR
    case_ids: tuple[str, ...] = ()
    """Cases of the patches of all ranks."""
    automatic: tuple[bool, ...] | None = None
    """Whether each patch has a pseudo-label that no reviewer has accepted; ``None``: as
    ``unlabelled``."""
    unlabelled_before_mixing: tuple[bool, ...] | None = None
    """``unlabelled`` before the patches exchanged boxes, or ``None`` if they did not."""

    @classmethod
    def draw(
        cls,
        raw: RawBatch,
        source: PatchSource,
        config: AugmentationConfig,
        generator: torch.Generator,
        device: torch.device | None = None,
    ) -> "Batch":
        """Cut patches out of the regions of ``raw``, on ``device`` (default: the CPU)."""
        device = device or torch.device("cpu")
        regions = [region.to(device) for region in raw.regions]
        changes = draw_geometry(
            len(regions),
            source.patch_size,
            config,
            generator,
            source.acquisition.spacing,
        )
        patches = []
        for region, change in zip(regions, changes, strict=True):
            patches.append(change.apply(region.channels, region.size, source.patch_size))
        patch = torch.stack(patches)
        channels = patch.shape[1] - source.classes - 1
        weak, target, weight = patch.split([channels, source.classes, 1], dim=1)
        flags = to_device(torch.tensor(raw.pseudo), device)
        pseudo = flags[:, None, None, None, None].expand_as(weight)
        if any(region.ignored for region in regions):
            target = without_ignored(target, weight, pseudo)
        return cls(
            weak,
            target,
            weight,
            pseudo,
            raw.pseudo,
            config,
            generator,
            source.acquisition,
            raw.case_ids,
            raw.automatic,
        )

    def strong(self) -> Tensor:
        """Draw strongly augmented patches ``(B, C, D, H, W)``, with changes of intensity."""
        unlabelled = self.unlabelled
        if self.unlabelled_before_mixing is not None:
            # After an exchange of boxes, no patch is purely labelled. The surroundings of the box
            # still are.
            unlabelled = self.unlabelled_before_mixing
        image = mix_amplitudes(
            self.weak,
            unlabelled,
            self.augmentation.fourier_probability,
            self.acquisition.spacing,
            self.generator,
        )
        image = with_channels_of(image, self.weak, self.acquisition.masks(image.shape[1]))
        return change_intensity(
            image,
            self.augmentation,
            self.generator,
            self.acquisition,
        )

    @property
    def renewable(self) -> tuple[bool, ...]:
        """Whether the target of each patch may be replaced during the training."""
        return self.unlabelled if self.automatic is None else self.automatic

    @property
    def inside(self) -> Tensor:
        """``(B, 1, D, H, W)``, 0 to 1: the part of each voxel that is inside the scan."""
        return self.target.sum(1, keepdim=True).clamp(0, 1)


def with_channels_of(image: Tensor, other: Tensor, chosen: Sequence[int]) -> Tensor:
    """Return ``image`` ``(B, C, D, H, W)`` with the ``chosen`` channels of ``other``.

    ``image[:, chosen]`` would make the CPU wait for the GPU, which gets the indices.
    """
    if not chosen:
        return image
    result = image.clone()
    for channel in chosen:
        result[:, channel] = other[:, channel]
    return result


def patches(values: Tensor, chosen: Sequence[bool]) -> Tensor:
    """Return the chosen patches of ``values`` ``(B, ...)``.

    ``values[chosen]`` would make the CPU wait for the GPU, which counts the chosen patches.
    """
    if all(chosen):
        return values
    return torch.stack([values[index] for index, flag in enumerate(chosen) if flag])


def without_ignored(
    target: Tensor,
    weight: Tensor,
    pseudo: Tensor,
) -> Tensor:
    """Remove ignored voxels from interpolated targets.

    Interpolation mixes the equal probabilities of ignored voxels into the target. Scribbles are
    so thin that a rotated patch has hardly any voxel without such a mixture. Targets of unlabelled
    cases and of dense labels are returned unchanged: the weights of unlabelled cases are not only
    about ignored voxels.

    Args:
        target: ``(B, K, D, H, W)``, class probabilities.
        weight: ``(B, 1, D, H, W)``, 0 to 1.
        pseudo: ``(B, 1, D, H, W)`` bool.

    Returns:
        ``(B, K, D, H, W)``: the mean of the labelled voxels only.
    """
    inside = target.sum(1, keepdim=True)
    ignored = inside - weight
    mixed = ~pseudo & (ignored > ROUNDING) & (weight > ROUNDING)
    remaining = (target - ignored / target.shape[1]).clamp_min(0)
    labelled = remaining * inside / weight.clamp_min(ROUNDING)
    return torch.where(mixed, labelled, target)
