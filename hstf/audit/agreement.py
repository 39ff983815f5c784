"""How well reviewers agree: Dice between their labels, and Cohen's kappa of their verdicts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from hstf.audit.calls import Call, get
from hstf.audit.consensus import dice_between, do_agree, is_disputed, label_of, that_count
from hstf.audit.history import Action, History, Verdicts, verdicts_of
from hstf.audit.queue import decision_of
from hstf.experiment.decisions import version_of
from hstf.experiment.overrides import in_force_in, read_overrides

Readers = tuple[str, str]


def agreement(call: Call) -> dict[str, Any]:
    """Return all cases of a round that several reviewers have decided on.

    Acceptances of an earlier version of a pseudo-label are left out: they no longer count.
    """
    desk = call.desk
    number = call.round()
    versions = {row["case_id"]: version_of(row) for row in desk.refined(number)}
    verdicts = {
        case_id: that_count(of_case, versions.get(case_id, ""))
        for case_id, of_case in verdicts_of(History.of(desk.layout).actions(), number).items()
    }
    overrides = read_overrides(desk.layout, desk.schedule, desk.cases, [])
    in_force = in_force_in(number, overrides)
    pairs = []
    consensus = []
    for case_id, of_case in verdicts.items():
        if len(of_case) < 2:
            continue
        pairs += [pair(case_id, *two) for two in combinations(of_case.values(), 2)]
        decision = decision_of(in_force.get(case_id)) or {}
        is_open = is_disputed(desk.consensus, of_case)
        consensus.append(
            {
                "case_id": case_id,
                "action": None if is_open else decision.get("action"),
                "by": None if is_open else decision.get("reviewer"),
            }
        )
    return {"pairs": pairs, "kappa": kappas(verdicts), "consensus": consensus}


def pair(case_id: str, first: Action, second: Action) -> dict[str, Any]:
    """Return what two reviewers decided on a case."""
    dice = dice_between(first, second)
    is_same = label_of(first) == label_of(second)
    return {
        "case_id": case_id,
        "readers": [first.reviewer, second.reviewer],
        "dice": dice,
        "verdicts": [first.action, second.action],
        "same_label": is_same and first.action == second.action,
        "agree": do_agree(first, second),
    }


def kappas(verdicts: Mapping[str, Verdicts]) -> list[dict[str, Any]]:
    """Return Cohen's kappa of each two reviewers over the cases that both have decided on."""
    decided: dict[Readers, list[Readers]] = {}
    for of_case in verdicts.values():
        for names in combinations(sorted(of_case), 2):
            actions = (of_case[names[0]].action, of_case[names[1]].action)
            decided.setdefault((names[0], names[1]), []).append(actions)
    found = []
    for readers, actions_of in sorted(decided.items()):
        found.append(
            {"readers": list(readers), "cases": len(actions_of), "kappa": cohens_kappa(actions_of)}
        )
    return found


def cohens_kappa(pairs: Sequence[Readers]) -> float | None:
    """Return Cohen's kappa: agreement beyond chance (Cohen 1960).

    Args:
        pairs: the verdict of both reviewers on each case.

    Returns:
        1 for full agreement, 0 for agreement by chance; None if chance would always agree.

    Example:
        >>> cohens_kappa([("accept", "accept"), ("reject", "reject")])
        1.0
    """
    cases = len(pairs)
    observed = sum(first == second for first, second in pairs) / cases
    of_first = Counter(first for first, _ in pairs)
    of_second = Counter(second for _, second in pairs)
    by_chance = sum(of_first[name] * of_second[name] for name in of_first) / cases**2
    if by_chance == 1:
        return None
    return (observed - by_chance) / (1 - by_chance)


ROUTES = [get("/api/agreement", agreement)]
