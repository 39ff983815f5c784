"""Which round is exported, and why. Test cases and withheld labels never decide.

With validation cases (``split: validation``) it is the round with the best mean Dice on them.
Without them it is the last round whose model has not collapsed
(:mod:`hstf.scoring.monitoring`). The labelled cases cannot choose a round, because all students
have learned from them.
"""

from collections.abc import Mapping

from hstf.experiment.cases import Split, names_of
from hstf.experiment.context import StageContext
from hstf.experiment.score_tables import VALIDATION_CASES
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


def choose_round(context: StageContext) -> RoundChoice:
    """Choose the round to export from what the rounds have written.

    Args:
        context: a stage that may read ``monitor.cases``.

    Raises:
        HstfError: if a file is damaged.
    """
    collapsed = {}
    validation = {}
    for number in range(context.schedule.last + 1):
        findings = collapse_of(context, number)
        if findings:
            collapsed[number] = findings
        dice = validation_dice(context, number)
        if dice is not None:
            validation[number] = dice
    cases = len(context.cases(Split.VALIDATION))
    return choice_of(context.schedule.last, collapsed, validation, cases)


def collapse_of(context: StageContext, number: int) -> list[str] | None:
    """Return what shows a collapse of the model of a round; None if it is not monitored.

    A file that an earlier run left does not count.
    """
    path = context.layout.monitor(number)
    if not context.schedule.uses_unlabelled or not context.config.monitor.cases:
        return None
    return RoundMonitor.load(path).collapse if path.is_file() else None


def validation_dice(context: StageContext, number: int) -> float | None:
    """Return the mean Dice of a round on the validation cases of the case sheet.

    Returns:
        None without such cases, or if the round has no score. Scores of other cases, which an
        earlier run or a reused warm-up may have left, do not count.
    """
    layout = context.layout
    names = names_of(context.cases(Split.VALIDATION))
    if not names or not layout.validation_summary(number).is_file():
        return None
    scored = {row["case_id"] for row in VALIDATION_CASES.records(layout.validation_table(number))}
    if scored != set(names):
        return None
    return EvaluationSummary.load(layout.validation_summary(number)).dice.mean


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
        compared = {candidate: validation[candidate] for candidate in scored}
        which = ""
        if len(scored) < len(candidates):
            which = " that were scored on them"
        if len(scored) < len(validation):
            which += " and have not collapsed" if which else " that have not collapsed"
        reason = _validation_reason(number, compared, cases, which)
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


def _validation_reason(number: int, compared: Mapping[int, float], cases: int, which: str) -> str:
    """Return why a round is chosen.

    Args:
        number: the round.
        compared: mean Dice of the rounds that could be chosen.
        cases: number of validation cases.
        which: a clause about these rounds; empty if they are all rounds.
    """
    others = []
    for other, dice in compared.items():
        if other != number:
            others.append(f"round {other}: {dice:.3f}")
    listed = f" ({', '.join(others)})" if others else ""
    return (
        f"Its mean Dice on the {cases} validation cases is {compared[number]:.3f}, the highest"
        f" of all rounds{which}{listed}."
    )


def _collapse_sentences(number: int, collapsed: Mapping[int, list[str]]) -> list[str]:
    sentences = []
    for other, findings in collapsed.items():
        text = f"Round {other} has collapsed: {'; '.join(findings)}."
        if other == number:
            text = f"WARNING: no round is sound. {text}"
        sentences.append(text)
    return sentences
