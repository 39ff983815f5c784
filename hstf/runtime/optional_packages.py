"""Packages that only some commands need, and that are installed on request."""

from collections.abc import Sequence
from importlib.util import find_spec

from hstf.runtime.errors import HstfError


def refuse_missing_packages(what: str, needed: Sequence[str], extra: str) -> None:
    """Stop if optional packages are not installed.

    Args:
        what: what needs them, for the message.
        needed: names of the packages.
        extra: the extra of the installation that has them, such as ``audit``.

    Raises:
        HstfError: with the command that installs them.
    """
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise HstfError(
            f"{what} needs {' and '.join(missing)}. Install the optional packages:"
            f" pip install 'hstf[{extra}]' (in a copy of the repository: pip install -e"
            f" '.[{extra}]')"
        )
