"""Provenance is the same whatever other jobs write while it is collected."""

import json
from pathlib import Path

from hstf.experiment.provenance import (
    MadeBy,
    hashed_files,
    machines,
    made_by,
    sha256_of_modules,
)

UNFINISHED = ".tmp-0123abcd-"
"""What the names of files start with while they are written."""


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_made_by_ignores_jobs_that_are_writing_their_record(tmp_path: Path) -> None:
    """``export`` and ``track`` may finish while the report collects the records."""
    record = MadeBy(
        key="k", hstf="1", commit=None, code_sha256="c", packages={}, machine="node"
    ).model_dump()
    write(tmp_path / "records" / "plan.json", record)
    write(tmp_path / "records" / "export.json", record)
    write(tmp_path / "records" / f"{UNFINISHED}export.json", record)
    (tmp_path / "records" / f"{UNFINISHED}track_round.round_1.json").write_text("{")
    assert list(made_by(tmp_path)) == ["plan"]


def test_machines_counts_finished_records_only(tmp_path: Path) -> None:
    records = tmp_path / "round_1" / "teacher" / ".records"
    write(records / "case_1.json", {"machine": "node"})
    (records / f"{UNFINISHED}case_2.json").write_text("{")
    assert machines(tmp_path) == {"round_1/teacher": {"node": 1}}


def test_hashed_files_ignores_files_that_are_being_written(tmp_path: Path) -> None:
    write(tmp_path / "plan.json", {})
    write(tmp_path / f"{UNFINISHED}plan.json", {})
    assert hashed_files(tmp_path) == [tmp_path / "plan.json"]


def test_sha256_of_modules_ignores_files_outside_of_the_packages(tmp_path: Path) -> None:
    """Some Node.js packages contain Python files; the tests of the audit desk install them."""
    module = tmp_path / "stages" / "plan.py"
    module.parent.mkdir()
    for folder in (tmp_path, module.parent):
        (folder / "__init__.py").touch()
    module.write_text("SPACING = 1\n")
    before = sha256_of_modules(tmp_path)
    foreign = tmp_path / "frontend" / "node_modules" / "flatted" / "flatted.py"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("1\n")
    assert sha256_of_modules(tmp_path) == before
    module.write_text("SPACING = 2\n")
    assert sha256_of_modules(tmp_path) != before
