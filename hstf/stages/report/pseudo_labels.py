"""Section about the pseudo-labels: their use, predicted Dice, refinement, and each case."""

from typing import Any

import pandas as pd

from hstf.config.refine import RefineConfig
from hstf.method.plr.calibration import Calibration
from hstf.stages.report.figure_style import Figures
from hstf.stages.report.page import Block, Section, Table, round_name
from hstf.stages.report.quality_figures import predicted_dice
from hstf.stages.report.results import Results
from hstf.stages.report.review import Reviewing
from hstf.stages.report.tables import Column, for_structures, make_table
from hstf.stages.report.withheld_labels import withheld_label_blocks

CASE_COLUMNS = (
    Column("case_id", "Case"),
    Column("predicted_dice", "Predicted Dice (90% interval)", digits=3, interval=True),
    Column("use", "Use", tone="tone"),
    Column("why", "Reason"),
    Column("weight_mean", "Mean voxel weight", digits=2),
    Column("previous_round_dice", "Dice with previous round", digits=3),
    Column("volume_ml_of_<structure>", "<structure> (ml)", digits=1),
    Column("links", "Files", has_links=True),
)
"""Columns of the table of cases. To show another column of ``refine.csv``, add a line here."""

SOURCES = {
    "automatic": "accepted automatically",
    "accepted": "accepted by a reviewer",
    "corrected": "corrected by a reviewer",
    "rejected": "not used",
}
"""Text of the column ``source`` of ``labels.csv``."""
TONES = {"accepted": "good", "corrected": "good", "rejected": "bad"}

STEPS = {
    "low_confidence": "Confidence below the threshold of the class: the weight is lowered.",
    "components": "Surplus or small components: removed.",
    "lesions": "Lesions that are not likely enough: replaced by the next class.",
    "possible_lesions": "Possible lesions that are not predicted: the weight is lowered.",
    "holes": "Holes that the labelled cases do not have: filled.",
    "previous_round": "Different from the previous round: the weight is lowered.",
}
"""What each step of the refinement does; names as in ``refine.csv``."""


def pseudo_labels_section(results: Results, figures: Figures) -> Section:
    """Return tables and figures of the pseudo-labels."""
    title = "Pseudo-labels"
    if not results.pseudo_labels:
        return Section("pseudo-labels", title, "", [], _missing(results))
    last = max(results.pseudo_labels)
    blocks: list[Block] = [
        _use_table(results),
        _dice_figure(results, figures),
        *_site_table(results),
        _steps_table(results),
        *withheld_label_blocks(results, figures),
        _case_table(results, last),
    ]
    intro = (
        "Predicted Dice is an estimate: no reference is used. Review the cases with the lowest"
        " predicted Dice first."
    )
    return Section("pseudo-labels", title, intro, blocks)


def _missing(results: Results) -> str:
    if not results.rounds:
        return "There are no pseudo-labels: this experiment has no rounds after the warm-up."
    if not results.has_pseudo_labels:
        return "This method learns without pseudo-labels."
    return "No round has pseudo-labels yet."


def needed_dice(section: RefineConfig, learned: float | None) -> float | None:
    """Return the predicted Dice that a pseudo-label needs; None if all are used.

    Args:
        section: the refinement of the round.
        learned: the bound of the calibration, which applies if the configuration has none;
            None if it is not known.
    """
    if not section.select_cases:
        return None
    configured = section.minimum_predicted_dice
    return learned if configured is None else configured


def _dice_figure(results: Results, figures: Figures) -> Block:
    """Return the predicted Dice in each round, and the bound of acceptance."""
    dices = {}
    bounds = {}
    calibrations = results.round_calibrations
    for number, cases in results.pseudo_labels.items():
        dices[number] = cases["predicted_dice"].dropna().tolist()
        calibration = calibrations[number]
        learned = calibration.minimum_predicted_dice if calibration else None
        section = results.context.config_of_round(number).refine
        bounds[number] = needed_dice(section, learned)
    caption = f"Each marker is a pseudo-label.{_features_text(calibrations[max(dices)])}"
    title = "Predicted Dice of the pseudo-labels"
    return figures.add("predicted_dice", title, predicted_dice(dices, bounds), caption)


FEATURES = {
    "confidence": "the confidence of the teacher",
    "scales": "the agreement of scales",
    "flips": "the agreement of flips",
    "snapshots": "the agreement with earlier training steps",
    "members": "the agreement of ensemble members",
}
"""Text by quality feature, see :mod:`hstf.method.plr.predicted_dice`."""


def _features_text(calibration: Calibration | None) -> str:
    """Return from what the predicted Dice is computed; empty if it is not known."""
    models = calibration.dice_models.values() if calibration is not None else ()
    used = {name for model in models for name in model.usual}
    texts = [text for name, text in FEATURES.items() if name in used]
    return f" The estimate is based on {', '.join(texts)}." if texts else ""


def _use_table(results: Results) -> Table:
    """Return how many unlabelled cases each round used."""
    rows = []
    for number, cases in results.pseudo_labels.items():
        row = _summary(round_name(number), cases)
        for source in SOURCES:
            row[source] = (cases["source"] == source).sum()
        rows.append(row)
    columns = [Column("round", "Round"), Column("cases", "Unlabelled", digits=0)]
    columns += [Column(name, text.capitalize(), digits=0) for name, text in SOURCES.items()]
    return make_table("Use of the unlabelled cases", [*columns, *MEANS], rows)


MEANS = (
    Column("median_dice", "Median predicted Dice", digits=3),
    Column("mean_weight", "Mean voxel weight", digits=3),
)


def _summary(name: str, cases: pd.DataFrame) -> dict[str, object]:
    return {
        "round": name,
        "cases": len(cases),
        "median_dice": cases["predicted_dice"].median(),
        "mean_weight": cases["weight_mean"].mean(),
    }


def _site_table(results: Results) -> list[Table]:
    """Return the use of the cases of each site, if there are several.

    A hospital whose scans differ from the labelled ones is visible here.
    """
    rows = []
    sites: set[str] = set()
    for number, cases in results.pseudo_labels.items():
        site_of_case = [results.sites.get(case_id, "") for case_id in cases["case_id"]]
        for site, own_cases in cases.groupby(site_of_case):
            sites.add(str(site))
            is_used = own_cases["source"].notna() & (own_cases["source"] != "rejected")
            row = _summary(round_name(number), own_cases)
            rows.append({**row, "site": site or "without name", "used": is_used.sum()})
    if len(sites) < 2:
        return []
    columns = [
        Column("round", "Round"),
        Column("site", "Site"),
        Column("cases", "Unlabelled", digits=0),
        Column("used", "Used", digits=0),
        *MEANS,
    ]
    return [make_table("Pseudo-labels by site", columns, rows)]


def _steps_table(results: Results) -> Table:
    """Return how much each step of the refinement changed."""
    rows = []
    for number, cases in results.pseudo_labels.items():
        for step, effect in STEPS.items():
            rows.append(
                {
                    "round": round_name(number),
                    "step": step.replace("_", " "),
                    "effect": effect,
                    "voxels": cases[step].sum(),
                    "changed": (cases[step] > 0).sum(),
                    "cases": len(cases),
                }
            )
    columns = [
        Column("round", "Round"),
        Column("step", "Step"),
        Column("effect", "Voxels, and what happened to them"),
        Column("voxels", "Number of voxels", digits=0),
        Column("changed", "Cases", of="cases"),
    ]
    source = "round_<r>/refine.csv"
    return make_table("What each step of the refinement changed", columns, rows, source)


def _case_table(results: Results, number: int) -> Table:
    """Return the pseudo-labels of a round, least certain first."""
    rows = with_texts(results.pseudo_labels[number])
    reviewing = Reviewing(results)
    records: Any = rows.to_dict("records")
    for record in records:
        record["links"] = reviewing.links(record["case_id"], number)
    columns = for_structures(CASE_COLUMNS, results.structures)
    caption = f"Pseudo-labels of round {number}, least certain first"
    source = f"round_{number}/refine.csv and round_{number}/labels.csv"
    return make_table(caption, columns, records, source)


def with_texts(cases: pd.DataFrame) -> pd.DataFrame:
    """Add the columns ``use``, ``why`` and ``tone``.

    Args:
        cases: pseudo-labels of a round, see :attr:`Results.pseudo_labels`.
    """
    source = cases["source"].fillna("")
    reviewer = cases["reviewer"].fillna("")
    reason = cases["reason_used"].fillna("")
    return cases.assign(
        use=source.map(SOURCES),
        tone=source.map(TONES).fillna(""),
        why=(reviewer + ": ").where(reviewer != "", "")
        + reason.where(reason != "", cases["reason"]),
    )
