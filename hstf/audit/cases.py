"""A case: its volumes, the places to look at, its lesions, and what was decided before."""

from typing import Any

from hstf.audit.calls import Call, Refusal, get
from hstf.audit.desk import Desk
from hstf.audit.history import UNDO, History
from hstf.audit.layers import Layers, addresses
from hstf.audit.places import Place, uncertain_places
from hstf.audit.queue import case_row

DROPPED = 50
"""Number of dropped lesions that are listed."""


def case(call: Call) -> dict[str, Any]:
    """Return what the page needs to show a case."""
    desk = call.desk
    number = call.round()
    case_id = call.case_id()
    layers = Layers(desk, desk.cases[case_id], number)
    row = case_row(desk, number, case_id, call.session)
    found = addresses(layers)
    return {
        "case_id": case_id,
        "round": number,
        "sha256": row["sha256"],
        "layers": found,
        "places": [] if call.text("places") == "0" else places(layers),
        "components": components(desk, number, case_id),
        "versions": versions(desk, number, case_id),
        "decision": row["decision"],
        "notes": notes(row, number, has_correction=found["correction"] is not None),
    }


def places(layers: Layers) -> list[Place]:
    """Return the most uncertain places that matter; they are computed once.

    Raises:
        Refusal: if the pseudo-label is missing.
    """
    desk = layers.desk
    label = layers.file("label")
    weight = layers.file("weight")
    if label is None or weight is None:
        raise Refusal(404, f"The pseudo-label of {layers.case.case_id} is missing. Run again.")
    names = dict(zip(desk.config.class_values[1:], desk.config.class_names[1:], strict=True))
    work = desk.worker.submit
    return desk.read(weight, lambda path: work(uncertain_places, label, path, names).result())


def components(desk: Desk, number: int, case_id: str) -> list[dict[str, Any]]:
    """Return the lesions of a pseudo-label one by one, the most probable first.

    Of the dropped ones, only the most probable are listed: noise has thousands.
    """
    found = []
    for row in desk.lesions(number, case_id):
        found.append(
            {
                "number": row["component"],
                "class": row["class"],
                "probability": row["probability"],
                "kept": row["kept"],
                "ml": row["volume_ml"],
                "centre": [row["x_mm"], row["y_mm"], row["z_mm"]],
            }
        )
    found.sort(key=lambda component: -(component["probability"] or 0))
    dropped = [component for component in found if not component["kept"]]
    hidden = {id(component) for component in dropped[DROPPED:]}
    return [component for component in found if id(component) not in hidden]


def versions(desk: Desk, number: int, case_id: str) -> list[dict[str, Any]]:
    """Return all decisions that were ever saved for a case in a round, the last one first."""
    actions = History.of(desk.layout).actions()
    undone = {action.undoes for action in actions}
    found = []
    for action in reversed(actions):
        if (action.round, action.case_id) != (number, case_id) or action.action == UNDO:
            continue
        found.append(
            {
                "reviewer": action.reviewer,
                "date": action.date,
                "action": action.action,
                "reason": action.reason,
                "sha256": action.result_sha256 or action.sha256,
                "file": action.file,
                "undone": action.id in undone,
                "in_force": action.is_in_force,
            }
        )
    return found


def notes(row: dict[str, Any], number: int, *, has_correction: bool) -> list[str]:
    """Return what the reviewer should know about the decisions on a case.

    Args:
        row: the row of the case in the queue.
        number: the round.
        has_correction: whether a corrected label is shown.
    """
    decision = row["decision"]
    found = []
    if row["opened_by"]:
        found.append(f"{', '.join(row['opened_by'])} has this case open.")
    if decision is not None and decision["round"] < number:
        found.append(f"The decision was made in round {decision['round']} and still applies.")
    if row["status"] == "open":
        found.append("It was accepted in another version, which does not count. Look at it again.")
    if row["status"] == "question":
        found.append("Reviewers disagree, or an unusual corrected label is not confirmed.")
    if decision is not None and decision["action"] == "replace" and not decision["reviewer"]:
        found.append("The corrected label was put there by another program.")
    if decision is not None and decision["action"] == "reject" and has_correction:
        found.append("The corrected label is not used, because the case is rejected.")
    return found


def case_places(call: Call) -> dict[str, Any]:
    """Return only the places of a case: in a large scan they take seconds."""
    desk = call.desk
    layers = Layers(desk, desk.cases[call.case_id()], call.round())
    return {"places": places(layers)}


ROUTES = [
    get("/api/cases/{case_id}", case),
    get("/api/cases/{case_id}/places", case_places),
]
