"""Connected components."""

from typing import Literal

import cc3d
import numpy as np


def connected_components(mask: np.ndarray, connectivity: Literal[6, 18, 26]) -> np.ndarray:
    """Components of a boolean ``mask`` ``(X, Y, Z)``, numbered from 1; 0 outside.

    A margin on one side: cc3d reserves room for as many components as an even-sized volume can have, and fails on small
    odd-sized ones that have more.
    """
    padded = np.pad(mask, [(0, 1)] * mask.ndim)
    components = cc3d.connected_components(padded, connectivity=connectivity)
    return np.ascontiguousarray(components[tuple(slice(n) for n in mask.shape)])
