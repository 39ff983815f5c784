"""Classes that a case may lack: how good they are where they are, and whether the model finds them at all."""

from collections.abc import Mapping, Sequence
from typing import Any

from hstf.scoring.averages import describe, known

Row = Mapping[str, Any]


def presence(rows: Sequence[Row]) -> dict[str, Any]:
    """One class over the cases, from its ``dice`` and ``empty`` in each (``cases.csv``).

    - ``present``: the cases whose reference has it: ``cases``, their ``dice``, those in which it is ``predicted`` at all,
      and those in which it is ``found`` (a voxel in common);
    - ``absent``: the cases whose reference lacks it, and ``false_alarms`` among them.

    Cases whose sparse reference does not tell (``unknown``) are in neither.
    """
    rows = [row for row in rows if row["empty"] != "unknown"]
    ill = [row for row in rows if row["empty"] not in ("both", "reference")]
    return {
        "present": {
            "cases": len(ill),
            "dice": describe(row["dice"] for row in ill),
            "predicted": sum(row["empty"] != "prediction" for row in ill),
            "found": sum((known(row["dice"]) or 0) > 0 for row in ill),
        },
        "absent": {
            "cases": len(rows) - len(ill),
            "false_alarms": sum(row["empty"] == "reference" for row in rows),
        },
    }


def may_be_absent(classes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the classes that some case lacks or that some prediction lacks, from :func:`presence` of each."""
    return [
        name
        for name, found in classes.items()
        if found["absent"]["cases"] or found["present"]["predicted"] < found["present"]["cases"]
    ]


def doubts(classes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sentences about classes whose scores are no evidence, from :func:`presence` of each."""
    sentences = []
    for name, found in classes.items():
        cases, predicted = found["present"]["cases"], found["present"]["predicted"]
        if not cases:
            sentences.append(f"No test case has {name}: whether the model finds it is not known.")
        elif predicted < cases / 2:
            sentences.append(
                f"{name} is predicted in {predicted or 'none'} of the {cases} test cases that have it: no score of it is"
                " evidence that the model segments it."
            )
    return sentences
