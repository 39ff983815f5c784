"""The plan of an experiment, ``plan.json``: how scans reach the network and what it looks like.

A plan also comes with an exported model, from somebody else. Its numbers are therefore checked, so
that none of them makes a process use all of its memory.
"""

from math import prod
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hstf.runtime.documents import Document, Part
from hstf.runtime.files import sha256_json

MAXIMUM_LEVELS = 12
MAXIMUM_PATCH_VOXELS = 1 << 29
Finite = Annotated[float, Field(allow_inf_nan=False)]
PlannedMm = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
PositiveInteger = Annotated[int, Field(ge=1, le=1 << 16)]
PlannedTriple = tuple[PositiveInteger, PositiveInteger, PositiveInteger]
PlannedAxes = tuple[Annotated[int, Field(ge=0, le=2)], ...]
Stride = Annotated[int, Field(ge=1, le=8)]
Kernel = Annotated[int, Field(ge=1, le=15)]

Triple = tuple[int, int, int]
"""A number of voxels for each axis."""
Spacing = tuple[float, float, float]
"""Voxel size (mm) along each axis."""


class Normalisation(Part):
    """How the intensities of a channel are mapped to numbers for the network.

    - ``zscore``: clip to percentiles of the scan, subtract its mean, divide by its standard
      deviation.
    - ``ct``: clip to ``lower`` and ``upper``, subtract ``mean``, divide by ``std``; the same for
      all scans.
    - ``fan``: as ``zscore``, without the empty area outside the field of view of an ultrasound
      probe.
    - ``uptake``: compress the upper tail by arcsinh(value / median of the body), then subtract the
      mean of the body and divide by its standard deviation. The hottest voxels are not clipped.
    - ``mask``: subtract ``mean`` and divide by ``std``, which are 0 and 1 for a mask that is left
      as it is; the same for all scans. The nearest voxel is taken instead of interpolation.
    """

    scheme: Literal["zscore", "ct", "fan", "uptake", "mask"]
    lower: Finite = 0.0
    upper: Finite = 0.0
    mean: Finite = 0.0
    std: Finite = Field(1.0, ge=0)


class Plan(Document):
    """The plan of an experiment. Axes are those of the reoriented (RAS) volume."""

    stage = "plan"

    spacing: tuple[PlannedMm, PlannedMm, PlannedMm]
    """Voxel size (mm) of the grid."""
    patch_size: PlannedTriple
    """Voxels that the network sees at once; a multiple of the total stride of each axis."""
    batch_size: int = Field(ge=1, le=1 << 16)
    channels: tuple[PositiveInteger, ...] = Field(min_length=1, max_length=MAXIMUM_LEVELS)
    """Channels of each resolution level, finest first."""
    strides: tuple[tuple[Stride, Stride, Stride], ...]
    """Stride into each level; the first is (1, 1, 1)."""
    kernels: tuple[tuple[Kernel, Kernel, Kernel], ...]
    """Convolution kernel of each level: 1 along an axis that is much coarser than the others."""
    normalisation: tuple[Normalisation, ...]
    """One for each modality, in channel order."""
    median_shape: PlannedTriple
    """Median shape (voxels) of the scans on the grid."""
    flip_axes: PlannedAxes = (0,)
    """Axes along which training patches are mirrored."""
    quarter_turns: PlannedAxes = ()
    """Axes about which training patches are turned by multiples of 90 degrees."""
    reasons: dict[str, str]
    """Why each value was chosen, in one sentence each."""

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        levels = {len(self.channels), len(self.strides), len(self.kernels)}
        if len(levels) > 1:
            raise ValueError("channels, strides and kernels must have one entry for each level")
        if prod(self.patch_size) > MAXIMUM_PATCH_VOXELS:
            raise ValueError(f"patch_size has more than {MAXIMUM_PATCH_VOXELS} voxels")
        return self

    @property
    def grid_sha256(self) -> str:
        """Digest of what preprocessed arrays depend on: a new patch size leaves them valid."""
        content = self.to_json()
        return sha256_json({name: content[name] for name in ("spacing", "normalisation")})
