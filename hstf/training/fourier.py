"""Fourier domain adaptation (FDA): labelled patches get the appearance of another hospital.

The low frequencies of the amplitude spectrum hold brightness and contrast of a scanner; the phase
holds the anatomy. A patch with the low-frequency amplitudes of another patch looks as if the other
scanner had acquired it, and its label stays valid (Yang and Soatto, CVPR 2020).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hstf.imaging.spacing import relative_spacing
from hstf.runtime.devices import to_device

BAND = 0.05
"""Upper bound of the low frequencies, in cycles per finest voxel edge.

The paper tries 0.01 to 0.09, and 0.05 and 0.09 are best when only one value is used."""


def mix_amplitudes(
    image: Tensor,
    unlabelled: Sequence[bool],
    probability: float,
    spacing: Sequence[float],
    generator: torch.Generator,
) -> Tensor:
    """Give random labelled patches the low-frequency amplitudes of random unlabelled patches.

    A batch with only labelled or only unlabelled patches is returned unchanged.

    Args:
        image: ``(B, C, D, H, W)``.
        unlabelled: whether each patch has voxels of unlabelled cases.
        probability: probability of each labelled patch, 0 to 1.
        spacing: voxel size (mm).
        generator: source of the random numbers.
    """
    donors = [index for index, flag in enumerate(unlabelled) if flag]
    if probability == 0 or not 0 < len(donors) < len(image):
        return image
    chance = torch.rand(2, len(image), generator=generator).numpy()
    changed = {}
    for index, (decision, position) in enumerate(chance.T):
        if decision < probability and not unlabelled[index]:
            donor = donors[min(int(position * len(donors)), len(donors) - 1)]
            pair = image[index][None], image[donor][None]
            changed[index] = with_amplitudes_of(*pair, spacing)[0]
    if not changed:
        return image
    return torch.stack([changed.get(index, patch) for index, patch in enumerate(image)])


def with_amplitudes_of(
    image: Tensor,
    donor: Tensor,
    spacing: Sequence[float],
) -> Tensor:
    """Replace the low-frequency amplitudes of ``image`` by those of ``donor``.

    Args:
        image: ``(B, C, D, H, W)``.
        donor: ``(B, C, D, H, W)``.
        spacing: voxel size (mm).
    """
    axes = (2, 3, 4)
    own = torch.fft.rfftn(image.float(), dim=axes)
    other = torch.fft.rfftn(donor.float(), dim=axes)
    low = to_device(_low_frequencies(image.shape[2:], spacing), image.device)
    amplitude = torch.where(low, other.abs(), own.abs())
    spectrum = torch.polar(amplitude, own.angle())
    # The mean of a normalised image may be negative, and its sign is a phase. Brightness is a part
    # of the appearance.
    spectrum[..., 0, 0, 0] = other[..., 0, 0, 0]
    return torch.fft.irfftn(spectrum, s=image.shape[2:], dim=axes).to(image.dtype)


def _low_frequencies(shape: Sequence[int], spacing: Sequence[float]) -> Tensor:
    """Return ``(D, H, W // 2 + 1)`` bool: frequencies within the band along every axis."""
    within = []
    for axis, (size, edge) in enumerate(zip(shape, relative_spacing(spacing), strict=True)):
        frequencies = torch.fft.rfftfreq(size) if axis == 2 else torch.fft.fftfreq(size)
        within.append(frequencies.abs() / edge <= BAND)
    return within[0][:, None, None] & within[1][:, None] & within[2]
