"""Folders in which the real Snakemake runs the real workflow."""

import contextlib
import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from hstf.config.load import load_config
from hstf.experiment.jobs import Jobs
from hstf.experiment.records import recorded
from support.fast_workflow import shared_server

ROOT = Path(__file__).resolve().parents[2]


SPLITS = ["labelled"] * 3 + ["unlabelled"] * 4 + ["test"] * 2
"""Splits of ``case_000``, ``case_001`` … Their scans are a few bytes, enough for the DAG."""


TINY = {
    "experiment": "tiny",
    "cases": "cases.csv",
    "labels": {"background": 0, "liver": 1, "spleen": 2, "kidney": 3, "lesion": 4},
    "overrides": "overrides",
    "rounds": 2,
    "shard_size": 4,
    "device": "cpu",
    "phantom": {"folder": ".", "cases": 9, "labelled": 4, "test": 2, "size": [24, 24, 24]},
    "plan": {"memory_gb": 1, "max_patch_voxels": 4096, "base_channels": 4, "stages": 3},
    "network": {"transformer_layers": 1, "transformer_heads": 2},
    "warmup": {
        "folds": 2,
        "seeds": 0,
        "steps": 8,
        "history_every": 4,
        "learning_rate": 0.01,
        "warmup_steps": 1,
    },
    "refine": {"select_cases": False, "below_threshold_weight": 0.5},
    "student": {
        "members": 1,
        "steps": 6,
        "history_every": 3,
        "learning_rate": 0.01,
        "warmup_steps": 1,
    },
    "teacher": {"scales": [1.0, 1.25], "overlap": 0.25},
    "predict": {"overlap": 0.25},
    "evaluate": {"bootstrap": 100},
    "export": {"programs": []},
    # Tiny networks lose classes by chance.
    "monitor": {
        "minimum_volume": 0,
        "minimum_presence": 0,
        "minimum_agreement": 0,
        "minimum_weight": 0,
    },
}
"""An experiment of about a minute.

It finds a part of the liver only, and students learn from all pseudo-labels: a selection would
reject them, because the small organs are absent.
"""


WITHHELD = "withheld.txt"
"""A list of withheld files: it is recorded who opens them, see ``guard/sitecustomize.py``."""


@dataclass(frozen=True)
class Workspace:
    """A folder in which ``snakemake`` runs."""

    folder: Path
    configfile: str | None = "config.yaml"

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake; the caller checks the return code."""
        words = ["--snakefile", str(ROOT / "Snakefile")]
        words += ["--configfile", self.configfile] if self.configfile else []
        words += ["--cores", "2", *arguments]
        if "--dry-run" in arguments:  # the same, without the seconds in which Python starts
            return shared_server().snakemake(self.folder, *words)
        command = [sys.executable, "-m", "snakemake", *words]
        environment = dict(os.environ)
        if (self.folder / WITHHELD).is_file():
            environment["PYTHONPATH"] = str(ROOT / "tests" / "support" / "guard")
            environment["HSTF_WITHHELD"] = str(self.folder / WITHHELD)
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, env=environment
        )

    def jobs(self, *arguments: str) -> dict[str, int]:
        """Return the number of jobs of each rule in a dry run, without the target ``all``."""
        done = self.snakemake(*arguments, "--dry-run", "--quiet", "rules")
        assert done.returncode == 0, done.stdout + done.stderr
        pattern = r"^Job stats:\n.*\n-+.*\n((?:\w+ +\d+\n)+)"
        table = re.search(pattern, done.stdout + done.stderr, re.MULTILINE)
        if table is None:
            return {}
        counts = dict(line.split() for line in table[1].splitlines())
        return {rule: int(n) for rule, n in counts.items() if rule not in ("all", "total")}

    def refusal(self, *arguments: str) -> str:
        """Return the output of a dry run that must fail with a message and without a traceback."""
        done = self.snakemake(*arguments, "--dry-run")
        assert done.returncode == 1
        assert "Traceback" not in done.stdout + done.stderr
        return done.stdout + done.stderr

    def run(self, *arguments: str) -> str:
        """Run the workflow for real; return its output."""
        done = self.snakemake(*arguments, "--show-failed-logs")
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout + done.stderr

    def pretend(self) -> None:
        """Write the result of every job: a few bytes, and the record that makes them valid."""
        config = load_config(self.folder / "config.yaml")
        with contextlib.chdir(self.folder):
            jobs = Jobs(config)
            for job in jobs.all():
                for path in jobs.outputs(job):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if not path.is_file():
                        path.write_text(job.name)
                with recorded(jobs, job):
                    pass

    def configure(self, **sections: object) -> None:
        """Change keys of ``config.yaml``; the other keys of the trainings stay."""
        path = self.folder / "config.yaml"
        content = yaml.safe_load(path.read_text()) if path.is_file() else {}
        for name in ("warmup", "student"):
            if name in sections:
                sections[name] = content.get(name, {}) | sections[name]  # type: ignore[operator]
        path.write_text(yaml.safe_dump(content | sections, sort_keys=False))

    def decide(self, *rows: str) -> None:
        """Write decisions of reviewers: rows ``round,case_id,action,reviewer,date,reason``."""
        path = self.folder / "overrides" / "decisions.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(["round,case_id,action,reviewer,date,reason", *rows]) + "\n")

    def copy_to(self, folder: Path) -> "Workspace":
        """Copy the folder with its time stamps and Snakemake's records; return the copy."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Workspace(folder, self.configfile)


def write_sheet(
    folder: Path, splits: Sequence[str], image: str = "{}.nii.gz", label: str = "{}_label.nii.gz"
) -> None:
    """Write a case sheet with a case of each of ``splits``: ``case_000``, ``case_001`` …"""
    names = [f"case_{number:03d}" for number in range(len(splits))]
    rows = [
        f"{name},{image.format(name)},{label.format(name)},{split}"
        for name, split in zip(names, splits, strict=True)
    ]
    (folder / "cases.csv").write_text("\n".join(["case_id,image,label,split", *rows]) + "\n")


def withhold(folder: Path, sheet: Path) -> None:
    """List what only ``check`` and ``evaluate`` may open: test cases, labels of other cases."""
    with sheet.open() as stream:
        rows = list(csv.DictReader(stream))
    images = set(rows[0]) - {"case_id", "label", "split", "group", "site"}
    files = [row[name] for row in rows if row["split"] == "test" for name in sorted(images)]
    files += [row["label"] for row in rows if row["split"] != "labelled" and row["label"]]
    listed = [os.path.relpath(sheet.parent / file, folder) for file in files]
    (folder / WITHHELD).write_text("\n".join(listed) + "\n")
