"""The one exception that a user is meant to read: a sentence, no traceback."""

from collections.abc import Iterable
from itertools import islice


class HstfError(Exception):
    """A fault in data, configuration or files, told as sentences: what was found, what was expected, what to do."""


def join_faults(headline: str, faults: list[str]) -> HstfError:
    """All ``faults`` in one error under ``headline``, one a line, so that nobody fixes them one run at a time."""
    return HstfError("\n".join([headline, *(f"  - {fault}" for fault in faults)]))


def few(names: Iterable[str]) -> str:
    """The first three of ``names``; of further ones, which may be thousands, only that there are some."""
    first = list(islice(names, 4))
    return ", ".join(first[:3]) + (" and more" if len(first) > 3 else "")


def is_memory_error(error: Exception) -> bool:
    """Whether there was not enough memory, which PyTorch tells by a plain RuntimeError."""
    told = str(error).lower()
    return (
        isinstance(error, MemoryError) or "can't allocate memory" in told or "out of memory" in told
    )


def numbers(values: Iterable[float]) -> str:
    """Sizes as text: ``64 x 64 x 32``."""
    return " x ".join(f"{value:.6g}" for value in values)
