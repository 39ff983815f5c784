"""Helpers for the tests of importers: run an import, and damage a data set before it."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from hstf.cli import main
from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.experiment.cases import Split, read_cases
from hstf.imaging.scan import scan_file
from hstf.stages.check.findings import Level
from hstf.stages.check.problems import examine, sources

L = Split.LABELLED
U = Split.UNLABELLED
T = Split.TEST

Damage = Callable[[Path], None]
"""A function that changes the folder of a data set."""


def run_import(kind: str, folder: Path, *options: str) -> int:
    """Run ``hstf import`` and return the exit code."""
    command = ["import", kind, str(folder), "--output", "config/x.yaml"]
    return main([*command, *options])


def imported(kind: str, folder: Path, *options: str) -> Config:
    """Return the configuration of a successful import."""
    assert run_import(kind, folder, *options) == 0
    return load_config(Path("config/x.yaml"))


def splits(config: Config) -> dict[Split, int]:
    """Return the number of cases of each split."""
    sheet = read_cases(config)
    return dict(Counter(case.split for case in sheet.cases))


def problems(config: Config) -> list[str]:
    """Return the problems that ``hstf check`` would report."""
    sheet = read_cases(config)
    scans = {}
    for source in sources(sheet, config):
        scans[source] = scan_file(source.path, source.is_label)
    found = []
    for finding in examine(sheet, scans, config):
        if finding.level is not Level.OK and finding.case_id:
            found.append(finding.sentence())
    return found


def _first(folder: Path, pattern: str) -> Path:
    return sorted(folder.rglob(pattern))[0]


def rename(old: str, new: str) -> Damage:
    """Rename the first file that matches ``old``."""

    def change(folder: Path) -> None:
        path = _first(folder, old)
        path.rename(path.with_name(new))

    return change


def remove(pattern: str) -> Damage:
    """Delete the first file that matches."""

    def change(folder: Path) -> None:
        _first(folder, pattern).unlink()

    return change


def copy(pattern: str, target: str) -> Damage:
    """Copy the first file that matches to ``target``, relative to the folder."""

    def change(folder: Path) -> None:
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_first(folder, pattern), path)

    return change


def reshape(pattern: str, *shape: int) -> Damage:
    """Replace the first file that matches by an empty volume of another shape."""

    def change(folder: Path) -> None:
        volume = nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4))
        nib.save(volume, _first(folder, pattern))

    return change


def describe(**changes: object) -> Damage:
    """Change keys of ``dataset.json``. ``None`` removes a key."""

    def change(folder: Path) -> None:
        path = folder / "dataset.json"
        content = json.loads(path.read_text())
        for key, value in changes.items():
            if value is None:
                content.pop(key, None)
            else:
                content[key] = value
        path.write_text(json.dumps(content))

    return change
