"""Fourier amplitude mixing: a labelled patch takes on the look of a scan of another hospital and keeps its anatomy.

The low frequencies of the amplitude hold how bright a scanner shows what; the phase holds where things are. A patch whose
low-frequency amplitudes are another's is an image that the other scanner could have taken, with the label it had (FDA, Yang
and Soatto, CVPR 2020).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hstf.imaging.geometry import edges

BAND = 0.05  # cycles per finest voxel; the paper tries 0.01 to 0.09 and finds 0.05 and 0.09 best on its own


def mix_amplitudes(
    image: Tensor,
    unlabelled: Tensor,
    probability: float,
    spacing: Sequence[float],
    generator: torch.Generator,
) -> Tensor:
    """``image`` with some labelled patches in the look of unlabelled ones of the batch.

    A batch of labelled or of unlabelled patches alone stays as it is.

    Args:
        image: ``(B, C, D, H, W)``.
        unlabelled: ``(B,)`` bool: patches with voxels of unlabelled cases.
        probability: that a labelled patch takes the amplitude of an unlabelled one, drawn at random.
        spacing: voxel size (mm): frequencies are those of the anatomy.
    """
    donors = unlabelled.nonzero()[:, 0]
    if probability == 0 or not 0 < len(donors) < len(image):
        return image
    chance = torch.rand(2, len(image), generator=generator, device=image.device)
    takes = (chance[0] < probability) & ~unlabelled
    if not takes.any():  # a transform of no patch is an error
        return image
    donor = donors[(chance[1] * len(donors)).long().clamp_max(len(donors) - 1)]
    looked = with_amplitude_of(image[takes], image[donor[takes]], spacing)
    return image.index_put((takes.nonzero()[:, 0],), looked)


def with_amplitude_of(image: Tensor, look: Tensor, spacing: Sequence[float]) -> Tensor:
    """``image`` ``(B, C, D, H, W)`` with the amplitudes of ``look`` at frequencies of up to :data:`BAND`."""
    axes = (2, 3, 4)
    own, other = torch.fft.rfftn(image.float(), dim=axes), torch.fft.rfftn(look.float(), dim=axes)
    low = _low_frequencies(image.shape[2:], spacing).to(image.device)
    amplitude = torch.where(low, other.abs(), own.abs())
    spectrum = torch.polar(amplitude, own.angle())
    return torch.fft.irfftn(spectrum, s=image.shape[2:], dim=axes).to(image.dtype)


def _low_frequencies(shape: Sequence[int], spacing: Sequence[float]) -> Tensor:
    """Which of the frequencies ``(D, H, W // 2 + 1)`` of a patch are low along each axis; the mean always is."""
    within = []
    for axis, (n, edge) in enumerate(zip(shape, edges(spacing), strict=True)):
        frequencies = torch.fft.rfftfreq(n) if axis == 2 else torch.fft.fftfreq(n)
        within.append(frequencies.abs() / edge <= BAND)
    return within[0][:, None, None] & within[1][:, None] & within[2]
