"""The corrected label of a case that the desk shows, and its version.

Reviewers decide on what they have seen, and a decision may remove a corrected label. So the page
sends the version that it has shown. If another reviewer or another program has saved another label
since, the decision is refused.
"""

from pathlib import Path

from hstf.audit.calls import Call, Refusal
from hstf.audit.desk import Desk
from hstf.experiment.override_folder import leaves
from hstf.experiment.overrides import in_force_in, read_overrides
from hstf.runtime.stamps import sha256_once

SEEN = "correction_sha256"
"""Name of the version in requests and answers."""


def shown_correction(desk: Desk, number: int, case_id: str) -> Path | None:
    """Return the corrected label that is shown for a case in a round; None if there is none.

    It is that of the override in force. A file of this round is shown in any case, also where a row
    rejects the case, because a decision in this round replaces or removes it.
    """
    path = desk.layout.override(number, case_id)
    is_outside = any(leaves(place, desk.layout.overrides) for place in (path, path.parent))
    if path.is_file() and not is_outside:
        return path
    overrides = read_overrides(desk.layout, desk.schedule, desk.cases, [])
    override = in_force_in(number, overrides).get(case_id)
    return override.file if override is not None else None


def correction_version(path: Path | None) -> str | None:
    """Return the SHA-256 of a corrected label; an unchanged file is read once."""
    return sha256_once(path) if path is not None else None


def refuse_changed_correction(call: Call, number: int, case_id: str) -> None:
    """Refuse a decision if another corrected label is there now than the reviewer has seen.

    A request without a version is of somebody who has seen no corrected label.

    Raises:
        Refusal: if the versions differ.
    """
    present = correction_version(shown_correction(call.desk, number, case_id)) or ""
    if call.text(SEEN).casefold() == present:
        return
    if call.given(SEEN) is None:
        raise Refusal(
            400,
            f"{SEEN}: {case_id} has a corrected label, and the version of it that was seen is"
            " missing. Load the page again.",
        )
    raise Refusal(
        409,
        f"The corrected label of {case_id} was saved or removed meanwhile, by another reviewer or"
        " another program. Open the case again to see it.",
    )
