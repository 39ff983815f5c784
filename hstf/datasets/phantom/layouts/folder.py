"""Images and labels in two folders."""

from pathlib import Path

from hstf.datasets.phantom.dataset import save
from hstf.datasets.phantom.layouts.base import ORGANS, Draw, Layout, to_mr
from hstf.datasets.phantom.options import PhantomOptions


def _write_folder(folder: Path, draw: Draw, options: PhantomOptions) -> None:
    scan = draw(0)
    case = f"case_{scan.number:03d}"
    for modality, image in zip(options.modalities, scan.images, strict=True):
        name = case
        if len(options.modalities) > 1:
            name = f"{case}_{modality}"
        save(folder / "images" / f"{name}.nii.gz", to_mr(image), scan.affine)
    if scan.has_label:
        save(folder / "labels" / f"{case}.nii.gz", scan.label, scan.affine)


FOLDER = Layout(_write_folder, ORGANS)
