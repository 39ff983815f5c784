"""Sparse labels: scribbles, or any label most voxels of which are to be ignored.

A voxel that is ignored is unknown, and unknown is not background. ``ignore`` under ``labels:`` names its value, which means
the same in every file: no class is learned there and nothing is measured; the image still teaches consistency across scales.
A sparse label moreover tells the class of some voxels, but never where a structure ends:

- ``check`` wants a voxel with a class in every label, and tells which classes no labelled case shows;
- ``plan`` takes foreground intensities from the scribbled voxels, everything else from the images;
- ``preprocess`` keeps every scribble on the planned grid, however coarse, and lists background scribbles among the voxels
  that patches are centred on, as no patch meets them by chance;
- ``calibrate`` takes temperature, thresholds and Dice from the labelled voxels alone. People scribble where they are sure,
  so these are on the hopeful side; the order of the pseudo-labels does not suffer. Number, size and holes of components
  come from cases with dense labels; where there are none, refinement leaves the components of pseudo-labels as they are.
  A class is taken to be there in every case only where every labelled case shows it. Lesions are judged by the components
  on which a labelled voxel lies;
- ``labels``: what a person ignores in a correction has no weight; the rest of it counts in full;
- ``evaluate`` scores overlap on the labelled voxels; distances, volumes and lesions of a sparse reference do not exist.

In a sparse label a class without any voxel is unknown, in a dense one it is absent.
"""

import numpy as np

from hstf.imaging.geometry import IGNORED
from hstf.imaging.regions import Structures, mask


def is_sparse(label: np.ndarray) -> bool:
    """Whether more than half of the voxels of a map of class indices (uint8, 255 = ignore) are ignored."""
    return 2 * int(np.count_nonzero(label == IGNORED)) > label.size


def unknown_structures(label: np.ndarray, structures: Structures) -> np.ndarray:
    """``(S,)`` bool: the structures that a sparse ``label`` has no voxel of; none where it is dense."""
    if not is_sparse(label):
        return np.zeros(len(structures), bool)
    return np.array([not mask(label, members).any() for members in structures.values()])
