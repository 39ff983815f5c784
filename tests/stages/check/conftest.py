"""A valid data set for each test of ``check``."""

from pathlib import Path

import pytest
from support.check_files import Data

from hstf.stages.check import reading as reading_module


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """Return a valid data set, whose files are read in this process because that is faster."""

    def in_process(function, items, workers):  # type: ignore[no-untyped-def]
        return ((item, function(item)) for item in items)

    monkeypatch.setattr(reading_module, "map_processes", in_process)
    return Data(tmp_path)
