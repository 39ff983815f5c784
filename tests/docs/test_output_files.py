"""docs/reference/output-files.md describes every file that a run writes."""

import re
from pathlib import Path

import pytest
from support.workspace import ROOT, Workspace

PAGE = (ROOT / "docs" / "reference" / "output-files.md").read_text(encoding="utf-8")
DESCRIBED_AS_FOLDERS = {"logs", "benchmarks", "keys", "records", ".records"}
PLACEHOLDERS = {
    r"case_\d+": "<case>",
    r"(?:fold|seed)_\d+(?=\.pt)": "<member>",
    r"(?<=round_)\d+": "<r>",
    r"(?<=[a-z]_)\d+": "<k>",
}
"""Parts of file names, and what the page writes for them."""


def described_name(path: Path) -> str:
    """Return the name of a file as the page writes it."""
    name = path.name
    for pattern, placeholder in PLACEHOLDERS.items():
        name = re.sub(pattern, placeholder, name)
    return name


def undescribed_files(results: Path) -> list[str]:
    """Return the files of an experiment that the page does not name."""
    missing = set()
    for path in results.rglob("*"):
        folders = path.relative_to(results).parts[:-1]
        if path.is_dir() or DESCRIBED_AS_FOLDERS & set(folders):
            continue
        if described_name(path) not in PAGE:
            missing.add(str(path.relative_to(results)))
    return sorted(missing)


@pytest.mark.workflow
def test_output_files_describes_every_file(finished: Workspace) -> None:
    """The page names every file of a finished experiment."""
    assert undescribed_files(finished.folder / "results" / "tiny") == []
