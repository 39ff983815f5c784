"""Compare the intensities of a scan with those of other scans of its modality."""

from collections.abc import Iterator, Sequence

import numpy as np

from hstf.imaging.guards import MASK, Issue, Level
from hstf.imaging.scan import Scan
from hstf.runtime.documents import Part

RARE = 5
"""Percentage of scans on each side that do not widen a range, if there are many scans."""
OFFSET_TOLERANCE = 0.25
"""Distance of CT values from those of the other scans, as a fraction of their range."""
SCALE_TOLERANCE = 10.0
"""Ratio of the range of a scan to that of the other scans, which may differ among themselves."""
NEGATIVE = 0.1
"""Fraction of the range that may be negative if the other scans have no negative values."""
POSITION_TOLERANCE = 0.3
"""Distance of the median from that of the other scans, as a fraction of the range of a scan."""

Bounds = tuple[float, float]
"""Minimum and maximum over scans."""


class IntensityRange(Part):
    """Bounds of the intensities of several scans, without their empty background."""

    lower: Bounds
    """Bounds of the 0.5th percentile of a scan."""
    median: Bounds
    """Bounds of the 50th percentile."""
    upper: Bounds
    """Bounds of the 99.5th percentile."""
    width: Bounds
    """Bounds of the 99.5th minus the 0.5th percentile."""
    position: Bounds
    """Bounds of the position of the median between the other two percentiles, 0 to 1."""

    @classmethod
    def of(cls, percentiles: Sequence[Sequence[float]]) -> "IntensityRange":
        """Return the bounds of scans; a few per cent of them do not count.

        Args:
            percentiles: 0.5th, 50th and 99.5th percentile of each scan; further values are ignored.
        """
        values = np.array([scan[:3] for scan in percentiles], dtype=float)
        lower, median, upper = values.T
        width = upper - lower
        is_wide = width > 0
        position = (median - lower)[is_wide] / width[is_wide]
        return cls(
            lower=_bounds(lower),
            median=_bounds(median),
            upper=_bounds(upper),
            width=_bounds(width),
            position=_bounds(position) if position.size else (0.0, 1.0),
        )


def _bounds(values: np.ndarray) -> Bounds:
    low = np.percentile(values, RARE, method="lower")
    high = np.percentile(values, 100 - RARE, method="higher")
    return float(low), float(high)


def range_issues(scan: Scan, kind: str, others: IntensityRange) -> Iterator[Issue]:
    """Yield a warning if the intensities of a scan are unlike those of other scans.

    CT values are compared as they are. The unit of other modalities differs from scan to scan, so
    only the order of magnitude, the sign and the position of the median are compared.

    Args:
        scan: what was read from the file.
        kind: the modality: ct, mr, pet, us, other or mask.
        others: intensities of the other scans.
    """
    if kind == MASK or len(scan.percentiles) != 3:
        return
    reason = _ct_reason(scan, others) if kind == "ct" else _other_reason(scan, others)
    if reason:
        lower, median, upper = scan.percentiles
        yield Issue(
            Level.WARNING,
            f"intensities unlike those of the training scans: {reason} (0.5% of the voxels are"
            f" below {lower:.4g}, half below {median:.4g}, 99.5% below {upper:.4g})",
            f"0.5% below {_text(others.lower)}, half below {_text(others.median)}, 99.5% below"
            f" {_text(others.upper)}",
            "Check modality, units and offset of the scan. Look at its segmentation.",
        )


def _text(bounds: Bounds) -> str:
    low, high = bounds
    return f"{low:.4g} to {high:.4g}"


def _ct_reason(scan: Scan, others: IntensityRange) -> str:
    margin = OFFSET_TOLERANCE * others.width[1]
    bounds = (others.lower, others.median, others.upper)
    for value, (low, high) in zip(scan.percentiles, bounds, strict=True):
        if value > high + margin:
            return "higher"
        if value < low - margin:
            return "lower"
    return ""


def _other_reason(scan: Scan, others: IntensityRange) -> str:
    lower, median, upper = scan.percentiles
    width = upper - lower
    narrowest, widest = others.width
    # Scans whose units differ more than usual say that units do not matter.
    tolerance = max(SCALE_TOLERANCE, widest / narrowest) if narrowest > 0 else np.inf
    if width > tolerance * widest:
        return "a wider range"
    if width < narrowest / tolerance:
        return "a narrower range"
    if others.lower[0] >= -NEGATIVE * others.width[0] and lower < -NEGATIVE * width:
        return "negative values"
    if width == 0:
        return ""
    position = (median - lower) / width
    low, high = others.position
    if not low - POSITION_TOLERANCE <= position <= high + POSITION_TOLERANCE:
        return "another distribution"
    return ""
