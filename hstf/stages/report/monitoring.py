"""Part of the section about the rounds: which round is exported, and what decided it."""

from hstf.scoring.averages import mean
from hstf.scoring.monitoring import RoundMonitor
from hstf.stages.report.page import Note, Table, round_name
from hstf.stages.report.results import Results
from hstf.stages.report.tables import Column, make_table

COLUMNS = (
    Column("name", "Round"),
    Column("validation", "Validation Dice", digits=3),
    Column("members", "Agreement of members (Dice)", digits=3),
    Column("teacher", "Agreement with the teacher (Dice)", digits=3),
)


def choice_note(results: Results) -> list[Note]:
    """Return which round is exported and why; nothing before all rounds are done."""
    choice = results.choice
    if choice is None or not results.layout.evaluation_summary(choice.round).is_file():
        return []
    tone = "bad" if choice.round in choice.collapsed else "warn" if choice.collapsed else ""
    text = f"{round_name(choice.round).capitalize()} is exported. {choice.reason}"
    return [Note([text], tone, title="Exported model")]


def monitoring_table(results: Results) -> list[Table]:
    """Return the label-free evidence and the validation Dice by round, if there are any."""
    rows = []
    structures: list[str] = []
    cases = 0
    validation = results.choice.validation if results.choice else {}
    for number in (0, *results.rounds):
        monitor = results.monitor(number)
        if monitor is None and number not in validation:
            continue
        row = {"name": round_name(number), "validation": validation.get(number)}
        if monitor is not None:
            structures = list(monitor.structures)
            cases = monitor.cases
            row |= _monitored(monitor)
        rows.append(row)
    if not rows:
        return []
    columns = list(COLUMNS)
    for name in structures:
        columns.append(Column(f"ml_{name}", f"{name}: mean ml", digits=2))
        columns.append(Column(f"present_{name}", f"{name}: found in", digits=0))
    title = "What decides which round is exported"
    if cases:
        title += f" ({cases} unlabelled scans, no label of them is read)"
    return [make_table(title, columns, rows)]


def _monitored(monitor: RoundMonitor) -> dict[str, float | None]:
    row: dict[str, float | None] = {
        "members": mean(monitor.member_dice.values()),
        "teacher": mean(monitor.teacher_dice.values()),
    }
    for name, found in monitor.structures.items():
        row[f"ml_{name}"] = found.mean_ml
        row[f"present_{name}"] = found.present
    return row
