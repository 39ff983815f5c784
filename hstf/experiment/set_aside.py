"""The unlabelled cases that ``hstf suggest`` leaves out, because a person has set them aside."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hstf.experiment.decisions import whole_number
from hstf.experiment.review_tables import SET_ASIDE
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.files import make_folder, read_sheet

FILE = "set_aside.csv"
SKIP = "skip"
"""Never suggest the case."""
LATER = "later"
"""Do not suggest it until a later round has pseudo-labels."""
COLUMNS = ("case_id", "action", "round")


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the cases that were set aside. People edit the list, also with a spreadsheet.

    Args:
        folder: the folder ``suggest`` of the experiment.

    Raises:
        HstfError: if the list cannot be read, or if a row is not valid.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    header, lines = read_sheet(path, COLUMNS)
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise HstfError(
            f"{path}: its first line lacks the columns {', '.join(missing)}; expected"
            f" {','.join(COLUMNS)}. Correct the line."
        )
    problems = []
    found = []
    for line, row in lines:
        action = row["action"].casefold()
        number = whole_number(row["round"])
        if action in (SKIP, LATER) and number.isdecimal():
            found.append({"case_id": row["case_id"], "action": action, "round": int(number)})
        else:
            problems.append(
                f"line {line}: action {row['action']!r} and round {row['round']!r}, expected"
                f" {SKIP} or {LATER} and the number of a round. Correct the row, or delete it"
            )
    if problems:
        raise join_problems(f"{path}: {len(problems)} rows are not valid.", problems)
    return found


def holds(row: dict[str, Any], number: int) -> bool:
    """Return whether a case is left out when round ``number`` is the last one."""
    return bool(row["action"] == SKIP or row["round"] >= number)


def note(folder: Path, names: Sequence[str], action: str, number: int) -> None:
    """Set cases aside, or suggest them again.

    Args:
        folder: the folder ``suggest`` of the experiment.
        names: the cases.
        action: :data:`SKIP` or :data:`LATER`; empty: take them off the list.
        number: the round with the last pseudo-labels.

    Raises:
        HstfError: if the list cannot be read or written.
    """
    listed = {row["case_id"]: row for row in rows(folder)}
    for name in names:
        listed.pop(name, None)
        if action:
            listed[name] = {"case_id": name, "action": action, "round": number}
    make_folder(folder)
    SET_ASIDE.write(folder / FILE, list(listed.values()))
