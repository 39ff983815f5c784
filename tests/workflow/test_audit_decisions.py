"""What runs again after a decision of the audit desk."""

import contextlib
from dataclasses import replace
from pathlib import Path

from support.workspace import Workspace

from hstf.audit.history import Action
from hstf.audit.saving import Saving
from hstf.config.load import load_config
from hstf.experiment.jobs import Jobs
from hstf.experiment.keys import Keys
from hstf.experiment.layout import Layout

ROUND_2 = {
    "labels_shard": 1,
    "labels_table": 1,
    "student_member": 1,
    "monitor_round": 1,
    "evaluate_shard": 1,
    "evaluate_table": 1,
    "track_round": 1,
    "report": 1,
    "export": 1,
}
"""The labels of the shard of a case in round 2, and what follows."""


def outdated() -> list[str]:
    """Return the jobs that are not up to date because of what they read, without Snakemake."""
    keys = Keys(Jobs(load_config(Path("config.yaml"))))
    return [job.name for job in keys.jobs.all() if keys.state(job).reasons]


def test_what_runs_again_after_decisions_of_the_desk(experiment: Workspace) -> None:
    with contextlib.chdir(experiment.folder):
        saving = Saving(Layout.of(load_config(Path("config.yaml"))))
        saving.save(Action("reject", 2, "case_005", "AB", "2026-01-01", "motion"), "last")
        assert experiment.jobs() == ROUND_2
        labels = outdated()
        saving.undo("AB")
        assert outdated() == []
        corrected = Path("corrected.nii.gz")
        corrected.write_bytes(b"a corrected label")
        file, digest = saving.history.keep(corrected, 2, "case_005", "AB")
        verdict = Action("replace", 2, "case_005", "AB", "2026-01-01")
        saving.save(replace(verdict, file=file, result_sha256=digest), "last")
        assert outdated() == labels
        experiment.pretend()
        assert outdated() == []
        saving.undo("AB")
        assert outdated() == labels
