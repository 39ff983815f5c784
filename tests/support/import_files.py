"""Imports as a user makes them, and damages done to a data set before."""

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
from hstf.stages.check.problems import Level, examine, sources

L, U, T = Split.LABELLED, Split.UNLABELLED, Split.TEST
Damage = Callable[[Path], None]
"""Done to the folder of a data set."""


def imported(kind: str, folder: Path, *options: str) -> Config:
    """The configuration of a successful import."""
    assert main(["import", kind, str(folder), "--output", "config/x.yaml", *options]) == 0
    return load_config(Path("config/x.yaml"))


def splits(config: Config) -> dict[Split, int]:
    return dict(Counter(case.split for case in read_cases(config).cases))


def problems(config: Config) -> list[str]:
    """What ``hstf check`` would report."""
    sheet = read_cases(config)
    scans = {source: scan_file(source.path, source.is_label) for source in sources(sheet, config)}
    return [
        f.sentence() for f in examine(sheet, scans, config) if f.level is not Level.OK and f.case_id
    ]


def rename(old: str, new: str) -> Damage:
    """Rename the first file that matches."""

    def change(folder: Path) -> None:
        path = sorted(folder.rglob(old))[0]
        path.rename(path.with_name(new))

    return change


def remove(pattern: str) -> Damage:
    def change(folder: Path) -> None:
        sorted(folder.rglob(pattern))[0].unlink()

    return change


def copy(pattern: str, target: str) -> Damage:
    def change(folder: Path) -> None:
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sorted(folder.rglob(pattern))[0], folder / target)

    return change


def reshape(pattern: str, *shape: int) -> Damage:
    def change(folder: Path) -> None:
        nib.save(
            nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), sorted(folder.rglob(pattern))[0]
        )

    return change


def describe(**changes: object) -> Damage:
    """Change keys of dataset.json; None takes one out."""

    def change(folder: Path) -> None:
        path = folder / "dataset.json"
        content = json.loads(path.read_text()) | changes
        path.write_text(
            json.dumps({key: value for key, value in content.items() if value is not None})
        )

    return change
