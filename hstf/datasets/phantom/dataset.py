"""Synthetic cases as files, with their case sheet."""

from pathlib import Path

import nibabel as nib
import numpy as np

from hstf.datasets.phantom.options import IGNORE_VALUE, PhantomOptions
from hstf.datasets.phantom.scan import generate_case
from hstf.datasets.phantom.scribbles import scribble
from hstf.experiment.cases import Split
from hstf.imaging.volumes import Volume, write_like
from hstf.runtime.files import write_csv
from hstf.runtime.progress import track

SCRIBBLES = 4
"""Stream of random numbers beside those of a case's anatomy, geometry, noise and contrast."""


def write_dataset(folder: Path, options: PhantomOptions) -> Path:
    """Write images, labels and ``cases.csv`` below ``folder``; returns the path of the sheet.

    Files of an earlier run are written again, with the same bytes when ``options`` are the same. Cases are
    numbered labelled, test, unlabelled: more unlabelled cases leave the others as they are.

    Raises:
        HstfError: a file cannot be written.
    """
    rows = [
        _write_case(folder, options, number) for number in track(range(options.cases), "phantom")
    ]
    sheet = folder / "cases.csv"
    write_csv(sheet, rows, ["case_id", *options.modalities, "label", "split", "group", "site"])
    return sheet


def _write_case(folder: Path, options: PhantomOptions, number: int) -> dict[str, str]:
    """The files of case ``number``, and its row in the sheet."""
    case_id, split = f"case_{number:03d}", split_of(options, number)
    site = 0 if split is Split.LABELLED else number % options.sites
    phantom = generate_case(case_seed(options.seed, number), options, site)
    label = f"labels/{case_id}.nii.gz"
    save(
        folder / label, training_label(phantom.label, options, number, IGNORE_VALUE), phantom.affine
    )
    several = len(options.modalities) > 1
    images = {
        name: f"images/{case_id}{f'_{name}' if several else ''}.nii.gz"
        for name in options.modalities
    }
    for image, path in zip(phantom.images, images.values(), strict=True):
        save(folder / path, image, phantom.affine)
    group = f"patient_{number:03d}"
    return {
        "case_id": case_id,
        **images,
        "label": label,
        "split": split,
        "group": group,
        "site": f"site_{site}",
    }


def training_label(
    label: np.ndarray, options: PhantomOptions, number: int, ignore: int
) -> np.ndarray:
    """``label`` ``(X, Y, Z)`` uint8 of case ``number`` or, where asked for, scribbles with ``ignore`` beside them."""
    if not (options.scribbles and split_of(options, number) is Split.LABELLED):
        return label
    rng = np.random.default_rng([case_seed(options.seed, number), SCRIBBLES])
    return scribble(label, ignore, rng)


def case_seed(seed: int, number: int) -> int:
    """The seed of case ``number`` in the data set of ``seed``."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def split_of(options: PhantomOptions, number: int) -> Split:
    """What case ``number`` is for: labelled cases come first, then test cases, then unlabelled ones."""
    if number < options.labelled:
        return Split.LABELLED
    return Split.TEST if number < options.labelled + options.test else Split.UNLABELLED


def save(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    """Write ``data`` with a header in mm whose two transforms, sform and qform, agree, as scanners' converters do."""
    header = nib.Nifti1Header()
    header.set_data_shape(data.shape)
    header.set_xyzt_units("mm")
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    write_like(path, data, Volume(data, affine, header))
