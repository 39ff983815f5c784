"""What the audit desk has saved of decisions on its cases."""

from pathlib import Path

from hstf.audit.desk import Desk
from support.stages import overrides_in_force

CASES = ("good", "bad")


def kept(desk: Desk) -> list[Path]:
    return sorted((desk.layout.overrides / ".history").rglob("*.nii.gz"))


def in_force(desk: Desk) -> dict[str, str]:
    """Return the action in force of each case, as the workflow reads it."""
    found = overrides_in_force(desk.config, 1, CASES)
    return {name: override.action for name, override in found.items()}
