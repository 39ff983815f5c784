"""Sections about what the students learned from: pseudo-labels, pictures, people's overrides."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from hstf.experiment.tables import LABELS, PSEUDO_LABEL_SCORES, REFINE
from hstf.scoring.averages import mean
from hstf.stages.report.calibration import needed_dice
from hstf.stages.report.figures import (
    Figures,
    Points,
    by_round,
    predicted_against_true,
    predicted_dice,
    risk_coverage,
    unzip,
)
from hstf.stages.report.gallery import picture_address
from hstf.stages.report.page import (
    Block,
    Cell,
    Gallery,
    Picture,
    Section,
    Table,
    count_cell,
    counted,
    estimate_cell,
    number_cell,
    number_text,
    text_cells,
)
from hstf.stages.report.results import Results, column, to_number

GALLERY_BYTES = 10 * 2**20
"""Of all pictures together, the last round's first: the page stays below 15 MB."""
SOURCES = {
    "automatic": "automatic",
    "accepted": "accepted by a person",
    "corrected": "corrected by a person",
    "rejected": "not used",
}
STEPS = {
    "low_confidence": "below the class's confidence threshold: weight lowered",
    "components": "in components unlike those of the labelled cases: removed",
    "lesions": "in lesions that are not likely enough: given to the next class",
    "possible_lesions": "possibly of a lesion that is not predicted: weight lowered",
    "holes": "in holes that the labelled cases do not have: filled",
    "previous_round": "labelled otherwise in the round before: weight lowered",
}
Row = Mapping[str, Any]


def pseudo_labels_section(results: Results, figures: Figures) -> Section:
    """How good the pseudo-labels are thought to be, what became of them, and the last round's case by case."""
    refined = {
        n: rows for n in results.rounds if (rows := results.table(REFINE, results.layout.refine(n)))
    }
    if not refined:
        return Section("pseudo-labels", "Pseudo-labels", "", [], _no_pseudo_labels(results))
    spread = {n: column(rows, "predicted_dice") for n, rows in refined.items()}
    figure = predicted_dice({n: dice for n, dice in spread.items() if dice}, _bounds(results))
    caption = "Each mark is a pseudo-label. The estimate comes from how sure the teacher is and how well its views agree."
    blocks: list[Block] = [
        _fate_table(results, refined),
        figures.add("predicted_dice", "Predicted Dice of the pseudo-labels", figure, caption),
        *_site_table(results, refined),
        _steps_table(refined),
        *_hindsight(results, figures),
        _case_table(results, max(refined), refined[max(refined)]),
    ]
    intro = "Predicted Dice is an estimate without a reference. The least certain cases are worth a reader's minutes first."
    return Section("pseudo-labels", "Pseudo-labels", intro, blocks)


def _no_pseudo_labels(results: Results) -> str:
    if not results.rounds:
        return "No pseudo-labels: this experiment has no rounds after the warm-up."
    if not any(results.schedule.has_pseudo_labels(number) for number in results.rounds):
        return "This method learns without pseudo-labels."
    return "No round has pseudo-labels yet."


def _bounds(results: Results) -> dict[int, float | None]:
    """The predicted Dice that a pseudo-label needs in each round: configured, or learned; None where all are used."""
    learned = to_number(results.document(results.layout.calibration).get("minimum_predicted_dice"))
    return {
        n: needed_dice(results.context.config_of_round(n).refine, learned) for n in results.rounds
    }


def _fate_table(results: Results, refined: Mapping[int, Sequence[Row]]) -> Table:
    rows = []
    for number, cases in refined.items():
        sources = Counter(
            row["source"] for row in results.table(LABELS, results.layout.labels_table(number))
        )
        counts = [count_cell(sources[source]) for source in SOURCES]
        rows.append([
            Cell(f"round {number}"), count_cell(len(cases)), *counts,
            number_cell(_median(column(cases, "predicted_dice"))), number_cell(mean(r.get("weight_mean") for r in cases)),
        ])  # fmt: skip
    titles = (
        "Round",
        "Unlabelled",
        *(name.capitalize() for name in SOURCES.values()),
        "Median predicted Dice",
        "Mean voxel weight",
    )
    return Table("What became of the unlabelled cases", titles, rows)


def _site_table(results: Results, refined: Mapping[int, Sequence[Row]]) -> list[Block]:
    """What became of the scans of each hospital, where there are several: one unlike the labelled scans shows here."""
    sites = sorted(
        {results.sites.get(case["case_id"], "") for cases in refined.values() for case in cases}
    )
    if len(sites) < 2:
        return []
    rows = []
    for number, cases in refined.items():
        labels = results.table(LABELS, results.layout.labels_table(number))
        used = {row["case_id"] for row in labels if row["source"] != "rejected"}
        for site in sites:
            own = [case for case in cases if results.sites.get(case["case_id"], "") == site]
            rows.append([
                Cell(f"round {number}"), Cell(site or "unnamed"), count_cell(len(own)),
                count_cell(sum(case["case_id"] in used for case in own)),
                number_cell(_median(column(own, "predicted_dice"))), number_cell(mean(r.get("weight_mean") for r in own)),
            ])  # fmt: skip
    titles = ("Round", "Site", "Unlabelled", "Used", "Median predicted Dice", "Mean voxel weight")
    return [Table("Pseudo-labels by site", titles, rows)]


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _steps_table(refined: Mapping[int, Sequence[Row]]) -> Table:
    rows = []
    for number, cases in refined.items():
        for step, meaning in (
            (step, meaning) for step, meaning in STEPS.items() if step in cases[0]
        ):
            changed = column(cases, step)
            touched = sum(value > 0 for value in changed)
            rows.append([
                Cell(f"round {number}"), Cell(step.replace("_", " ")), Cell(meaning),
                number_cell(sum(changed), 0), Cell(f"{touched} of {len(cases)}", touched, numeric=True),
            ])  # fmt: skip
    titles = ("Round", "Step", "Voxels that were", "Voxels", "Cases touched")
    return Table("What each step of the refinement changed", titles, rows, "round_<r>/refine.csv")


def _hindsight(results: Results, figures: Figures) -> list[Block]:
    """Pseudo-labels against withheld labels, where a benchmark has them."""
    groups: dict[str, Points] = {}
    summaries: dict[int, Mapping[str, Any]] = {}
    rows = []
    for number in results.rounds:
        scored = _true_dice(
            results.table(PSEUDO_LABEL_SCORES, results.layout.evaluation_pseudo_labels(number))
        )
        if scored:
            summary = (
                results.document(results.layout.evaluation_summary(number)).get("pseudo_labels")
                or {}
            )
            summaries[number] = summary
            groups[_group_name(number, scored, summary)] = unzip(scored)
            rows.append(_hindsight_row(number, summary))
    if not groups:
        return []
    titles = (
        "Round",
        "True Dice, all",
        "Accepted",
        "Rejected",
        "Rank correlation",
        "Within their 90% intervals",
        "Wrong voxels, kept",
        "Wrong voxels, low weight",
    )
    table = Table(
        "Pseudo-labels against the withheld labels",
        titles,
        rows,
        "round_<r>/evaluation/pseudo_labels.csv",
    )
    caption = "The withheld labels were read afterwards. Near the diagonal the estimate was right."
    return [
        table,
        figures.add(
            "predicted_against_true",
            "Predicted and true Dice",
            predicted_against_true(groups),
            caption,
        ),
        *_quality_charts(summaries, figures),
    ]


def _group_name(
    number: int, scored: Sequence[tuple[float, float]], summary: Mapping[str, Any]
) -> str:
    """The round with its rank correlation."""
    return (
        f"round {number}: Spearman {number_text(summary.get('spearman'), 2)}, {len(scored)} cases"
    )


def _quality_charts(summaries: Mapping[int, Mapping[str, Any]], figures: Figures) -> list[Block]:
    """What the verdicts and the weights were worth, by round."""

    def numbers(part: str, key: str) -> dict[int, float | None]:
        return {
            n: to_number((summary.get(part) or {}).get(key)) for n, summary in summaries.items()
        }

    panels = {
        "true Dice of the cases": {
            part: numbers(part, "mean") for part in ("accepted", "rejected")
        },
        "share of voxels wrong": {
            "kept": numbers("foreground_voxels", "kept_error"),
            "low weight": numbers("foreground_voxels", "low_weight_error"),
        },
    }
    caption = "Accepted cases should be better than rejected ones, kept voxels less often wrong than those of low weight."
    charts: list[Block] = [
        figures.add("pseudo_label_quality", "What selection was worth", by_round(panels), caption)
    ]
    curves = {
        f"round {n}": points for n, s in summaries.items() if (points := s.get("risk_coverage"))
    }
    if curves:
        series = {
            name: (column(points, "coverage"), column(points, "error"), column(points, "weight"))
            for name, points in curves.items()
        }
        caption = (
            "From the most trusted voxels on the left to all on the right; the mark is where “kept” ends. Weights that know"
            " right from wrong rise from low on the left."
        )
        charts.append(
            figures.add(
                "risk_coverage", "Risk and coverage of the voxels", risk_coverage(series), caption
            )
        )
    return charts


def _true_dice(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """Predicted and true mean Dice of each case that has both."""
    cases: dict[str, list[Row]] = {}
    for row in rows:
        cases.setdefault(row["case_id"], []).append(row)
    pairs = [
        (to_number(r[0]["predicted_dice"]), to_number(r[0].get("true_dice")))
        for r in cases.values()
    ]
    return [
        (predicted, dice) for predicted, dice in pairs if predicted is not None and dice is not None
    ]


def _hindsight_row(number: int, scores: Mapping[str, Any]) -> list[Cell]:
    voxels = scores.get("foreground_voxels") or {}
    return [
        Cell(f"round {number}"),
        *(
            number_cell((scores.get(which) or {}).get("mean"))
            for which in ("dice", "accepted", "rejected")
        ),
        number_cell(scores.get("spearman"), 2),
        number_cell(scores.get("interval_coverage"), 2),
        *(number_cell(voxels.get(which)) for which in ("kept_error", "low_weight_error")),
    ]


def _case_table(results: Results, number: int, cases: Sequence[Row]) -> Table:
    labels = {
        row["case_id"]: row for row in results.table(LABELS, results.layout.labels_table(number))
    }
    titles = (
        "Case", "Predicted Dice (90% interval)", "Became", "Why", "Mean voxel weight", "Dice with round before",
        *(f"{name} (ml)" for name in results.structures),
    )  # fmt: skip
    rows = [
        _case_row(results, case, labels.get(case["case_id"], {})) for case in least_certain(cases)
    ]
    caption = f"Pseudo-labels of round {number}, least certain first"
    return Table(caption, titles, rows, f"round_{number}/refine.csv and round_{number}/labels.csv")


def _case_row(results: Results, case: Row, label: Row) -> list[Cell]:
    source = label.get("source", "")
    return [
        Cell(case["case_id"]),
        estimate_cell(
            case.get("predicted_dice"),
            case.get("predicted_dice_low"),
            case.get("predicted_dice_high"),
        ),
        Cell(SOURCES.get(source, "–"), None, _tone(source)),
        *text_cells([_reason(case, label)]),
        number_cell(case.get("weight_mean"), 2),
        number_cell(case.get("previous_round_dice")),
        *(number_cell(case.get(f"volume_ml_{name}"), 1) for name in results.structures),
    ]


def _tone(source: str) -> str:
    return {"rejected": "bad", "corrected": "good", "accepted": "good"}.get(source, "")


def _reason(case: Row, label: Row) -> str:
    reviewer = label.get("reviewer")
    reason = label.get("reason") or case.get("reason", "")
    return f"{reviewer}: {reason}" if reviewer else reason


def least_certain(cases: Sequence[Row]) -> list[Row]:
    """Pseudo-labels by predicted Dice, lowest first, after those that were rejected."""
    return sorted(
        cases,
        key=lambda row: (row["accepted"], to_number(row.get("predicted_dice")) or 0.0),
    )


def gallery_section(results: Results) -> Section:
    """Pictures of the pseudo-labels, least certain first, the last round first, as far as the page can carry them."""
    blocks: list[Block] = []
    budget = GALLERY_BYTES
    for number in reversed(results.rounds):
        gallery = _gallery(results, number, budget)
        budget -= sum(len(picture.source) for picture in gallery.pictures)
        if gallery.pictures:
            blocks.append(gallery)
    intro = (
        "Above: slices through most of the foreground, seen from the left, from the front and from the feet (the patient's"
        " right is on the left), with the outline of each class. Below: the same slices, red where the voxel weight is low."
        " A click enlarges."
    )
    return Section(
        "gallery",
        "Pictures",
        intro,
        blocks,
        "No overlay pictures (refine.overlays and report.gallery say how many).",
    )


def _gallery(results: Results, number: int, budget: int) -> Gallery:
    from hstf.imaging.overlays import overlay_path

    config, folder = results.config.report, results.layout.pseudo_labels(number)
    labels = {
        row["case_id"]: row for row in results.table(LABELS, results.layout.labels_table(number))
    }
    cases = least_certain(results.table(REFINE, results.layout.refine(number)))
    pictures: list[Picture] = []
    for case in cases:
        path = overlay_path(folder, case["case_id"])
        if len(pictures) >= config.gallery or budget <= 0 or not path.is_file():
            continue
        if source := picture_address(path, config.gallery_pixels):
            budget -= len(source)
            pictures.append(_picture(case, labels.get(case["case_id"], {}), source))
    note = (
        f"{len(pictures)} of {counted(len(cases), 'pseudo-label')}, least certain first; in full size in"
        f" {overlay_path(folder, '<case>')}."
    )
    return Gallery(f"Round {number}", pictures, note, _legend(results))


def _picture(case: Row, label: Row, source: str) -> Picture:
    origin = label.get("source", "")
    facts = [f"predicted Dice {number_text(case.get('predicted_dice'))}", SOURCES.get(origin, "")]
    return Picture(
        case["case_id"],
        source,
        _tone(origin),
        "; ".join([f for f in facts if f] + [_reason(case, label)]),
    )


def _legend(results: Results) -> list[tuple[str, str]]:
    from hstf.imaging.overlays import COLOURS

    colours = [tuple(int(value) for value in colour) for colour in COLOURS[1:]]
    return [
        (name, f"rgb{colours[k % len(colours)]}")
        for k, name in enumerate(results.config.class_names[1:])
    ]


def overrides_section(results: Results) -> Section:
    """What people decided, and what was left out, in each round."""
    blocks: list[Block] = []
    for number in reversed(results.rounds):
        rows = results.table(LABELS, results.layout.labels_table(number))
        people = [
            row for row in rows if row.get("reviewer") or row["source"] in ("corrected", "accepted")
        ]
        rejected = [row for row in rows if row["source"] == "rejected" and row not in people]
        if people:
            blocks.append(_decision_table(f"Round {number}: decided by people", people, number))
        if rejected:
            blocks.append(_decision_table(f"Round {number}: not used", rejected, number))
    intro = "A person's word holds from its round on, over any score."
    missing = "Nothing was overridden and nothing left out."
    return Section("overrides", "Overrides", intro, blocks, missing)


def _decision_table(caption: str, rows: Sequence[Row], number: int) -> Table:
    titles = ("Case", "Became", "Reviewer", "Reason", "Since round", "Predicted Dice")
    body = [
        [
            Cell(row["case_id"]),
            Cell(SOURCES.get(row["source"], row["source"]), None, _tone(row["source"])),
            *text_cells([row.get("reviewer"), row.get("reason"), row.get("round")]),
            number_cell(row.get("predicted_dice")),
        ]
        for row in rows
    ]
    return Table(caption, titles, body, f"round_{number}/labels.csv")
