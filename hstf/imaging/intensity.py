"""Find the empty background of a scan and normalise its intensities."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from hstf.experiment.plan import Normalisation

MAXIMUM_SAMPLE = 4_000_000
"""Number of voxels from which statistics are computed. Larger scans are subsampled."""
MINIMUM_EMPTY_CORNERS = 4
"""Minimum number of corners that have the value of the empty background."""
LOWER_PERCENTILE = 0.5
"""Percentile at which low intensities are clipped."""
UPPER_PERCENTILE = 99.5
"""Percentile at which high intensities are clipped."""
BODY_THRESHOLD = 0.25
"""Fraction of the mean uptake of a PET scan that separates the body from air."""
MINIMUM_STD = 1e-6
"""Standard deviation, relative to the mean, up to which the voxels in a mask are constant."""
FEW_VALUES = 16
"""Maximum number of values of a channel that is a mask and not a measurement."""
FEW_VALUES_SAMPLE = 10_000
"""Number of voxels that show most measurements to have more values."""
MAXIMUM_MASK_VALUE = 2048
"""Maximum value of a mask: float16, in which it is stored, has all whole numbers up to here."""
HU_OFFSET = 1024.0
"""Difference of a CT scan that is stored without the offset of Hounsfield units."""
HU_TOLERANCE = 150.0
"""Variation of the lowest intensities of CT scans: air, or the fat of scans without air."""
HU_MINIMUM_SHIFT = 400.0
"""Minimum shift of the other intensities, which vary with the field of view and with bone."""


def empty_value(data: np.ndarray) -> float | None:
    """Return the intensity of the empty background of a scan ``(X, Y, Z)``.

    It is the value of at least four of the eight corners, provided that it is zero or the minimum
    of the scan. Examples are padding, the air of a masked scan, and the corners outside the fan of
    an ultrasound scan.

    Returns:
        The value, or None if the scan has no empty background.
    """
    corners = _corners(data)
    counts = Counter(corners.ravel().tolist())
    value, count = counts.most_common(1)[0]
    if count < MINIMUM_EMPTY_CORNERS:
        return None
    if value == 0 or value == data.min():
        return value
    return None


def _corners(data: np.ndarray) -> np.ndarray:
    ends = [(0, size - 1) for size in data.shape]
    return data[np.ix_(*ends)]


def nonempty_mask(data: np.ndarray) -> np.ndarray:
    """Return a mask of the voxels that differ from the empty background.

    The mask has all voxels if the scan has no empty background, or if it is constant.
    """
    empty = empty_value(data)
    if empty is not None:
        mask = data != empty
        if mask.any():
            return mask
    return np.ones(data.shape, bool)


def field_of_view(
    data: np.ndarray,
    scheme: str,
) -> np.ndarray:
    """Return a mask of the voxels that were scanned.

    An ultrasound scan (scheme ``fan``) has the value of the empty corners also where the tissue
    returns no echo. Therefore only empty voxels that are connected to a corner are outside.

    Args:
        data: ``(X, Y, Z)``.
        scheme: normalisation scheme of the channel.
    """
    mask = nonempty_mask(data)
    if scheme != "fan":
        return mask
    from scipy.ndimage import label

    regions, _ = label(~mask)
    corner_regions = np.unique(_corners(regions))
    return ~np.isin(regions, corner_regions[corner_regions > 0])


def sample(
    data: np.ndarray,
    mask: np.ndarray,
) -> np.ndarray:
    """Return the values of ``data`` in ``mask`` on a regular subgrid.

    The subgrid has about :data:`MAXIMUM_SAMPLE` voxels at most.
    """
    excess = data.size / MAXIMUM_SAMPLE
    step = int(np.ceil(excess ** (1 / 3)))
    step = max(1, step)
    grid = (slice(None, None, step),) * 3
    values = data[grid][mask[grid]]
    if values.size:
        return values
    return data[mask]


def few_values(data: np.ndarray) -> tuple[float, ...] | None:
    """Return all values of a channel if they are at most :data:`FEW_VALUES`, otherwise None.

    A measurement has noise and therefore many values. Few values are those of a mask, of clicks, or
    of classes; or the channel is constant.

    Args:
        data: ``(X, Y, Z)`` with finite values.
    """
    rest = data.ravel()
    step = max(1, rest.size // FEW_VALUES_SAMPLE)
    if np.unique(rest[::step]).size > FEW_VALUES:
        return None
    values: list[float] = []
    while rest.size:
        if len(values) == FEW_VALUES:
            return None
        values.append(float(rest[0]))
        rest = rest[rest != rest[0]]
    return tuple(sorted(values))


def normalise(
    data: np.ndarray,
    mask: np.ndarray,
    normalisation: Normalisation,
) -> None:
    """Normalise a scan in place to a mean of about 0 and a standard deviation of about 1.

    Only a constant scan becomes constant, namely 0. If the voxels in ``mask`` are constant but the
    scan is not, as in a binary mask, its values are mapped to 0 to 1. A channel of the scheme
    ``mask`` is not standardised.

    Args:
        data: ``(X, Y, Z)`` float32.
        mask: voxels from which statistics are computed, except for CT, whose statistics are in the
            plan. Voxels outside are normalised by the same function.
        normalisation: scheme of the channel.
    """
    if normalisation.scheme == "mask":
        _standardise(data, normalisation.mean, normalisation.std)
        return
    if normalisation.scheme == "ct":
        np.clip(
            data,
            normalisation.lower,
            normalisation.upper,
            out=data,
        )
        _standardise(data, normalisation.mean, normalisation.std)
        return
    values = sample(data, mask)
    upper = np.inf
    if normalisation.scheme == "uptake":
        values = _compress_uptake(data, values)
        lower = np.percentile(values, LOWER_PERCENTILE)
    else:
        lower, upper = np.percentile(values, (LOWER_PERCENTILE, UPPER_PERCENTILE))
    values = np.clip(values, lower, upper)
    mean = float(values.mean(dtype=float))
    std = float(values.std(dtype=float))
    if not has_spread(mean, std):
        _stretch(data)
        return
    np.clip(data, lower, upper, out=data)
    _standardise(data, mean, std)


def has_spread(mean: float, std: float) -> bool:
    """Return whether values differ by more than rounding. Their unit does not matter."""
    return std > MINIMUM_STD * abs(mean) and float(np.float32(std)) > 0


def lacks_hu_offset(percentiles: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the CT scans that are stored without the offset of Hounsfield units.

    Their lowest percentile is about 1024 above that of the other scans, and their other percentiles
    are far above, too. A scan without air or with metal differs in some of them only.

    Args:
        percentiles: the same percentiles of each scan, the lowest first.
    """
    if len(percentiles) < 2:
        return []
    table = np.array(list(percentiles.values()), dtype=float)
    # The lower one of two medians: with two scans, the one in Hounsfield units.
    reference = np.sort(table, axis=0)[(len(table) - 1) // 2]
    shift = table - reference
    lowest = np.abs(shift[:, 0] - HU_OFFSET) < HU_TOLERANCE
    is_shifted = lowest & (shift[:, 1:] > HU_MINIMUM_SHIFT).all(axis=1)
    return [name for name, shifted in zip(percentiles, is_shifted, strict=True) if shifted]


def _stretch(data: np.ndarray) -> None:
    """Map the minimum of ``data`` to 0 and the maximum to 1, in place; a constant becomes 0."""
    low = data.min()
    span = data.max() - low
    data -= low
    if span > 0:
        data /= span


def _compress_uptake(
    data: np.ndarray,
    values: np.ndarray,
) -> np.ndarray:
    """Compress the upper tail of a PET scan by arcsinh, in place.

    Returns:
        The compressed values of the body, or all compressed ``values`` if there is no body.
    """
    body = _body(values)
    scale = float(np.median(body)) if body.size else 1.0
    np.divide(data, scale, out=data)
    np.arcsinh(data, out=data)
    reference = body if body.size else values
    return np.arcsinh(reference / scale)


def _body(values: np.ndarray) -> np.ndarray:
    """Return the values of a PET scan that are not air.

    They are above :data:`BODY_THRESHOLD` times the mean of the positive values. This mean replaces
    the injected dose per body weight, by which standardised uptake values are scaled. A scan with
    more air has a lower mean, but air is still far below it.
    """
    positive = values[values > 0]
    if not positive.size:
        return positive
    return positive[positive > BODY_THRESHOLD * positive.mean()]


def _standardise(
    data: np.ndarray,
    mean: float,
    std: float,
) -> None:
    data -= np.float32(mean)
    if has_spread(mean, std):
        data /= np.float32(std)
