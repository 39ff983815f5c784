"""The audit desk keeps converted volumes up to a total size."""

import os
from pathlib import Path

import pytest

from hstf.audit.layers import shrink


def volumes(folder: Path, count: int) -> list[Path]:
    """Write files of 10 bytes, the oldest first."""
    paths = [folder / f"{number}.nii.gz" for number in range(count)]
    for time, path in enumerate(paths):
        path.write_bytes(bytes(10))
        os.utime(path, (time, time))
    return paths


def test_shrink_removes_the_oldest_files_only(tmp_path: Path) -> None:
    paths = volumes(tmp_path, 4)
    shrink(tmp_path, 25)
    assert [path.is_file() for path in paths] == [False, False, True, True]


def test_shrink_accepts_files_that_another_request_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = volumes(tmp_path, 4)
    stat = Path.stat

    def remove_before_reading(path: Path, **options: bool) -> os.stat_result:
        if path == paths[0]:
            path.unlink()
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", remove_before_reading)
    shrink(tmp_path, 25)
    monkeypatch.undo()
    assert [path.is_file() for path in paths] == [False, False, True, True]
