"""Devices of the networks, and their numeric precision."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from hstf.runtime.errors import HstfError
from hstf.runtime.gpu_lease import gpu_of_this_process

BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of CPUs that multiply bfloat16 natively."""


def choose_device(name: str) -> torch.device:
    """Return the device called ``auto``, ``cpu`` or ``cuda``; auto uses a GPU if there is one.

    With several GPUs the process keeps the same one, which few other processes use.

    Raises:
        HstfError: if ``cuda`` is requested and there is no GPU.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise HstfError(
            "device: cuda is set, but PyTorch finds no GPU."
            " Set 'device: auto', or install PyTorch with CUDA."
        )
    if name == "cpu" or not has_gpu:
        return torch.device("cpu")
    return _gpu()


@cache
def _gpu() -> torch.device:
    index = gpu_of_this_process(torch.cuda.device_count())
    if index is not None:
        torch.cuda.set_device(index)
    return torch.device("cuda")


@cache
def has_fast_bf16(device: torch.device) -> bool:
    """Return whether ``device`` multiplies bfloat16 natively; emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return False
    flags = cpuinfo.read_text(errors="ignore").split()
    return not BF16_CPU_FLAGS.isdisjoint(flags)


def computes_in_bf16(device: torch.device, mode: str) -> bool:
    """Return whether networks compute in bfloat16.

    Args:
        device: where the network runs.
        mode: ``bf16`` always, ``auto`` if the device has it natively, ``off`` never.
    """
    return mode == "bf16" or (mode == "auto" and has_fast_bf16(device))


def autocast(device: torch.device, mode: str) -> AbstractContextManager:
    """Return a context that computes in bfloat16; see :func:`computes_in_bf16`."""
    if not computes_in_bf16(device, mode):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to ``device`` without waiting until the device has finished.

    A GPU copies from pinned memory beside its work. A copy from other memory waits for it.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
