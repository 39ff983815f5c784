"""Section about the calibration: confidence, predicted Dice and anatomy of the labelled cases."""

from collections.abc import Mapping, Sequence
from typing import Any

from hstf.method.plr.anatomy import AnatomyRule
from hstf.method.plr.calibration import Calibration
from hstf.method.plr.predicted_dice import CONFORMAL_PATIENTS, UNKNOWN_SD, DiceInterval
from hstf.stages.report.figure_style import Figures, Points, unzip
from hstf.stages.report.page import Block, Note, Section, Table, counted, number_text
from hstf.stages.report.pseudo_labels import needed_dice
from hstf.stages.report.quality_figures import (
    calibration_error,
    predicted_against_true,
    reliability,
)
from hstf.stages.report.results import Results
from hstf.stages.report.tables import Column, make_table

THRESHOLD = Column("threshold", "Confidence threshold", digits=2)
STRUCTURE_COLUMNS = (
    Column("dice", "Out-of-fold Dice", digits=3),
    Column("recall", "Voxels found", digits=2),
    Column("error", "Error of predicted Dice", digits=3),
    Column("rule", "Anatomy rule"),
)
SOURCE = "round_0/calibration.json"
SMALL_MM3 = 100.0
"""Smaller volumes are written in mm³: two decimals of a millilitre would not show them."""
TOLERANCE = 0.02
"""With a temperature that is this close to 1, the networks are well calibrated."""


def calibration_section(results: Results, figures: Figures) -> Section:
    """Return what was learned from the out-of-fold predictions of the labelled cases."""
    title = "Calibration"
    calibration = results.calibration
    if calibration is None:
        return Section("calibration", title, "", [], "The warm-up is not calibrated yet.")
    evidence = calibration.evidence
    lines = [_temperature_text(calibration, results.config.refine.calibrate)]
    if results.has_pseudo_labels:
        lines += _acceptance_text(results)
    blocks: list[Block] = [
        Note(lines),
        *_tables(results, calibration),
        *_error_chart(evidence["calibration_error"], figures),
        *_reliability_chart(evidence["reliability"], figures),
        *_dice_chart(evidence["cases"], figures),
    ]
    intro = (
        "Each labelled case is predicted by ensemble members that have not learned from it"
        " (out of fold). The calibration is computed once. It does not use test cases."
    )
    return Section("calibration", title, intro, blocks)


def _temperature_text(calibration: Calibration, is_fitted: bool) -> str:
    """Return the temperature and what it means.

    Args:
        calibration: the calibration.
        is_fitted: whether the temperature is fitted (``refine.calibrate``).
    """
    temperature = calibration.temperature
    likelihood = calibration.evidence["negative_log_likelihood"]
    if not is_fitted:
        return (
            "The probabilities are used as predicted, without temperature scaling"
            " (refine.calibrate: false). Their negative log-likelihood is"
            f" {number_text(likelihood['before'])}."
        )
    if likelihood["before"] is None:
        return (
            "Temperature 1: the labelled cases have no voxel from which the temperature could be"
            " fitted."
        )
    meaning = "well calibrated"
    if temperature > 1 + TOLERANCE:
        meaning = "over-confident"
    elif temperature < 1 - TOLERANCE:
        meaning = "under-confident"
    return (
        f"Temperature {number_text(temperature, 2)}: the networks were {meaning}. Temperature"
        f" scaling changes the negative log-likelihood from {number_text(likelihood['before'])} to"
        f" {number_text(likelihood['after'])}."
    )


def _acceptance_text(results: Results) -> list[str]:
    """Return what a pseudo-label needs to be used in the first round that has pseudo-labels."""
    first = results.pseudo_label_rounds[0]
    calibration = results.round_calibrations[first]
    if calibration is None:
        return []
    section = results.context.config_of_round(first).refine
    bound = needed_dice(section, calibration.minimum_predicted_dice)
    rule = "All pseudo-labels are used, whatever their predicted Dice (refine.select_cases: false)."
    if bound is not None:
        rule = f"Pseudo-labels with a predicted mean Dice below {number_text(bound)} are not used."
    return [
        f"{rule} {_error_text(calibration.mean_sd)}"
        f" {_interval_text(calibration.interval)}{_members_text(calibration)}"
    ]


def _error_text(mean_sd: float) -> str:
    """Return how large the error of the predicted mean Dice is."""
    error = number_text(mean_sd)
    if mean_sd == UNKNOWN_SD:
        return (
            f"The error of the predicted mean Dice is not known: a standard deviation of {error} is"
            " assumed, because fewer than three labelled cases can be predicted from other"
            " patients."
        )
    return f"The error of the predicted mean Dice has a standard deviation of {error}."


def _interval_text(interval: DiceInterval) -> str:
    """Return what the interval of predicted Dice is worth."""
    patients = counted(interval.patients, "labelled patient")
    width = number_text(interval.half_width)
    if interval.method == "guess":
        return (
            f"The interval of predicted Dice (± {width}) is a guess: it is from {patients}, and at"
            f" least {CONFORMAL_PATIENTS} are needed."
        )
    return (
        f"The 90% interval of predicted Dice (± {width}) is a conformal interval from {patients}."
        " It holds for patients of the same population."
    )


def _members_text(calibration: Calibration) -> str:
    """Return whether the agreement of members is a quality feature; empty if it is unknown."""
    errors = calibration.evidence.get("agreement_of_members")
    if not errors:
        return ""
    with_members = errors["with_members"]
    without = errors["without_members"]
    use = "is used" if with_members <= without else "is not used"
    return (
        f" The agreement of ensemble members {use}: the error for patients that the fit has not"
        f" seen is {number_text(with_members)} with it and {number_text(without)} without it."
    )


def _tables(results: Results, calibration: Calibration) -> list[Table]:
    """Return one table if the structures are classes, and two if they are regions."""
    names = calibration.thresholds
    if results.config.regions:
        classes = [{"name": name, "threshold": value} for name, value in names.items()]
        regions = [_structure_row(calibration, name) for name in calibration.anatomy_rules]
        region_columns = [Column("name", "Region"), *STRUCTURE_COLUMNS]
        class_columns = [Column("name", "Class"), THRESHOLD]
        return [
            make_table("Calibration of each region", region_columns, regions, SOURCE),
            make_table("Calibration of each class", class_columns, classes, SOURCE),
        ]
    rows = [_structure_row(calibration, name) for name in names]
    columns = [Column("name", "Class"), THRESHOLD, *STRUCTURE_COLUMNS]
    return [make_table("Calibration of each class", columns, rows, SOURCE)]


def _structure_row(calibration: Calibration, name: str) -> dict[str, Any]:
    """Return what is known about a class or region; the background has only a threshold."""
    rule = calibration.anatomy_rules.get(name)
    return {
        "name": name,
        "threshold": calibration.thresholds.get(name),
        "dice": calibration.evidence["dice"].get(name),
        "recall": calibration.evidence["recall"].get(name),
        "error": calibration.class_sd.get(name),
        "rule": _rule_text(rule, name in calibration.lesions) if rule else None,
    }


def _rule_text(rule: AnatomyRule, is_lesion: bool) -> str:
    """Return the rule that is applied to a structure, or why none is.

    Args:
        rule: the anatomy of the structure in the labelled cases.
        is_lesion: whether the structure consists of lesions.
    """
    if is_lesion:
        return "none: each lesion is judged by its own probability"
    if not rule.maximum_components:
        return "none: no dense label has it"
    components = counted(rule.maximum_components, "component")
    parts = [f"at most {components} of at least {_volume_text(rule.minimum_mm3)}"]
    if rule.contact > 0:
        parts.append(f"at least {rule.contact:.0%} of its surface touches other structures")
    parts.append("holes allowed" if rule.has_holes else "no holes")
    parts.append("may be absent" if rule.may_be_absent else "must be present")
    if rule.is_harmful:
        parts.append(
            f"not applied, because it lowers the out-of-fold Dice by {-rule.dice_gain:.3f}"
            f" (standard error {rule.gain_error:.3f})"
        )
    return ", ".join(parts)


def _volume_text(mm3: float) -> str:
    """Write a volume in ml, or in mm³ if it is small."""
    if mm3 < SMALL_MM3:
        return f"{number_text(mm3, 1)} mm³"
    return f"{number_text(mm3 / 1000, 2)} ml"


def _error_chart(errors: Mapping[str, Mapping[str, Any]], figures: Figures) -> list[Block]:
    """Return the calibration error of each class that has one before and after."""
    before = {}
    after = {}
    for name, error in errors["after"].items():
        if error is not None and errors["before"][name] is not None:
            before[name] = errors["before"][name]
            after[name] = error
    if not after:
        return []
    caption = (
        "Difference between the confidence and the fraction of correct voxels, as a mean over the"
        " voxels."
    )
    figure = calibration_error(before, after)
    return [figures.add("calibration", "Calibration error", figure, caption)]


def _reliability_chart(bins: Sequence[Mapping[str, Any]], figures: Figures) -> list[Block]:
    """Return confidence and accuracy of each class, bin by bin."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for entry in bins:
        pairs.setdefault(entry["class"], []).append((entry["confidence"], entry["accuracy"]))
    if not pairs:
        return []
    curves: dict[str, Points] = {name: unzip(points) for name, points in pairs.items()}
    caption = (
        "Voxels of the labelled cases, grouped by the calibrated confidence of their predicted"
        " class. On the diagonal, the confidence is right. Below it, the network is over-confident."
    )
    return [figures.add("reliability", "Reliability", reliability(curves), caption)]


def _dice_chart(cases: Mapping[str, Mapping[str, Any]], figures: Figures) -> list[Block]:
    """Return predicted and true Dice of the labelled cases."""
    if not cases:
        return []
    pairs = [(case["predicted_dice"], case["mean_dice"]) for case in cases.values()]
    figure = predicted_against_true({"labelled cases, out of fold": unzip(pairs)})
    caption = (
        "The model of predicted Dice was fitted to these cases. Close to the diagonal, predicted"
        " Dice is reliable."
    )
    title = "Predicted and true Dice, labelled cases"
    return [figures.add("predicted_dice_labelled", title, figure, caption)]
