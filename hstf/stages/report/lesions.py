"""Section about lesions: found, missed and falsely predicted lesions by round and by size."""

from collections.abc import Mapping
from math import cbrt, pi
from typing import Any

from hstf.scoring.lesion_summary import FROC_RATES, LesionSummary
from hstf.scoring.rounds import lesion_warnings
from hstf.stages.report.figure_style import Figures
from hstf.stages.report.figures import by_round, froc
from hstf.stages.report.page import Block, Note, Section, Table, number_text, round_name
from hstf.stages.report.results import Results
from hstf.stages.report.tables import Column, make_table

COLUMNS = (
    Column("round", "Round"),
    Column("lesions", "Lesions", digits=0),
    Column("hits", "Found", digits=0),
    Column("missed", "Missed", digits=0),
    Column("false_positives", "False positives", digits=0),
    Column("f1", "F1 (95% CI)", digits=3, interval=True),
    Column("precision", "Precision", digits=3),
    Column("recall", "Recall", digits=3),
    Column("false_positives_per_scan", "False positives per scan", digits=2),
    Column("froc_score", "FROC score", digits=3),
    Column("cases_found", "Scans with lesions: some found", of="cases_with"),
    Column("false_alarms", "Scans without lesions: false alarm", of="cases_without"),
)
"""Columns of the table of lesions, after the class; names as in ``summary.json``."""
MEASURES = {"iou": "IoU", "dice": "Dice"}

Found = Mapping[int, LesionSummary]
"""Detection of a class or region by round."""


def lesions_section(results: Results, figures: Figures) -> Section:
    """Return scores lesion by lesion, for the classes or regions named in ``lesions``."""
    title = "Lesions"
    if not results.config.lesions:
        missing = (
            f"No {results.kind} consists of lesions. Name such {results.kinds} under “lesions” in"
            " the configuration."
        )
        return Section("lesions", title, "", [], missing)
    found = _found_lesions(results)
    if not found:
        return Section("lesions", title, "", [], "No round has scores of lesions yet.")
    blocks: list[Block] = [*_dropped(results), _counts_table(found, results.kind)]
    blocks += _figures(found, figures)
    blocks.append(_sizes_table(found, results.kind))
    return Section("lesions", title, _definition(results), blocks)


def _dropped(results: Results) -> list[Note]:
    """Warn of lesions that no pseudo-label has."""
    lines = []
    for number in results.rounds:
        lines += lesion_warnings(results.context, number)
    return [Note(lines, "warn", title="Lesions that students cannot learn")] if lines else []


def _found_lesions(results: Results) -> dict[str, Found]:
    """Return the detection of each class that has scores."""
    found: dict[str, dict[int, LesionSummary]] = {}
    for number in (0, *results.rounds):
        summary = results.summary(number)
        if summary is not None:
            for name, scores in summary.lesions.items():
                found.setdefault(name, {})[number] = scores
    # In the order of the configuration, whichever round was scored first.
    return {name: found[name] for name in results.config.lesions if name in found}


def _definition(results: Results) -> str:
    """Return what a lesion and a match are."""
    rule = results.config.evaluate.detection
    overlap = "a common voxel"
    if rule.minimum:
        overlap = f"an {MEASURES[rule.measure]} of at least {rule.minimum:g}"
    sentences = [
        f"A lesion is a connected component of its {results.kind} ({rule.connectivity} neighbours)."
        " Predicted lesions and lesions of the reference are matched one to one. A match needs"
        f" {overlap}."
    ]
    if rule.minimum_mm3:
        sentences.append(f"Lesions below {rule.minimum_mm3:g} mm³ are not counted.")
    sentences.append(
        "The counts are sums over all test scans, with and without lesions. Confidence intervals:"
        f" bootstrap over patients ({results.config.evaluate.bootstrap} resamples)."
    )
    return " ".join(sentences)


def _counts_table(found: Mapping[str, Found], kind: str) -> Table:
    rows = []
    for name, rounds in found.items():
        for number, scores in rounds.items():
            rows.append({"name": name, "round": round_name(number), **_flat(scores)})
    columns = [Column("name", kind.capitalize()), *COLUMNS]
    source = "round_<r>/evaluation/lesions.csv"
    return make_table("Lesions of the test scans", columns, rows, source)


def _flat(scores: LesionSummary) -> dict[str, Any]:
    """Return the scores of a class without nested parts."""
    row = scores.model_dump()
    row |= _rates(scores)
    row["f1_low"] = scores.f1.low
    row["f1_high"] = scores.f1.high
    row["froc_score"] = scores.froc.score if scores.froc else None
    return row


def _rates(scores: LesionSummary) -> dict[str, float | None]:
    return {
        "f1": scores.f1.mean,
        "precision": scores.precision.mean,
        "recall": scores.recall.mean,
    }


def _figures(found: Mapping[str, Found], figures: Figures) -> list[Block]:
    panels = {}
    curves: dict[str, dict[str, Any]] = {}
    for name, rounds in found.items():
        lines: dict[str, dict[int, float | None]] = {}
        for number, scores in rounds.items():
            for rate, value in _rates(scores).items():
                lines.setdefault(rate.replace("f1", "F1"), {})[number] = value
            if scores.froc:
                curves.setdefault(name, {})[round_name(number)] = scores.froc.points
        panels[f"{name}: fraction (0 to 1)"] = lines
    caption = "F1, precision and recall of lesions, over all test scans."
    figure = by_round(panels)
    charts: list[Block] = [figures.add("lesions_by_round", "Lesions by round", figure, caption)]
    if curves:
        rates = ", ".join(f"{rate:g}" for rate in FROC_RATES)
        caption = (
            "The score of a predicted lesion is its mean probability. The marker is the"
            " segmentation itself, where all predicted lesions count. FROC score: mean recall at"
            f" {rates} false positives per scan."
        )
        title = "Free-response curve (FROC)"
        charts.append(figures.add("froc", title, froc(curves), caption))
    return charts


def _sizes_table(found: Mapping[str, Found], kind: str) -> Table:
    """Return the recall by the size of the lesion, in each round."""
    numbers: set[int] = set()
    rows = []
    for name, rounds in found.items():
        numbers.update(rounds)
        last_sizes = rounds[max(rounds)].recall_by_size
        for index, size in enumerate(last_sizes):
            row: dict[str, Any] = {
                "name": name,
                "size": _size_text(size.from_mm3, size.to_mm3),
                "lesions": size.lesions,
            }
            for number, scores in rounds.items():
                row[f"recall_{number}"] = scores.recall_by_size[index].recall
            rows.append(row)
    columns = [
        Column("name", kind.capitalize()),
        Column("size", "Volume of the lesion"),
        Column("lesions", "Lesions", digits=0),
    ]
    for number in sorted(numbers):
        columns.append(Column(f"recall_{number}", f"Recall, {round_name(number)}", digits=3))
    return make_table("Recall by size", columns, rows)


def _size_text(low: float, high: float | None) -> str:
    """Write a range of volumes (mm³) with the diameters (mm) of spheres of these volumes."""
    if high is None:
        return f"from {number_text(low, 0)} mm³ (⌀ {_diameter(low)} mm)"
    if not low:
        return f"below {number_text(high, 0)} mm³ (⌀ {_diameter(high)} mm)"
    volumes = f"{number_text(low, 0)} to {number_text(high, 0)} mm³"
    return f"{volumes} (⌀ {_diameter(low)} to {_diameter(high)} mm)"


def _diameter(volume_mm3: float) -> str:
    return f"{cbrt(6 * volume_mm3 / pi):.0f}"
