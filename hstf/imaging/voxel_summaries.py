"""Summaries of the voxels of a file, which is read in blocks: an image, or a label map."""

import math
from collections import Counter
from itertools import product
from typing import Any

import numpy as np

from hstf.imaging.intensity import LOWER_PERCENTILE, MINIMUM_EMPTY_CORNERS, UPPER_PERCENTILE
from hstf.imaging.volumes import is_label

FLOAT32_MAXIMUM = float(np.finfo(np.float32).max)
NON_FINITE = f"NaN, infinite or above {FLOAT32_MAXIMUM:.1e}".replace("e+", "e")
"""What is wrong with voxels that have no value as float32."""
MAXIMUM_INVALID_VALUES = 20
"""Number of invalid label values that are listed."""
SAMPLE_VOXELS = 200_000
"""Number of voxels, about, from which percentiles are computed."""
MAXIMUM_DISTINCT = 16
"""Number of whole values up to which a scan may be a label map."""


class ImageSummary:
    """Range and percentiles of the finite values, and number of all others.

    Overflow of float32 is infinite. Percentiles are those of a regular sample.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.minimum = math.inf
        self.maximum = -math.inf
        self.non_finite = 0
        self.step = _sampling_step(shape)
        self.corner_indices = _corner_indices(shape)
        self.samples: list[np.ndarray] = []
        self.corners: list[np.ndarray] = []
        self.seen = 0

    def add(self, values: np.ndarray) -> None:
        """Add the next voxels of the file."""
        self._sample(values)
        low = float(values.min())  # NaN if any value is NaN
        high = float(values.max())
        if not (low >= -FLOAT32_MAXIMUM and high <= FLOAT32_MAXIMUM):
            finite = values[np.abs(values) <= FLOAT32_MAXIMUM]
            self.non_finite += values.size - finite.size
            if not finite.size:
                return
            low = float(finite.min())
            high = float(finite.max())
        self.minimum = min(self.minimum, low)
        self.maximum = max(self.maximum, high)

    def _sample(self, values: np.ndarray) -> None:
        """Keep the voxels of the sample, and the corners of the volume."""
        offset = -self.seen % self.step
        self.samples.append(values[offset :: self.step].astype(np.float64))
        here = self.corner_indices - self.seen
        here = here[(here >= 0) & (here < values.size)]
        self.corners.append(values[here].astype(np.float64))
        self.seen += values.size

    def facts(self) -> dict[str, Any]:
        """Return the results by the names of :class:`hstf.imaging.scan.Scan`."""
        return {
            "minimum": self.minimum,
            "maximum": self.maximum,
            "non_finite": self.non_finite,
            **self._distribution(),
        }

    def _distribution(self) -> dict[str, Any]:
        values = np.concatenate(self.samples)
        values = values[np.abs(values) <= FLOAT32_MAXIMUM]
        if not values.size:
            return {}
        empty = self._empty_value()
        filled = values if empty is None else values[values != empty]
        distinct = np.unique(values)
        is_few = len(distinct) <= MAXIMUM_DISTINCT and np.all(distinct == np.rint(distinct))
        counted = filled if filled.size else values
        percentiles = np.percentile(counted, (LOWER_PERCENTILE, 50, UPPER_PERCENTILE))
        return {
            "percentiles": tuple(percentiles.tolist()),
            "filled": filled.size / values.size,
            "distinct": len(distinct) if is_few else 0,
        }

    def _empty_value(self) -> float | None:
        """Return the value of the empty background, as :mod:`hstf.imaging.intensity` defines it."""
        counts = Counter(np.concatenate(self.corners).tolist())
        value, count = counts.most_common(1)[0]
        is_background = value in (0, self.minimum)
        return value if count >= MINIMUM_EMPTY_CORNERS and is_background else None


def _sampling_step(shape: tuple[int, ...]) -> int:
    """Return a step over the voxels of a file that meets all rows and columns alike."""
    voxels = math.prod(shape)
    step = max(1, voxels // SAMPLE_VOXELS)
    while math.gcd(step, voxels) > 1:
        step += 1
    return step


def _corner_indices(shape: tuple[int, ...]) -> np.ndarray:
    """Return the positions of the eight corners in the order of the voxels in a file.

    Corners of a single slice count twice, as in :func:`hstf.imaging.intensity.empty_value`.
    """
    ends = [(0, size - 1) for size in shape]
    corners = np.array(list(product(*ends))).T
    return np.ravel_multi_index(tuple(corners), shape, order="F")


class LabelSummary:
    """Number of voxels of each label value, and of the first few invalid values."""

    def __init__(self) -> None:
        self.counts = np.zeros(256, dtype=np.int64)
        self.invalid = Counter[str]()

    def add(self, values: np.ndarray) -> None:
        """Add the next voxels of the file."""
        if values.dtype != np.uint8:
            valid = is_label(values)
            if not valid.all():
                self._add_invalid(values[~valid])
                values = values[valid]
            values = np.rint(values).astype(np.uint8)
        self.counts += np.bincount(values, minlength=256)

    def _add_invalid(self, values: np.ndarray) -> None:
        found, counts = np.unique(values, return_counts=True)
        for value, count in zip(found, counts, strict=True):
            name = f"{float(value):g}"
            if name in self.invalid or len(self.invalid) < MAXIMUM_INVALID_VALUES:
                self.invalid[name] += int(count)

    def facts(self) -> dict[str, Any]:
        """Return the results by the names of :class:`hstf.imaging.scan.Scan`."""
        voxels: dict[str, int] = {}
        for value in np.flatnonzero(self.counts):
            voxels[str(value)] = int(self.counts[value])
        voxels.update(self.invalid)
        return {"values": voxels}
