"""Which round is exported, and why. Test cases and withheld labels never decide.

With validation cases (``split: validation``) it is the round with the best mean Dice on them.
Without them it is the last round whose model has not collapsed
(:mod:`hstf.scoring.monitoring`). The labelled cases cannot choose a round, because all students
have learned from them.
"""

from collections.abc import Mapping

from hstf.experiment.layout import Layout
from hstf.experiment.schedule import Schedule
from hstf.runtime.documents import Part
from hstf.scoring.documents import EvaluationSummary
from hstf.scoring.monitoring import RoundMonitor


class RoundChoice(Part):
    """The round that is exported."""

    round: int
    reason: str
    """A sentence with the evidence."""
    chosen_by: str
    """``validation``, ``collapse`` (an earlier round instead of a collapsed one) or ``last``."""
    collapsed: dict[int, list[str]]
    """What shows a collapse, by round."""
    validation: dict[int, float]
    """Mean Dice on the validation cases by round; empty without such cases."""


def choose_round(layout: Layout, schedule: Schedule) -> RoundChoice:
    """Choose the round to export from what the rounds have written.

    Args:
        layout: files of the experiment.
        schedule: its rounds.

    Raises:
        HstfError: if a file is damaged.
    """
    collapsed = {}
    validation = {}
    cases = 0
    for number in range(schedule.last + 1):
        path = layout.monitor(number)
        findings = RoundMonitor.load(path).collapse if path.is_file() else []
        if findings:
            collapsed[number] = findings
        path = layout.validation_summary(number)
        if path.is_file():
            summary = EvaluationSummary.load(path)
            cases = summary.cases
            if summary.dice.mean is not None:
                validation[number] = summary.dice.mean
    return choice_of(schedule.last, collapsed, validation, cases)


def choice_of(
    last: int, collapsed: Mapping[int, list[str]], validation: Mapping[int, float], cases: int
) -> RoundChoice:
    """Choose a round.

    Args:
        last: number of the last round.
        collapsed: what shows a collapse, by round; sound rounds are missing.
        validation: mean Dice on the validation cases by round; empty without such cases.
        cases: number of validation cases.

    Example:
        >>> choice_of(2, {2: ["liver vanishes: found in 0 of 9"]}, {}, 0).round
        1
        >>> choice_of(2, {}, {0: 0.71, 1: 0.80, 2: 0.78}, 10).round
        1
    """
    sound = [number for number in range(last + 1) if number not in collapsed]
    candidates = sound or list(range(last + 1))
    scored = [number for number in candidates if number in validation]
    if scored:
        number = max(scored, key=lambda candidate: (validation[candidate], candidate))
        chosen_by = "validation"
        reason = _validation_reason(number, validation, cases)
    elif candidates[-1] != last:
        number = candidates[-1]
        chosen_by = "collapse"
        reason = "It is the last round whose model has not collapsed."
    else:
        number = last
        chosen_by = "last"
        reason = (
            "It is the last round: without validation cases (split: validation) nothing selects a"
            " round, and test cases never do."
        )
    return RoundChoice(
        round=number,
        reason=" ".join([reason, *_collapse_sentences(number, collapsed)]),
        chosen_by=chosen_by,
        collapsed=dict(collapsed),
        validation=dict(validation),
    )


def _validation_reason(number: int, validation: Mapping[int, float], cases: int) -> str:
    others = []
    for other, dice in validation.items():
        if other != number:
            others.append(f"round {other}: {dice:.3f}")
    compared = f" ({', '.join(others)})" if others else ""
    return (
        f"Its mean Dice on the {cases} validation cases is {validation[number]:.3f}, the highest"
        f" of all rounds{compared}."
    )


def _collapse_sentences(number: int, collapsed: Mapping[int, list[str]]) -> list[str]:
    sentences = []
    for other, findings in collapsed.items():
        text = f"Round {other} has collapsed: {'; '.join(findings)}."
        if other == number:
            text = f"WARNING: no round is sound. {text}"
        sentences.append(text)
    return sentences
