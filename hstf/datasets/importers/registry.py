"""The kinds of folders that ``hstf import`` reads.

A new kind is a module in this package with a function ``find(folder, options) -> DataSet``, and one
line in :data:`IMPORTERS`. :mod:`hstf.datasets.importers.lits` is the smallest example.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hstf.datasets.importers.dataset import DataSet
    from hstf.datasets.importers.options import Options


class Importer(NamedTuple):
    """An entry of the registry.

    The module is a name, so that ``hstf import --help`` does not load the imaging libraries.
    """

    module: str
    """Module of this package that has the function ``find``."""
    description: str
    """One line for the help text and the documentation."""


IMPORTERS = {
    "acdc": Importer("acdc", "ACDC: training/patient001/patient001_frame01.nii.gz"),
    "brats": Importer("brats", "BraTS 2018 to 2024, or task 1 of the decathlon"),
    "lits": Importer("lits", "LiTS: volume-0.nii, segmentation-0.nii"),
    "msd": Importer("msd", "a task of the Medical Segmentation Decathlon: dataset.json, 3D or 4D"),
    "nnunet": Importer(
        "nnunet", "nnU-Net: imagesTr/case_0000.nii.gz, labelsTr, imagesTs, dataset.json"
    ),
    "folder": Importer("folder", "any folder of images and labels: names and options below"),
    "bids": Importer("bids", "BIDS with segmentations, usually in derivatives"),
}
"""Importers by kind."""
CONVERTED = {
    "dicom": "a folder of DICOM series: writes NIfTI images and a case sheet without labels",
}
"""Kinds whose scans are converted before they can be labelled, with one line for the help text."""


def find_importer(kind: str) -> "Callable[[Path, Options], DataSet]":
    """Return the function ``find`` of the importer ``kind``.

    Raises:
        KeyError: if there is no such importer.
    """
    entry = IMPORTERS[kind]
    module = importlib.import_module(f"hstf.datasets.importers.{entry.module}")
    return module.find
