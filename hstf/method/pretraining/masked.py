"""Task ``masked``: a masked autoencoder with the network as it is.

Most of a patch is hidden in cubes, and the network restores them (Zhou et al., Self pre-training
with masked autoencoders, ISBI 2023; He et al., CVPR 2022). The loss counts masked voxels only. A
cube has the edge of the total stride of the network, so that a position of its deepest feature map
is either masked or not. Masked voxels are 0, the mean of a normalised scan. Slices over three times
as thick as the finest voxel edge are masked one by one: a square of the next slice shows other
anatomy, and cubes would hide nearly the whole depth of the patch.
"""

from collections.abc import Sequence
from math import ceil, prod

import torch
from torch import Tensor

from hstf.imaging.spacing import ANISOTROPY, Triple, relative_spacing
from hstf.method.pretraining.task import PretrainingTask, image_weight
from hstf.models.levels import total_stride
from hstf.runtime.devices import to_device
from hstf.training.batch import Batch


class Masked(PretrainingTask):
    """Restore masked cubes."""

    def corrupt(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the image with masked cubes, and the weight of the masked voxels."""
        mask = random_mask(
            len(batch.weak),
            batch.weak.shape[2:],
            mask_edges(total_stride(self.plan.strides), self.plan.spacing),
            self.section.masked.ratio,
            batch.generator,
        )
        mask = to_device(mask, batch.weak.device)
        return batch.weak.masked_fill(mask, 0), image_weight(batch) * mask

    def restored(self, output: Tensor, image: Tensor, weight: Tensor) -> Tensor:
        """Return the output in masked voxels and the image elsewhere."""
        return torch.where(weight > 0, output, image)


def mask_edges(stride: Sequence[int], spacing: Sequence[float]) -> Triple:
    """Return the edges (voxels) of a masked cube.

    Args:
        stride: total stride of the network.
        spacing: voxel size (mm).

    Example:
        >>> mask_edges((16, 16, 2), (1.5, 1.5, 10.0))
        (16, 16, 1)
    """
    edges = []
    for step, edge in zip(stride, relative_spacing(spacing), strict=True):
        edges.append(1 if edge > ANISOTROPY else int(step))
    return edges[0], edges[1], edges[2]


def random_mask(
    batch: int,
    size: Sequence[int],
    edges: Sequence[int],
    ratio: float,
    generator: torch.Generator,
) -> Tensor:
    """Draw which voxels are masked, ``(B, 1, D, H, W)`` bool on the host.

    Every patch has the same number of masked cubes: at least one, and not all.

    Args:
        batch: number of patches.
        size: size of a patch (voxels).
        edges: edges of a cube (voxels).
        ratio: fraction of masked cubes.
        generator: source of the random numbers.

    Example:
        >>> mask = random_mask(1, (4, 4, 2), (2, 2, 1), 0.5, torch.Generator().manual_seed(0))
        >>> int(mask.sum()), mask.unfold(2, 2, 2).float().mean(-1).unique().tolist()
        (16, [0.0, 1.0])
    """
    cells = [ceil(n / edge) for n, edge in zip(size, edges, strict=True)]
    count = prod(cells)
    masked = min(max(round(ratio * count), 1), max(count - 1, 1))
    order = torch.rand(batch, count, generator=generator).argsort(dim=1)
    mask = torch.zeros(batch, count, dtype=torch.bool)
    mask.scatter_(1, order[:, :masked], True)
    mask = mask.reshape(batch, 1, *cells)
    for axis, edge in enumerate(edges):
        mask = mask.repeat_interleave(edge, dim=axis + 2)
    x, y, z = size
    return mask[:, :, :x, :y, :z]
