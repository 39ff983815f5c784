"""DICOM SEG objects of label maps, on the slices of the original series (highdicom)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

from hstf import __version__
from hstf.datasets.dicom.codes import Code, Meaning
from hstf.datasets.dicom.packages import quiet
from hstf.datasets.dicom.series import Series
from hstf.imaging.affines import corner_distance, is_reordered, without_shear
from hstf.imaging.volumes import Volume
from hstf.runtime.errors import HstfError
from hstf.runtime.files import atomic_path

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from pydicom.dataset import Dataset
    from pydicom.sr.coding import Code as CodeOfPydicom

MANUFACTURER = "hstf"
NO_SERIAL_NUMBER = "none"
"""A program has no serial number, but the object must have one."""
TOLERANCE_MM = 0.01
"""NIfTI stores affines with few digits: voxels that are so close are the same."""
MAY_BE_MISSING = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "SliceThickness",
)
"""What a series without identifiers may lack; the object then has an empty value."""
REQUIRED = ("FrameOfReferenceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
"""What an object refers to. No empty value can stand for it."""
UTF_8 = "ISO_IR 192"
"""Character set of the objects: names of patients and classes may need any letter."""
LONGEST = 64
"""Maximum length of names in DICOM."""
FAMILY = Code("123110", "DCM", "Artificial Intelligence")
"""Kind of the algorithm."""


@dataclass(frozen=True)
class Algorithm:
    """What made a segmentation."""

    name: str
    version: str
    corrected: bool = False
    """Whether a person corrected the segmentation: then it is semiautomatic."""


@dataclass(frozen=True)
class Segments:
    """The classes, in the order of segment numbers."""

    values: Mapping[str, int]
    """Value of each class in the label maps, without the background."""
    meanings: Mapping[str, Meaning]
    ignored: frozenset[int] = frozenset({0})
    """Values that are no segment: the background, and voxels to ignore."""

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            HstfError: if two are equal in their first letters, which are all that DICOM has room
                for.
        """
        short = Counter(name[:LONGEST] for name in self.values)
        for name, count in short.items():
            if count > 1:
                raise HstfError(
                    f"{count} classes have the same first {LONGEST} letters: {name}. DICOM stores"
                    " no more. Rename one of them."
                )

    def numbers(self, labels: np.ndarray) -> np.ndarray:
        """Return the segment number of each voxel, 0 for none.

        Raises:
            HstfError: if a value is unknown.
        """
        known = set(self.values.values()) | self.ignored
        unknown = sorted(set(np.unique(labels).tolist()) - known)
        if unknown:
            raise HstfError(
                f"has the values {unknown}, expected {sorted(known)}. Name all classes, or correct"
                " the segmentation"
            )
        table = np.zeros(256, np.uint8)
        for number, value in enumerate(self.values.values(), start=1):
            table[value] = number
        return table[labels]

    def present(self, numbers: np.ndarray) -> list[str]:
        """Return the classes that have voxels."""
        found = set(np.unique(numbers).tolist())
        names = enumerate(self.values, start=1)
        return [name for number, name in names if number in found]


def in_axes_of(series: Series, volume: Volume) -> np.ndarray:
    """Return the voxels of a volume as (column, row, slice) of a series.

    Axes may have another order or direction; no voxel is resampled.

    Raises:
        HstfError: if the volume has other voxels than the series.
    """
    shape = volume.data.shape
    # The image of a slightly tilted series has both affines, and ITK uses the second one.
    for affine in (series.affine, without_shear(series.affine)):
        is_same = shape == series.shape and (
            corner_distance(volume.affine, affine, shape) <= TOLERANCE_MM
        )
        if is_same:
            return volume.data
        if is_reordered(volume.affine, shape, affine, series.shape, TOLERANCE_MM):
            orientation = ornt_transform(io_orientation(volume.affine), io_orientation(affine))
            return apply_orientation(volume.data, orientation)
    raise HstfError(
        f"is not on the voxels of its series: shape {shape}, the series has {series.shape}; or"
        " another spacing, place or orientation. Nothing is resampled here. Segment the image that"
        " hstf import dicom wrote"
    )


def write_segmentation(
    path: Path,
    series: Series,
    numbers: np.ndarray,
    segments: Segments,
    algorithm: Algorithm,
    series_number: int,
) -> int:
    """Write a DICOM SEG object with one binary segment for each class.

    A class without voxels is described, but has no frame.

    Args:
        path: the file.
        series: the series that was segmented.
        numbers: segment numbers, ``(columns, rows, slices)``; at least one is not 0.
        segments: the classes.
        algorithm: what made the segmentation.
        series_number: SeriesNumber of the object.

    Returns:
        The number of frames.

    Raises:
        HstfError: if the headers of the series do not permit an object.
    """
    from highdicom.seg import Segmentation
    from pydicom.uid import generate_uid

    with quiet():
        sources = _sources(series)
        try:
            result = Segmentation(
                source_images=sources,
                pixel_array=np.ascontiguousarray(numbers.transpose(2, 1, 0)),
                segmentation_type="BINARY",
                segment_descriptions=_descriptions(segments, algorithm),
                series_instance_uid=generate_uid(prefix=None),
                series_number=series_number,
                sop_instance_uid=generate_uid(prefix=None),
                instance_number=1,
                manufacturer=MANUFACTURER,
                manufacturer_model_name=algorithm.name[:LONGEST],
                software_versions=f"hstf {__version__}",
                device_serial_number=NO_SERIAL_NUMBER,
                content_label="SEGMENTATION",
                series_description=f"Segmentation: {algorithm.name}"[:LONGEST],
            )
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            # The message is not shown: it may quote values of the headers.
            raise HstfError(
                "the headers of its series do not permit a segmentation object:"
                f" {_cause(error, sources[0])}. Correct the headers, or export the series from the"
                " PACS again"
            ) from None
        with atomic_path(path) as temporary:
            result.save_as(temporary)
    return int(result.NumberOfFrames)


def _cause(error: Exception, source: "Dataset") -> str:
    """Return why highdicom refuses a series, with names of attributes and without values."""
    missing = [name for name in REQUIRED if not source.get(name)]
    if missing:
        return f"{', '.join(missing)} is missing"
    names = _invalid_attributes(source)
    if names:
        return f"the values of {', '.join(names)} break a rule of DICOM"
    return f"a value that DICOM requires is missing or not valid ({type(error).__name__})"


def _invalid_attributes(source: "Dataset") -> list[str]:
    """Return the standard attributes whose text is not valid, such as a date with dashes."""
    from pydicom import config
    from pydicom.valuerep import validate_value

    names = []
    for element in source:
        if element.tag.is_private or not isinstance(element.value, str):
            continue
        try:
            validate_value(element.VR, element.value, config.RAISE)
        except ValueError:
            names.append(element.keyword)
    return names


def _sources(series: Series) -> "list[Dataset]":
    """Return the headers of all slices, in order, as UTF-8.

    The object is written in the character set of its sources. In most of them some class names
    could not be written, and highdicom refuses an empty first value, which is common in Asia.
    """
    from pydicom import dcmread

    sources: list[Dataset] = []
    for header in series.slices:
        dataset = dcmread(header.path, stop_before_pixels=True)
        dataset.decode()
        dataset.SpecificCharacterSet = UTF_8
        for name in MAY_BE_MISSING:
            if name not in dataset:
                setattr(dataset, name, "")
        sources.append(dataset)
    return sources


def _descriptions(segments: Segments, algorithm: Algorithm) -> "Sequence[SegmentDescription]":
    """Return the descriptions of all segments."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription

    identification = AlgorithmIdentificationSequence(
        name=algorithm.name[:LONGEST],
        family=_coded(FAMILY),
        version=algorithm.version[:LONGEST],
    )
    descriptions = []
    for number, name in enumerate(segments.values, start=1):
        meaning = segments.meanings[name]
        descriptions.append(
            SegmentDescription(
                segment_number=number,
                segment_label=name[:LONGEST],
                segmented_property_category=_coded(meaning.category),
                segmented_property_type=_coded(meaning.type),
                algorithm_type="SEMIAUTOMATIC" if algorithm.corrected else "AUTOMATIC",
                algorithm_identification=identification,
            )
        )
    return descriptions


def _coded(code: Code) -> "CodeOfPydicom":
    from pydicom.sr.coding import Code as CodeOfPydicom

    return CodeOfPydicom(code.value, code.scheme, code.meaning)
