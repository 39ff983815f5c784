"""Readable messages for values that a configuration class refuses."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from hstf.config.renamed import REMOVED, RENAMED

MAXIMUM_SHOWN = 60
"""Values with a longer text are not repeated in a message."""


def problems(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """Describe each problem in a sentence: the key, what is wrong, and what was found.

    Args:
        error: what pydantic raised.
        root: the class that was validated.
    """
    return [_problem(item, root) for item in error.errors()]


def known_keys(root: type[BaseModel], location: Iterable[Any]) -> list[str]:
    """Return the keys of the section at ``location``; nothing if it is no section."""
    section = root
    for part in location:
        field = section.model_fields.get(part)
        annotation = field.annotation if field is not None else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)


def _problem(item: Mapping[str, Any], root: type[BaseModel]) -> str:
    location = item["loc"]
    name = ".".join(str(part) for part in location)
    if item["type"] == "extra_forbidden":
        return _unknown_key(name, root, location)
    if item["type"] == "string_type":
        return f"{name}: {_expected_text(item.get('input'))}"
    message = item["msg"].removeprefix("Value error, ") + _found(item)
    return f"{name}: {message}" if name else message


def _expected_text(value: Any) -> str:
    """Describe a value that is no text."""
    if value is None:
        return "expected text, found nothing (null). Put a name that is null in quotes"
    if isinstance(value, bool | int | float):
        return (
            f"expected text, found {value!r}: what was written looks like a number or a truth"
            " value. Put it in quotes, or write it into a file"
        )
    return f"expected text, found {type(value).__name__}"


def _unknown_key(name: str, root: type[BaseModel], location: tuple[Any, ...]) -> str:
    if name in RENAMED:
        return f"{name}: this key is now called {RENAMED[name]}."
    if name in REMOVED:
        return f"{name}: this key was removed: {REMOVED[name]}."
    if len(location) == 1 and (path := _path_of_key(name, root)):
        return f"{name}: unknown key.{_right_form(path)}"
    return f"{name}: unknown key.{_suggestion(root, location)}"


def _path_of_key(name: str, root: type[BaseModel]) -> list[str]:
    """Return section and key of ``warmup.steps``, ``warmup_steps`` and the like; empty if none."""
    path = name.split(".")
    if len(path) > 1:
        is_known = all(path[k] in known_keys(root, path[:k]) for k in range(len(path)))
        return path if is_known else []
    for section in known_keys(root, []):
        key = name.removeprefix(section).lstrip("_-")
        if name.startswith(section) and key in known_keys(root, [section]):
            return [section, key]
    return []


def _right_form(path: Iterable[str]) -> str:
    """Return how a key of a section is written, in a file and on the command line."""
    section, *keys = path
    text = "VALUE"
    for key in reversed(keys):
        text = f"{{{key}: {text}}}"
    return f" In a file, write '{section}: {text}'. After --config, write '{section}={text}'."


def _suggestion(root: type[BaseModel], location: tuple[Any, ...]) -> str:
    """Suggest the known key that is most similar to an unknown one."""
    *section, key = location
    near = difflib.get_close_matches(str(key), known_keys(root, section), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def _found(item: Mapping[str, Any]) -> str:
    """Return the refused value, unless the message names it already."""
    if item["type"] in ("value_error", "missing"):
        return ""
    value = item.get("input")
    is_plain = isinstance(value, str | int | float | list | tuple)
    if not is_plain or len(repr(value)) > MAXIMUM_SHOWN:
        return ""
    return f", found {value!r}"
