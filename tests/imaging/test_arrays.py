"""Compressed arrays: lossless, read in patches, with messages for damaged files."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest

from hstf.imaging.arrays import open_array, read_array, write_array
from hstf.runtime.errors import HstfError

RANDOM = np.random.default_rng(0)


@pytest.fixture
def noise(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Write two channels of 8 chunks each that do not compress."""
    bits = RANDOM.integers(0, 2**16, (2, 64, 64, 64), dtype=np.uint16)
    array = bits.view(np.float16)
    write_array(tmp_path / "a.b2nd", array, chunk=32)
    return tmp_path / "a.b2nd", array


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.int32])
@pytest.mark.parametrize("shape", [(1, 1, 1), (33, 7, 70), (3, 40, 9, 65)])
def test_read_array_returns_what_was_written(
    tmp_path: Path,
    dtype: type,
    shape: tuple[int, ...],
) -> None:
    array = RANDOM.integers(0, 250, shape).astype(dtype)
    write_array(tmp_path / "a.b2nd", array, chunk=32)
    found = read_array(tmp_path / "a.b2nd")
    assert found.dtype == dtype
    assert np.array_equal(found, array)


def test_write_array_accepts_views_that_are_not_contiguous(tmp_path: Path) -> None:
    array = RANDOM.integers(0, 9, (20, 30, 40), dtype=np.uint8)
    view = array.transpose(2, 0, 1)[::-1]
    write_array(tmp_path / "a.b2nd", view, chunk=16)
    assert np.array_equal(read_array(tmp_path / "a.b2nd"), view)


def test_stored_array_returns_patches(noise: tuple[Path, np.ndarray]) -> None:
    path, array = noise
    stored = open_array(path)
    assert stored.shape == array.shape
    assert stored.dtype == array.dtype
    for _ in range(20):
        region = [slice(None)]
        for start in RANDOM.integers(0, 60, 3):
            stop = start + RANDOM.integers(1, 40)
            region.append(slice(int(start), int(stop)))
        patch = tuple(region)
        assert stored[patch].tobytes() == array[patch].tobytes()


def test_stored_array_reads_only_the_chunks_of_a_patch(noise: tuple[Path, np.ndarray]) -> None:
    path, array = noise
    opened = blosc2.open(str(path))  # keeps its chunks alive
    chunks = opened.schunk
    content = path.read_bytes()
    # Damage all chunks but the first.
    for number in range(1, chunks.nchunks):
        chunk = chunks.get_chunk(number)
        assert content.count(chunk[32:]) == 1
        content = content.replace(chunk[32:], b"\xff" * (len(chunk) - 32))
    path.write_bytes(content)
    stored = open_array(path)
    in_first_chunk = (0, slice(3, 30), slice(5, 32), slice(0, 31))
    assert stored[in_first_chunk].tobytes() == array[in_first_chunk].tobytes()
    assert stored[0, 30:40].tobytes() != array[0, 30:40].tobytes()


def test_stored_array_is_read_by_several_threads(noise: tuple[Path, np.ndarray]) -> None:
    path, array = noise
    stored = open_array(path)

    def is_equal(start: int) -> bool:
        region = (slice(None), slice(start, start + 20), slice(start // 2, start + 9))
        return stored[region].tobytes() == array[region].tobytes()

    starts = RANDOM.integers(0, 44, 200).tolist()
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(is_equal, starts))


def test_stored_array_is_read_by_a_forked_process(noise: tuple[Path, np.ndarray]) -> None:
    path, array = noise
    stored = open_array(path)
    stored[0]
    child = os.fork()
    if not child:
        os._exit(int(stored[1].tobytes() != array[1].tobytes()))
    _, status = os.waitpid(child, 0)
    assert status == 0


def test_write_array_keeps_the_old_file_when_it_fails(
    noise: tuple[Path, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, array = noise

    def write_half(*_: object, urlpath: str, **__: object) -> None:
        Path(urlpath).write_bytes(b"half")
        raise RuntimeError("Error while appending the chunk")

    monkeypatch.setattr(blosc2, "asarray", write_half)
    with pytest.raises(HstfError, match=r"a\.b2nd: could not be written \(Error while appending"):
        write_array(path, array[:1], chunk=32)
    monkeypatch.undo()
    assert read_array(path).tobytes() == array.tobytes()
    assert [file.name for file in path.parent.iterdir()] == ["a.b2nd"]


def test_open_array_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(HstfError, match=r"no\.b2nd: missing"):
        open_array(tmp_path / "no.b2nd")


@pytest.mark.parametrize("size", [0, 5000])
def test_read_array_names_a_damaged_file(noise: tuple[Path, np.ndarray], size: int) -> None:
    path, _ = noise
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(HstfError, match=r"a\.b2nd: is damaged"):
        read_array(path)


@pytest.mark.parametrize("version", ["3.3.4", "4.0.0b1", "4.13.2", "4.14.0"])
def test_open_array_refuses_versions_of_blosc2_that_run_code(
    noise: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(blosc2, "__version__", version)
    with pytest.raises(HstfError, match=rf"blosc2 {version} is installed.*pip install"):
        open_array(noise[0])


@pytest.mark.parametrize("version", ["4.14.1", "4.14.2.dev0", "4.15.0", "5.0.0"])
def test_open_array_accepts_safe_versions_of_blosc2(
    noise: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(blosc2, "__version__", version)
    assert open_array(noise[0]).shape == noise[1].shape


def test_open_array_runs_no_code_and_accepts_only_arrays(tmp_path: Path) -> None:
    operand = blosc2.asarray(np.zeros((4, 4)), urlpath=str(tmp_path / "a.b2nd"), mode="w")
    marker = tmp_path / "ran"
    code = (
        "def function(inputs, output, offset):\n"
        f"    open({str(marker)!r}, 'w').close()\n"
        "    output[:] = 1\n"
    )
    (tmp_path / "code.py").write_text(code)
    names: dict[str, Any] = {}
    exec(compile(code, str(tmp_path / "code.py"), "exec"), names)
    lazy = blosc2.lazyudf(names["function"], (operand,), np.float64, shape=(4, 4))
    lazy.save(urlpath=str(tmp_path / "function.b2nd"))
    (operand + 1).save(urlpath=str(tmp_path / "expression.b2nd"))
    blosc2.SChunk(chunksize=400, data=bytes(400), urlpath=str(tmp_path / "bytes.b2nd"), mode="w")
    for name in ("function", "expression", "bytes"):
        with pytest.raises(HstfError, match=f"{name}.b2nd: (is damaged|has SChunk)"):
            open_array(tmp_path / f"{name}.b2nd")
    assert not marker.exists()
