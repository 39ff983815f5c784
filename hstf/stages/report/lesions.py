"""The section about lesions: found, missed and invented, by round and by size."""

from collections.abc import Mapping, Sequence
from math import cbrt, pi
from typing import Any

from hstf.scoring.lesion_detection import FROC_RATES
from hstf.stages.report.figures import Figures, by_round, froc
from hstf.stages.report.page import (
    Block,
    Cell,
    Section,
    Table,
    count_cell,
    estimate_cell,
    number_cell,
    number_text,
    share_cell,
)
from hstf.stages.report.results import Results
from hstf.stages.report.scores import round_name

Found = Mapping[int, Mapping[str, Any]]
"""Detection of a class (or region) by round, see :func:`hstf.scoring.lesion_detection.summarise`."""


def lesions_section(results: Results, figures: Figures) -> Section:
    """Lesions one by one, for the classes or regions that ``lesions:`` names."""
    title, names = "Lesions", results.config.lesions
    if not names:
        missing = (
            f"No {results.kind} consists of lesions (“lesions” in the configuration names them)."
        )
        return Section("lesions", title, "", [], missing)
    summaries = {
        n: results.document(results.layout.evaluation_summary(n)).get("lesions", {})
        for n in (0, *results.rounds)
    }
    found = {name: {n: s[name] for n, s in summaries.items() if name in s} for name in names}
    found = {name: rounds for name, rounds in found.items() if rounds}
    if not found:
        return Section("lesions", title, "", [], "No round has scored lesions yet.")
    blocks: list[Block] = [_counts_table(found, results.kind), *_figures(found, figures)]
    blocks.append(_sizes_table(found, results.kind))
    return Section("lesions", title, _criterion_text(results), blocks)


def _criterion_text(results: Results) -> str:
    rule = results.config.evaluate.detection
    measure = {"iou": "IoU", "dice": "Dice"}[rule.measure]
    needed = f"an {measure} of at least {rule.minimum:g}" if rule.minimum else "a voxel in common"
    small = (
        f" Lesions below {rule.minimum_mm3:g} mm³ count for nothing." if rule.minimum_mm3 else ""
    )
    return (
        f"A lesion is a component of its {results.kind} ({rule.connectivity} neighbours). Predicted and true lesions are"
        f" matched one to one; a match needs {needed}.{small} Counts are pooled over the test scans, those without a lesion"
        f" included; intervals by bootstrap over patients ({results.config.evaluate.bootstrap} resamples)."
    )


def _counts_table(found: Mapping[str, Found], kind: str) -> Table:
    titles = (
        kind.capitalize(), "Round", "Lesions", "Found", "Missed", "False positives", "F1 (95% CI)", "Precision", "Recall",
        "False positives a scan", "FROC score", "Scans with one: found in", "Scans without: alarm in",
    )  # fmt: skip
    rows = [
        _counts_row(name, n, values)
        for name, rounds in found.items()
        for n, values in rounds.items()
    ]
    return Table("Lesions of the test scans", titles, rows, "round_<r>/evaluation/lesions.csv")


def _counts_row(name: str, number: int, values: Mapping[str, Any]) -> list[Cell]:
    f1, curve = values["f1"], values["froc"] or {}
    return [
        Cell(name), Cell(round_name(number)),
        *(count_cell(values[key]) for key in ("lesions", "hits", "missed", "false_positives")),
        estimate_cell(f1["mean"], f1["low"], f1["high"]),
        *(number_cell(values[key]["mean"]) for key in ("precision", "recall")),
        number_cell(values["false_positives_per_scan"], 2), number_cell(curve.get("score")),
        share_cell(values["cases_found"], values["cases_with"]),
        share_cell(values["false_alarms"], values["cases_without"]),
    ]  # fmt: skip


def _figures(found: Mapping[str, Found], figures: Figures) -> list[Block]:
    rates = {
        f"{name}: share (0 to 1)": {
            label: {n: values[key]["mean"] for n, values in rounds.items()}
            for key, label in (("f1", "F1"), ("precision", "precision"), ("recall", "recall"))
        }
        for name, rounds in found.items()
    }
    curves = {
        name: {
            round_name(n): values["froc"]["points"]
            for n, values in rounds.items()
            if values["froc"]
        }
        for name, rounds in found.items()
    }
    curves = {name: rounds for name, rounds in curves.items() if rounds}
    charts: list[Block] = [
        figures.add(
            "lesions_by_round",
            "Lesions by round",
            by_round(rates),
            "Lesion by lesion, pooled over the test scans.",
        )
    ]
    if curves:
        rates_text = ", ".join(f"{rate:g}" for rate in FROC_RATES)
        caption = (
            "Each predicted lesion is a component of the segmentation, scored by its mean probability; the mark is the"
            " segmentation itself, where the curve ends. FROC score: mean share of lesions found at"
            f" {rates_text} false positives a scan."
        )
        charts.append(figures.add("froc", "Free-response curve (FROC)", froc(curves), caption))
    return charts


def _sizes_table(found: Mapping[str, Found], kind: str) -> Table:
    """Recall by the size of the true lesion, in each round."""
    numbers = sorted({n for rounds in found.values() for n in rounds})
    rows = [row for name, rounds in found.items() for row in _size_rows(name, rounds, numbers)]
    titles = (
        kind.capitalize(),
        "Volume of the lesion",
        "Lesions",
        *(f"Recall, {round_name(n)}" for n in numbers),
    )
    return Table("Recall by size", titles, rows)


def _size_rows(name: str, rounds: Found, numbers: Sequence[int]) -> list[list[Cell]]:
    last = rounds[max(rounds)]["recall_by_size"]
    recalls = {
        n: [size["recall"] for size in values["recall_by_size"]] for n, values in rounds.items()
    }
    return [
        [
            Cell(name), Cell(_size_text(size["from_mm3"], size["to_mm3"]), size["from_mm3"]), count_cell(size["lesions"]),
            *(number_cell(recalls[n][index] if n in recalls else None) for n in numbers),
        ]
        for index, size in enumerate(last)
    ]  # fmt: skip


def _size_text(low: float, high: float | None) -> str:
    """A range of volumes (mm³) and the diameters (mm) of spheres of that size."""
    volumes = [number_text(v, 0) for v in (low, high) if v is not None]
    widths = [f"{cbrt(6 * v / pi):.0f}" for v in (low, high) if v is not None]
    if high is None:
        return f"from {volumes[0]} mm³ (⌀ {widths[0]} mm)"
    if not low:
        return f"below {volumes[1]} mm³ (⌀ {widths[1]} mm)"
    return f"{volumes[0]} to {volumes[1]} mm³ (⌀ {widths[0]} to {widths[1]} mm)"
