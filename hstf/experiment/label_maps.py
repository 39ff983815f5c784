"""Values in the output of external teachers, and files with the names of these values.

Example:
    >>> values_of(ExternalTeacher(files="their/{case}.nii.gz", labels={"liver": [5, 6]}))
    {'liver': (5, 6)}
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hstf.config.experiment import Config
from hstf.config.external import ExternalTeacher, TheirLabel
from hstf.runtime.errors import HstfError, join_problems

Values = Mapping[str, tuple[int, ...]]
"""Values in the output of an external teacher for each group, in the order of the groups."""


def refuse_wrong_label_maps(config: Config) -> None:
    """Check the values of all external teachers, which are first needed after the warm-up.

    Raises:
        HstfError: with all problems of the files of names.
    """
    problems = []
    for name, teacher in config.teacher.external.items():
        try:
            values_of(teacher)
        except HstfError as error:
            problems.append(f"teacher.external.{name}: {error}")
    if problems:
        raise join_problems("the labels of an external teacher are not known.", problems)


def values_of(teacher: ExternalTeacher) -> Values:
    """Return the values of each group, with names replaced by those of ``label_map``.

    Names of the same class may have the same values. A value belongs to one class only.

    Raises:
        HstfError: if the file cannot be read or does not have a name, or if two classes have the
            same value.
    """
    names = read_label_map(Path(teacher.label_map)) if teacher.label_map else {}
    values = {}
    owners: dict[int, tuple[str, TheirLabel]] = {}
    for group, labels in teacher.labels.items():
        found: list[int] = []
        for label in labels:
            own = _values_of_label(teacher, group, label, names)
            for value in own:
                owner, other = owners.setdefault(value, (group, label))
                if owner != group:
                    raise HstfError(
                        f"{teacher.label_map}: the value {value} belongs to {other!r} (labels of"
                        f" {owner}) and to {label!r} (labels of {group}), expected one class for"
                        " each value. Correct this file, or name the value for one class only."
                    )
            found += own
        values[group] = tuple(dict.fromkeys(found))
    return values


def _values_of_label(
    teacher: ExternalTeacher,
    group: str,
    label: TheirLabel,
    names: Mapping[str, tuple[int, ...]],
) -> tuple[int, ...]:
    """Return the values of a label, which is a value or a name of ``label_map``.

    Raises:
        HstfError: if there is no such name.
    """
    if isinstance(label, int):
        return (label,)
    if label not in names:
        raise HstfError(
            f"{teacher.label_map}: has no name {label!r} (labels of {group}), expected one"
            f" of {', '.join(names)}."
        )
    return names[label]


def read_label_map(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the names of values: ``{name: value}``, ``{value: name}``, or the same in ``labels``.

    A name has several values if it is a region of nnU-Net (``{name: [1, 2]}``) or if several values
    have this name.

    Raises:
        HstfError: if the file is not such a file, or has an entry twice with different content.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=tuple)
        pairs = dict(content).get("labels", content)
        names: dict[str, tuple[int, ...]] = {}
        for key, value in _distinct(pairs, path):
            name, values = _name_and_values(key, value)
            names[name] = tuple(dict.fromkeys([*names.get(name, ()), *values]))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise HstfError(
            f"{path}: cannot be read as a label map ({error}), expected JSON with the value of each"
            " name, such as dataset.json of nnU-Net."
        ) from error
    return names


def _distinct(pairs: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a label map. JSON itself would take the last of several with one key.

    Raises:
        HstfError: if a key has different values.
        TypeError: if ``pairs`` are not those of a JSON object.
    """
    if not isinstance(pairs, tuple):
        raise TypeError("found no object")
    known: dict[str, Any] = {}
    for key, value in pairs:
        other = known.setdefault(key, value)
        if other != value:
            raise HstfError(
                f"{path}: has {key!r} twice, with {other!r} and with {value!r}, expected one entry"
                " for each key. Remove or rename one of them."
            )
        yield key, value


def _name_and_values(key: str, value: Any) -> tuple[str, tuple[int, ...]]:
    """Return the name of an entry and its values.

    Raises:
        ValueError: if a value is no whole number.
    """
    if isinstance(value, list):
        return key, tuple(_whole(each) for each in value)
    is_name = isinstance(value, str) and not value.isdigit()
    return (value, (int(key),)) if is_name else (key, (_whole(value),))


def _whole(value: Any) -> int:
    """Return a value of a label map as an integer.

    Raises:
        ValueError: if it is no whole number: ``int`` would cut ``1.5`` to 1.
    """
    number = int(value)
    if isinstance(value, float) and number != value:
        raise ValueError(f"the value {value} is no whole number")
    return number
