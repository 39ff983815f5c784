"""The loss of regions, compared with a calculation by hand and with PyTorch."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.tumour_regions import CLASSES, NESTED, random_log_odds
from torch import Tensor

from hstf.models.regions import class_logits
from hstf.training.losses import region_log_odds, region_loss, region_sums


def random_target() -> Tensor:
    """Return a one-hot target ``(2, 4, 3, 4, 2)``."""
    label = torch.randint(0, CLASSES, (2, 3, 4, 2))
    return F.one_hot(label, CLASSES).movedim(-1, 1).float()


def test_region_log_odds_are_those_of_the_summed_probability() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, CLASSES, 5, generator=generator).double()
    inside = region_sums(logits.softmax(1), NESTED)
    expected = (inside / (1 - inside)).log()
    torch.testing.assert_close(region_log_odds(logits, NESTED), expected)


def test_region_log_odds_of_extreme_logits_are_finite() -> None:
    logits = torch.tensor([80.0, -80.0, 0.0, 90.0])[None, :, None]
    assert region_log_odds(logits, NESTED).isfinite().all()


def test_region_loss_of_one_voxel_is_the_one_by_hand() -> None:
    """All four classes are equally likely: three are tumour, two are core, one is enhancing."""
    logits = class_logits(torch.zeros(1, 3, 1, 1, 1), NESTED, CLASSES)
    oedema = torch.tensor([0.0, 0.0, 1.0, 0.0]).view(1, 4, 1, 1, 1)  # in the whole tumour only
    entropy = -(math.log(3 / 4) + math.log(2 / 4) + math.log(3 / 4)) / 3
    dice = 1 - 2 * 0.75 / (0.75 + 1)  # of the whole tumour; the target lacks the others
    loss = region_loss(logits, oedema, torch.ones(1, 1, 1, 1, 1), NESTED)
    assert loss.item() == pytest.approx(0.5 * (entropy + dice), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_region_loss_equals_cross_entropy_of_torch_and_dice_of_numpy(seed: int) -> None:
    logits = class_logits(random_log_odds(seed), NESTED, CLASSES)
    generator = torch.Generator().manual_seed(seed)
    target = (3 * torch.randn(logits.shape, generator=generator)).softmax(1)
    weight = torch.rand(2, 1, *logits.shape[2:], generator=generator)
    probabilities = logits.softmax(1).double().numpy()
    truths = target.double().numpy()
    weights = weight.double().numpy()[:, 0]
    odds = []
    truth = []
    dice_losses = []
    for classes in NESTED:
        p = probabilities[:, list(classes)].sum(1)
        t = truths[:, list(classes)].sum(1)
        both = (np.minimum(p, t) * weights).sum()
        total = ((p + t) * weights).sum()
        dice_losses.append(1 - 2 * both / total)
        odds.append(torch.from_numpy(np.log(p / (1 - p))))
        truth.append(torch.from_numpy(t))
    entropy = F.binary_cross_entropy_with_logits(
        torch.stack(odds, 1),
        torch.stack(truth, 1),
        weight=weight.double(),
        reduction="sum",
    )
    entropy /= len(NESTED) * weight.double().sum()
    expected = 0.5 * (entropy.item() + np.mean(dice_losses))
    loss = region_loss(logits, target, weight, NESTED)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_region_loss_has_no_gradient_where_voxels_are_ignored() -> None:
    log_odds = random_log_odds(3).requires_grad_()
    target = random_target()
    weight = torch.ones(2, 1, 3, 4, 2)
    target[:, :, 0] = 0
    weight[:, :, 0] = 0
    region_loss(class_logits(log_odds, NESTED, CLASSES), target, weight, NESTED).backward()
    assert log_odds.grad is not None
    assert not log_odds.grad[:, :, 0].any()
    assert log_odds.grad[:, :, 1:].abs().sum() > 0


def test_region_loss_has_a_gradient_for_every_head() -> None:
    log_odds = random_log_odds(4).requires_grad_()
    logits = class_logits(log_odds, NESTED, CLASSES)
    region_loss(logits, random_target(), torch.ones(2, 1, 3, 4, 2), NESTED).backward()
    assert log_odds.grad is not None
    assert (log_odds.grad.abs().sum((0, 2, 3, 4)) > 0).all()
