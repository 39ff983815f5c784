"""Files of tensors: a damaged file is never read."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.damage import flip_bit

from hstf.runtime.torch_files import DamagedFile, read_torch, write_torch

CONTENT: dict[str, Any] = {
    "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.arange(40.0)}}},
    "half": torch.ones(3, dtype=torch.bfloat16),
    "step": 3,
    "note": "ü",
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tensors") / "state.pt"
    write_torch(path, CONTENT)
    return path


def test_read_torch_returns_what_was_written(file: Path) -> None:
    for found in (read_torch(file), torch.load(file, weights_only=True)):
        assert str(found) == str(CONTENT)


def test_write_torch_writes_the_same_bytes_again(file: Path, tmp_path: Path) -> None:
    again = tmp_path / "state.pt"
    write_torch(again, CONTENT)
    assert again.read_bytes() == file.read_bytes()


@settings(deadline=None)
@given(data=st.data())
def test_read_torch_notices_every_flipped_bit(file: Path, data: st.DataObject) -> None:
    damaged = file.with_name("damaged.pt")
    damaged.write_bytes(file.read_bytes())
    bit = data.draw(st.integers(0, 8 * file.stat().st_size - 1))
    flip_bit(damaged, bit)
    try:
        found = read_torch(damaged)
    except DamagedFile:
        return
    # Only the mark of the SHA-256 itself was damaged.
    assert str(found) == str(CONTENT)


@pytest.mark.parametrize("size", [0, 1, 76, 500])
def test_read_torch_refuses_a_truncated_file(file: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "short.pt"
    path.write_bytes(file.read_bytes()[:size])
    with pytest.raises(DamagedFile):
        read_torch(path)


def test_read_torch_checks_a_file_of_an_earlier_version(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save(CONTENT, path)
    assert str(read_torch(path)) == str(CONTENT)
    start = path.read_bytes().index(torch.arange(40.0).numpy().tobytes())
    flip_bit(path, 8 * (start + 50))
    assert str(torch.load(path, weights_only=True)) != str(CONTENT)
    with pytest.raises(DamagedFile, match="checksum of"):
        read_torch(path)


def test_read_torch_refuses_another_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / "table.pt"
    path.write_bytes(os.urandom(1000))
    with pytest.raises(DamagedFile):
        read_torch(path)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory")])
def test_read_torch_raises_memory_errors_as_they_are(
    file: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(type(error)):
        read_torch(file)
