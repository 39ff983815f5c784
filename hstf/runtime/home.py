"""The home folder in paths: a shell replaces ``~`` only in some places, never in a file."""

import argparse
from pathlib import Path


def expand_home(path: str) -> str:
    """Replace ``~`` or ``~name`` at the start of a path by the home folder.

    Raises:
        ValueError: if there is no such user.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        user = path.split("/")[0]
        raise ValueError(
            f"{path!r}: there is no user {user[1:]!r} whose home folder {user} could be. Write"
            f" './{path}' for a file or folder of this name"
        ) from None


def at_home(cell: str) -> str:
    """Replace ``~`` in a cell of the case sheet. The file of an unknown user is missing later."""
    try:
        return expand_home(cell)
    except ValueError:
        return cell


def path_option(text: str) -> Path:
    """Return the path of a command-line option, with the home folder instead of ``~``.

    Raises:
        argparse.ArgumentTypeError: if there is no such user.
    """
    try:
        return Path(expand_home(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
