"""Names of classes, regions and modalities: they become parts of columns and of metric names."""

from collections.abc import Iterable
from typing import Any

MAXIMUM_LENGTH = 100
SEPARATORS = ";="
"""Characters that separate names from values in cells such as ``liver=12.3;spleen=4.5``."""
RESERVED_MODALITIES = ("case_id", "label", "split", "group", "site", "plan")
"""Other columns of the case sheet, and other inputs of a preprocessed case."""


def name_problems(names: Iterable[str]) -> list[str]:
    """Describe names that a cell, a column or a message could not show as they are.

    Returns:
        Sentences without a full stop.

    Example:
        >>> name_problems(["liver", "low grade", " "])
        ["' ' is not a name: use visible characters, without spaces at the ends"]
    """
    problems = []
    for name in names:
        if not name.strip() or name != name.strip() or not name.isprintable():
            problems.append(
                f"{name!r} is not a name: use visible characters, without spaces at the ends"
            )
        elif set(name) & set(SEPARATORS):
            problems.append(f"{name!r} has one of the separators {' '.join(SEPARATORS)}")
        elif len(name) > MAXIMUM_LENGTH:
            problems.append(f"{name[:20]!r}… is longer than {MAXIMUM_LENGTH} characters")
    return problems


def modality_problems(names: Iterable[str]) -> list[str]:
    """Describe names that a modality cannot have: it is a column of the case sheet.

    Returns:
        Sentences without a full stop.
    """
    problems = []
    for name in names:
        if name in RESERVED_MODALITIES:
            problems.append(
                f"{name} cannot be the name of a modality: it is the name of another column of the"
                " case sheet or of the plan. Rename the column of the image"
            )
        problems += name_problems([name])
    return problems


def refuse_other_names(names: Iterable[Any]) -> None:
    """Refuse names that are no text, because they were read as something else.

    Raises:
        ValueError: with all such names.
    """
    others = [name for name in names if not isinstance(name, str)]
    if others:
        raise ValueError(
            f"the names {', '.join(map(repr, others))} are no text. They were written like a number"
            " or a truth value (no, yes, on, off, null). Put names in quotes, or write them into a"
            " file"
        )
