"""One training by several processes, each with a GPU of its own (a rank): the first writes, all compute the same steps.

Torch's ``torchrun`` starts the ranks, all on one machine. Each knows the batch of a step and reads its part of it. The
losses are quotients of sums over the voxels of a batch: :func:`pooled` adds these sums over the ranks, so that loss and
gradient are those of one process with the whole batch, to rounding. What chance decides patch by patch (augmentation,
dropout, who is mixed with whom) each rank draws from a stream of its own: with another number of ranks a patch lies at
the same place and looks otherwise.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
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

# The first rank may have to wait for the process of a killed run to end, and the others with it. A rank that dies is not
# waited for: torchrun then ends all.
PATIENCE = timedelta(days=1)


def rank() -> int:
    """The place of this process among those of its training, 0 for the first."""
    return int(os.environ.get("RANK", "0"))


def ranks() -> int:
    """How many processes this training has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Whether this is the process that writes, tells and predicts for all."""
    return rank() == 0


@contextmanager
def together(device: str) -> Iterator[None]:
    """Meet the other ranks, and part at the end; a process alone has nobody to meet.

    Args:
        device: as configured; ``auto``, ``cpu`` or ``cuda``.

    Raises:
        HstfError: there are fewer GPUs than ranks, or another rank was lost.
    """
    if ranks() == 1:
        yield
        return
    backend = "nccl" if choose_device(device).type == "cuda" else "gloo"
    gpus = torch.cuda.device_count()
    if backend == "nccl" and ranks() > gpus:
        raise HstfError(
            f"{ranks()} processes of a training need {ranks()} GPUs on this machine, and torch sees {gpus}: set gpus."
        )
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise HstfError(
                f"rank {rank()} of {ranks()} lost another, whose message says why."
            ) from error
        raise
    finally:
        if (
            backend == "gloo" or sys.exception() is None
        ):  # NCCL would wait for the lost rank to say goodbye
            dist.destroy_process_group()


def from_first(value: T) -> T:
    """The first rank's ``value``."""
    if not _several():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def pooled(*sums: Tensor) -> tuple[Tensor, ...]:
    """``sums`` over the patches of this rank, added over all ranks, in one message.

    Every rank must go on to compute the same loss from them.
    """
    if not _several():
        return sums
    flat: Tensor = _Sum.apply(torch.cat([x.reshape(-1) for x in sums]))
    parts = flat.split([x.numel() for x in sums])
    return tuple(part.reshape(x.shape) for part, x in zip(parts, sums, strict=True))


class _Sum(torch.autograd.Function):
    """The sum over the ranks. All of them have the same loss, so that the gradient needs no message."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return (
            gradient * ranks()
        )  # DDP takes the mean of the ranks' gradients where we need their sum


def somewhere(chosen: Tensor) -> Tensor:
    """``chosen`` ``(B,)`` bool; where it is empty here and not on another rank, the first patch stands in.

    Then all ranks have the same terms in their loss, and meet in their sums. A stand-in must get no weight.
    """
    if not _several():
        return chosen
    here = chosen.any()
    anywhere = here.float()
    dist.all_reduce(anywhere)
    stand_in = torch.zeros_like(chosen)
    stand_in[0] = (anywhere > 0) & ~here
    return chosen | stand_in


def in_step(network: nn.Module, objective: Terms) -> Terms:
    """``objective`` after which the gradients of ``network`` are the mean over the ranks."""
    if not _several():
        return objective
    return DistributedDataParallel(
        _Terms(network, objective), broadcast_buffers=False, find_unused_parameters=True
    )


class _Terms(nn.Module):
    """An objective as a module: DDP watches which weights a forward pass comes by, be it one or several of the network."""

    def __init__(self, network: nn.Module, objective: Terms) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, *arguments: Any) -> dict[str, Tensor]:
        return dict(self.objective(*arguments))


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
