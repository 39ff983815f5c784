"""The intensities of a channel in all scans: whether it is a mask, and scans unlike the others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.plan import Normalisation, Plan
from hstf.imaging.intensity import has_spread, lacks_hu_offset
from hstf.runtime.errors import few
from hstf.stages.plan.fingerprint import Fingerprint, ScanSummary

LARGE_MASK_VALUE = 10.0
"""Value of a mask above which it outweighs the other channels, whose values are about 1."""


@dataclass(frozen=True)
class ChannelIntensities:
    """A channel of the scans whose voxels were read."""

    channel: int
    """Position of the channel."""
    scans: Sequence[ScanSummary]

    @classmethod
    def of(cls, fingerprint: Fingerprint, channel: int) -> "ChannelIntensities":
        """Return a channel of the scans of a fingerprint."""
        return cls(channel, [scan for scan in fingerprint.read if scan.ranges is not None])

    @property
    def low(self) -> float:
        """Minimum of all scans."""
        return min(self.range_of(scan)[0] for scan in self.scans)

    @property
    def high(self) -> float:
        """Maximum of all scans."""
        return max(self.range_of(scan)[1] for scan in self.scans)

    @property
    def constant(self) -> list[str]:
        """Cases in which all voxels have the same value."""
        return [scan.case_id for scan in self.scans if self._is_constant(scan)]

    @property
    def is_mask(self) -> bool:
        """Whether the channel has few values, or no spread where most scans are not empty."""
        varying = [scan for scan in self.scans if not self._is_constant(scan)]
        if not varying:
            return False
        few_values = [scan for scan in varying if self._has_few_values(scan)]
        without_spread = [scan for scan in varying if not self._has_spread(scan)]
        return len(few_values) == len(varying) or 2 * len(without_spread) >= len(varying)

    @property
    def pooled(self) -> tuple[float, float, float, float]:
        """Lowest and highest percentile, mean and standard deviation of the scans."""
        rows = np.array([scan.intensities[self.channel] for scan in self.scans if scan.intensities])
        lower, upper, mean = rows[:, 0].min(), rows[:, 2].max(), rows[:, 3].mean()
        variance = (rows[:, 4] ** 2 + (rows[:, 3] - mean) ** 2).mean()
        return float(lower), float(upper), float(mean), float(variance**0.5)

    def range_of(self, scan: ScanSummary) -> tuple[float, float]:
        """Return the minimum and the maximum of a scan."""
        assert scan.ranges is not None
        return scan.ranges[self.channel]

    def percentiles_of(self, scan: ScanSummary) -> tuple[float, ...]:
        """Return the percentiles of a scan, see :func:`hstf.stages.plan.fingerprint.statistics`."""
        assert scan.intensities is not None
        return scan.intensities[self.channel][:3]

    def _is_constant(self, scan: ScanSummary) -> bool:
        low, high = self.range_of(scan)
        return low == high

    def _has_few_values(self, scan: ScanSummary) -> bool:
        return scan.few_values is not None and scan.few_values[self.channel]

    def _has_spread(self, scan: ScanSummary) -> bool:
        lower, median, upper = self.percentiles_of(scan)
        return has_spread(median, upper - lower)


def intensity_warnings(config: Config, fingerprint: Fingerprint, plan: Plan) -> list[str]:
    """Describe channels and scans that are most likely mistakes.

    Args:
        config: the section ``modalities``.
        fingerprint: properties of the scans.
        plan: the plan, with the normalisation of each channel.

    Returns:
        Sentences.
    """
    warnings: list[str] = []
    for channel, (name, kind) in enumerate(config.modalities.items()):
        intensities = ChannelIntensities.of(fingerprint, channel)
        normalisation = plan.normalisation[channel]
        for sentence in _channel_warnings(intensities, kind, normalisation):
            warnings.append(f"{name}: {sentence}")
    return warnings


def _channel_warnings(
    intensities: ChannelIntensities, kind: str, normalisation: Normalisation
) -> Iterator[str]:
    total = len(intensities.scans)
    if intensities.constant:
        yield (
            f"one value in all voxels in {len(intensities.constant)} of {total} scans"
            f" ({few(intensities.constant)}). The network learns nothing from this channel there."
            " Check the files."
        )
    if not total:
        return
    if normalisation.scheme == "mask" and kind not in ("mask", "other"):
        yield f"is a mask, not {kind}. Set its modality to mask, or check the files."
    highest = max(abs(intensities.low), abs(intensities.high))
    if kind == "mask" and highest > LARGE_MASK_VALUE:
        yield (
            f"the mask has values up to {highest:g}, and is left as it is. It outweighs the other"
            " channels, whose values are about 1. Divide the files by this value, or set the"
            " modality to other."
        )
    if normalisation.scheme == "ct":
        yield from _ct_warnings(intensities, normalisation)


def _ct_warnings(intensities: ChannelIntensities, normalisation: Normalisation) -> Iterator[str]:
    outside = []
    percentiles = {}
    for scan in intensities.scans:
        low, high = intensities.range_of(scan)
        if low < high and (high <= normalisation.lower or low >= normalisation.upper):
            outside.append(scan.case_id)
        percentiles[scan.case_id] = intensities.percentiles_of(scan)
    if outside:
        yield (
            f"{len(outside)} of {len(percentiles)} scans ({few(outside)}) have no value between"
            f" {normalisation.lower:g} and {normalisation.upper:g}, the range of the labelled"
            " foreground, and become constant. Check the units of these files."
        )
    shifted = lacks_hu_offset(percentiles)
    if shifted:
        yield (
            f"the intensities of {few(shifted)} are about 1024 above those of the other scans:"
            " stored without the offset of Hounsfield units. Subtract 1024, or convert the files"
            " again with the rescale intercept of DICOM."
        )
