"""The layouts of BraTS 2020 and 2023: four skull-stripped images of each case."""

from pathlib import Path

from hstf.datasets.phantom.dataset import save
from hstf.datasets.phantom.layouts.base import LPS, Draw, Layout, Scan, to_stripped_mr
from hstf.datasets.phantom.options import PhantomOptions

TUMOUR = {
    "lesion": 1,
    "liver": 2,
    "kidney": 4,
}
TUMOUR_2023 = TUMOUR | {"kidney": 3}


def _write_brats(folder: Path, draw: Draw, options: PhantomOptions) -> None:
    scan = draw(0)
    part = "Training" if scan.has_label else "Validation"
    case = f"BraTS20_{part}_{scan.number + 1:03d}"
    target = folder / f"MICCAI_BraTS2020_{part}Data" / case
    _write_brats_case(target, "_", scan, options)


def _write_brats_2023(folder: Path, draw: Draw, options: PhantomOptions) -> None:
    scan = draw(0)
    part = "Training" if scan.has_label else "Validation"
    case = f"BraTS-GLI-{scan.number:05d}-000"
    target = folder / f"ASNR-MICCAI-BraTS2023-GLI-Challenge-{part}Data" / case
    _write_brats_case(target, "-", scan, options)


def _write_brats_case(
    target: Path,
    separator: str,
    scan: Scan,
    options: PhantomOptions,
) -> None:
    # All scans of BraTS have this origin.
    affine = scan.affine.copy()
    affine[:3, 3] = (0, scan.affine[1, 1] * (1 - scan.label.shape[1]), 0)
    prefix = f"{target.name}{separator}"
    for name, image in zip(options.modalities, scan.images, strict=True):
        save(target / f"{prefix}{name}.nii.gz", to_stripped_mr(image), affine)
    if scan.has_label:
        save(target / f"{prefix}seg.nii.gz", scan.label, affine)


BRATS = Layout(
    _write_brats,
    TUMOUR,
    axes=LPS,
    defaults={"modalities": ("flair", "t1", "t1ce", "t2")},
)
BRATS_2023 = Layout(
    _write_brats_2023,
    TUMOUR_2023,
    kind="brats",
    axes=LPS,
    defaults={"modalities": ("t2f", "t1n", "t1c", "t2w")},
)
