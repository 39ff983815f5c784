"""Mixing of the patches of a batch: a box of one is pasted into another, and the other way round.

Labelled and unlabelled patches then share what surrounds a voxel, so that what is learned on the few labelled ones holds
on the others (bidirectional copy-paste, Bai et al. 2023). Image, target and weight move together: every loss sees
the mixed truth.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hstf.config.training import MixingConfig
from hstf.imaging.regions import Box
from hstf.training.loop import Views


def mix(views: Views, config: MixingConfig) -> Views:
    """``views`` as they are or, with ``config.probability``, each with a box of its partner in it.

    A patch alone in its batch stays as it is.
    """
    if config.probability == 0 or len(views.weak) < 2:
        return views
    if (
        float(torch.rand(1, generator=views.generator, device=views.weak.device))
        >= config.probability
    ):
        return views
    box = random_box(views.weak.shape[2:], config.fraction, views.generator)
    partner = partners(views.unlabelled.tolist())
    weak, target, weight, pseudo = (
        paste(x, partner, box) for x in (views.weak, views.target, views.weight, views.pseudo)
    )
    return replace(views, weak=weak, target=target, weight=weight, pseudo=pseudo)


def random_box(shape: Sequence[int], share: float, generator: torch.Generator) -> Box:
    """A box with ``share`` of each side of a patch, anywhere in it."""
    sides = [max(1, round(share * n)) for n in shape]
    chance = torch.rand(3, generator=generator, device=generator.device).tolist()
    starts = [int(c * (n - side + 1)) for c, n, side in zip(chance, shape, sides, strict=True)]
    return tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))


def partners(unlabelled: Sequence[bool]) -> list[int]:
    """For each patch the one that it takes a box from: one of the other kind, or the one before where all are alike."""
    kinds = [[i for i, other in enumerate(unlabelled) if other == kind] for kind in (False, True)]
    if not all(kinds):
        return [i - 1 for i in range(len(unlabelled))]
    found = [0] * len(unlabelled)
    for own, others in (kinds, kinds[::-1]):
        for position, index in enumerate(own):
            found[index] = others[position % len(others)]
    return found


def paste(x: Tensor, partner: Sequence[int], box: Box) -> Tensor:
    """``x`` ``(B, C, D, H, W)`` with the ``box`` of ``x[partner]``."""
    mixed = x.clone()
    mixed[:, :, *box] = x[:, :, *box][list(partner)]
    return mixed
