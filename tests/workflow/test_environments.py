"""Unusual machines: other clocks, host names, locales and file names."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from support.workspace import ROOT, Workspace, write_sheet


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


def test_workflow_describes_results_that_cannot_be_written(
    experiment: Workspace, freeze: Callable[[Path], None]
) -> None:
    results = Path("results") / "few"
    freeze(experiment.folder / results)
    message = experiment.refusal()
    assert f"{results}/keys: could not be written (" in message
    assert "use another folder" in message


NAME = "Müller_日本"
UTF8 = {"LC_ALL": "C"}
"""Python uses UTF-8 in the locales C and POSIX, too."""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def latin_1(folder: Path) -> dict[str, str]:
    """Make a Latin-1 locale; return the environment that selects it."""
    name = "de_DE.ISO-8859-1"
    command = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(folder / name)]
    if shutil.which("localedef") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no locale can be made here")
    return {"LOCPATH": str(folder), "LC_ALL": name}


@pytest.fixture
def other_scripts(tmp_path: Path) -> Path:
    """Write an experiment whose files have names in other scripts."""
    splits = ["labelled", "labelled", "unlabelled", "test"]
    generator = np.random.default_rng(0)
    for number in range(len(splits)):
        label = np.zeros((12, 12, 12), np.uint8)
        label[3:8, 3:8, number + 1 : 9] = 1
        image = generator.normal(size=label.shape).astype(np.float32) + label
        for suffix, data in (("", image), ("_label", label)):
            path = tmp_path / f"{NAME}_{number}{suffix}.nii.gz"
            nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    write_sheet(tmp_path, splits)
    sheet = tmp_path / "cases.csv"
    text = re.sub(r",case_00(\d)", rf",{NAME}_\1", sheet.read_text())
    sheet.write_text(text, encoding="utf-8")
    settings = {
        "experiment": "names",
        "cases": "cases.csv",
        "output": f"Ergebnisse_{NAME}",
        "labels": {"background": 0, "Größe": 1},
        "warmup": {"folds": 2},
    }
    config = yaml.safe_dump(settings, allow_unicode=True)
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    return tmp_path


CHECK = ("-m", "hstf", "check", "--config", "config.yaml")
WORKFLOW = ("-m", "snakemake", "check", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1")
COMMANDS = (CHECK, (*WORKFLOW, "--configfile", "config.yaml"))


def run_in(
    environment: dict[str, str], folder: Path, command: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    """Run Python in another locale."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("LC_")}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=inherited | environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_check_reads_names_in_other_scripts_in_the_locale_c(other_scripts: Path) -> None:
    for command in COMMANDS:
        done = run_in(UTF8, other_scripts, command)
        assert done.returncode == 0, done.stdout + done.stderr
    table = other_scripts / f"Ergebnisse_{NAME}" / "names" / "check.csv"
    assert NAME in table.read_text(encoding="utf-8")


@pytest.mark.parametrize("locale", ["ascii", "latin_1"])
def test_check_refuses_names_that_the_locale_cannot_encode(
    other_scripts: Path, tmp_path_factory: pytest.TempPathFactory, locale: str
) -> None:
    environment = ASCII if locale == "ascii" else latin_1(tmp_path_factory.mktemp("locales"))
    for command in COMMANDS:
        done = run_in(environment, other_scripts, command)
        assert done.returncode == 1
        assert "export PYTHONUTF8=1" in done.stdout + done.stderr
    done = run_in(environment | {"PYTHONUTF8": "1"}, other_scripts, CHECK)
    assert done.returncode == 0, done.stdout + done.stderr


APPTAINER = """\
#!/bin/bash
if [ "$1" = --version ]; then echo "apptainer version 1.3.0"; exit; fi
APPTAINER_CONTAINER=hstf.sif PATH={inside}:/usr/bin:/bin exec bash -c "${{@: -1}}"
"""
"""Runs a command as in a container, which has a PATH of its own."""


def test_container_runs_the_program_in_it(
    experiment: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment outside is mounted, too, but its Python is not."""
    outside = experiment.folder / "outside"
    inside = experiment.folder / "inside"
    for program, text in (
        (outside / "apptainer", APPTAINER.format(inside=inside)),
        (outside / "singularity", APPTAINER.format(inside=inside)),
        (inside / "hstf", f"#!/bin/bash\necho $1 > {experiment.folder}/called\n"),
    ):
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    (experiment.folder / "envs").mkdir()
    (experiment.folder / "envs" / "hstf.sif").touch()
    experiment.configure(check={"affine_tolerance_mm": 0.5})
    monkeypatch.setenv("PATH", f"{outside}:{os.environ['PATH']}")
    deployment = ("--software-deployment-method", "apptainer")
    done = experiment.snakemake("check", *deployment, "--latency-wait", "0")
    assert (experiment.folder / "called").is_file(), done.stdout + done.stderr
    assert (experiment.folder / "called").read_text() == "check\n"


GPUS = """\
import sys
import hstf.runtime.gpu_lease
hstf.runtime.gpu_lease.count_gpus = lambda: {gpus}
include: {snakefile!r}
print("GPUs:", workflow.global_resources["gpu"].value, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("gpus", "arguments", "expected", "threads"),
    [(1, (), 1, "2"), (2, (), 2, "1"), (1, ("--resources", "gpu=3"), 3, "1")],
)
def test_workflow_starts_as_many_jobs_on_gpus_as_there_are(
    experiment: Workspace, gpus: int, arguments: tuple[str, ...], expected: int, threads: str
) -> None:
    """Those that run at once divide the two cores among themselves."""
    snakefile = experiment.folder / "Snakefile"
    snakefile.write_text(GPUS.format(gpus=gpus, snakefile=str(ROOT / "Snakefile")))
    experiment.configure(warmup={"steps": 7})
    done = experiment.snakemake("all", "--snakefile", str(snakefile), "-n", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    output = done.stdout + done.stderr
    assert f"GPUs: {expected}\n" in output
    assert re.search(rf"^warmup_member +3 +{threads} ", output, re.MULTILINE), output
