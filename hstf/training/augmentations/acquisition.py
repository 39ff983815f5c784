"""How scans were acquired: this decides which random changes are realistic."""

from collections.abc import Iterable
from dataclasses import dataclass

from hstf.experiment.plan import Normalisation, Plan
from hstf.imaging.spacing import Spacing


@dataclass(frozen=True)
class ChannelKind:
    """What the channels have in common that one call of an intensity change gets."""

    modality: str
    """``mr``, ``ct``, ``pet``, ``us`` or ``other``."""
    normalisation: Normalisation
    spacing: Spacing
    """Voxel size (mm)."""


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


ISOTROPIC_MR = Acquisition()
