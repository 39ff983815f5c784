"""Structures that test cases may lack: counts and warnings."""

from typing import Any

from hstf.scoring.absent_classes import absence_warnings, may_be_absent, presence


def row(dice: float | None, empty: str = "") -> dict[str, Any]:
    """Return the columns of a case that are read."""
    return {"dice": dice, "empty": empty}


def test_presence_counts_cases_with_and_without_the_structure() -> None:
    rows = [row(0.8), row(0.0), row(0.0, "prediction"), row(None, "both"), row(0.0, "reference")]
    found = presence(rows)
    assert (found.present.cases, found.present.predicted, found.present.found) == (3, 2, 1)
    assert found.present.dice.cases == 3
    assert (found.absent.cases, found.absent.false_alarms) == (2, 1)


def test_presence_leaves_out_sparse_references_without_the_structure() -> None:
    found = presence([row(None, "unknown"), row(0.9)])
    assert found.present.cases == 1
    assert found.absent.cases == 0


def test_may_be_absent_names_structures_that_are_missing_or_missed() -> None:
    structures = {
        "always": presence([row(0.9), row(0.8)]),
        "missing": presence([row(0.9), row(None, "both")]),
        "missed": presence([row(0.9), row(0.0, "prediction")]),
    }
    assert may_be_absent(structures) == ["missing", "missed"]


def test_absence_warnings_name_scores_that_are_no_evidence() -> None:
    structures = {
        "good": presence([row(0.9), row(0.0, "prediction")]),
        "unseen": presence([row(None, "both")]),
        "ignored": presence([row(0.9), row(0.0, "prediction"), row(0.0, "prediction")]),
    }
    unseen, ignored = absence_warnings(structures)
    assert unseen == "No test case has unseen: it is not known whether the model finds it."
    assert ignored.startswith("ignored is predicted in 1 of the 3 test cases that have it")
