"""``hstf check``: every fault of every case in one report, before any compute is spent.

Each file is read once, side by side in processes. The labels of unlabelled and test cases are read too, to see that
they are sound, and for nothing else.
"""

import argparse
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from hstf.experiment.context import StageContext
from hstf.experiment.tables import CHECK
from hstf.imaging.scan import Scan
from hstf.runtime.errors import HstfError, numbers
from hstf.runtime.processes import worker_count
from hstf.stages.check.problems import Finding, Level, Scans, examine, sources
from hstf.stages.check.reading import scan_all

FACTS = ("shape", "spacing", "orientation", "dtype", "sha256")


def run(args: argparse.Namespace) -> int:
    """Run the stage."""
    check(StageContext.of_arguments(args, "check"))
    return 0


def check(context: StageContext) -> list[Finding]:
    """Examine all cases and write ``check.csv``; with errors, ``check_failed.csv`` in its place.

    Raises:
        HstfError: there are errors; they and the warnings are named, grouped by case.
    """
    layout = context.layout
    config = context.config
    sheet = context.sheet
    workers = worker_count(config.check.workers)
    scans = scan_all(sources(sheet, config), layout.root / ".check_cache.json", workers)
    findings = examine(sheet, scans, config)
    failed = any(finding.level is Level.ERROR for finding in findings)
    # The workflow deletes the output of a failed job, so the table of faults goes elsewhere.
    refused = layout.check.with_name("check_failed.csv")
    target, stale = (refused, layout.check) if failed else (layout.check, refused)
    CHECK.write(target, _rows(findings, scans))
    stale.unlink(missing_ok=True)
    if failed:
        raise HstfError(f"{report(findings)}\nThe same as a table: {refused}")
    print(report(findings), flush=True)
    return findings


def report(findings: Sequence[Finding]) -> str:
    """All faults and warnings as sentences, grouped by case."""
    told = [finding for finding in findings if finding.level is not Level.OK]
    errors = sum(finding.level is Level.ERROR for finding in told)
    cases = len({finding.case_id for finding in findings if finding.case_id})
    lines = [f"{errors} errors and {len(told) - errors} warnings in {cases} cases."]
    for case_id, group in groupby(told, key=lambda finding: finding.case_id):
        lines += [case_id or "all cases", *(f"  - {finding.sentence()}" for finding in group)]
    return "\n".join(lines)


def _rows(findings: Iterable[Finding], scans: Scans) -> Iterator[dict[str, Any]]:
    facts = {
        (source.case.case_id, str(source.path)): _facts(scan) for source, scan in scans.items()
    }
    for finding in findings:
        yield dataclasses.asdict(finding) | facts.get((finding.case_id, finding.file), {})


def _facts(scan: Scan) -> dict[str, str]:
    """What is known of a readable file, in the columns ``FACTS``."""
    if scan.problem:
        return {}
    values = (numbers(scan.shape), numbers(scan.spacing), scan.orientation, scan.dtype, scan.sha256)
    return dict(zip(FACTS, values, strict=True))
