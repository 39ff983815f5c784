"""Errors of the operating system become sentences with advice."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch import AcceleratorError

from hstf.runtime.errors import HstfError, is_gpu_memory_error, is_memory_error, write_error
from hstf.runtime.files import atomic_path

ADVICE = "Free some space on this disk, and start again."


def fill_disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Let the disk have ``free`` bytes."""
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free))


def test_write_error_names_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    """The disk of the results is not connected: no file has the name of the folder."""
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    with (
        pytest.raises(HstfError, match=r"results is a link to .*disk, which cannot be found"),
        atomic_path(tmp_path / "results" / "mine" / "plan.json"),
    ):
        pass


def test_is_gpu_memory_error_is_false_for_main_memory() -> None:
    assert is_gpu_memory_error(RuntimeError("CUDA error: out of memory"))
    assert not is_gpu_memory_error(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_gpu_memory_error(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not is_gpu_memory_error(MemoryError())


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_is_gpu_memory_error_is_true_for_the_libraries_of_cuda(message: str) -> None:
    assert is_memory_error(RuntimeError(message))
    assert is_gpu_memory_error(RuntimeError(message))


def test_is_gpu_memory_error_is_true_for_the_accelerator_error_of_torch() -> None:
    assert is_gpu_memory_error(AcceleratorError("CUDA error: out of memory"))


def test_write_error_describes_the_error_of_the_system(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    expected = f"{tmp_path}: could not be written (No space left on device). {ADVICE}"
    assert str(write_error(tmp_path, error)) == expected


def test_write_error_recognises_a_full_disk_by_its_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numpy raises an error without a number."""
    fill_disk(monkeypatch, free=4096)
    target = tmp_path / "a.npy"
    with pytest.raises(HstfError) as caught, atomic_path(target):
        np.ones(100_000).tofile("/dev/full")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno is None
    expected = f"{target}: could not be written (No space left on device). {ADVICE}"
    assert str(caught.value) == expected


@pytest.mark.parametrize("folder", ["", "missing"])
def test_write_error_keeps_other_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    if not folder:
        fill_disk(monkeypatch, free=1 << 30)
    target = tmp_path / folder / "a.npy"
    text = str(write_error(target, OSError("4224 requested and 2016 written")))
    assert text == f"{target}: could not be written (4224 requested and 2016 written)."
