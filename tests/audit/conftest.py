"""A tiny experiment for each test of the audit desk."""

from pathlib import Path

import pytest
from support.audit_desk import copied, desk_of, write_template

from hstf.audit.desk import Desk


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    write_template(folder)
    return folder


@pytest.fixture
def desk(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Return a desk in the current folder, with the cases ``good`` and ``bad`` in round 1."""
    config = copied(template, tmp_path)
    monkeypatch.chdir(tmp_path)
    return desk_of(config, tmp_path / "cache")
