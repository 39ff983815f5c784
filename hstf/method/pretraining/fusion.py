"""Task ``fusion``: segment how strongly another scan is blended in.

VolumeFusion (Wang et al., MIS-FM, arXiv 2306.16925) blends boxes of one scan into another with one
of K coefficients, and the network segments the coefficient of each voxel. This is a segmentation
with labels that cost nothing, so that the decoder is trained, too. Shapes are boxes and ellipsoids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hstf.method.pretraining.corruption import random_shape_box, whole_number
from hstf.method.pretraining.task import LOSS, Example, PretrainingTask
from hstf.models.base import SegmentationNetwork
from hstf.runtime.devices import to_device
from hstf.training.augmentations.draws import chosen
from hstf.training.batch import Batch
from hstf.training.losses import pyramid_loss
from hstf.training.patches import PatchSource
from hstf.training.state import TrainingState

EDGES = (0.1, 0.5)
"""Edges of a shape, relative to the patch."""


class Fusion(PretrainingTask):
    """Segment the blending level of each voxel."""

    @property
    def outputs(self) -> int:
        """Number of classes: level 0 and the K levels."""
        return self.section.fusion.levels + 1

    def source(self, source: PatchSource) -> PatchSource:
        """Return the source with at least two patches in a batch."""
        return replace(source, batch_size=max(2, source.batch_size))

    def fuse(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the blended image, the levels ``(B, D, H, W)`` and the voxel weights."""
        section = self.section.fusion
        levels = random_levels(
            len(batch.weak),
            batch.weak.shape[2:],
            section.levels,
            section.shapes,
            batch.generator,
        )
        levels = to_device(levels, batch.weak.device)
        partner = batch.weak.roll(1, 0)
        weight = batch.inside * batch.inside.roll(1, 0)
        return blended(batch.weak, partner, levels, section.levels), levels, weight

    def __call__(self, state: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        """Compute the segmentation loss of the levels, summed over the networks of a pair."""
        image, levels, weight = self.fuse(batch)
        target = torch.stack([levels == k for k in range(self.outputs)], dim=1).float()
        depth = None if self.settings.network.deep_supervision else 1
        losses = []
        for part in state.network.parts:
            logits = part.pyramid(image).logits[:depth]
            losses.append(pyramid_loss(logits, target, weight))
        return {LOSS: torch.stack(losses).sum()}

    def examples(self, network: SegmentationNetwork, batch: Batch) -> Sequence[Example]:
        """Return pictures of each patch: the scan, the blended scan, true and found levels."""
        image, levels, _ = self.fuse(batch)
        found = network.parts[0](image).argmax(1)
        result = []
        for index, case_id in enumerate(batch.case_ids):
            panels = {
                "original": batch.weak[index, 0],
                "blended": image[index, 0],
                "levels": levels[index].float(),
                "segmented levels": found[index].float(),
            }
            result.append(Example(panels, case_id))
        return result


def random_levels(
    batch: int, size: Sequence[int], levels: int, shapes: int, generator: torch.Generator
) -> Tensor:
    """Draw the blending level of each voxel, ``(B, D, H, W)`` int64 on the host, 0 to ``levels``.

    Args:
        batch: number of patches.
        size: size of a patch (voxels).
        levels: number of levels in addition to 0.
        shapes: maximum number of boxes and ellipsoids in a patch; later ones cover earlier ones.
        generator: source of the random numbers.

    Example:
        >>> found = random_levels(2, (8, 8, 8), 4, 10, torch.Generator().manual_seed(0))
        >>> found.shape, int(found.min()), int(found.max()) <= 4
        (torch.Size([2, 8, 8, 8]), 0, True)
    """
    result = torch.zeros(batch, *size, dtype=torch.int64)
    for patch in result:
        count = whole_number(1, shapes, generator)
        for _ in range(count):
            box = random_shape_box(size, *EDGES, generator)
            level = whole_number(1, levels, generator)
            part = patch[box]
            if chosen(1, 0.5, generator)[0]:
                part.masked_fill_(ellipsoid(part.shape), level)
            else:
                part.fill_(level)
    return result


def ellipsoid(size: Sequence[int]) -> Tensor:
    """Return which voxels of a box are in the ellipsoid that touches all its faces, bool.

    Example:
        >>> int(ellipsoid((3, 3, 3)).sum())
        19
    """
    squares = torch.zeros(tuple(size))
    for axis, n in enumerate(size):
        offsets = (torch.arange(n) + 0.5) / n * 2 - 1
        shape = [1, 1, 1]
        shape[axis] = n
        squares = squares + (offsets**2).reshape(shape)
    return squares <= 1


def blended(image: Tensor, partner: Tensor, levels: Tensor, maximum: int) -> Tensor:
    """Blend ``partner`` into ``image`` with the coefficient level / maximum.

    Args:
        image: ``(B, C, D, H, W)``.
        partner: the other patches, of the same shape.
        levels: ``(B, D, H, W)``.
        maximum: level at which only the partner is seen.

    Example:
        >>> one = torch.ones(1, 1, 1, 1, 3)
        >>> blended(0 * one, one, torch.tensor([[[[0, 2, 4]]]]), 4).flatten().tolist()
        [0.0, 0.5, 1.0]
    """
    alpha = (levels[:, None].to(image.dtype)) / maximum
    return image + alpha * (partner - image)
