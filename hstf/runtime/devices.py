"""Where networks run and in which precision."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import torch

from hstf.runtime.errors import HstfError
from hstf.runtime.gpu_lease import gpu_of_this_process

BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def choose_device(name: str) -> torch.device:
    """The device called ``auto``, ``cpu`` or ``cuda``; auto takes a GPU when there is one.

    Of several GPUs it is the same for the life of this process, and as few others as possible have it.

    Raises:
        HstfError: ``cuda`` is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise HstfError(
            "device: cuda is set but torch sees no GPU. Set 'device: auto', or install torch with CUDA."
        )
    return _gpu() if name != "cpu" and torch.cuda.is_available() else torch.device("cpu")


@cache
def _gpu() -> torch.device:
    index = gpu_of_this_process(torch.cuda.device_count())
    if index is not None:
        torch.cuda.set_device(index)
    return torch.device("cuda")


@cache
def has_fast_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 natively (elsewhere it is emulated and slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and not BF16_CPU_FLAGS.isdisjoint(
        cpuinfo.read_text(errors="ignore").split()
    )


def autocast(device: torch.device, mode: str) -> AbstractContextManager:
    """bfloat16 autocast: ``bf16`` always, ``auto`` where it is native, ``off`` never."""
    if mode == "off" or (mode == "auto" and not has_fast_bf16(device)):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
