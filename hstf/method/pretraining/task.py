"""What the tasks of pre-training have in common.

A task changes the images of a batch and computes a loss of what the network makes of them. No task
has a label. The training loop, the optimiser, the EMA weights and the random changes of geometry
are those of the supervised training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hstf.config.network import NetworkConfig
from hstf.config.pretrain import PretrainConfig
from hstf.experiment.plan import Plan
from hstf.models.base import NetworkSpec, SegmentationNetwork
from hstf.models.registry import build
from hstf.training.batch import Batch
from hstf.training.losses import weighted_mean
from hstf.training.patches import PatchSource
from hstf.training.state import TrainingState

LOSS = "pretraining"
"""Name of the term in ``history.csv``."""


@dataclass(frozen=True)
class TaskSettings:
    """What a task is built from."""

    section: PretrainConfig
    network: NetworkConfig
    plan: Plan
    inputs: int
    """Number of channels of the image."""
    patients: Mapping[str, str]
    """The patient of each case."""


@dataclass(frozen=True)
class Example:
    """Pictures of a patch."""

    panels: Mapping[str, Tensor]
    """``(D, H, W)`` of each picture by its title."""
    case_id: str


class PretrainingTask:
    """Base class of the tasks: the network restores the clean image from a corrupted one.

    A subclass implements :meth:`corrupt`, or all methods.

    Example:
        >>> from hstf.config.pretrain import PretrainConfig
        >>> from hstf.method.pretraining.registry import task_class
        >>> issubclass(task_class("masked"), PretrainingTask)
        True
    """

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings
        self.section = settings.section
        self.plan = settings.plan

    @property
    def outputs(self) -> int:
        """Number of output channels of the network."""
        return self.settings.inputs

    def build(self, spec: NetworkSpec) -> SegmentationNetwork:
        """Build the network that is trained, with random weights."""
        return build(spec)

    def backbone(self, network: SegmentationNetwork) -> SegmentationNetwork:
        """Return the network that is stored, which can be loaded from its specification."""
        return network

    def source(self, source: PatchSource) -> PatchSource:
        """Return where the patches come from."""
        return source

    def corrupt(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the corrupted image ``(B, C, D, H, W)`` and the weight of each of its voxels.

        The weight has the same shape. It is the part of the image that must be restored.
        """
        raise NotImplementedError

    def __call__(self, state: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        """Compute the loss of a batch, summed over the networks of a pair."""
        image, weight = self.corrupt(batch)
        losses = []
        for part in state.network.parts:
            losses.append(restoration_loss(part(image), batch.weak, weight))
        return {LOSS: torch.stack(losses).sum()}

    def examples(self, network: SegmentationNetwork, batch: Batch) -> Sequence[Example]:
        """Return pictures of each patch of a batch."""
        image, weight = self.corrupt(batch)
        restored = self.restored(network.parts[0](image).float(), image, weight)
        found = []
        for index, case_id in enumerate(batch.case_ids):
            panels = {
                "original": batch.weak[index, 0],
                "corrupted": image[index, 0],
                "restored": restored[index, 0],
            }
            found.append(Example(panels, case_id))
        return found

    def restored(self, output: Tensor, image: Tensor, weight: Tensor) -> Tensor:
        """Return the restored image from the output of the network."""
        return output


def restoration_loss(output: Tensor, image: Tensor, weight: Tensor) -> Tensor:
    """Compute the weighted mean squared error; 0 if all weights are 0.

    Args:
        output: ``(B, C, D, H, W)``, what the network restored.
        image: ``(B, C, D, H, W)``, the clean image.
        weight: ``(B, C, D, H, W)``, 0 to 1.

    Example:
        >>> output, image = torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 0.0]])
        >>> restoration_loss(output, image, torch.tensor([[1.0, 0.0]])).item()
        4.0
    """
    return weighted_mean((output.float() - image.float()) ** 2, weight)


def image_weight(batch: Batch) -> Tensor:
    """Return the weight of each voxel ``(B, C, D, H, W)``: 1 in the scan, 0 outside and in masks.

    The channels of masks (organ priors, clicks) are inputs, but nothing to restore.
    """
    weight = batch.inside.expand_as(batch.weak).clone()
    for channel in batch.acquisition.masks(batch.weak.shape[1]):
        weight[:, channel] = 0
    return weight


def total_voxels(size: Sequence[int]) -> int:
    """Return the number of voxels of a box.

    Example:
        >>> total_voxels((2, 3, 4))
        24
    """
    count = 1
    for edge in size:
        count *= edge
    return count
