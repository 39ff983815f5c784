"""Bidirectional copy-paste: the patches of a batch exchange boxes (Bai et al., CVPR 2023).

Labelled and unlabelled voxels then have the same surroundings, so that what the network learns from
the few labelled cases also holds for the others. Image, target and weight move together, so that
every loss uses the mixed target.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hstf.config.training import MixingConfig
from hstf.imaging.regions import Box
from hstf.training.augmentations.draws import chosen
from hstf.training.batch import Batch


def mix(batch: Batch, config: MixingConfig) -> Batch:
    """Paste a box of another patch into each patch, with ``config.probability``.

    A batch with a single patch is returned unchanged.
    """
    if config.probability == 0 or len(batch.weak) < 2:
        return batch
    if not chosen(1, config.probability, batch.generator)[0]:
        return batch
    shape = batch.weak.shape[2:]
    box = random_box(shape, config.fraction, batch.generator)
    partners = choose_partners(batch.unlabelled)
    whole = covers(box, shape)
    after = _unlabelled_after(batch.unlabelled, partners, whole)
    return replace(
        batch,
        weak=paste(batch.weak, partners, box),
        target=paste(batch.target, partners, box),
        weight=paste(batch.weight, partners, box),
        pseudo=paste(batch.pseudo, partners, box),
        unlabelled=after,
        unlabelled_before_mixing=after if whole else batch.unlabelled,
    )


def covers(box: Box, shape: Sequence[int]) -> bool:
    """Return whether ``box`` is a whole patch of ``shape`` (voxels)."""
    return all(side.stop - side.start == size for side, size in zip(box, shape, strict=True))


def _unlabelled_after(
    unlabelled: Sequence[bool],
    partners: Sequence[int],
    whole: bool,
) -> tuple[bool, ...]:
    """Return whether each patch has voxels without a manual label after the exchange.

    Args:
        unlabelled: the same before the exchange.
        partners: index of the patch that the box of each patch comes from.
        whole: whether the box is the whole patch.
    """
    flags = []
    for own, partner in zip(unlabelled, partners, strict=True):
        flags.append(unlabelled[partner] or (own and not whole))
    return tuple(flags)


def random_box(
    shape: Sequence[int],
    fraction: float,
    generator: torch.Generator,
) -> Box:
    """Draw a box at a random position in a patch.

    Args:
        shape: size of the patch (voxels).
        fraction: size of the box along each axis, as a fraction of the patch.
        generator: source of the random numbers.
    """
    chance = torch.rand(3, generator=generator).numpy().tolist()
    box = []
    for size, position in zip(shape, chance, strict=True):
        side = max(1, round(fraction * size))
        start = int(position * (size - side + 1))
        box.append(slice(start, start + side))
    return tuple(box)


def choose_partners(unlabelled: Sequence[bool]) -> list[int]:
    """Choose for each patch the index of the patch that its box comes from.

    It is a patch of the other kind, or the previous patch if all patches are of one kind.
    """
    labelled_patches = [index for index, flag in enumerate(unlabelled) if not flag]
    unlabelled_patches = [index for index, flag in enumerate(unlabelled) if flag]
    if not labelled_patches or not unlabelled_patches:
        return [index - 1 for index in range(len(unlabelled))]
    partners = [0] * len(unlabelled)
    for position, index in enumerate(labelled_patches):
        partners[index] = unlabelled_patches[position % len(unlabelled_patches)]
    for position, index in enumerate(unlabelled_patches):
        partners[index] = labelled_patches[position % len(labelled_patches)]
    return partners


def paste(
    x: Tensor,
    partners: Sequence[int],
    box: Box,
) -> Tensor:
    """Copy ``x`` ``(B, C, D, H, W)`` and replace ``box`` by that of ``x[partners]``."""
    mixed = x.clone()
    for index, partner in enumerate(partners):
        mixed[index][:, *box] = x[partner][:, *box]
    return mixed
