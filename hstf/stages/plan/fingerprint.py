"""The fingerprint: what the labelled and unlabelled scans have in common. Test cases are never read here."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from hstf.config.experiment import IGNORE, Config
from hstf.experiment.cases import Case, Split
from hstf.experiment.context import StageContext
from hstf.imaging.affines import ras_spacing, to_ras
from hstf.imaging.geometry import Geometry, bounding_box
from hstf.imaging.intensity import LOWER_PERCENTILE, UPPER_PERCENTILE, nonempty_mask, sample
from hstf.imaging.volumes import Volume, open_nifti, read_image, read_label
from hstf.runtime.documents import Document, Part
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_json
from hstf.runtime.processes import ProcessDied, map_processes, worker_count

READ = 100  # cases of each split whose voxels are read; the headers of all are
FOREGROUND = 10_000  # voxels of each labelled case in the foreground statistics
Numbers = tuple[float, ...]


class ScanSummary(Part):
    """Properties of a scan; shape, spacing and crop are along the RAS axes."""

    case_id: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    """mm"""
    orientation: str
    """Directions of the file's own axes."""
    cropped_shape: tuple[int, int, int] | None = None
    """Shape of the box that is not empty; None where only the header was read."""
    intensities: tuple[Numbers, ...] | None = None
    """Of each channel 0.5th, 50th and 99.5th percentile, mean and standard deviation of what is not empty."""


class Fingerprint(Document):
    """Properties of all scans, and the intensities of the labelled foreground in CT channels."""

    stage = "plan"

    scans: tuple[ScanSummary, ...]
    foreground: dict[str, Numbers]
    """By modality 0.5th, 50th and 99.5th percentile, mean and standard deviation over the labelled cases."""

    @property
    def read(self) -> list[ScanSummary]:
        """The scans whose voxels were read."""
        return [scan for scan in self.scans if scan.cropped_shape is not None]


def take_fingerprint(context: StageContext) -> Fingerprint:
    """Read the headers of all labelled and unlabelled cases and the voxels of up to 100 of each.

    Raises:
        HstfError: there is no such case, a file cannot be read, or CT scans have no labelled foreground.
    """
    config = context.config
    splits = [context.cases(Split.LABELLED), context.cases(Split.UNLABELLED)]
    cases = [case for split in splits for case in split]
    if not cases:
        raise HstfError("the case sheet has no labelled or unlabelled case to plan from.")
    chosen = {case.case_id for split in splits for case in spread(split, READ)}
    headers = {case.case_id: _header(case) for case in cases if case.case_id not in chosen}
    read = dict(_read_side_by_side(config, [case for case in cases if case.case_id in chosen]))
    scans = tuple(headers.get(c.case_id) or read[c.case_id][0] for c in cases)
    found = [read[case.case_id][1] for case in cases if case.case_id in read]
    absolute = [name for name, kind in config.modalities.items() if kind == "ct"]
    foreground = {}
    for name in absolute:
        foreground[name] = _pooled(name, [sample[name] for sample in found if name in sample])
    return Fingerprint(scans=scans, foreground=foreground)


def spread(cases: Sequence[Case], count: int) -> list[Case]:
    """At most ``count`` of ``cases``, evenly spread over the sheet."""
    indices = np.unique(np.linspace(0, len(cases) - 1, min(count, len(cases))).round().astype(int))
    return [cases[index] for index in indices]


def _read_side_by_side(
    config: Config, cases: Sequence[Case]
) -> Iterator[tuple[str, tuple[ScanSummary, dict[str, np.ndarray]]]]:
    workers = worker_count(config.preprocess.workers)
    for case, result in map_processes(partial(read_scan, config), cases, workers):
        if isinstance(result, ProcessDied):
            raise HstfError(
                f"{case.case_id}: the process that read it was killed, most likely for want of memory. Lower"
                " preprocess.workers."
            )
        yield case.case_id, result


def _header(case: Case) -> ScanSummary:
    image = open_nifti(case.images[0])
    return _scan(case, image.shape[:3], np.asarray(image.affine))


def _scan(case: Case, shape: tuple[int, ...], affine: np.ndarray) -> ScanSummary:
    geometry = Geometry.of(shape, affine, ras_spacing(affine))
    return ScanSummary(
        case_id=case.case_id,
        shape=geometry.crop_shape,
        spacing=geometry.source_spacing,
        orientation=geometry.orientation,
    )


def read_scan(config: Config, case: Case) -> tuple[ScanSummary, dict[str, np.ndarray]]:
    """A scan in short with what only its voxels tell, and a sample of its foreground in each CT channel."""
    union, intensities, foreground = None, [], {}
    for (name, kind), path in zip(config.modalities.items(), case.images, strict=True):
        volume = read_image(path)
        if not np.isfinite(volume.data).all():
            raise HstfError(
                f"{case.case_id}: {path} holds NaN or infinite values. Replace them, by 0 outside the body."
            )
        mask = nonempty_mask(volume.data)
        intensities.append(statistics(sample(volume.data, mask)))
        union = mask if union is None else union | mask
        if kind == "ct" and case.split is Split.LABELLED:
            foreground[name] = _foreground(case, config, volume)
    assert union is not None, "a case has at least one modality"
    box = bounding_box(to_ras(union, volume.affine))
    cropped = tuple(stop - start for start, stop in box)
    header = _scan(case, volume.data.shape, volume.affine)
    scan = header.model_copy(update={"cropped_shape": cropped, "intensities": tuple(intensities)})
    return scan, foreground


def _foreground(case: Case, config: Config, volume: Volume) -> np.ndarray:
    label = read_label(case.training_label).data
    left_out = [config.labels["background"], config.labels.get(IGNORE, config.labels["background"])]
    values = volume.data[~np.isin(label, left_out)]
    seed = int(sha256_json(case.case_id)[:16], 16)
    return np.random.default_rng(seed).choice(values, min(FOREGROUND, values.size), replace=False)


def statistics(values: np.ndarray) -> Numbers:
    """0.5th, 50th and 99.5th percentile, mean and standard deviation."""
    percentiles = np.percentile(values, (LOWER_PERCENTILE, 50, UPPER_PERCENTILE))
    return (
        *(float(v) for v in percentiles),
        float(values.mean(dtype=float)),
        float(values.std(dtype=float)),
    )


def _pooled(name: str, samples: Sequence[np.ndarray]) -> Numbers:
    values = np.concatenate(samples) if samples else np.empty(0)
    if not values.size:
        raise HstfError(
            f"{name}: CT intensities are normalised by the labelled foreground, but no labelled case has any. Check the"
            " 'labels:' of the configuration, or call the modality 'other'."
        )
    return statistics(values)
