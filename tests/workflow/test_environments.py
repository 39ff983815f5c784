"""Unusual machines: other clocks, host names, locales and file names."""

import os
import time

from support.workspace import Workspace


def test_workflow_refuses_scans_that_are_dated_in_the_future(experiment: Workspace) -> None:
    """Snakemake would run the check again and again, and stop after it each time."""
    dated = time.time() + 2 * 365 * 86400
    for name in ("case_004.nii.gz", "case_007_label.nii.gz"):
        os.utime(experiment.folder / name, (dated, dated))
    message = experiment.refusal()
    assert "2 files of the case sheet are dated in the future" in message
    assert "case_004: case_004.nii.gz is dated in the future (20" in message
    assert "touch case_007_label.nii.gz" in message
    for name in ("case_004.nii.gz", "case_007_label.nii.gz"):
        os.utime(experiment.folder / name)
    assert experiment.jobs() == {}, "their content has not changed"
