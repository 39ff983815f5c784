"""Sparse labels: scribbles, or any label in which most voxels are to be ignored.

The class of an ignored voxel is unknown; it is not background. The value of ignored voxels is set
by ``ignore`` under ``labels:`` and is the same in all files. No class is learned and nothing is
scored there, but the image still trains the consistency across scales. A sparse label shows the
class of some voxels, but it never shows where a structure ends. Hence:

- ``check`` expects at least one voxel with a class in every label, and reports classes that no
  labelled case shows.
- ``plan`` takes foreground intensities from the scribbled voxels, and all else from the images.
- ``preprocess`` keeps every scribble on the planned grid, even if the grid is coarse. It adds
  background scribbles to the voxels on which patches are centred.
- ``calibrate`` computes temperature, thresholds and Dice from labelled voxels only. Scribbles are
  drawn where the class is clear, so these values are optimistic; the ranking of pseudo-labels is
  not affected. Number, size and holes of components come from cases with dense labels. If there
  are none, refinement does not change the components of pseudo-labels. A class is expected in every
  case only if every labelled case shows it. Lesions are judged by the components that contain
  labelled voxels, and counted in dense labels only.
- ``monitor`` takes volumes from dense labels only. A class without voxels in a sparse label is not
  absent there.
- ``labels``: voxels that a reviewer ignores in a corrected label have no weight, all others have
  full weight.
- ``evaluate`` scores overlap on the labelled voxels. Distances, volumes and lesions of a sparse
  reference are not defined.

A class that has no voxel in a sparse label is unknown. In a dense label it is absent.
"""

import numpy as np

from hstf.imaging.label_values import IGNORED
from hstf.imaging.regions import Structures, structure_mask


def is_sparse(label: np.ndarray) -> bool:
    """Return whether more than half of the voxels of a map of class indices are ignored."""
    ignored = int(np.count_nonzero(label == IGNORED))
    return 2 * ignored > label.size


def unknown_structures(
    label: np.ndarray,
    structures: Structures,
) -> np.ndarray:
    """Return which structures a sparse label has no voxel of, as ``(S,)`` bool.

    All values are False for a dense label.
    """
    unknown = np.zeros(len(structures), bool)
    if is_sparse(label):
        for row, classes in enumerate(structures.values()):
            unknown[row] = not structure_mask(label, classes).any()
    return unknown
