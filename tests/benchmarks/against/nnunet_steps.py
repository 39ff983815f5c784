"""Train the network of nnU-Net in turns: ``python -m against.nnunet_steps --config FILE ...``.

The network is its PlainConvUNet with the levels, channels and kernels of our plan, in float32.
Loss, deep supervision and optimiser are those of its trainer. Patches are random numbers in memory:
nothing is read from disk. With ``--augment`` they go through the augmentation of its trainer, in
the thread of the training, so that its CPU seconds are counted.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from training_speed import make_plan, read_config

from against.turns import repeat
from hstf.experiment.plan import Plan

STEPS = 2
"""Steps of a turn."""
CLIP = 12
ROTATION = (-np.pi / 6, np.pi / 6)
FLAT = 3
"""A patch that is so many times longer than thick is rotated within its slices."""
Pair = tuple[torch.Tensor, list[torch.Tensor]]
"""Images of a batch, and its labels for each level of the decoder."""


def main() -> None:
    """Train until nobody asks for another turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, nargs="+", required=True)
    parser.add_argument("--patch", type=int, nargs=3, required=True)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--augment", action="store_true")
    args = parser.parse_args()
    config = read_config(args)
    plan = make_plan(config)
    classes = len(config.class_names)
    network = network_of(plan, len(config.modalities), classes)
    draw = augmented if args.augment else cropped
    repeat(step_of(network, draw(plan, classes)), STEPS)


def network_of(plan: Plan, inputs: int, classes: int) -> torch.nn.Module:
    """Return the network of nnU-Net; its axes are in reverse order, as in its arrays."""
    return PlainConvUNet(
        input_channels=inputs,
        n_stages=len(plan.channels),
        features_per_stage=plan.channels,
        conv_op=torch.nn.Conv3d,
        kernel_sizes=[kernel[::-1] for kernel in plan.kernels],
        strides=[stride[::-1] for stride in plan.strides],
        n_conv_per_stage=2,
        num_classes=classes,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )


def step_of(network: torch.nn.Module, draw: Callable[[], Pair]) -> Callable[[], None]:
    """Return a function that trains one step."""
    loss = DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False},
        {},
        weight_ce=1,
        weight_dice=1,
        ignore_label=None,
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    optimizer = torch.optim.SGD(
        network.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True
    )
    network.train()

    def step() -> None:
        images, labels = draw()
        optimizer.zero_grad(set_to_none=True)
        logits = network(images)
        value = DeepSupervisionWrapper(loss, weights_of(len(logits)))(logits, labels)
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        value.item()

    return step


def weights_of(levels: int) -> list[float]:
    """Return the weights of the levels: half of the level before, and 0 for the coarsest."""
    weights = np.array([1 / 2**level for level in range(levels)])
    weights[-1] = 0
    return list(weights / weights.sum())


def scales_of(plan: Plan) -> list[list[float]]:
    """Return the size of each level of the decoder as a fraction of the patch."""
    strides = np.array([stride[::-1] for stride in plan.strides])
    return [list(map(float, scale)) for scale in 1 / np.cumprod(strides, axis=0)[:-1]]


def cropped(plan: Plan, classes: int) -> Callable[[], Pair]:
    """Return a function that returns the same batch again and again."""
    shape = (plan.batch_size, 1, *plan.patch_size[::-1])
    images = torch.randn(shape)
    label = stripes(shape, classes)
    labels = []
    for scale in scales_of(plan):
        size = [round(side * part) for side, part in zip(shape[2:], scale, strict=True)]
        labels.append(torch.nn.functional.interpolate(label.float(), size=size).to(torch.int16))
    return lambda: (images, labels)


def augmented(plan: Plan, classes: int) -> Callable[[], Pair]:
    """Return a function that cuts and augments a batch as the trainer of nnU-Net does."""
    patch = plan.patch_size[::-1]
    flat = max(patch) / patch[0] > FLAT
    rotation = (-np.pi, np.pi) if flat else ROTATION
    unrotated = (0.0, 0.0)
    turns = (rotation, unrotated, unrotated) if flat else (rotation, rotation, rotation)
    initial = list(get_patch_size(patch, *turns, (0.85, 1.25)))
    if flat:
        initial[0] = patch[0]
    transform = nnUNetTrainer.get_training_transforms(
        patch_size=patch,
        rotation_for_DA=rotation,
        deep_supervision_scales=scales_of(plan),
        mirror_axes=(0, 1, 2),
        do_dummy_2d_data_aug=flat,
    )
    images = torch.randn((1, *map(int, initial)))
    label = stripes((1, *map(int, initial)), classes)

    def draw() -> Pair:
        samples: list[dict[str, Any]] = []
        for _ in range(plan.batch_size):
            samples.append(transform(image=images.clone(), segmentation=label.clone()))
        levels = zip(*(sample["segmentation"] for sample in samples), strict=True)
        stacked = [torch.stack(level) for level in levels]
        return torch.stack([sample["image"] for sample in samples]), stacked

    return draw


def stripes(shape: tuple[int, ...], classes: int) -> torch.Tensor:
    """Return labels in diagonal stripes, as those of our random scans."""
    return torch.from_numpy(np.indices(shape).sum(axis=0) // 8 % classes).to(torch.int16)


if __name__ == "__main__":
    main()
