"""The one exception that a user is meant to read: a sentence, no traceback."""


class HstfError(Exception):
    """A fault in data, configuration or files, told as sentences: what was found, what was expected, what to do."""


def join_faults(headline: str, faults: list[str]) -> HstfError:
    """All ``faults`` in one error under ``headline``, one a line, so that nobody fixes them one run at a time."""
    return HstfError("\n".join([headline, *(f"  - {fault}" for fault in faults)]))
