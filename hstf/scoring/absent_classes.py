"""Structures that a case may lack, such as a tumour: is the model able to find them at all?

A mean Dice does not show this. If most test cases lack a structure, a model that never predicts it
may have a good score.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from hstf.runtime.documents import Part
from hstf.scoring.averages import Statistics, describe


class PresentCases(Part):
    """Test cases whose reference has a structure."""

    cases: int
    dice: Statistics
    predicted: int
    """Cases with the structure also in the prediction."""
    found: int
    """Cases in which the prediction has at least one voxel in common with the reference."""


class AbsentCases(Part):
    """Test cases whose reference lacks a structure."""

    cases: int
    false_alarms: int
    """Cases with the structure in the prediction."""


class Presence(Part):
    """Test cases with and without a structure."""

    present: PresentCases
    absent: AbsentCases


def presence(rows: Iterable[Mapping[str, Any]]) -> Presence:
    """Count the test cases with and without one structure.

    Args:
        rows: the rows of the structure in ``cases.csv``, of which ``dice`` and ``empty`` are read.
            Rows that are ``unknown`` because their reference is sparse are left out.
    """
    present: list[Mapping[str, Any]] = []
    absent: list[Mapping[str, Any]] = []
    for row in rows:
        if row["empty"] in ("both", "reference"):
            absent.append(row)
        elif row["empty"] != "unknown":
            present.append(row)
    return Presence(
        present=PresentCases(
            cases=len(present),
            dice=describe(row["dice"] for row in present),
            predicted=sum(row["empty"] != "prediction" for row in present),
            found=sum((row["dice"] or 0) > 0 for row in present),
        ),
        absent=AbsentCases(
            cases=len(absent), false_alarms=sum(row["empty"] == "reference" for row in absent)
        ),
    )


def may_be_absent(structures: Mapping[str, Presence]) -> list[str]:
    """Return the structures that a reference, or a prediction of a case with the structure, lacks.

    Args:
        structures: :func:`presence` of each structure.
    """
    names = []
    for name, counts in structures.items():
        is_missed = counts.present.predicted < counts.present.cases
        if counts.absent.cases or is_missed:
            names.append(name)
    return names


def absence_warnings(structures: Mapping[str, Presence]) -> list[str]:
    """Return sentences about structures whose scores are no evidence.

    Args:
        structures: :func:`presence` of each structure.
    """
    sentences = []
    for name, counts in structures.items():
        cases = counts.present.cases
        predicted = counts.present.predicted
        if not cases:
            sentences.append(
                f"No test case has {name}: it is not known whether the model finds it."
            )
        elif predicted < cases / 2:
            sentences.append(
                f"{name} is predicted in {predicted or 'none'} of the {cases} test cases that have"
                " it: no score of it is evidence that the model segments it."
            )
    return sentences
