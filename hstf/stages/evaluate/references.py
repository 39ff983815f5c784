"""Labels that predictions are compared with."""

from pathlib import Path

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Case
from hstf.imaging.label_values import class_indices
from hstf.imaging.regions import Structures
from hstf.imaging.volumes import Volume, grid_mismatch, read_label
from hstf.runtime.errors import HstfError


def scored_files(case: Case) -> dict[str, Path]:
    """Return the images and the label of a test case, by the names in its record."""
    assert case.reference is not None, "the case sheet refuses test cases without a label"
    files = {f"image {k}": path for k, path in enumerate(case.images)}
    return files | {"reference": case.reference}


def read_reference(
    case: Case,
    image: Volume,
    config: Config,
) -> np.ndarray:
    """Read the withheld label of a case.

    Args:
        case: a case with a label.
        image: a volume of the case, whose voxels the label must have.
        config: the sections ``labels`` and ``check``.

    Returns:
        Class indices ``(X, Y, Z)`` uint8; :data:`hstf.imaging.label_values.IGNORED` marks voxels to
        ignore.

    Raises:
        HstfError: if the label has another geometry, is unreadable, or has values that ``labels:``
            does not name.
    """
    assert case.reference is not None, "only cases with a label are scored"
    label = read_label(case.reference)
    mismatch = grid_mismatch(label, image, config.check.affine_tolerance_mm)
    if mismatch:
        raise HstfError(
            f"{case.case_id}: {case.reference} {mismatch}."
            " A label must have the geometry of its image. Export it again."
        )
    return class_indices(label.data, config, case.reference)


def lesion_structures(config: Config) -> Structures:
    """Return the structures that consist of lesions."""
    return {name: config.structures[name] for name in config.structures if name in config.lesions}
