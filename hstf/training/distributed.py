"""One training in several processes, each with its own GPU.

Torch's ``torchrun`` starts the processes (ranks), all on one machine. All ranks compute the same
steps. Each rank knows the whole batch of a step and reads its part of it. Losses are quotients of
sums over the voxels of a batch: :func:`sum_over_ranks` adds these sums, so that loss and gradient
are those of one process with the whole batch, except for rounding. Each rank has its own random
stream for augmentation, dropout and mixing. With another number of ranks, a patch has the same
position but other random changes.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hstf.runtime.devices import choose_device
from hstf.runtime.errors import HstfError

T = TypeVar("T")
Terms = Callable[..., Mapping[str, Tensor]]
"""A function that returns the named terms of a loss."""

TIMEOUT = timedelta(days=1)
"""The first rank may have to wait until the process of a killed run ends, and the others wait with
it. Nobody waits for a rank that has died, because torchrun then ends all ranks."""


def rank() -> int:
    """Return the rank of this process, 0 for the first."""
    return int(os.environ.get("RANK", "0"))


def rank_count() -> int:
    """Return the number of processes of this training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_rank() -> bool:
    """Return whether this process writes files, prints messages and predicts for all ranks."""
    return rank() == 0


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Connect the ranks of a training while the block runs; a single process does nothing.

    Args:
        device: the configured device, ``auto``, ``cpu`` or ``cuda``.

    Raises:
        HstfError: if there are fewer GPUs than ranks, or if another rank fails.
    """
    if rank_count() == 1:
        yield
        return
    backend = "nccl" if choose_device(device).type == "cuda" else "gloo"
    _check_gpus(backend)
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise HstfError(
                f"rank {rank()} of {rank_count()} lost the connection to another rank."
                " See the error message of the other rank."
            ) from error
        raise
    finally:
        # After an error, NCCL would wait for the lost rank.
        if backend == "gloo" or sys.exception() is None:
            dist.destroy_process_group()


def _check_gpus(backend: str) -> None:
    gpus = torch.cuda.device_count()
    if backend == "nccl" and rank_count() > gpus:
        raise HstfError(
            f"a training with {rank_count()} processes needs {rank_count()} GPUs on this machine,"
            f" but torch finds {gpus}: set gpus to {max(gpus, 1)}."
        )


def from_first_rank(value: T) -> T:
    """Return the ``value`` of the first rank on all ranks."""
    if not _is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def sum_over_ranks(*sums: Tensor) -> tuple[Tensor, ...]:
    """Add each of ``sums`` over all ranks, in one message.

    Every rank must compute the same loss from the results.
    """
    if not _is_distributed():
        return sums
    flat: Tensor = _Sum.apply(torch.cat([x.reshape(-1) for x in sums]))
    parts = flat.split([x.numel() for x in sums])
    return tuple(part.reshape(x.shape) for part, x in zip(parts, sums, strict=True))


class _Sum(torch.autograd.Function):
    """Sum over the ranks.

    All ranks have the same loss, so that the gradient needs no message.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # DDP computes the mean of the gradients of the ranks, but their sum is needed.
        return gradient * rank_count()


def chosen_on_any_rank(chosen: Sequence[bool], device: torch.device) -> list[bool]:
    """Add the first patch to an empty choice if another rank has chosen a patch.

    All ranks then have the same terms in their loss and send the same messages. The loss must give
    such a substitute the weight 0.

    Args:
        chosen: whether each patch is chosen.
        device: device of the training.
    """
    flags = list(chosen)
    if not _is_distributed():
        return flags
    anywhere = torch.tensor(float(any(flags)), device=device)
    dist.all_reduce(anywhere)
    if float(anywhere) > 0 and not any(flags):
        flags[0] = True
    return flags


def with_synchronised_gradients(network: nn.Module, objective: Terms) -> Terms:
    """Return ``objective`` such that a backward pass averages the gradients of all ranks."""
    if not _is_distributed():
        return objective
    return DistributedDataParallel(
        _Terms(network, objective), broadcast_buffers=False, find_unused_parameters=True
    )


class _Terms(nn.Module):
    """An objective as a module.

    DDP must know which weights the forward passes of an objective use, one or several of them.
    """

    def __init__(self, network: nn.Module, objective: Terms) -> None:
        super().__init__()
        self.network = network
        self.objective = objective

    def forward(self, *arguments: Any) -> dict[str, Tensor]:
        return dict(self.objective(*arguments))


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
