"""Names of files and messages in a locale that is not UTF-8.

All text files are UTF-8 in any locale. The names of files are not: Python encodes them as the
locale demands, so in a Latin-1 locale it would look for another name than the one on the disk.
"""

import sys
from collections.abc import Iterable

from hstf.runtime.errors import HstfError


def print_any_character() -> None:
    """Let the output of this process escape what the locale cannot show, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def is_utf8(name: str) -> bool:
    """Return whether a text file can hold the name or path of a file."""
    return escape_bytes(name) == name


def escape_bytes(text: str) -> str:
    r"""Return a text in which the bytes of file names that are not UTF-8 are escaped.

    Example:
        >>> print(escape_bytes("M\udcfcller.nii"))
        M\xfcller.nii
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def escape_invisible(text: str) -> str:
    r"""Return a text in which characters that nobody sees in a message are escaped.

    Example:
        >>> print(escape_invisible("split\u200b"))
        split\u200b
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def refuse_unreadable_names(source: str, names: Iterable[str]) -> None:
    """Stop if files have names that would be encoded as another name.

    Args:
        source: where the names come from.
        names: names or paths of files.

    Raises:
        HstfError: if a name is not ASCII, and Python does not use UTF-8 for names of files.
    """
    encoding = sys.getfilesystemencoding()
    if encoding == "utf-8":
        return
    for name in names:
        if not name.isascii():
            raise HstfError(
                f"{ascii(source)[1:-1]}: the file name {name!a} has characters that are not"
                f" ASCII, but the locale makes Python use {encoding} for file names. Set the"
                " environment variable PYTHONUTF8 to 1 (export PYTHONUTF8=1) and start again."
            )
