"""``plan:``, how the input of the network is chosen from the scans."""

from typing import Annotated

from pydantic import Field

from hstf.config.section import Section

Millimetres = Annotated[float, Field(gt=0)]
Voxels = Annotated[int, Field(ge=1)]


class PlanConfig(Section):
    """Choices of the plan; a key that is null is chosen from the data.

    ``plan.json`` has the reason of each choice.
    """

    spacing: tuple[Millimetres, Millimetres, Millimetres] | None = None
    """Target voxel size (mm) along the three axes of the reoriented (RAS) volume; null: from the
    data."""
    patch_size: tuple[Voxels, Voxels, Voxels] | None = None
    """Patch (voxels) of the network in training and inference; null: from the data and the memory
    budget."""
    batch_size: int | None = Field(None, ge=1)
    """Patches in a training batch; null: from the memory budget, at least 2."""
    memory_gb: float = Field(8.0, gt=0)
    """Memory budget (GB) of a training step, on the GPU or, without one, in main memory."""
    max_patch_voxels: int = Field(128**3, ge=1)
    """Maximum size of the patch (voxels), whatever the memory: an upper bound for slow machines."""
    stages: int | None = Field(None, ge=2, le=5)
    """Resolution levels of the network; null: as many as the patch allows, at most 5."""
    base_channels: int = Field(32, ge=4)
    """Channels at full resolution. They double at each level, up to ``max_channels``."""
    max_channels: int = Field(320, ge=4)
    """Maximum number of channels of a level."""
