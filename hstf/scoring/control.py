"""The control beside the last round: what the unlabelled scans add, see ``evaluate.control``."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hstf.experiment.cases import Split
from hstf.experiment.comparison import control_layout, control_problem, control_results
from hstf.experiment.context import StageContext
from hstf.scoring.documents import EvaluationSummary
from hstf.scoring.round_choice import choose_round, validation_dice
from hstf.scoring.round_comparison import (
    compare_cases,
    compare_with_warmup,
    gain_columns,
    structure_dice_by_case,
    summary_scores,
)
from hstf.scoring.rounds import training_cases
from hstf.scoring.significance import Comparison, direction

CONTROL_NAME = "control: labels only"
"""Name of the control in tables."""
ADDED = {
    1: "Unlabelled scans add",
    0: "It is not clear whether unlabelled scans help:",
    -1: "Unlabelled scans make the Dice worse:",
}
"""Beginning of :func:`control_sentence`, by :func:`hstf.scoring.significance.direction`."""
LOWER = 0.02
"""A structure whose mean Dice is lower than in the control by more is named."""


@dataclass(frozen=True)
class ValidationScores:
    """Mean Dice of the exported round and of the control on the validation cases."""

    cases: int
    """Number of validation cases."""
    round: int
    """The exported round."""
    exported: float
    control: float
    target: str
    """Target of Snakemake that exports the control."""


@dataclass(frozen=True)
class Control:
    """The control beside the last round: ``method: supervised``, see ``evaluate.control``."""

    round: int
    """The last round."""
    row: Mapping[str, Any]
    """Its scores and its change from the warm-up, with names as in ``rounds.csv``."""
    comparison: Comparison
    """The last round against the control."""
    lower: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Mean Dice, in the last round and in the control, of each structure that is lower in the last
    round by more than :data:`LOWER`."""
    validation: ValidationScores | None = None
    """None without validation cases."""
    corrected: int = 0
    """Corrected labels that the last round has learned from. The control has learned from none."""


def read_control(context: StageContext) -> Control | None:
    """Compare the last round with the control, case by case as with the warm-up.

    Args:
        context: a stage that may read ``method``, ``seed`` and ``evaluate``.

    Returns:
        None without a control, or while the control or the last round has no scores.

    Raises:
        HstfError: if a file of the evaluation cannot be read.
    """
    last = context.schedule.last
    if not has_control(context) or not context.layout.evaluation_cases(last).is_file():
        return None
    layout = control_layout(context.layout, context.config.seed)
    if not all(path.is_file() for path in control_results(layout, last, context.sheet)):
        return None
    control = replace(context, layout=layout)
    summary = EvaluationSummary.load(layout.evaluation_summary(last))
    row = {
        "labelled": len(context.cases(Split.LABELLED)),
        "pseudo_labelled": 0,
        "members": len(context.schedule.members(last)),
        **summary_scores(summary),
        **gain_columns(compare_with_warmup(control, last)),
    }
    new = structure_dice_by_case(context, last)
    old = structure_dice_by_case(control, last)
    own = EvaluationSummary.load(context.layout.evaluation_summary(last))
    return Control(
        last,
        row,
        compare_cases(context, new, old),
        _lower_structures(own, summary),
        _validation_scores(context, control),
        training_cases(context, last)["corrected"],
    )


def _validation_scores(context: StageContext, control: StageContext) -> ValidationScores | None:
    """Return the scores on the validation cases; None if one of both models has none."""
    exported = choose_round(context)
    own = exported.validation.get(exported.round)
    other = validation_dice(control, context.schedule.last)
    if own is None or other is None:
        return None
    cases = len(context.cases(Split.VALIDATION))
    target = f"{control.layout.root.name}_export"
    return ValidationScores(cases, exported.round, own, other, target)


def _lower_structures(
    own: EvaluationSummary, control: EvaluationSummary
) -> dict[str, tuple[float, float]]:
    """Return the Dice of structures that are lower in a round than in its control: both values."""
    lower = {}
    for name, scores in own.classes.items():
        new = scores.dice.mean
        old = control.classes[name].dice.mean
        if new is not None and old is not None and new < old - LOWER:
            lower[name] = (new, old)
    return lower


def has_control(context: StageContext) -> bool:
    """Return whether there is a control, or will be one when it is computed."""
    return context.config.evaluate.control and can_have_control(context)


def can_have_control(context: StageContext) -> bool:
    """Return whether ``evaluate.control`` has an effect: not for all methods and case sheets."""
    return not control_problem(context.config.method, context.schedule.last, context.sheet)


def control_sentence(control: Control) -> str:
    """Return what the unlabelled scans add to the Dice: more, less, or nothing that is clear."""
    comparison = control.comparison
    difference = comparison.difference
    if difference.mean is None:
        return "The control cannot be compared: no test case has a Dice in both models."
    sign = direction(difference.low, difference.high, comparison.p_value)
    evidence = []
    if difference.low is not None and difference.high is not None:
        evidence.append(f"95% CI {difference.low:+.3f} to {difference.high:+.3f}")
    if comparison.p_value is not None:
        p_text = p_value_text(comparison.p_value)
        evidence.append(f"p {p_text[0]} {p_text[1:]}" if p_text[0] == "<" else f"p = {p_text}")
    shown = f" ({', '.join(evidence)})" if evidence else ""
    note = f" Note: {comparison.note}." if comparison.note else ""
    return (
        f"{ADDED[sign]} {difference.mean:+.3f}{shown}: round {control.round} against the control,"
        f" which has the same warm-up, rounds and steps and learns from the labels only.{note}"
        f"{_corrected_text(control)}{_lower_text(control)}{_validation_text(control.validation)}"
    )


def _corrected_text(control: Control) -> str:
    """Return a sentence about the labels of reviewers, which are a part of the difference."""
    if not control.corrected:
        return ""
    return (
        f" Round {control.round} has learned from {control.corrected} corrected labels, too, and"
        " the control has not."
    )


def _lower_text(control: Control) -> str:
    """Return a sentence about the structures that are worse than in the control."""
    if not control.lower:
        return ""
    parts = [f"{name} {new:.3f} ({old:.3f})" for name, (new, old) in control.lower.items()]
    return f" Lower than in the control: {', '.join(parts)}."


def _validation_text(scores: ValidationScores | None) -> str:
    """Return how to export the control, if it is better on the validation cases."""
    if scores is None or scores.control <= scores.exported:
        return ""
    return (
        f" On the {scores.cases} validation cases the control is better: {scores.control:.3f}, and"
        f" {scores.exported:.3f} for round {scores.round}, which is exported. To export the"
        f" control, run snakemake again with the target {scores.target}."
    )


def p_value_text(p_value: float | None) -> str:
    """Format a p-value; empty without one."""
    if p_value is None:
        return ""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
