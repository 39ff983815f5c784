"""The layout of ACDC: two frames of the heart of each patient, and the whole series."""

from pathlib import Path

import numpy as np

from hstf.datasets.phantom.dataset import save
from hstf.datasets.phantom.layouts.base import LPS, Draw, Layout, to_mr
from hstf.datasets.phantom.options import PhantomOptions
from hstf.experiment.cases import Split
from hstf.runtime.files import write_text

HEART = {
    "liver": 1,
    "lesion": 1,
    "spleen": 2,
    "kidney": 3,
}


def _write_acdc(folder: Path, draw: Draw, options: PhantomOptions) -> None:
    frames = {1: draw(0), 9: draw(1)}
    first = frames[1]
    patient = f"patient{first.number + 1:03d}"
    part = "testing" if first.split is Split.TEST else "training"
    target = folder / part / patient
    # ACDC has no origin.
    affine = np.diag([*first.affine.diagonal()[:3], 1.0])
    images = []
    for number, scan in frames.items():
        name = f"{patient}_frame{number:02d}"
        image = to_mr(scan.images[0])
        images.append(image)
        save(target / f"{name}.nii.gz", image, affine)
        save(target / f"{name}_gt.nii.gz", scan.label, affine)
    series = np.stack(images, axis=-1)
    save(target / f"{patient}_4d.nii.gz", series, affine)
    groups = ("DCM", "HCM", "MINF", "NOR", "RV")
    group = groups[first.number % len(groups)]
    write_text(
        target / "Info.cfg",
        f"ED: 1\nES: 9\nGroup: {group}\nHeight: 170.0\nNbFrame: 12\nWeight: 70.0\n",
    )


ACDC = Layout(
    _write_acdc,
    HEART,
    axes=LPS,
    has_test=True,
    defaults={
        "size": (72, 64, 10),
        "spacing": (1.5, 1.5, 10.0),
    },
)
