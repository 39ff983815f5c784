"""The SLURM profile, as far as it can be tested without a cluster."""

import re

from support.workspace import ROOT, Workspace

PROFILE = ROOT / "workflow" / "profiles" / "slurm" / "config.yaml"
PARTITIONS = """\
partitions:
  normal: {max_runtime: 2880}
  gpu: {max_runtime: 1440, max_gpu: 4}
"""


def test_profile_accepts_every_setting_that_is_commented_out(experiment: Workspace) -> None:
    text = re.sub(r"^#(?=(  )*\w)", "", PROFILE.read_text(), flags=re.MULTILINE)
    for setting in ("slurm_partition:", "set-resources:", "set-threads:"):
        assert text.count(setting) == 1
    (experiment.folder / "slurm").mkdir()
    (experiment.folder / "slurm" / "config.yaml").write_text(text)
    (experiment.folder / "slurm" / "partitions.yaml").write_text(PARTITIONS)
    experiment.configure(compare={"methods": ["supervised"], "seeds": [0]}, student={"steps": 7})
    done = experiment.snakemake("--profile", "slurm", "--dry-run", "compare")
    assert done.returncode == 0, done.stderr


def test_dry_run_shows_what_the_jobs_of_each_rule_ask_for(experiment: Workspace) -> None:
    (experiment.folder / "slurm").mkdir()
    (experiment.folder / "slurm" / "config.yaml").write_text(PROFILE.read_text())
    experiment.configure(student={"steps": 7})
    done = experiment.snakemake("--cores", "8", "--profile", "slurm", "--dry-run")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    assert rows["rule"] == ["jobs", "threads", "memory", "(MB)", "minutes", "GPUs"]
    assert rows["student_member"] == ["2", "8", "14000", "1440", "1"]
    assert rows["report"] == ["1", "1", "8000", "120", "0"]


def test_profile_shows_the_partitions_that_are_tested() -> None:
    shown = re.findall(r"^# {5} *(.*)$", PROFILE.read_text(), re.MULTILINE)
    assert shown == [line.strip() for line in PARTITIONS.splitlines()]
