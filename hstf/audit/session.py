"""What the page needs to know about the experiment, and the name of the reviewer."""

from typing import Any

from hstf import __version__
from hstf.audit.calls import Call, Refusal, get, post
from hstf.audit.history import History
from hstf.config.experiment import Config
from hstf.imaging.overlays import class_colour

REASONS = (
    "motion artefact",
    "metal artefact",
    "incomplete scan",
    "wrong body region",
    "structure missed",
    "leak into a neighbour",
    "lesion missed",
    "false lesion",
    "poor image quality",
)
"""Reasons for a rejection that the page offers."""
NAME_LENGTH = 80


def session(call: Call) -> dict[str, Any]:
    """Return the facts of the experiment."""
    desk = call.desk
    config = desk.config
    names = {action.reviewer for action in History.of(desk.layout).actions()}
    names |= {name for name in desk.reviewers.values() if name}
    modalities = [{"name": name, "kind": kind} for name, kind in config.modalities.items()]
    regions = [{"name": name, "classes": list(own)} for name, own in config.regions.items()]
    return {
        "experiment": config.experiment,
        "round": desk.first_round(),
        "rounds": desk.rounds(),
        "reviewer": call.reviewer or None,
        "reviewers": sorted(names),
        "classes": classes(config),
        "background": config.class_values[0],
        "ignore": config.ignore_value,
        "lesions": list(config.lesions),
        "regions": regions,
        "modalities": modalities,
        "reasons": list(REASONS),
        "sites": any(case.site for case in desk.cases.values()),
        "consensus": desk.consensus,
        "version": __version__,
    }


def classes(config: Config) -> list[dict[str, Any]]:
    """Return value, name and colour of each class, without the background, as in the report."""
    found = []
    named = zip(config.class_names[1:], config.class_values[1:], strict=True)
    for index, (name, value) in enumerate(named, start=1):
        red, green, blue = class_colour(index)
        colour = f"#{red:02x}{green:02x}{blue:02x}"
        found.append({"value": value, "name": name, "colour": colour})
    return found


def set_reviewer(call: Call) -> dict[str, Any]:
    """Note who uses this browser.

    Raises:
        Refusal: if the name is empty.
    """
    name = call.text("name", NAME_LENGTH)
    if not name:
        raise Refusal(400, "Enter a name: each decision names its reviewer.")
    call.desk.reviewers[call.session] = name
    return session(call)


ROUTES = [get("/api/session", session), post("/api/reviewer", set_reviewer)]
