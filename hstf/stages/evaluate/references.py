"""From the values in label files to class indices and back."""

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Case
from hstf.imaging.affines import geometry_mismatch
from hstf.imaging.label_values import class_indices
from hstf.imaging.volumes import Volume, read_label
from hstf.runtime.errors import HstfError


def read_reference(case: Case, image: Volume, config: Config) -> np.ndarray:
    """Class indices ``(X, Y, Z)`` uint8 of the withheld label of ``case``, which lies on the voxels of ``image``,
    :data:`hstf.imaging.label_values.IGNORED` where voxels are to be ignored.

    Raises:
        HstfError: it lies on other voxels, is unreadable, or holds values that ``labels:`` does not name.
    """
    assert case.reference is not None, "nothing is scored without a reference"
    label = read_label(case.reference)
    shape, tolerance = image.data.shape, config.check.affine_tolerance_mm
    wrong = geometry_mismatch(label.data.shape, label.affine, shape, image.affine, tolerance)
    if wrong:
        raise HstfError(
            f"{case.case_id}: {case.reference} {wrong}. A label lies on the voxels of its image; export it again."
        )
    return class_indices(label.data, config, case.reference)
