"""Compressed arrays: nothing is lost, a patch is read alone, damage is told."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blosc2
import numpy as np
import pytest

from hstf.imaging.arrays import open_array, read_array, write_array
from hstf.runtime.errors import HstfError

RANDOM = np.random.default_rng(0)


@pytest.fixture
def noise(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Two channels of 8 chunks each that do not compress."""
    array = RANDOM.integers(0, 2**16, (2, 64, 64, 64), dtype=np.uint16).view(np.float16)
    write_array(tmp_path / "a.b2nd", array, chunk=32)
    return tmp_path / "a.b2nd", array


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.int32])
@pytest.mark.parametrize("shape", [(1, 1, 1), (33, 7, 70), (3, 40, 9, 65)])
def test_an_array_comes_back_as_it_was(tmp_path: Path, dtype: type, shape: tuple[int, ...]) -> None:
    array = RANDOM.integers(0, 250, shape).astype(dtype)
    write_array(tmp_path / "a.b2nd", array, chunk=32)
    back = read_array(tmp_path / "a.b2nd")
    assert back.dtype == dtype
    assert np.array_equal(back, array)


def test_views_that_are_not_contiguous_are_written_in_their_own_order(tmp_path: Path) -> None:
    array = RANDOM.integers(0, 9, (20, 30, 40), dtype=np.uint8).transpose(2, 0, 1)[::-1]
    write_array(tmp_path / "a.b2nd", array, chunk=16)
    assert np.array_equal(read_array(tmp_path / "a.b2nd"), array)


def test_patches_equal_those_of_the_array(noise: tuple[Path, np.ndarray]) -> None:
    path, array = noise
    stored = open_array(path)
    assert (stored.shape, stored.dtype) == (array.shape, array.dtype)
    for _ in range(20):
        start = RANDOM.integers(0, 60, 3)
        region = (slice(None), *(slice(int(a), int(a + RANDOM.integers(1, 40))) for a in start))
        assert stored[region].tobytes() == array[region].tobytes()


def test_a_patch_reads_only_the_chunks_that_it_touches(noise: tuple[Path, np.ndarray]) -> None:
    path, array = noise
    opened = blosc2.open(str(path))  # owns its chunks
    chunks = opened.schunk
    content = path.read_bytes()
    for number in range(1, chunks.nchunks):  # all but the first are made unreadable
        chunk = chunks.get_chunk(number)
        assert content.count(chunk[32:]) == 1
        content = content.replace(chunk[32:], b"\xff" * (len(chunk) - 32))
    path.write_bytes(content)
    stored = open_array(path)
    assert stored[0, 3:30, 5:32, 0:31].tobytes() == array[0, 3:30, 5:32, 0:31].tobytes()
    assert stored[0, 30:40].tobytes() != array[0, 30:40].tobytes()


def test_threads_may_read_one_array_at_once(noise: tuple[Path, np.ndarray]) -> None:
    path, array = noise
    stored = open_array(path)

    def same(start: int) -> bool:
        region = (slice(None), slice(start, start + 20), slice(start // 2, start + 9))
        return stored[region].tobytes() == array[region].tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(same, [int(v) for v in RANDOM.integers(0, 44, 200)]))


def test_a_forked_process_reads_what_its_parent_opened(noise: tuple[Path, np.ndarray]) -> None:
    path, array = noise
    stored = open_array(path)
    stored[0]
    child = os.fork()
    if not child:
        os._exit(int(stored[1].tobytes() != array[1].tobytes()))
    assert os.waitpid(child, 0)[1] == 0


def test_a_failed_write_leaves_the_old_file(
    noise: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, array = noise

    def half_written(*_: object, urlpath: str, **__: object) -> None:
        Path(urlpath).write_bytes(b"half")
        raise RuntimeError("Error while appending the chunk")

    monkeypatch.setattr(blosc2, "asarray", half_written)
    with pytest.raises(HstfError, match=r"a\.b2nd: could not be written \(Error while appending"):
        write_array(path, array[:1], chunk=32)
    monkeypatch.undo()
    assert read_array(path).tobytes() == array.tobytes()
    assert [p.name for p in path.parent.iterdir()] == ["a.b2nd"]


def test_missing_and_damaged_files_are_named(noise: tuple[Path, np.ndarray]) -> None:
    path, _ = noise
    with pytest.raises(HstfError, match=r"no\.b2nd: missing"):
        open_array(path.with_name("no.b2nd"))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(HstfError, match=r"a\.b2nd: is damaged"):
        read_array(path)
    path.write_bytes(b"")
    with pytest.raises(HstfError, match=r"a\.b2nd: is damaged"):
        read_array(path)
