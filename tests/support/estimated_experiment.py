"""An experiment whose time is estimated, and a machine."""

from pathlib import Path

import nibabel
import numpy as np

from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.experiment.jobs import Jobs
from hstf.stages.plan.cost_basis import estimated
from hstf.stages.plan.costs import (
    Machine,
)
from support.workspace import write_sheet

LAPTOP = Machine(cores=2, has_gpu=False, speed=20.0)


def experiment(folder: Path, **sections: object) -> Config:
    """Write an experiment with nine scans of 36 x 50 x 36 voxels."""
    write_sheet(folder, ["labelled"] * 3 + ["unlabelled"] * 4 + ["test"] * 2)
    scan = nibabel.Nifti1Image(np.zeros((36, 50, 36), np.int16), np.eye(4))
    for number in range(9):
        nibabel.save(scan, folder / f"case_{number:03d}.nii.gz")
    return resolve_config({"experiment": "x", "cases": str(folder / "cases.csv"), **sections})


def seconds(config: Config, machine: Machine = LAPTOP) -> float:
    found = estimated(Jobs(config), machine)
    assert found is not None
    return found[1].seconds
