"""The unlabelled cases that ``hstf suggest`` leaves out, because a person has set them aside."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hstf.experiment.tables import SET_ASIDE
from hstf.runtime.files import make_folder

FILE = "set_aside.csv"
SKIP = "skip"
"""Never suggest the case."""
LATER = "later"
"""Do not suggest it until a later round has pseudo-labels."""


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the cases that were set aside.

    Args:
        folder: the folder ``suggest`` of the experiment.

    Raises:
        HstfError: if the list cannot be read.
    """
    path = folder / FILE
    return SET_ASIDE.records(path) if path.is_file() else []


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
