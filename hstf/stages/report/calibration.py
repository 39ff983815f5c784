"""Section about what the labelled cases taught: confidence, predicted Dice, structure."""

from collections.abc import Mapping, Sequence
from typing import Any

from hstf.config.refine import RefineConfig
from hstf.stages.report.figures import (
    Figures,
    Points,
    calibration_error,
    predicted_against_true,
    reliability,
    unzip,
)
from hstf.stages.report.page import (
    Block,
    Cell,
    Note,
    Section,
    Table,
    counted,
    number_cell,
    number_text,
)
from hstf.stages.report.results import Results


def calibration_section(results: Results, figures: Figures) -> Section:
    """What the labelled cases, predicted by members that had not seen them, say about the teacher's confidence."""
    content = results.document(results.layout.calibration)
    if not content:
        return Section("calibration", "Calibration", "", [], "The warm-up is not calibrated.")
    evidence = content["evidence"]
    told = [_confidence_text(content, evidence)]
    if any(results.schedule.has_pseudo_labels(number) for number in results.rounds):
        told.append(_verdict_text(results, content))
    blocks: list[Block] = [Note(told), *_learned_tables(results, content)]
    errors = evidence["calibration_error"]
    names = [n for n, error in errors["after"].items() if None not in (error, errors["before"][n])]
    if names:
        before, after = (
            {name: errors[when][name] for name in names} for when in ("before", "after")
        )
        blocks.append(
            figures.add(
                "calibration",
                "Calibration error",
                calibration_error(before, after),
                "How far confidence lies from the share of voxels that are right, averaged over voxels.",
            )
        )
    if curves := _reliability_curves(evidence["reliability"]):
        caption = (
            "Voxels of the labelled cases by the calibrated confidence of the class they were given. Below the diagonal:"
            " over-confident."
        )
        blocks.append(figures.add("reliability", "Reliability", reliability(curves), caption))
    cases = evidence["cases"]
    if cases:
        pairs = [(case["predicted_dice"], case["mean_dice"]) for case in cases.values()]
        figure = predicted_against_true({"labelled cases, out of fold": unzip(pairs)})
        caption = "What the score of a pseudo-label was learned from. Near the diagonal the estimate can be trusted."
        blocks.append(
            figures.add(
                "predicted_dice_labelled",
                "Predicted and true Dice, labelled cases",
                figure,
                caption,
            )
        )
    intro = "Learned once, on out-of-fold predictions of the labelled cases; the test cases play no part."
    return Section("calibration", "Calibration", intro, blocks)


def _reliability_curves(bins: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Confidence and accuracy of each class, bin by bin."""
    names = dict.fromkeys(entry["class"] for entry in bins)
    return {
        name: unzip([(b["confidence"], b["accuracy"]) for b in bins if b["class"] == name])
        for name in names
    }


def _confidence_text(content: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    temperature = content["temperature"]
    meaning = (
        "over-confident"
        if temperature > 1.02
        else "under-confident"
        if temperature < 0.98
        else "about right"
    )
    likelihood = evidence["negative_log_likelihood"]
    change = f"{number_text(likelihood['before'])} → {number_text(likelihood['after'])}"
    return f"Temperature {number_text(temperature, 2)}: the networks were {meaning}; negative log-likelihood {change}."


def needed_dice(section: RefineConfig, learned: float | None) -> float | None:
    """The predicted Dice that a pseudo-label needs: the configured bound, else the ``learned`` one; None: all are used."""
    if not section.select_cases:
        return None
    return learned if section.minimum_predicted_dice is None else section.minimum_predicted_dice


def _verdict_text(results: Results, content: Mapping[str, Any]) -> str:
    """What a pseudo-label needs to be used, in the first round that has any."""
    number = next(n for n in results.rounds if results.schedule.has_pseudo_labels(n))
    bound = needed_dice(
        results.context.config_of_round(number).refine, content["minimum_predicted_dice"]
    )
    rule = (
        "Every pseudo-label is used, however low its predicted Dice (refine.select_cases is off)."
        if bound is None
        else f"A pseudo-label whose predicted mean Dice is below {number_text(bound)} is not used."
    )
    return f"{rule} The predicted mean Dice is off by about ±{number_text(content['mean_sd'])}."


def _learned_tables(results: Results, content: Mapping[str, Any]) -> list[Table]:
    """The threshold of each class, and what is known of each structure: in one table where classes are the structures."""
    thresholds = content["thresholds"]
    titles = ("Out-of-fold Dice", "Voxels found", "Predicted Dice off by", "Structure kept")
    source = "round_0/calibration.json"
    if not results.config.regions:
        rows = [
            [Cell(name), number_cell(value, 2), *_structure_cells(content, name)]
            for name, value in thresholds.items()
        ]
        of_class = ("Class", "Confidence threshold", *titles)
        return [Table("What was learned for each class", of_class, rows, source)]
    confidences = [[Cell(name), number_cell(value, 2)] for name, value in thresholds.items()]
    regions = [[Cell(name), *_structure_cells(content, name)] for name in content["anatomy_rules"]]
    return [
        Table("What was learned for each region", ("Region", *titles), regions, source),
        Table(
            "Confidence that a voxel needs", ("Class", "Confidence threshold"), confidences, source
        ),
    ]


def _structure_cells(content: Mapping[str, Any], name: str) -> list[Cell]:
    """Dice, share of voxels found, error of the predicted Dice and rule of a class or region; the background has none."""
    rules = content["anatomy_rules"]
    evidence = content["evidence"]
    return [
        number_cell(evidence["dice"].get(name)),
        number_cell(evidence["recall"].get(name), 2),
        number_cell(content["class_sd"].get(name)),
        Cell(_structure_text(rules[name]) if name in rules else "–"),
    ]


def _structure_text(rule: Mapping[str, Any]) -> str:
    components = counted(rule["maximum_components"], "component")
    parts = [f"at most {components} of at least {number_text(rule['minimum_mm3'] / 1000, 2)} ml"]
    if rule["contact"] > 0:
        parts.append(f"at least {rule['contact']:.0%} of its surface touches others")
    parts.append("holes allowed" if rule["has_holes"] else "no holes")
    parts.append("may be absent" if rule["may_be_absent"] else "must not be absent")
    if rule["dice_gain"] < 0:
        parts.append(f"not applied, as it costs {-rule['dice_gain']:.3f} Dice out of fold")
    return ", ".join(parts)
