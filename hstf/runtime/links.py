"""Links that lead nowhere: the disk is not connected, or a file or folder was moved."""

from contextlib import suppress
from pathlib import Path


def link_problem(path: Path) -> str:
    """Describe the link in a path that leads nowhere; empty if there is none.

    Args:
        path: a file or folder. The link may be one of the folders that it is in.
    """
    for place in (path, *path.parents):
        with suppress(OSError):
            if place.is_symlink() and not place.exists():
                return (
                    f"{place} is a link to {place.readlink()}, which cannot be found: connect its"
                    " disk, or correct the link"
                )
    return ""
