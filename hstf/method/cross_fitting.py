"""Cross-fitting: a network labels only cases that it has not learned from.

A network that labels the cases it was trained on repeats their labels, errors included ("lazy
learning", Huo et al., ATSO: Asynchronous Teacher-Student Optimization, CVPR 2021). With
cross-fitting the unlabelled patients are divided into as many parts as a round has ensemble
members. Member k learns from all parts but part k. In the next round only member k labels part k.
The parts are the same in every round, so a student that starts from the previous weights has never
seen its part.

Cross-fitting needs at least two members and ``student.cross_fit``. The warm-up has not seen any
unlabelled case, so all its members label all of them.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from hstf.experiment.cases import Case
from hstf.experiment.schedule import Schedule


def learned_cases(
    schedule: Schedule,
    number: int,
    member: str,
    case_ids: Iterable[str],
    unlabelled: Sequence[Case],
    seed: int,
) -> list[str]:
    """Return the cases that a member may learn from, in the given order.

    Args:
        schedule: the rounds.
        number: round of the member.
        member: name of the ensemble member.
        case_ids: the pseudo-labelled cases.
        unlabelled: all unlabelled cases of the case sheet.
        seed: seed of the experiment.

    Raises:
        KeyError: if a case is not unlabelled.
    """
    if not schedule.rounds[number].is_cross_fitted:
        return list(case_ids)
    names = schedule.members(number)
    parts = parts_of_cases(unlabelled, len(names), seed)
    own_part = names.index(member)
    return [case_id for case_id in case_ids if parts[case_id] != own_part]


def teachers_by_case(
    schedule: Schedule,
    number: int,
    case_ids: Iterable[str],
    unlabelled: Sequence[Case],
    seed: int,
) -> dict[str, list[str]]:
    """Return the members of the previous round that may label each case in round ``number``.

    Args:
        schedule: the rounds.
        number: round of the pseudo-labels.
        case_ids: the cases to label.
        unlabelled: all unlabelled cases of the case sheet.
        seed: seed of the experiment.

    Raises:
        KeyError: if a case is not unlabelled.
    """
    names = schedule.members(number - 1)
    if not schedule.rounds[number - 1].is_cross_fitted:
        return dict.fromkeys(case_ids, names)
    parts = parts_of_cases(unlabelled, len(names), seed)
    return {case_id: [names[parts[case_id]]] for case_id in case_ids}


def parts_of_cases(
    unlabelled: Sequence[Case],
    parts: int,
    seed: int,
) -> dict[str, int]:
    """Assign each unlabelled case to a part ``0 .. parts - 1``. A patient is in one part only.

    Example:
        >>> from types import SimpleNamespace
        >>> first = SimpleNamespace(case_id="scan_1", group="patient_a")
        >>> second = SimpleNamespace(case_id="scan_2", group="patient_a")
        >>> other = SimpleNamespace(case_id="scan_3", group="patient_b")
        >>> parts = parts_of_cases([first, second, other], parts=2, seed=0)
        >>> parts["scan_1"] == parts["scan_2"], parts["scan_1"] == parts["scan_3"]
        (True, False)
    """
    groups = sorted({case.group for case in unlabelled})
    np.random.default_rng(seed).shuffle(groups)
    part_of_group = {group: index % parts for index, group in enumerate(groups)}
    return {case.case_id: part_of_group[case.group] for case in unlabelled}
