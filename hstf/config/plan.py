"""``plan:``, how the network's input is chosen from the scans."""

from typing import Annotated

from pydantic import Field

from hstf.config.section import Section

Millimetres = Annotated[float, Field(gt=0)]
Voxels = Annotated[int, Field(ge=1)]


class PlanConfig(Section):
    """Everything here is optional: what is left at null is decided from the data, with its reason in ``plan.json``."""

    spacing: tuple[Millimetres, Millimetres, Millimetres] | None = None
    """Target voxel size (mm) along the three axes of the reoriented (RAS) volume; null: from the data."""
    patch_size: tuple[Voxels, Voxels, Voxels] | None = None
    """Patch (voxels) that the network sees in training and prediction; null: from the data and the memory budget."""
    batch_size: int | None = Field(None, ge=1)
    """Patches in a training batch; null: from the memory budget, at least 2."""
    memory_gb: float = Field(8.0, gt=0)
    """Memory budget (GB) for one training step, on the GPU or, without one, in RAM."""
    max_patch_voxels: int = Field(128**3, ge=1)
    """Largest patch (voxels), whatever the memory: a bound for slow machines."""
    stages: int | None = Field(None, ge=2, le=5)
    """Resolution levels of the network; null: as many as the patch allows, at most 5."""
    base_channels: int = Field(32, ge=4)
    """Channels at full resolution; doubled at each level up to ``max_channels``."""
    max_channels: int = Field(320, ge=4)
    """Upper bound of the channels of any level."""
