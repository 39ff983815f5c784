"""The fingerprint: properties of the labelled and unlabelled scans. Test cases are not read."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from hstf.config.experiment import IGNORE, Config
from hstf.experiment.cases import Case, Split
from hstf.experiment.context import StageContext
from hstf.imaging.affines import is_placed, ras_spacing, tilt_degrees, to_ras
from hstf.imaging.geometry import Geometry, bounding_box
from hstf.imaging.intensity import (
    LOWER_PERCENTILE,
    UPPER_PERCENTILE,
    few_values,
    nonempty_mask,
    sample,
)
from hstf.imaging.volume_files import open_nifti
from hstf.imaging.volumes import Volume, read_image, read_label
from hstf.imaging.voxel_summaries import NON_FINITE
from hstf.runtime.documents import Document, Part
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_json
from hstf.runtime.processes import ProcessDied, map_processes, worker_count

READ = 100
"""Cases of each split whose voxels are read. The headers of all cases are read."""
FOREGROUND = 10_000
"""Voxels of each labelled case in the statistics of the foreground."""

Numbers = tuple[float, ...]
ForegroundSamples = dict[str, np.ndarray]
"""Sampled values of the labelled foreground by CT channel."""


class ScanSummary(Part):
    """Properties of a scan. Shape, spacing and crop are along the RAS axes."""

    case_id: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    """mm"""
    orientation: str
    """Directions of the axes of the file."""
    tilt_degrees: float = 0.0
    """Maximum angle of an axis to the closest axis of the body."""
    is_placed: bool = True
    """Whether the header places the scan, see :func:`hstf.imaging.affines.is_placed`."""
    cropped_shape: tuple[int, int, int] | None = None
    """Shape of the box that is not empty, or the whole shape with ``preprocess.crop: false``; None
    if only the header was read."""
    intensities: tuple[Numbers, ...] | None = None
    """:func:`statistics` of the voxels that are not empty, for each channel."""
    ranges: tuple[tuple[float, float], ...] | None = None
    """Minimum and maximum of each channel."""
    few_values: tuple[bool, ...] | None = None
    """Whether each channel has few values, see :func:`hstf.imaging.intensity.few_values`."""


class Fingerprint(Document):
    """Properties of all scans, and the intensities of the labelled foreground in CT channels."""

    stage = "plan"

    scans: tuple[ScanSummary, ...]
    foreground: dict[str, Numbers]
    """:func:`statistics` of the labelled foreground, by CT channel."""

    @property
    def read(self) -> list[ScanSummary]:
        """The scans whose voxels were read."""
        return [scan for scan in self.scans if scan.cropped_shape is not None]


def take_fingerprint(context: StageContext) -> Fingerprint:
    """Read the headers of all labelled and unlabelled cases, and the voxels of up to 100 of each.

    Raises:
        HstfError: if there are no such cases, if a file cannot be read, or if CT scans have no
            labelled foreground.
    """
    config = context.config
    labelled = context.cases(Split.LABELLED)
    unlabelled = context.cases(Split.UNLABELLED)
    cases = labelled + unlabelled
    if not cases:
        raise HstfError("The case sheet has no labelled or unlabelled case to plan from.")
    chosen = spread(labelled, READ) + spread(unlabelled, READ)
    voxel_ids = {case.case_id for case in chosen}
    summaries = {}
    for case in cases:
        if case.case_id not in voxel_ids:
            summaries[case.case_id] = _header_summary(config, case)
    samples = {}
    chosen = [case for case in cases if case.case_id in voxel_ids]
    for case, summary, sample_of_case in _read_scans(config, chosen):
        summaries[case.case_id] = summary
        samples[case.case_id] = sample_of_case
    # Processes end in any order; the files must not depend on it.
    ordered_samples = [samples[case.case_id] for case in chosen]
    return Fingerprint(
        scans=tuple(summaries[case.case_id] for case in cases),
        foreground=_foreground_statistics(config, ordered_samples),
    )


def spread(cases: Sequence[Case], count: int) -> list[Case]:
    """Return at most ``count`` of ``cases``, evenly distributed over the sheet."""
    indices = np.unique(np.linspace(0, len(cases) - 1, min(count, len(cases))).round().astype(int))
    return [cases[index] for index in indices]


def _read_scans(
    config: Config, cases: Sequence[Case]
) -> Iterator[tuple[Case, ScanSummary, ForegroundSamples]]:
    """Read scans in several processes, and yield them in the order in which they are done."""
    workers = worker_count(config.preprocess.workers)
    for case, result in map_processes(partial(read_scan, config), cases, workers):
        if isinstance(result, ProcessDied):
            raise HstfError(
                f"{case.case_id}: the process that read it was killed, most likely because it ran"
                " out of memory. Lower preprocess.workers."
            )
        summary, samples = result
        yield case, summary, samples


def _header_summary(config: Config, case: Case) -> ScanSummary:
    """Read only the header of the first image."""
    image = open_nifti(case.images[0])
    return _summary(config, case, image.shape[:3], np.asarray(image.affine))


def _summary(config: Config, case: Case, shape: tuple[int, ...], affine: np.ndarray) -> ScanSummary:
    axes = config.preprocess.axes
    geometry = Geometry.of(shape, affine, ras_spacing(affine, axes), axes=axes)
    return ScanSummary(
        case_id=case.case_id,
        shape=geometry.crop_shape,
        spacing=geometry.source_spacing,
        orientation=geometry.orientation,
        tilt_degrees=round(tilt_degrees(affine), 2),
        is_placed=is_placed(affine, shape),
    )


def read_scan(config: Config, case: Case) -> tuple[ScanSummary, ForegroundSamples]:
    """Read the voxels of a scan.

    Args:
        config: ``modalities``, ``labels``, ``preprocess.axes`` and ``preprocess.crop``.
        case: the case.

    Returns:
        The summary, and samples of the labelled foreground in CT channels.

    Raises:
        HstfError: if a file cannot be read or has values that are not finite.
    """
    measured = []
    masks = []
    intensities = []
    ranges = []
    are_few = []
    samples = {}
    for (name, kind), path in zip(config.modalities.items(), case.images, strict=True):
        volume = read_image(path, is_mask=kind == "mask")
        if not np.isfinite(volume.data).all():
            raise HstfError(
                f"{case.case_id}: {path} has values that are {NON_FINITE}. Replace them, for"
                " instance by 0 outside the body."
            )
        mask = nonempty_mask(volume.data)
        intensities.append(statistics(sample(volume.data, mask)))
        masks.append(mask)
        ranges.append((float(volume.data.min()), float(volume.data.max())))
        are_few.append(few_values(volume.data) is not None)
        if not are_few[-1] and kind != "mask":
            measured.append(mask)
        if kind == "ct" and case.split is Split.LABELLED:
            samples[name] = _sample_foreground(case, config, volume)
    header = _summary(config, case, volume.data.shape, volume.affine)
    cropped_shape: tuple[int, ...] = header.shape
    if config.preprocess.crop:
        scanned = np.logical_or.reduce(measured or masks)
        box = bounding_box(to_ras(scanned, volume.affine, config.preprocess.axes))
        cropped_shape = tuple(stop - start for start, stop in box)
    voxels = {
        "cropped_shape": cropped_shape,
        "intensities": tuple(intensities),
        "ranges": tuple(ranges),
        "few_values": tuple(are_few),
    }
    return header.model_copy(update=voxels), samples


def _sample_foreground(case: Case, config: Config, volume: Volume) -> np.ndarray:
    """Draw voxels of the labelled foreground; the case decides the seed."""
    label = read_label(case.training_label).data
    background = config.labels["background"]
    left_out = [background, config.labels.get(IGNORE, background)]
    values = volume.data[~np.isin(label, left_out)]
    seed = int(sha256_json(case.case_id)[:16], 16)
    return np.random.default_rng(seed).choice(values, min(FOREGROUND, values.size), replace=False)


def statistics(values: np.ndarray) -> Numbers:
    """Return the 0.5th, 50th and 99.5th percentile, the mean and the standard deviation."""
    percentiles = np.percentile(values, (LOWER_PERCENTILE, 50, UPPER_PERCENTILE))
    mean = float(values.mean(dtype=float))
    return (*percentiles.tolist(), mean, float(values.std(dtype=float)))


def _foreground_statistics(
    config: Config, samples: Sequence[ForegroundSamples]
) -> dict[str, Numbers]:
    """Return the statistics of the labelled foreground of all cases, by CT channel.

    Raises:
        HstfError: if a CT channel has no labelled foreground.
    """
    foreground = {}
    for name, kind in config.modalities.items():
        if kind != "ct":
            continue
        values = [of_case[name] for of_case in samples if name in of_case]
        pooled = np.concatenate(values) if values else np.empty(0)
        if not pooled.size:
            raise HstfError(
                f"{name}: CT intensities are normalised by the labelled foreground, but no labelled"
                " case has any. Check 'labels:' in the configuration, or set the modality to"
                " 'other'."
            )
        foreground[name] = statistics(pooled)
    return foreground
