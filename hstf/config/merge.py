"""Merging of configurations: files, the command line, methods and rounds."""

from collections.abc import Mapping
from typing import Any

REPLACED_KEYS = {"labels", "regions", "modalities"}
"""Mappings that are replaced as a whole: a class of one file must not survive in another."""


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes`` applied section by section."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if key in REPLACED_KEYS:
            merged[key] = value
        elif isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged
