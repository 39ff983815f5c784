"""Scans and labels must be the files that the stage ``check`` has examined."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from hstf.experiment.layout import Layout
from hstf.experiment.tables import CHECK
from hstf.runtime.errors import join_problems
from hstf.runtime.files import sha256_file


def refuse_changed_scans(layout: Layout, paths: Iterable[Path]) -> None:
    """Compare files with the SHA-256 that the stage ``check`` recorded.

    Raises:
        HstfError: as :func:`refuse_unchecked`.
    """
    refuse_unchecked(layout, {path: sha256_file(path) for path in paths})


def refuse_unchecked(layout: Layout, digests: Mapping[Path, str]) -> None:
    """Refuse files that are not those that were checked.

    A copied file may have an older time stamp than the file that it replaces, and a disk may
    damage a file.

    Args:
        layout: files of the experiment; if it has no ``check.csv``, nothing is refused.
        digests: SHA-256 of each file.

    Raises:
        HstfError: if files have changed or were not checked. The message lists all of them.
    """
    table = layout.check
    if not table.is_file():
        return
    # An experiment whose scans were checked by another one may have other test cases.
    is_own_table = layout.data == layout.root
    checked = {row["file"]: row["sha256"] for row in CHECK.records(table)}
    problems = []
    for path, digest in digests.items():
        if str(path) in checked:
            if checked[str(path)] != digest:
                problems.append(f"{path}: was changed after it was checked")
        elif is_own_table:
            problems.append(f"{path}: was not there when scans were checked")
    if problems:
        raise join_problems(
            f"{table}: these files were not checked as they are now. Run the check stage again"
            " (--forcerun check).",
            problems,
        )
