"""Cross-fitting: a student labels only scans that it has not learned from.

A network that labels the scans it was trained on repeats their labels, errors included ("lazy learning", ATSO: Huo et al.,
Asynchronous Teacher-Student Optimization, CVPR 2021). So the unlabelled patients are dealt into as many parts as a round
has members; member k learns from all parts but part k, and in the next round it alone labels part k. The parts are the
same in every round: a student that starts from the previous weights has never seen its part.

It works from two members on, where ``student.cross_fit`` is set. The warm-up has seen no unlabelled scan: all its members
label all of them.
"""

from collections.abc import Iterable

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Split, read_cases
from hstf.experiment.schedule import members, pseudo_labelled


def learned_cases(config: Config, number: int, member: str, case_ids: Iterable[str]) -> list[str]:
    """Those of the pseudo-labelled ``case_ids`` that ``member`` of round ``number`` may learn from, in their order.

    Raises:
        KeyError: a case is not unlabelled.
    """
    if not crosses(config, number):
        return list(case_ids)
    names = members(config, number)
    parts, own = parts_of_cases(config, len(names)), names.index(member)
    return [case_id for case_id in case_ids if parts[case_id] != own]


def teachers_by_case(config: Config, number: int, case_ids: Iterable[str]) -> dict[str, list[str]]:
    """The members of round ``number - 1`` that may label each of the unlabelled ``case_ids`` in round ``number``.

    Raises:
        KeyError: a case is not unlabelled.
    """
    names = members(config, number - 1)
    if not crosses(config, number - 1):
        return dict.fromkeys(case_ids, names)
    parts = parts_of_cases(config, len(names))
    return {case_id: [names[parts[case_id]]] for case_id in case_ids}


def parts_of_cases(config: Config, parts: int) -> dict[str, int]:
    """The part ``0..parts-1`` of each unlabelled case: whole patients, dealt by the experiment's seed."""
    cases = read_cases(config).of(Split.UNLABELLED)
    groups = sorted({case.group for case in cases})
    np.random.default_rng(config.seed).shuffle(groups)
    place = {group: index % parts for index, group in enumerate(groups)}
    return {case.case_id: place[case.group] for case in cases}


def crosses(config: Config, number: int) -> bool:
    """Whether the members of round ``number`` leave out a part each."""
    student = config.for_round(number).student
    return (
        number > 0 and pseudo_labelled(config, number) and student.members > 1 and student.cross_fit
    )
