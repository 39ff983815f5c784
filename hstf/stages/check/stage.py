"""``hstf check``: report all problems of all cases before any training.

Each file is read once, by several processes. Labels of unlabelled and test cases are read only to
check that they are valid.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

from hstf.experiment.context import StageContext
from hstf.experiment.scan_tables import CHECK
from hstf.imaging.scan import Scan
from hstf.runtime.errors import HstfError, few, numbers
from hstf.runtime.processes import worker_count
from hstf.stages.check.findings import SHEET, Finding, Level, Scans
from hstf.stages.check.problems import examine, sources
from hstf.stages.check.reading import scan_all

MANY_FILES = 5
"""Number of files up to which a warning is shown for each of them."""


def run(args: argparse.Namespace) -> int:
    """Run the stage."""
    check(StageContext.of_arguments(args, "check"))
    return 0


def check(context: StageContext) -> list[Finding]:
    """Examine all cases and write ``check.csv``, or ``check_failed.csv`` if there are errors.

    Raises:
        HstfError: if there are errors. The message lists them and the warnings by case.
    """
    layout = context.layout
    config = context.config
    sheet = context.sheet
    if sheet.unread_columns:
        print(f"check: columns of the case sheet that are not read: {few(sheet.unread_columns)}")
    workers = worker_count(config.check.workers)
    cache = layout.root / ".check_cache.json"
    scans = scan_all(sources(sheet, config), cache, workers)
    findings = examine(sheet, scans, config)
    rows = _rows(findings, scans)
    # The workflow deletes the output of a failed job. Errors are therefore written to another file.
    failed_path = layout.check.with_name("check_failed.csv")
    if any(finding.level is Level.ERROR for finding in findings):
        CHECK.write(failed_path, rows)
        layout.check.unlink(missing_ok=True)
        raise HstfError(f"{report(findings)}\nThe same as a table: {failed_path}")
    CHECK.write(layout.check, rows)
    failed_path.unlink(missing_ok=True)
    text = report(findings)
    # After many warnings, the counts at the beginning are off the screen.
    counts = f"{text.splitlines()[0]} " if "\n" in text else ""
    print(f"{text}\n{counts}Table: {layout.check}", flush=True)
    return findings


def report(findings: Sequence[Finding]) -> str:
    """Return all errors and warnings as sentences, grouped by case.

    A warning about many files is one sentence; the table has a row for each of them.
    """
    problems = [finding for finding in findings if finding.level is not Level.OK]
    errors = sum(finding.level is Level.ERROR for finding in problems)
    cases = {finding.case_id for finding in findings if finding.case_id}
    warnings = len(problems) - errors
    lines = [f"{errors} errors and {warnings} warnings in {len(cases)} cases."]
    common = _common_warnings(problems)
    if common:
        lines.append("many files")
    for finding, files in common.items():
        all_files = replace(finding, file=f"{len(files)} files ({few(files)})")
        lines.append(f"  - {all_files.sentence()}")
    problems = [finding for finding in problems if _without_file(finding) not in common]
    for case_id, group in groupby(problems, key=lambda finding: finding.case_id):
        lines.append(case_id or "all cases")
        for finding in group:
            lines.append(f"  - {finding.sentence()}")
    return "\n".join(lines)


def _common_warnings(problems: Iterable[Finding]) -> dict[Finding, list[str]]:
    """Return warnings, without their file, that are the same for many files, and these files."""
    files: dict[Finding, list[str]] = defaultdict(list)
    for finding in problems:
        if finding.level is Level.WARNING and finding.file != SHEET:
            files[_without_file(finding)].append(finding.file)
    return {finding: names for finding, names in files.items() if len(names) > MANY_FILES}


def _without_file(finding: Finding) -> Finding:
    return replace(finding, case_id="", file="")


def _rows(findings: Iterable[Finding], scans: Scans) -> list[dict[str, Any]]:
    """Return a row for each finding, with the properties of its file."""
    properties = {}
    for source, scan in scans.items():
        properties[source.case.case_id, str(source.path)] = _properties(scan)
    rows = []
    for finding in findings:
        rows.append(asdict(finding) | properties.get((finding.case_id, finding.file), {}))
    return rows


def _properties(scan: Scan) -> dict[str, str]:
    """Return the columns of a readable file."""
    if scan.problem:
        return {}
    return {
        "shape": numbers(scan.shape),
        "spacing": numbers(scan.spacing),
        "orientation": scan.orientation,
        "dtype": scan.dtype,
        "sha256": scan.sha256,
    }
