"""``phantom:``, the synthetic scans of the demo."""

import shlex

from pydantic import Field

from hstf.config.section import Section


class PhantomConfig(Section):
    """Scans that the workflow makes itself (``hstf phantom``). Leave the section out for scans of your own."""

    folder: str = "demo"
    """Folder of the scans; the case sheet lists ``images/case_<n>.nii.gz`` and ``labels/case_<n>.nii.gz`` in it."""
    cases: int = Field(42, ge=1)
    """All cases: labelled ones first, then test cases; the rest is unlabelled."""
    labelled: int = Field(6, ge=0)
    """Labelled cases."""
    test: int = Field(12, ge=0)
    """Test cases."""
    size: tuple[int, int, int] = (40, 40, 32)
    """Voxels along each axis."""
    noise: float = Field(0.06, ge=0, le=1)
    """Noise; tissues lie between 0 and 1."""
    variation: float = Field(1.0, ge=0, le=2)
    """How much the cases differ in anatomy and contrast."""
    lesions: float = Field(1.2, ge=0)
    """Mean number of lesions in a case."""
    seed: int = Field(0, ge=0)
    """Seed of everything random."""
    scribbles: bool = False
    """Labelled cases have a few curves of each class in place of a dense label; name ``ignore: 255`` under ``labels:``."""

    def options(self) -> str:
        """The options of ``hstf phantom``, quoted for a shell."""
        values = self.model_dump(exclude={"folder", "size", "scribbles"})
        options = [f"--{name} {value}" for name, value in values.items()]
        options += ["--scribbles"] if self.scribbles else []
        return " ".join(
            [
                f"--output {shlex.quote(self.folder)}",
                f"--size {' '.join(map(str, self.size))}",
                *options,
            ]
        )
