"""Types of command-line options: each function reads the text of an option."""

import argparse
import re
from math import inf
from pathlib import Path

from hstf.runtime.home import path_option

LAST_PORT = 65535
SHORTEST = 0.1
"""Seconds. A shorter time would keep a core busy."""


def number_or_file(text: str) -> int | Path:
    """Return a number, or the path of a file."""
    if text.isdigit():
        return int(text)
    return path_option(text)


def modality_option(text: str) -> tuple[str, str]:
    """Split ``NAME=TYPE``. The type is ``""`` if it is not given."""
    name, _, modality = text.partition("=")
    return name, modality


def label_or_pattern(text: str) -> tuple[str, int] | str:
    """Return a class ``NAME=VALUE``, or a pattern of paths."""
    if "=" in text and not re.search(r"[*?/\[.]", text):
        return label_option(text)
    return text


def entity_option(text: str) -> tuple[str, str]:
    """Split a BIDS entity ``KEY=VALUE``. ``KEY-`` is the same key."""
    key, _, value = text.partition("=")
    if not key or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, for example run=1")
    return key.removesuffix("-"), value


def label_option(text: str) -> tuple[str, int]:
    """Split a class ``NAME=VALUE`` with its value in the label file."""
    name, _, value = text.partition("=")
    if not name or not value.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, int(value)


def pattern_option(text: str) -> str:
    """Check a regular expression with at least one group. An empty text is allowed."""
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from None
    if text and not groups:
        raise argparse.ArgumentTypeError(
            f"{text!r} needs a group in parentheses, as in '(case[0-9]+)'"
        )
    return text


def count_option(text: str) -> int:
    """Read a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def port_option(text: str) -> int:
    """Read the number of a port; 0 is a free port."""
    if not text.isdecimal() or int(text) > LAST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to {LAST_PORT}")
    return int(text)


def seconds_option(text: str) -> float:
    """Read a time of at least a tenth of a second."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not SHORTEST <= seconds < inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from {SHORTEST}")
    return seconds
