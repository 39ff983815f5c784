"""The layout of LiTS: CT volumes and segmentations in two batches."""

from pathlib import Path

from hstf.datasets.phantom.dataset import save
from hstf.datasets.phantom.layouts.base import LPS, Draw, Layout, to_ct
from hstf.datasets.phantom.options import PhantomOptions


def _write_lits(folder: Path, draw: Draw, options: PhantomOptions) -> None:
    scan = draw(0)
    image = to_ct(scan.images[0])
    if not scan.has_label:
        target = folder / "LITS-Challenge-Test-Data" / f"test-volume-{scan.number}.nii"
        save(target, image, scan.affine)
        return
    batch = folder / f"Training_Batch{1 + scan.number % 2}"
    save(batch / f"volume-{scan.number}.nii", image, scan.affine)
    save(batch / f"segmentation-{scan.number}.nii", scan.label, scan.affine)


LITS = Layout(
    _write_lits,
    {"liver": 1, "lesion": 2},
    axes=LPS,
    defaults={
        "size": (48, 48, 32),
        "spacing": (0.8, 0.8, 1.5),
    },
)
