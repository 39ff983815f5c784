"""What the expressions of a MONAI bundle have in common.

Example:
    >>> PARTS.startswith("$lambda inside")
    True
"""

from typing import Any

Json = dict[str, Any]
PARTS = "$lambda inside: ndimage.label(inside, numpy.ones((3, 3, 3)))[0]"
"""The expression for the connected components of a mask ``(X, Y, Z)``."""
