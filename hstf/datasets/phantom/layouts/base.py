"""What a layout is, and the conversions that several layouts use."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hstf.datasets.phantom.options import PHANTOM_LABELS, PhantomOptions
from hstf.experiment.cases import Split

BODY_THRESHOLD = 0.15
"""Image values below this one are air."""
ORGANS = {name: value for name, value in PHANTOM_LABELS.items() if value}
"""Label value of each class of the phantom."""

Axes = tuple[float, float, float]
RAS: Axes = (1.0, 1.0, 1.0)
LPS: Axes = (-1.0, -1.0, 1.0)


@dataclass(frozen=True)
class Scan:
    """Images and label of a case, as a layout writes them."""

    number: int
    split: Split
    images: list[np.ndarray]
    """Each ``(X, Y, Z)`` with tissues between about 0 and 1."""
    label: np.ndarray
    """``(X, Y, Z)`` uint8 with the label values of the layout."""
    affine: np.ndarray

    @property
    def has_label(self) -> bool:
        """Whether the layout has a label of this case."""
        return self.split is not Split.UNLABELLED


Draw = Callable[[int], Scan]
"""Function that computes scan 0, 1, ... of a case."""


@dataclass(frozen=True)
class Layout:
    """The file layout of a public data set."""

    write: Callable[[Path, Draw, PhantomOptions], None]
    """Function that writes a case to a folder."""
    values: Mapping[str, int]
    """Label value of each class of the phantom. Classes without a value are background."""
    kind: str = ""
    """Kind of ``hstf import``. If empty, it is the name of the layout."""
    axes: Axes = RAS
    """Direction of each array axis along right, anterior and superior."""
    has_test: bool = False
    """Whether the layout has an official test set with labels."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Options with other defaults than those of :class:`PhantomOptions`."""
    finish: Callable[[Path, PhantomOptions, Mapping[str, int]], None] | None = None
    """Function that writes the description of the data set."""
    ignore: int | None = None
    """Label value of voxels without a scribble, if the layout has one."""

    def command(
        self,
        name: str,
        folder: Path,
        options: PhantomOptions,
    ) -> str:
        """Return the command that imports the data set."""
        words = ["hstf", "import", self.kind or name, str(folder)]
        words += ["--output", f"config/{name}.yaml"]
        if options.labelled:
            words += ["--labelled", str(options.labelled)]
        if options.test and not self.has_test:
            words += ["--test", str(options.test)]
        if self.kind == "msd" and len(options.modalities) > 1:
            words += ["--extract", str(folder / "channels")]
        return shlex.join(words)


def to_mr(image: np.ndarray) -> np.ndarray:
    """Convert to MR, int16."""
    return np.rint(1000 * image).astype(np.int16)


def to_stripped_mr(image: np.ndarray) -> np.ndarray:
    """Convert to MR with 0 outside the body, as after skull-stripping."""
    stripped = np.where(image < BODY_THRESHOLD, 0, to_mr(image))
    return stripped.astype(np.int16)


def to_ct(image: np.ndarray) -> np.ndarray:
    """Convert to Hounsfield units: air is -1000, soft tissue is about 0 to 150."""
    tissue = np.rint(300 * image - 100)
    return np.where(image < BODY_THRESHOLD, -1000, tissue).astype(np.int16)


def numbered(names: Sequence[str]) -> dict[str, str]:
    """Return ``{"0": "first", "1": "second"}``."""
    return {str(number): name for number, name in enumerate(names)}
