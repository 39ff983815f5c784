"""Small synthetic DICOM series."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MR = "1.2.840.10008.5.1.4.1.1.4"
CT = "1.2.840.10008.5.1.4.1.1.2"
STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
OBLIQUE = (0.96, 0.28, 0.0, -0.224, 0.768, 0.6)
"""Directions of rows and columns of slices that are tilted about two axes."""
NAME = "Lovelace^Ada"
PATIENT_ID = "MRN-31415926"
FOLDER_WITH_NAME = "LOVELACE_ADA"
SECRETS = ("lovelace", "31415926", "18151210", "1815-12-10")
"""What must appear nowhere in outputs, in lower case."""


@dataclass(frozen=True)
class Scan:
    """A series to write."""

    name: str = NAME
    patient_id: str = PATIENT_ID
    study_uid: str = field(default_factory=lambda: generate_uid(prefix=None))
    series_uid: str = field(default_factory=lambda: generate_uid(prefix=None))
    frame_uid: str = field(default_factory=lambda: generate_uid(prefix=None))
    description: str = "T1 axial"
    modality: str = "MR"
    number: int = 3
    shape: tuple[int, int, int] = (7, 6, 5)
    """Columns, rows, slices."""
    spacing: tuple[float, float, float] = (1.5, 2.0, 3.0)
    """Distance of columns, rows and slices."""
    orientation: tuple[float, ...] = OBLIQUE
    origin: tuple[float, float, float] = (-12.5, 30.25, 101.0)
    slope: float = 1.0
    intercept: float = 0.0
    changes: dict[str, Any] = field(default_factory=dict)
    """Other values of the headers."""

    @property
    def stored(self) -> np.ndarray:
        """Stored values, ``(columns, rows, slices)``; all are different."""
        return np.arange(np.prod(self.shape), dtype=np.uint16).reshape(self.shape) * 3 + 5

    @property
    def affine(self) -> np.ndarray:
        """From (column, row, slice) to mm in the axes of NIfTI."""
        row, column = np.reshape(self.orientation, (2, 3))
        axes = np.stack([row, column, np.cross(row, column)], axis=1) * self.spacing
        affine = np.eye(4)
        affine[:3, :3] = axes
        affine[:3, 3] = self.origin
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    def position(self, index: float) -> list[float]:
        """Return the position of a slice."""
        row, column = np.reshape(self.orientation, (2, 3))
        along = np.cross(row, column) * self.spacing[2] * index
        return [round(float(value), 6) for value in np.array(self.origin) + along]

    def slice(self, index: int) -> Dataset:
        """Return the object of a slice."""
        dataset = self._patient()
        columns, rows, _ = self.shape
        dataset.update(_plain({"Rows": rows, "Columns": columns, "InstanceNumber": index + 1}))
        dataset.ImagePositionPatient = self.position(index)
        dataset.ImageOrientationPatient = list(self.orientation)
        dataset.PixelSpacing = [self.spacing[1], self.spacing[0]]
        dataset.SliceThickness = self.spacing[2]
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit = 15
        dataset.PixelRepresentation = 0
        if (self.slope, self.intercept) != (1.0, 0.0):
            dataset.RescaleSlope = self.slope
            dataset.RescaleIntercept = self.intercept
        dataset.PixelData = self.stored[:, :, index].T.tobytes()
        dataset.update(_plain(self.changes))
        return dataset

    def _patient(self) -> Dataset:
        """Return an object of the patient without pixels."""
        kind = {"CT": CT, "MR": MR}.get(self.modality, STRUCTURES)
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = kind
        meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
        values = {
            "SOPClassUID": kind,
            "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
            "PatientName": self.name,
            "PatientID": self.patient_id,
            "PatientBirthDate": "18151210",
            "PatientSex": "F",
            "StudyInstanceUID": self.study_uid,
            "StudyDate": "20200102",
            "StudyTime": "101112",
            "StudyID": "1",
            "AccessionNumber": "31415926",
            "ReferringPhysicianName": "",
            "SeriesInstanceUID": self.series_uid,
            "SeriesNumber": self.number,
            "SeriesDescription": self.description,
            "FrameOfReferenceUID": self.frame_uid,
            "PositionReferenceIndicator": "",
            "Modality": self.modality,
            "Manufacturer": "scanner",
        }
        dataset = _plain(values)
        dataset.file_meta = meta
        return dataset

    def other(self, **changes: Any) -> "Scan":
        """Return another series of the same study."""
        return replace(self, series_uid=generate_uid(prefix=None), **changes)


def _plain(values: dict[str, Any]) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def save(objects: Sequence[Dataset], folder: Path) -> list[Path]:
    """Write objects to files whose names have no order."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = list(range(len(objects)))
    random.Random(1).shuffle(numbers)
    paths = []
    for number, dataset in zip(numbers, objects, strict=True):
        path = folder / f"IM{number:04d}_{dataset.SeriesInstanceUID[-6:]}"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_scan(scan: Scan, folder: Path) -> list[Path]:
    """Write a series and return the file of each slice."""
    return save([scan.slice(index) for index in range(scan.shape[2])], folder)


def write_structures(scan: Scan, folder: Path) -> None:
    """Write an object that is no image."""
    save([replace(scan, modality="RTSTRUCT")._patient()], folder)
