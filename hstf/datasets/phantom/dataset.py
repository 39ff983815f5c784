"""Write synthetic cases as files, with their case sheet."""

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
"""Number of the random stream for scribbles. Streams 0 to 3 are in :mod:`.scan`."""


def write_dataset(folder: Path, options: PhantomOptions) -> Path:
    """Write images, labels and ``cases.csv`` to ``folder``.

    Existing files are replaced, with the same bytes if ``options`` are the same. The order of the
    cases is labelled, test, unlabelled. Therefore additional unlabelled cases do not change the
    others.

    Returns:
        The case sheet.

    Raises:
        HstfError: if a file cannot be written.
    """
    rows = []
    for number in track(range(options.cases), "phantom"):
        rows.append(_write_case(folder, options, number))
    sheet = folder / "cases.csv"
    columns = [
        "case_id",
        *options.modalities,
        "label",
        "split",
        "group",
        "site",
    ]
    write_csv(sheet, rows, columns)
    return sheet


def _write_case(
    folder: Path,
    options: PhantomOptions,
    number: int,
) -> dict[str, str]:
    """Write the files of case ``number`` and return its row of the case sheet."""
    case_id = f"case_{number:03d}"
    split = split_of(options, number)
    site = site_of(options, number)
    phantom = generate_case(case_seed(options.seed, number), options, site)
    label = training_label(phantom.label, options, number, IGNORE_VALUE)
    label_name = f"labels/{case_id}.nii.gz"
    save(folder / label_name, label, phantom.affine)
    row = {"case_id": case_id}
    for modality, image in zip(options.modalities, phantom.images, strict=True):
        name = f"images/{case_id}.nii.gz"
        if len(options.modalities) > 1:
            name = f"images/{case_id}_{modality}.nii.gz"
        save(folder / name, image, phantom.affine)
        row[modality] = name
    row["label"] = label_name
    row["split"] = split
    row["group"] = f"patient_{number:03d}"
    row["site"] = f"site_{site}"
    return row


def training_label(
    label: np.ndarray,
    options: PhantomOptions,
    number: int,
    ignore: int,
) -> np.ndarray:
    """Return the label of a case, or scribbles if the options request them for labelled cases.

    Args:
        label: dense label ``(X, Y, Z)``, uint8.
        options: options of the data set.
        number: number of the case.
        ignore: value of voxels without a scribble.
    """
    if not options.scribbles or split_of(options, number) is not Split.LABELLED:
        return label
    seed = case_seed(options.seed, number)
    rng = np.random.default_rng([seed, SCRIBBLES])
    return scribble(label, ignore, rng)


def case_seed(seed: int, number: int) -> int:
    """Return the seed of case ``number`` in the data set with ``seed``."""
    sequence = np.random.SeedSequence([seed, number])
    return int(sequence.generate_state(1)[0])


def split_of(options: PhantomOptions, number: int) -> Split:
    """Return the split of case ``number``: labelled first, then test, then unlabelled."""
    if number < options.labelled:
        return Split.LABELLED
    if number < options.labelled + options.test:
        return Split.TEST
    return Split.UNLABELLED


def site_of(options: PhantomOptions, number: int) -> int:
    """Return the site of case ``number``: the first one for labelled cases, else all in turn."""
    if split_of(options, number) is Split.LABELLED:
        return 0
    return number % options.sites


def save(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    """Write ``data`` as NIfTI in mm.

    Both transforms of the header, sform and qform, are set, as converters of DICOM files do.
    """
    header = nib.Nifti1Header()
    header.set_data_shape(data.shape)
    header.set_xyzt_units("mm")
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    write_like(path, data, Volume(data, affine, header))
