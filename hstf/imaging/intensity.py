"""Intensities: where a scan is empty, and how its values are brought to a common scale."""

from collections import Counter

import numpy as np

from hstf.experiment.plan import Normalisation

SAMPLE = (
    4_000_000  # voxels that statistics are taken from: every s-th along each axis of larger scans
)
LOWER, UPPER = 0.5, 99.5  # percentiles that intensities are clipped to
BODY = 0.25  # share of a PET scan's mean that tells the body from air


def empty_value(data: np.ndarray) -> float | None:
    """The value of the empty background of a scan ``(X, Y, Z)``, None where it has none.

    That is what at least half of the volume's corners hold exactly, when it is the scan's minimum or zero: padding, the
    air of a masked scan, the corners beside the fan of an ultrasound.
    """
    corners = data[np.ix_(*((0, size - 1) for size in data.shape))]
    value, count = Counter(corners.ravel().tolist()).most_common(1)[0]
    return value if count >= 4 and (value == 0 or value == data.min()) else None


def scanned(data: np.ndarray) -> np.ndarray:
    """Mask of the voxels that differ from the empty background; all of them where there is none."""
    empty = empty_value(data)
    mask = np.ones(data.shape, bool) if empty is None else data != empty
    return mask if mask.any() else np.ones(data.shape, bool)


def field_of_view(data: np.ndarray, scheme: str) -> np.ndarray:
    """Mask of what was scanned: with the scheme ``fan`` all but what is empty and joined to a corner of the volume.

    In an ultrasound scan what returns no echo has the value of the corners beside the fan, and is anatomy.
    """
    mask = scanned(data)
    if scheme != "fan":
        return mask
    from scipy.ndimage import label

    regions, _ = label(~mask)
    corners = np.unique(regions[np.ix_(*((0, size - 1) for size in data.shape))])
    return ~np.isin(regions, corners[corners > 0])


def sample(data: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Values of ``data`` in ``mask``, at most about :data:`SAMPLE` of them, on a regular sub-grid."""
    step = max(1, int(np.ceil((data.size / SAMPLE) ** (1 / 3))))
    grid = (slice(None, None, step),) * 3
    values = data[grid][mask[grid]]
    return values if values.size else data[mask]


def normalise(data: np.ndarray, mask: np.ndarray, normalisation: Normalisation) -> None:
    """Bring float32 ``data`` ``(X, Y, Z)`` in place to about zero mean and unit spread; a constant scan becomes 0.

    Statistics come from ``mask`` (or, for CT, from the plan); voxels outside it go through the same function.
    """
    if normalisation.scheme == "ct":
        np.clip(data, normalisation.lower, normalisation.upper, out=data)
        _standardise(data, normalisation.mean, normalisation.std)
        return
    values = sample(data, mask)
    upper = np.inf
    if normalisation.scheme == "uptake":
        body = _body(values)
        scale = float(np.median(body)) if body.size else 1.0
        values = np.arcsinh((body if body.size else values) / scale)
        np.arcsinh(np.divide(data, scale, out=data), out=data)
        lower = np.percentile(values, LOWER)
    else:
        lower, upper = np.percentile(values, (LOWER, UPPER))
    values = np.clip(values, lower, upper)
    np.clip(data, lower, upper, out=data)
    _standardise(data, float(values.mean(dtype=float)), float(values.std(dtype=float)))


def _body(values: np.ndarray) -> np.ndarray:
    """Values of a PET scan that are not air: those above a quarter of the positive values' mean.

    The mean stands for the injected dose by weight, as in standardised uptake values; the more air, the lower it is,
    and air lies far below it all the same.
    """
    positive = values[values > 0]
    return positive[positive > BODY * positive.mean()] if positive.size else positive


def _standardise(data: np.ndarray, mean: float, std: float) -> None:
    data -= np.float32(mean)
    if std > 1e-6 * max(1.0, abs(mean)):
        data /= np.float32(std)
