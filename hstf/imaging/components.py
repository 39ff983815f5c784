"""Connected components."""

from typing import Literal

import cc3d
import numpy as np


def connected_components(
    mask: np.ndarray,
    connectivity: Literal[6, 18, 26],
) -> np.ndarray:
    """Find the connected components of a boolean ``mask`` ``(X, Y, Z)``.

    Voxels of different numbers are in different components if the mask has whole numbers.

    Returns:
        Numbers of the components, from 1; 0 outside ``mask``.
    """
    # cc3d reserves memory for as many components as a volume of even size can have. It fails for
    # small volumes of odd size, which can have more. One more plane on each axis avoids that.
    margins = [(0, 1)] * mask.ndim
    padded = np.pad(mask, margins)
    components = cc3d.connected_components(padded, connectivity=connectivity)
    inside = tuple(slice(size) for size in mask.shape)
    return np.ascontiguousarray(components[inside])
