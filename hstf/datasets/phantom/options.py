"""What a synthetic data set is made of."""

import re
from dataclasses import dataclass
from math import inf, isfinite

from hstf.experiment.cases import OPTIONAL_COLUMNS
from hstf.runtime.errors import join_faults

PHANTOM_LABELS = {"background": 0, "liver": 1, "spleen": 2, "kidney": 3, "lesion": 4}
"""Name and value of each class in the label files. Liver and kidney touch; lesions lie in the liver."""

IGNORE_VALUE = 255
"""Value of the voxels beside the scribbles."""

SHEET_COLUMNS = {"case_id", "label", "split", *OPTIONAL_COLUMNS}
MODALITY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,31}")
LARGEST_SIZE = 4096


@dataclass(frozen=True)
class PhantomOptions:
    """The options of a data set; the defaults are small and quick.

    Raises:
        HstfError: values that make no data set, all named at once.
    """

    cases: int = 42
    """All cases: what is neither labelled nor test is unlabelled."""
    labelled: int = 6
    test: int = 12
    size: tuple[int, int, int] = (40, 40, 32)
    """Voxels along each array axis, at least 8."""
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Voxel size in mm along each array axis. The anatomy fills the field of view, whatever its size."""
    size_variation: float = 0.0
    """Sizes and spacings differ between cases by up to this share."""
    modalities: tuple[str, ...] = ("image",)
    """One image per name, each with a contrast of its own (four contrasts, then they repeat)."""
    oblique: bool = True
    """Tilt and mirror the array axes at random; otherwise they run along RAS."""
    seed: int = 0
    lesions: float = 1.2
    """Mean number of lesions in a case (Poisson); some cases have none."""
    noise: float = 0.04
    """Standard deviation of the Rician noise; tissues lie between 0 and 1."""
    bias: float = 0.2
    """Strength of the bias field: standard deviation of its logarithm."""
    variation: float = 1.0
    """How much anatomy and contrast differ between cases; 0 makes them all alike but for noise."""
    sites: int = 2
    """Hospitals. The labelled cases come from the first one, the others from all in turn."""
    site_shift: float = 0.0
    """How much the contrast of the further sites differs from the first one's; 1 is a lot."""
    scribbles: bool = False
    """Labelled cases have a few curves of each class in place of a dense label; all other voxels are to be ignored."""

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {value}, expected {lowest} to {highest}"
            for name, value, lowest, highest in self._bounds()
            if not (isfinite(value) and lowest <= value <= highest)
        ]
        names = [
            name
            for name in self.modalities
            if not MODALITY_NAME.fullmatch(name) or name in SHEET_COLUMNS
        ]
        faults += [
            f"modality {name!r} must be letters, digits, '.' or '-' and no other column"
            for name in names
        ]
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            faults.append(
                f"modalities are {', '.join(self.modalities) or 'missing'}, expected different names"
            )
        if faults:
            raise join_faults("The phantom cannot be made as asked.", faults)

    def _bounds(self) -> list[tuple[str, float, float, float]]:
        return [
            ("labelled", self.labelled, 0, inf),
            ("test", self.test, 0, inf),
            ("cases", self.cases, max(1, self.labelled + self.test), inf),
            *(("size", n, 8, LARGEST_SIZE) for n in self.size),
            *(("spacing", mm, 1e-3, 1e3) for mm in self.spacing),
            ("size_variation", self.size_variation, 0, 0.5),
            ("seed", self.seed, 0, inf),
            ("lesions", self.lesions, 0, 100),
            ("noise", self.noise, 0, 1),
            ("bias", self.bias, 0, 1),
            ("variation", self.variation, 0, 2),
            ("sites", self.sites, 1, 1000),
            ("site_shift", self.site_shift, 0, 3),
        ]
