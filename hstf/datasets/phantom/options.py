"""Options of a synthetic data set.

This module imports nothing heavy, so that ``hstf phantom --help`` is instant.
"""

import re
from dataclasses import dataclass
from math import inf, isfinite

from hstf.runtime.errors import join_problems

PHANTOM_LABELS = {
    "background": 0,
    "liver": 1,
    "spleen": 2,
    "kidney": 3,
    "lesion": 4,
}
"""Value of each class in the label files. Liver and kidney touch. Lesions are inside the liver."""

IGNORE_VALUE = 255
"""Value of voxels without a scribble."""

LAYOUT_NAMES = (
    "acdc",
    "brats",
    "brats2023",
    "lits",
    "msd",
    "nnunet",
    "folder",
    "bids",
)
"""Names of :data:`hstf.datasets.phantom.layouts.registry.LAYOUTS`."""

SHEET_COLUMNS = (
    "case_id",
    "label",
    "split",
    "group",
    "site",
)
"""Columns of the case sheet, which no modality may have as a name."""

MODALITY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,31}")
MINIMUM_SIZE = 8
MAXIMUM_SIZE = 4096


@dataclass(frozen=True)
class PhantomOptions:
    """Options of a data set. The defaults are for a small and quick one.

    Raises:
        HstfError: if values are invalid. The message lists all of them.
    """

    cases: int = 42
    """Number of cases. Cases that are neither labelled nor test are unlabelled."""
    labelled: int = 6
    test: int = 12
    size: tuple[int, int, int] = (40, 40, 32)
    """Voxels along each array axis, at least 8."""
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Voxel size in mm along each array axis. The anatomy always fills the field of view."""
    size_variation: float = 0.0
    """Sizes and spacings differ between cases by up to this fraction."""
    modalities: tuple[str, ...] = ("image",)
    """Names of the modalities. There are four contrasts, which the fifth and later ones repeat."""
    oblique: bool = True
    """Tilt and flip the array axes at random. Otherwise they are parallel to RAS."""
    seed: int = 0
    lesions: float = 1.2
    """Mean number of lesions of a case (Poisson distribution). Some cases have none."""
    noise: float = 0.04
    """Standard deviation of the Rician noise. Tissues are between 0 and 1."""
    bias: float = 0.2
    """Standard deviation of the logarithm of the bias field."""
    variation: float = 1.0
    """Variation of anatomy and contrast between cases. With 0, only the noise differs."""
    sites: int = 2
    """Number of hospitals. Labelled cases are from the first one, the others from all in turn."""
    site_shift: float = 0.0
    """Difference in contrast between the first site and the others. 1 is a large difference."""
    scribbles: bool = False
    """Labelled cases have a few curves of each class instead of a dense label.

    All other voxels have the ignore value.
    """

    def __post_init__(self) -> None:
        """Check all values."""
        problems = []
        for name, value, low, high in self._bounds():
            if not isfinite(value) or not low <= value <= high:
                problems.append(f"{name} is {value}, expected {low} to {high}")
        for name in self.modalities:
            if not MODALITY_NAME.fullmatch(name) or name in SHEET_COLUMNS:
                problems.append(
                    f"modality {name!r} must have only letters, digits, '.' or '-', and must not be"
                    " the name of another column"
                )
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            found = ", ".join(self.modalities) or "missing"
            problems.append(f"modalities are {found}, expected different names")
        if problems:
            raise join_problems(
                "The phantom cannot be computed with these options.",
                problems,
            )

    def _bounds(self) -> list[tuple[str, float, float, float]]:
        """Return name, value, minimum and maximum of each number."""
        bounds: list[tuple[str, float, float, float]] = [
            ("labelled", self.labelled, 0, inf),
            ("test", self.test, 0, inf),
            ("cases", self.cases, max(1, self.labelled + self.test), inf),
        ]
        for voxels in self.size:
            bounds.append(("size", voxels, MINIMUM_SIZE, MAXIMUM_SIZE))
        for millimetres in self.spacing:
            bounds.append(("spacing", millimetres, 1e-3, 1e3))
        return [
            *bounds,
            ("size_variation", self.size_variation, 0, 0.5),
            ("seed", self.seed, 0, inf),
            ("lesions", self.lesions, 0, 100),
            ("noise", self.noise, 0, 1),
            ("bias", self.bias, 0, 1),
            ("variation", self.variation, 0, 2),
            ("sites", self.sites, 1, 1000),
            ("site_shift", self.site_shift, 0, 3),
        ]
