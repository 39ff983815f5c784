"""Task ``denoise``: restore a patch from global and local corruption.

The reference of the paper for self-supervised learning with global and local denoising could not be
found. This task is built in the manner of Models Genesis (Zhou et al., MICCAI 2019), which combines
the same ideas: a monotone non-linear change of intensities, shuffled small blocks, in-painting and
out-painting; and noise and low resolution, which act on the whole patch. The loss is the mean
squared error to the clean patch.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hstf.method.pretraining.corruption import (
    intensity_curve,
    painting_masks,
    random_controls,
    shuffled_blocks,
)
from hstf.method.pretraining.task import PretrainingTask, image_weight
from hstf.runtime.devices import to_device
from hstf.training.augmentations.draws import chosen, normal_like
from hstf.training.augmentations.low_resolution import low_resolution
from hstf.training.augmentations.noise import noise
from hstf.training.batch import Batch, with_channels_of

Change = Callable[[Tensor], Tensor]


class Denoise(PretrainingTask):
    """Restore a corrupted patch."""

    def corrupt(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the corrupted image, and the weight of all voxels of the scan.

        Channels of masks stay as they are.
        """
        section = self.section.denoise
        generator = batch.generator
        image = batch.weak
        kind = batch.acquisition.kinds(image.shape[1])[0]
        count = len(image)

        def curve(x: Tensor) -> Tensor:
            return intensity_curve(x, random_controls(count, generator))

        def shuffle(x: Tensor) -> Tensor:
            return shuffled_blocks(x, self.plan.spacing, generator)

        changes: list[tuple[Change, float]] = [
            (curve, section.intensity),
            (shuffle, section.shuffling),
            (lambda x: low_resolution(x, generator, kind), section.low_resolution),
            (lambda x: noise(x, generator, kind), section.noise),
            (lambda x: painted(x, section.outer, generator), section.painting),
        ]
        for change, probability in changes:
            image = with_probability(image, change, probability, generator)
        masks = batch.acquisition.masks(image.shape[1])
        return with_channels_of(image, batch.weak, masks), image_weight(batch)


def with_probability(
    image: Tensor, change: Change, probability: float, generator: torch.Generator
) -> Tensor:
    """Change each patch of ``image`` ``(B, C, D, H, W)`` with a probability.

    Example:
        >>> image = torch.zeros(2, 1, 2, 2, 2)
        >>> with_probability(image, lambda x: x + 1, 0.0, torch.Generator()).sum().item()
        0.0
    """
    flags = chosen(len(image), probability, generator)
    if not any(flags):
        return image
    changed = change(image).to(image.dtype)
    rows = [changed[k] if flag else image[k] for k, flag in enumerate(flags)]
    return torch.stack(rows)


def painted(image: Tensor, outer: float, generator: torch.Generator) -> Tensor:
    """Replace boxes, or everything but some boxes, by noise.

    Args:
        image: ``(B, C, D, H, W)``.
        outer: probability of out-painting; otherwise it is in-painting.
        generator: source of the random numbers.

    Example:
        >>> found = painted(torch.zeros(1, 1, 8, 8, 8), 1.0, torch.Generator().manual_seed(0))
        >>> bool((found == 0).any()), bool((found != 0).any())
        (True, True)
    """
    is_outer = chosen(len(image), outer, generator)
    masks = to_device(painting_masks(image.shape[2:], is_outer, generator), image.device)
    return torch.where(masks, normal_like(image, generator).to(image.dtype), image)
