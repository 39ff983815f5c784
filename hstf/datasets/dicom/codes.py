"""Coded meanings of classes in DICOM SEG objects."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hstf.config.yaml_files import read_yaml
from hstf.runtime.errors import join_problems

EXAMPLE = "liver: {category: [123037004, SCT, Anatomical Structure], type: [10200004, SCT, Liver]}"


@dataclass(frozen=True)
class Code:
    """A code of a terminology."""

    value: str
    scheme: str
    """Terminology, such as SCT (SNOMED CT) or DCM."""
    meaning: str


@dataclass(frozen=True)
class Meaning:
    """What a segment shows."""

    category: Code
    """SegmentedPropertyCategory, such as tissue or anatomical structure."""
    type: Code
    """SegmentedPropertyType, such as liver."""


TISSUE = Code("85756007", "SCT", "Tissue")
DEFAULT = Meaning(TISSUE, TISSUE)
"""Correct for every class, and without a claim that only a person can make."""


def read_meanings(path: Path | None, classes: list[str]) -> dict[str, Meaning]:
    """Return the meaning of each class.

    Args:
        path: YAML file with the meaning of some classes; None for none.
        classes: names of the classes.

    Raises:
        HstfError: if the file has an unknown class or an invalid code.
    """
    meanings = dict.fromkeys(classes, DEFAULT)
    if path is None:
        return meanings
    problems = []
    for name, content in read_yaml(path).items():
        if name not in meanings:
            problems.append(f"{name}: unknown class, expected one of {', '.join(classes)}")
            continue
        try:
            meanings[name] = _meaning(content)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise join_problems(f"{path}: codes cannot be used. Example: {EXAMPLE}", problems)
    return meanings


def _meaning(content: Any) -> Meaning:
    """Return the meaning that a file states.

    Raises:
        ValueError: if it is not valid.
    """
    if not isinstance(content, dict) or set(content) != {"category", "type"}:
        raise ValueError("expected the keys 'category' and 'type'")
    return Meaning(_code(content["category"]), _code(content["type"]))


def _code(content: Any) -> Code:
    if not isinstance(content, list) or len(content) != 3:
        raise ValueError(f"{content!r} is not [code, terminology, meaning]")
    value, scheme, meaning = map(str, content)
    if not 0 < len(value) <= 16 or not 0 < len(scheme) <= 16 or not 0 < len(meaning) <= 64:
        raise ValueError(f"{content!r}: at most 16, 16 and 64 characters, and none of them empty")
    return Code(value, scheme, meaning)
