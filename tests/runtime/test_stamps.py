"""Time stamps of files."""

import os
import time
from pathlib import Path

import pytest

from hstf.runtime.stamps import future_date

YEAR = 365 * 86400


@pytest.mark.parametrize(("seconds", "future"), [(-YEAR, False), (0, False), (YEAR, True)])
def test_future_date_names_the_date_and_what_to_do(
    tmp_path: Path, seconds: int, future: bool
) -> None:
    path = tmp_path / "a b.nii.gz"
    path.touch()
    dated = time.time() + seconds
    os.utime(path, (dated, dated))
    message = future_date(path)
    assert bool(message) is future
    if future:
        assert time.strftime("%Y-%m-%d", time.localtime(dated)) in message
        assert f"touch '{path}'" in message


def test_future_date_of_a_link_is_that_of_link_or_file(tmp_path: Path) -> None:
    """Snakemake takes the later one of both."""
    (tmp_path / "file").touch()
    link = tmp_path / "link"
    link.symlink_to("file")
    assert future_date(link) == ""
    dated = time.time() + YEAR
    os.utime(link, (dated, dated), follow_symlinks=False)
    assert "in the future" in future_date(link)


def test_future_date_of_a_missing_file_is_empty(tmp_path: Path) -> None:
    assert future_date(tmp_path / "missing") == ""
