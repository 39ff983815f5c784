"""Rules about the files and cases of a case sheet, which the workflow checks when it starts."""

import os
import re
import shlex
import unicodedata
from pathlib import Path
from typing import Literal

from hstf.experiment.cases import Case, CaseSheet, Split
from hstf.runtime.encoding import escape_invisible
from hstf.runtime.errors import HstfError, join_problems, shortened
from hstf.runtime.links import link_problem
from hstf.runtime.stamps import future_date

PHANTOM_FILE = re.compile(r"case_\d{3,}\.nii\.gz")
"""Name of an image or label of the synthetic data set."""
Form = Literal["NFC", "NFD"]
OTHER_FORM: dict[Form, Form] = {"NFC": "NFD", "NFD": "NFC"}
"""The two ways to store a letter with an accent in Unicode."""


def refuse_foreign_files(sheet: CaseSheet, folder: Path) -> None:
    """Stop if the sheet names other files than the synthetic scans of the workflow.

    The files are outputs of the rule ``phantom``: Snakemake deletes all of them before it makes
    them.

    Args:
        sheet: the case sheet.
        folder: ``phantom.folder``.

    Raises:
        HstfError: with the files.
    """
    foreign = []
    for case in sheet.cases:
        for path in case.images:
            foreign += _foreign(case, path, folder / "images")
        if case.reference is not None:
            foreign += _foreign(case, case.reference, folder / "labels")
    if foreign:
        raise join_problems(
            "phantom: the workflow makes synthetic scans and would replace the files of the case"
            f" sheet, but the sheet names other files than {folder}/images/case_<n>.nii.gz and"
            f" {folder}/labels/case_<n>.nii.gz. For your own scans, remove the section 'phantom',"
            " or set 'phantom: null' in the last configuration file.",
            shortened(foreign),
        )


def _foreign(case: Case, path: Path, folder: Path) -> list[str]:
    """Describe a file that the synthetic data set does not have."""
    is_there = os.path.normpath(path.parent.absolute()) == os.path.normpath(folder.absolute())
    # A link may lead to a folder with scans of somebody.
    if is_there and not folder.is_symlink() and PHANTOM_FILE.fullmatch(path.name):
        return []
    return [f"{case.case_id}: {path}"]


def refuse_missing_files(sheet: CaseSheet) -> None:
    """Stop if a scan or label of the sheet is missing, or has a time stamp in the future.

    Snakemake keeps results whose input has disappeared: an edit of the configuration would change
    nothing.

    Raises:
        HstfError: with all files of one kind.
    """
    missing = []
    future = []
    for case in sheet.cases:
        for path in (*case.images, case.reference):
            if path is None:
                continue
            if not path.exists():
                missing.append(_missing(case, path))
            elif date := future_date(path):
                future.append(f"{case.case_id}: {path} {date}")
    if missing:
        raise join_problems(
            f"{len(missing)} files of the case sheet are missing."
            " Put them back, or remove the cases from the sheet.",
            missing,
        )
    if future:
        raise join_problems(
            f"{len(future)} files of the case sheet are dated in the future."
            " Snakemake would run their jobs again and again.",
            future,
        )


def _missing(case: Case, path: Path) -> str:
    """Describe a missing file, and a file in its place whose name only looks the same."""
    text = f"{case.case_id}: {escape_invisible(str(path))} is missing"
    if problem := link_problem(path):
        return f"{text}. {problem}"
    for form, written in OTHER_FORM.items():
        other = Path(unicodedata.normalize(written, str(path)))
        if other.exists():
            return (
                f"{text}. There is a file whose name looks the same, but its accents are stored in"
                f" another way (Unicode {written} and not {form}; macOS writes NFD). Rename it:"
                f" convmv -f utf8 -t utf8 --{form.lower()} --notest {shlex.quote(str(other))}"
            )
    return text


def refuse_no_test_cases(sheet: CaseSheet) -> None:
    """Refuse a comparison of methods without test cases.

    Raises:
        HstfError: if there are no test cases.
    """
    if not sheet.of(Split.TEST):
        raise HstfError(
            "compare: there are no test cases to compare the methods on."
            " Give some labelled patients the split 'test'."
        )
