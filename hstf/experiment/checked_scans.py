"""Scans and labels should be the files that the stage ``check`` has examined."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from hstf.experiment.layout import Layout
from hstf.experiment.scan_tables import CHECK
from hstf.runtime.errors import join_problems
from hstf.runtime.stamps import sha256_once


def refuse_unchecked(layout: Layout, digests: Mapping[Path, str]) -> None:
    """Refuse files that are not those that were checked.

    Args:
        layout: files of the experiment; if it has no ``check.csv``, nothing is refused.
        digests: SHA-256 of each file.

    Raises:
        HstfError: if files have changed or were not checked. The message lists all of them.
    """
    problems = unchecked(layout, digests)
    if problems:
        raise join_problems(
            f"{layout.check}: these files were not checked as they are now. Run the check stage"
            " again (--forcerun check).",
            problems,
        )


def warn_of_unchecked_scans(layout: Layout, paths: Iterable[Path]) -> None:
    """Hash files and warn of those that are not those that were checked."""
    warn_of_unchecked(layout, {path: sha256_once(path) for path in paths})


def warn_of_unchecked(layout: Layout, digests: Mapping[Path, str]) -> None:
    """Warn of files that are not those that were checked.

    A test case may be corrected or added at any time, and only its evaluation runs again. So it is
    no error here, but the disk may also have damaged the file.
    """
    for problem in unchecked(layout, digests):
        print(
            f"hstf evaluate: warning: {problem}. It is scored as it is now. To check it,"
            " run 'snakemake --cores 8 --forcerun check', or restore the file if you did not change"
            " it.",
            file=sys.stderr,
            flush=True,
        )


def unchecked(layout: Layout, digests: Mapping[Path, str]) -> list[str]:
    """Describe the files that have changed after they were checked, or were not checked."""
    table = layout.check
    if not table.is_file():
        return []
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
    return problems
