"""The queue: all pseudo-labels of a round, least predicted Dice first, and what was decided."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.routing import Route

from hstf.audit.calls import Call, get
from hstf.audit.consensus import is_disputed, that_count
from hstf.audit.desk import Desk, version_of
from hstf.audit.history import History, verdicts_of
from hstf.audit.marks import Marks
from hstf.audit.volumes import VolumeRange, volume_ranges
from hstf.experiment.overrides import Override, in_force_in, read_overrides

STATUS_OF_ACTION = {"accept": "accepted", "replace": "corrected", "reject": "rejected"}
COUNTED = ("undecided", "accepted", "rejected", "corrected")


def queue(call: Call) -> dict[str, Any]:
    """Return the rows of all cases of a round, and how many are left."""
    desk = call.desk
    number = call.round()
    rows, problems = queue_rows(desk, number, call.session)
    counts = Counter(row["status"] for row in rows)
    known = {name: counts[name] for name in COUNTED}
    known["undecided"] += counts["open"] + counts["question"]
    return {
        "round": number,
        "cases": rows,
        "counts": known | {"total": len(rows)},
        "problems": problems,
    }


def queue_rows(desk: Desk, number: int, session: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of all cases of a round, and what is wrong in the overrides folder."""
    problems: list[str] = []
    overrides = read_overrides(desk.layout, desk.schedule, desk.cases, problems)
    maker = RowMaker(desk, number, in_force_in(number, overrides), session)
    rows = [maker.row(refined) for refined in desk.refined(number) if maker.has(refined)]
    return rows, problems


def case_row(desk: Desk, number: int, case_id: str, session: str) -> dict[str, Any]:
    """Return the row of one case."""
    overrides = read_overrides(desk.layout, desk.schedule, desk.cases, [])
    maker = RowMaker(desk, number, in_force_in(number, overrides), session)
    return maker.row(desk.refined_case(number, case_id))


class RowMaker:
    """Joins what is known of a case."""

    def __init__(
        self, desk: Desk, number: int, in_force: Mapping[str, Override], session: str
    ) -> None:
        self.desk = desk
        self.number = number
        self.in_force = in_force
        self.opened = Marks.of(desk.layout).readers(number, session)
        self.verdicts = verdicts_of(History.of(desk.layout).actions(), number)
        self.ranges = volume_ranges(desk)
        self.questions = {
            row["case_id"] for row in desk.labels(number) if row["review"] == "question"
        }

    def has(self, refined: Mapping[str, Any]) -> bool:
        """Return whether the case is in the case sheet; it may have been removed."""
        return refined["case_id"] in self.desk.cases

    def row(self, refined: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row of a case.

        Args:
            refined: its row of ``refine.csv``.
        """
        case_id = refined["case_id"]
        case = self.desk.cases[case_id]
        version = version_of(dict(refined))
        override = self.in_force.get(case_id)
        verdicts = self.verdicts.get(case_id, {})
        names = list(verdicts)
        if override is not None:
            names += [d.reviewer for d in override.decisions if d.reviewer not in names]
        return {
            "case_id": case_id,
            "site": case.site or None,
            "group": case.group or None,
            "predicted_dice": refined["predicted_dice"],
            "low": refined["predicted_dice_low"],
            "high": refined["predicted_dice_high"],
            "verdict": "accepted" if refined["accepted"] else "rejected",
            "verdict_reason": refined["reason"],
            "status": self._status(case_id, override, version),
            "decision": decision_of(override),
            "volumes": volumes(refined, self.ranges, self.desk.config.lesions),
            "dice_previous": refined["previous_round_dice"],
            "opened_by": self.opened.get(case_id, []),
            "reviewers": [name for name in names if name],
            "sha256": version,
        }

    def _status(self, case_id: str, override: Override | None, version: str) -> str:
        verdicts = that_count(self.verdicts.get(case_id, {}), version)
        if is_disputed(self.desk.consensus, verdicts):
            return "question"
        if override is None:
            return "undecided"
        if override.action == "accept" and override.decision_on(version) is None:
            return "open"
        is_unanswered = override.action == "replace" and not override.decisions
        if is_unanswered and case_id in self.questions:
            return "question"
        return STATUS_OF_ACTION[override.action]


def decision_of(override: Override | None) -> dict[str, Any] | None:
    """Return the decision that is in force; without a name if a file was put there."""
    if override is None:
        return None
    decision = override.decisions[-1] if override.decisions else None
    return {
        "action": override.action,
        "round": override.number,
        "reviewer": decision.reviewer if decision else "",
        "date": decision.date if decision else "",
        "reason": decision.reason if decision else "",
    }


def volumes(
    refined: Mapping[str, Any], ranges: Mapping[str, VolumeRange], lesions: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the volume of each structure and its range over the labelled cases.

    No volume of a lesion is unusual: a case may have any number of them.
    """
    prefix = "volume_ml_of_"
    found = []
    for name, value in refined.items():
        if not name.startswith(prefix) or value is None:
            continue
        structure = name.removeprefix(prefix)
        known = ranges.get(structure)
        is_unusual = known is not None and known.is_unusual(value)
        found.append(
            {
                "class": structure,
                "ml": value,
                "low_ml": known.low if known else None,
                "high_ml": known.high if known else None,
                "unusual": is_unusual and structure not in lesions,
            }
        )
    return found


ROUTES: Sequence[Route] = [get("/api/queue", queue)]
