"""Whose decision is in force if reviewers disagree.

- ``last``: the decision of the last reviewer.
- ``third``: while two reviewers disagree, the first decision stays in force, and the case is a
  question. The decision of a third reviewer settles it.
"""

from collections.abc import Mapping

from hstf.audit.desk import LAST
from hstf.audit.history import Action

AGREE = 0.9
"""Mean Dice of two labels from which two reviewers agree."""
ACCEPT = "accept"
REJECT = "reject"


def that_count(verdicts: Mapping[str, Action], version: str) -> dict[str, Action]:
    """Return the decisions that count: an acceptance does for one version of a pseudo-label only.

    Args:
        verdicts: the decisions of all reviewers on a case.
        version: SHA-256 of its pseudo-label.
    """
    return {
        name: action
        for name, action in verdicts.items()
        if action.action != ACCEPT or action.sha256 == version
    }


def is_put_in_force(consensus: str, verdicts: Mapping[str, Action], new: Action) -> bool:
    """Return whether a new decision is put in force.

    Args:
        consensus: the rule.
        verdicts: the decisions of all reviewers on this case that count; the new one may be among
            them.
        new: the new decision.
    """
    if consensus == LAST:
        return True
    order = [*verdicts, *({new.reviewer} - verdicts.keys())]
    if len(order) > 2:
        return order.index(new.reviewer) >= 2
    others = [action for name, action in verdicts.items() if name != new.reviewer]
    return all(do_agree(other, new) for other in others)


def is_disputed(consensus: str, verdicts: Mapping[str, Action]) -> bool:
    """Return whether a third reviewer is needed."""
    if consensus == LAST or len(verdicts) != 2:
        return False
    first, second = verdicts.values()
    return not do_agree(first, second)


def do_agree(first: Action, second: Action) -> bool:
    """Return whether two decisions on a case agree."""
    if REJECT in (first.action, second.action):
        return first.action == second.action
    if label_of(first) == label_of(second):
        return True
    dices = dice_between(first, second)
    known = [dice for dice in dices.values() if dice is not None]
    return bool(known) and sum(known) / len(known) >= AGREE


def label_of(action: Action) -> str:
    """Return the SHA-256 of the label that a reviewer wants the student to learn from."""
    return action.result_sha256 or action.sha256


def dice_between(first: Action, second: Action) -> dict[str, float | None]:
    """Return the Dice of each structure between the labels of two reviewers; empty if unknown."""
    return second.agreement.get(first.id) or first.agreement.get(second.id) or {}
