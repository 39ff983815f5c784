"""How scans were acquired: this decides which random changes are realistic."""

from collections.abc import Iterable
from dataclasses import dataclass

from hstf.experiment.plan import Normalisation, Plan
from hstf.imaging.spacing import Spacing


@dataclass(frozen=True)
class ChannelKind:
    """What the channels have in common that one call of an intensity change gets."""

    modality: str
    """``mr``, ``ct``, ``pet``, ``us``, ``mask`` or ``other``."""
    normalisation: Normalisation
    spacing: Spacing
    """Voxel size (mm)."""

    @property
    def is_mask(self) -> bool:
        """Whether the channels are masks, whose values have a meaning and never change."""
        return self.normalisation.scheme == "mask"


@dataclass(frozen=True)
class Acquisition:
    """Voxel size and modalities of the scans of an experiment."""

    spacing: Spacing = (1.0, 1.0, 1.0)
    """Voxel size (mm) of the planned grid."""
    channels: tuple[tuple[str, Normalisation], ...] = ()
    """Modality and normalisation of each channel; if empty, all channels are MR."""

    @classmethod
    def of(cls, plan: Plan, modalities: Iterable[str]) -> "Acquisition":
        """Return the acquisition of scans with ``modalities``, in the order of the channels."""
        return cls(plan.spacing, tuple(zip(modalities, plan.normalisation, strict=True)))

    def kinds(self, count: int) -> list[ChannelKind]:
        """Return the kind of each of ``count`` channels."""
        channels = self.channels or (("mr", Normalisation(scheme="zscore")),) * count
        return [
            ChannelKind(modality, normalisation, self.spacing)
            for modality, normalisation in channels
        ]

    def masks(self, count: int) -> list[int]:
        """Return which of ``count`` channels are masks."""
        return [channel for channel, kind in enumerate(self.kinds(count)) if kind.is_mask]


ISOTROPIC_MR = Acquisition()
