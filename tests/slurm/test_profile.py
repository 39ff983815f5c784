"""The profile for clusters as far as it can be tried without one: each setting that it offers is one of Snakemake's."""

import re

from support.workspace import ROOT, Workspace

PROFILE = ROOT / "workflow" / "profiles" / "slurm" / "config.yaml"


def test_every_setting_of_the_profile_can_be_switched_on(experiment: Workspace) -> None:
    text = re.sub(r"^#(?=(  )*\w)", "", PROFILE.read_text(), flags=re.MULTILINE)
    assert (
        text.count("slurm_partition:")
        == text.count("set-resources:")
        == text.count("set-threads:")
        == 1
    )
    (experiment.folder / "slurm").mkdir()
    (experiment.folder / "slurm" / "config.yaml").write_text(text)
    partitions = (
        "partitions:\n  normal: {max_runtime: 2880}\n  gpu: {max_runtime: 1440, max_gpu: 4}\n"
    )
    assert [line.strip() for line in partitions.splitlines()] == re.findall(
        r"^# {5} *(.*)$", PROFILE.read_text(), re.MULTILINE
    ), "as the profile shows it"
    (experiment.folder / "slurm" / "partitions.yaml").write_text(partitions)
    experiment.configure(compare={"methods": ["supervised"], "seeds": [0]}, student={"steps": 7})
    told = experiment.snakemake("--profile", "slurm", "--dry-run", "compare")
    assert told.returncode == 0, told.stderr
