"""The plan of an experiment, ``plan.json``: how scans reach the network and what it looks like."""

from typing import Literal

from hstf.runtime.documents import Document, Part
from hstf.runtime.files import sha256_json

Triple = tuple[int, int, int]
"""A number of voxels for each axis."""
Spacing = tuple[float, float, float]
"""Voxel size (mm) along each axis."""


class Normalisation(Part):
    """How the intensities of a channel are mapped to numbers around 0 with a spread of 1.

    - ``zscore``: clip to percentiles of the scan, subtract its mean, divide by its standard
      deviation.
    - ``ct``: clip to ``lower`` and ``upper``, subtract ``mean``, divide by ``std``; the same for
      all scans.
    - ``fan``: as ``zscore``, without the empty area outside the field of view of an ultrasound
      probe.
    - ``uptake``: compress the upper tail by arcsinh(value / median of the body), then subtract the
      mean of the body and divide by its standard deviation. The hottest voxels are not clipped.
    """

    scheme: Literal["zscore", "ct", "fan", "uptake"]
    lower: float = 0.0
    upper: float = 0.0
    mean: float = 0.0
    std: float = 1.0


class Plan(Document):
    """The plan of an experiment. Axes are those of the reoriented (RAS) volume."""

    stage = "plan"

    spacing: Spacing
    """Voxel size (mm) of the grid."""
    patch_size: Triple
    """Voxels that the network sees at once; a multiple of the total stride of each axis."""
    batch_size: int
    channels: tuple[int, ...]
    """Channels of each resolution level, finest first."""
    strides: tuple[Triple, ...]
    """Stride into each level; the first is (1, 1, 1)."""
    kernels: tuple[Triple, ...]
    """Convolution kernel of each level: 1 along an axis that is much coarser than the others."""
    normalisation: tuple[Normalisation, ...]
    """One for each modality, in channel order."""
    median_shape: Triple
    """Median shape (voxels) of the scans on the grid."""
    reasons: dict[str, str]
    """Why each value was chosen, in one sentence each."""

    @property
    def grid_sha256(self) -> str:
        """Digest of what preprocessed arrays depend on: a new patch size leaves them valid."""
        content = self.to_json()
        return sha256_json({name: content[name] for name in ("spacing", "normalisation")})
