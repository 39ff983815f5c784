"""``phantom:``, the synthetic scans of the demo."""

import shlex

from pydantic import Field

from hstf.config.section import FolderName, Section


class PhantomConfig(Section):
    """Synthetic scans that the workflow creates (``hstf phantom``).

    Leave the section out for your own scans.
    """

    folder: FolderName = "demo"
    """Folder of the scans. The case sheet lists ``images/case_<n>.nii.gz`` and
    ``labels/case_<n>.nii.gz`` in it."""
    cases: int = Field(42, ge=1)
    """Number of cases: first labelled, then test, then unlabelled cases."""
    labelled: int = Field(6, ge=0)
    """Number of labelled cases."""
    test: int = Field(12, ge=0)
    """Number of test cases."""
    size: tuple[int, int, int] = (40, 40, 32)
    """Voxels along each axis."""
    noise: float = Field(0.06, ge=0, le=1)
    """Standard deviation of the noise; tissues have intensities between 0 and 1."""
    variation: float = Field(1.0, ge=0, le=2)
    """How much the cases differ in anatomy and contrast."""
    lesions: float = Field(1.2, ge=0)
    """Mean number of lesions of a case."""
    sites: int = Field(2, ge=1, le=1000)
    """Number of hospitals. Labelled cases are from the first one, the others from all in turn."""
    site_shift: float = Field(0.0, ge=0, le=3)
    """Difference in contrast between the first hospital and the others; 1 is a large difference."""
    seed: int = Field(0, ge=0)
    """Seed of all random numbers."""
    scribbles: bool = False
    """Labelled cases have a few curves of each class instead of a dense label; add ``ignore: 255``
    to ``labels:``."""

    def options(self) -> str:
        """Return the options of ``hstf phantom``, quoted for a shell."""
        options = [
            f"--output {shlex.quote(self.folder)}",
            f"--size {' '.join(map(str, self.size))}",
        ]
        values = self.model_dump(exclude={"folder", "size", "scribbles"})
        options += [f"--{name.replace('_', '-')} {value}" for name, value in values.items()]
        if self.scribbles:
            options.append("--scribbles")
        return " ".join(options)
