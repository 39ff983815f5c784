"""Section about external teachers: their Dice, their weights, and the cases they miss."""

from collections import Counter
from typing import Any

from hstf.experiment.cases import Split
from hstf.experiment.round_tables import EXTERNAL
from hstf.method.external_weights import ExternalWeights, TeacherWeights
from hstf.stages.report.page import Block, Note, Section, counted, some_of
from hstf.stages.report.results import Results
from hstf.stages.report.tables import Column, make_table

COLUMNS = (
    Column("teacher", "External teacher"),
    Column("group", "Class"),
    Column("dice", "Its Dice", digits=3),
    Column("ensemble", "Dice of the ensemble", digits=3),
    Column("mixed", "Dice of the mixture", digits=3),
    Column("weight", "Weight"),
    Column("reason", "Because"),
)
MAXIMUM_CASES = 5
"""Cases that are named for each reason."""
INTRODUCTION = (
    "Models of others that predict beside the ensemble. They have learned from none of the labelled"
    " cases, so that their Dice there shows how good they are. The Dice of the ensemble is that of"
    " its out-of-fold predictions. A class that does not raise this Dice by more than its standard"
    " error is dropped."
)


def external_section(results: Results) -> Section:
    """Return Dice and weight of each external teacher and class, and the missing cases."""
    title = "External teachers"
    weights = results.external_weights
    if weights is None:
        return Section("external", title, "", [], "They have not been measured yet.")
    rows = []
    blocks: list[Block] = []
    for name, teacher in weights.teachers.items():
        rows += _rows(name, teacher)
        blocks += _missing(results, name)
    table = make_table(
        "External teachers on the labelled cases", list(COLUMNS), rows, "external/weights.json"
    )
    blocks = [table, *_notes(weights), *blocks]
    return Section("external", title, INTRODUCTION, blocks)


def _rows(name: str, teacher: TeacherWeights) -> list[dict[str, Any]]:
    rows = []
    for group, found in teacher.groups.items():
        rows.append(
            {
                "teacher": name,
                "group": group,
                "dice": found.dice,
                "ensemble": found.ensemble_dice,
                "mixed": found.mixed_dice,
                "weight": f"{found.weight:g}" if found.weight else "dropped",
                "reason": found.reason,
            }
        )
    return rows


def _notes(weights: ExternalWeights) -> list[Note]:
    """Return what else a reader must know about the teachers."""
    lines = []
    for name, teacher in weights.teachers.items():
        if not teacher.is_used:
            lines.append(
                f"{name}: no class has a weight, so that it does not predict the unlabelled cases."
            )
        if teacher.other_values:
            listed = some_of([str(value) for value in teacher.other_values], 10)
            lines.append(f"{name}: values without a class are background: {listed}.")
    return [Note(lines)] if lines else []


def _missing(results: Results, name: str) -> list[Note]:
    """Return the cases without a prediction of a teacher, by reason."""
    rows = _predictions(results, name)
    missing = [row for row in rows if row["missing"]]
    if not missing:
        return []
    lines = []
    for reason, count in Counter(row["missing"] for row in missing).most_common(10):
        cases = list(dict.fromkeys(r["case_id"] for r in missing if r["missing"] == reason))
        lines.append(f"{counted(count, 'prediction')}: {reason} ({some_of(cases, MAXIMUM_CASES)})")
    title = (
        f"{name}: {len(missing)} of {len(rows)} predictions are missing. These cases are labelled"
        " without it."
    )
    return [Note(lines, "warn", title=title)]


def _predictions(results: Results, name: str) -> list[dict[str, Any]]:
    """Return the rows of all tables of a teacher."""
    context = results.context
    rows = []
    for number in (0, *results.rounds):
        for split in (Split.LABELLED, Split.UNLABELLED):
            for shard in context.shards(split):
                path = results.layout.external_table(name, shard, number)
                frame = results.frame(EXTERNAL, path)
                for case_id, missing in zip(frame["case_id"], frame["missing"], strict=True):
                    rows.append({"case_id": case_id, "missing": missing})
    return rows
