"""Section about the rounds: scores of the test cases, round by round."""

from typing import Any

from hstf.experiment.schedule import is_fold
from hstf.scoring.absent_classes import Presence, absence_warnings, may_be_absent
from hstf.scoring.control import CONTROL_NAME, control_sentence
from hstf.stages.report.figure_style import Figures
from hstf.stages.report.figures import dice_by_round, paired_cases
from hstf.stages.report.headline import WORSE, verdict
from hstf.stages.report.monitoring import choice_note, monitoring_table
from hstf.stages.report.page import (
    Block,
    Note,
    Section,
    Table,
    round_name,
    to_number,
)
from hstf.stages.report.results import Results
from hstf.stages.report.tables import Column, make_table

COLUMNS = (
    Column("name", "Round"),
    Column("pseudo_labelled", "Pseudo-labelled", digits=0),
    Column("corrected", "Corrected by a reviewer", digits=0),
    Column("rejected", "Not used", digits=0),
    Column("members", "Members", digits=0),
    Column("dice", "Dice (95% CI)", digits=3, interval=True),
    Column("gain", "Change (95% CI)", digits=3, interval=True, signed=True, tone="tone"),
    Column("p_value", "p", is_p_value=True),
    Column("dice_single", "Dice of one member", digits=3),
    Column("hd95_mm", "HD95 (mm)", digits=1),
    Column("asd_mm", "ASD (mm)", digits=2),
)
"""Columns of the table of rounds; names as in ``rounds.csv``."""


def rounds_section(results: Results, figures: Figures) -> Section:
    """Return tables and figures of the rounds."""
    blocks: list[Block] = []
    if results.scores:
        blocks.append(_rounds_table(results))
        blocks += _control_note(results)
        blocks += choice_note(results)
        blocks += monitoring_table(results)
        blocks += _warnings(results)
        blocks.append(_structures_table(results))
        blocks += _presence_table(results)
    if any(to_number(row["dice"]) is not None for row in results.scores):
        blocks.append(_rounds_figure(results, figures))
    if results.rounds:
        blocks += _paired_figure(results, figures)
    intro = (
        "Change and p compare a round with the warm-up on the same test scans. Dice of one member"
        " is the mean Dice of the single ensemble members. It shows how much of a gain comes from"
        f" self-training, and how much from averaging several networks.{_other_causes(results)}"
    )
    return Section("rounds", "Rounds", intro, blocks, "No round is evaluated yet.")


def _other_causes(results: Results) -> str:
    """Return what can change the Dice apart from the unlabelled scans."""
    if results.schedule.learns_from(results.last) == "labels":
        return ""
    cause = " The training of students may also have another length than that of the warm-up"
    if any(is_fold(member) for member in results.schedule.members(0)):
        cause += ", whose networks have each seen a part of the labels"
    if results.control is not None:
        return f"{cause}. The control differs in the same way and learns from the labels only."
    advice = "run"
    if results.can_have_control:
        advice = "set “evaluate.control: true”, or run"
        if results.config.evaluate.control:
            advice = "wait for the scores of the control, or run"
    return (
        f"{cause}. The method supervised differs in the same way and learns from the labels only."
        f" To separate the two, {advice} “snakemake compare” with a section “compare:”, which"
        f" compares supervised with {results.config.method}."
    )


def _rounds_table(results: Results) -> Table:
    rows = []
    for row in results.scores:
        rows.append({**row, "name": round_name(row["round"]), "tone": verdict(row)[1]})
    if results.control is not None:
        control = results.control.row
        rows.append({**control, "name": CONTROL_NAME, "tone": verdict(control)[1]})
    return make_table("Scores of the test cases in each round", COLUMNS, rows, "rounds.csv")


def _control_note(results: Results) -> list[Note]:
    """Return what the unlabelled scans add, if the experiment has a control."""
    if results.control is None:
        return []
    return [Note([control_sentence(results.control)], title="What the unlabelled scans add")]


def _structures_table(results: Results) -> Table:
    """Return the Dice of each class or region in each round, and the change since the warm-up."""
    columns = [Column("name", results.kind.capitalize())]
    columns += [
        Column(str(row["round"]), round_name(row["round"]), digits=3) for row in results.scores
    ]
    columns.append(Column("change", "Change", digits=3, signed=True, tone="tone"))
    rows = []
    for name in results.structures:
        dices = {str(row["round"]): to_number(row[f"dice_of_{name}"]) for row in results.scores}
        values = list(dices.values())
        change = None
        if len(values) > 1 and not results.has_other_warmup_cases:
            change = difference(values[-1], values[0])
        rows.append({"name": name, **dices, "change": change, "tone": change_tone(change)})
    return make_table(f"Dice of each {results.kind}", columns, rows, "rounds.csv")


def difference(new: float | None, old: float | None) -> float | None:
    """Return ``new - old``; None if one of them is missing."""
    return None if new is None or old is None else new - old


def change_tone(change: float | None) -> str:
    """Return the tone of a change of Dice; small changes have none."""
    known = to_number(change)
    if known is None or abs(known) < WORSE:
        return ""
    return "good" if known > 0 else "bad"


def _warnings(results: Results) -> list[Note]:
    """Return a warning about classes whose scores are no evidence."""
    lines = []
    for row in results.scores:
        name = round_name(row["round"]).capitalize()
        lines += [
            f"{name}: {sentence}" for sentence in absence_warnings(results.presence(row["round"]))
        ]
    return (
        [
            Note(
                lines,
                "warn",
                title="Scores that are no evidence",
            )
        ]
        if lines
        else []
    )


def _presence_table(results: Results) -> list[Table]:
    """Return how well classes that a scan may lack are found, if there are any."""
    found = {row["round"]: results.presence(row["round"]) for row in results.scores}
    absent: set[str] = set()
    for structures in found.values():
        absent.update(may_be_absent(structures))
    rows = []
    for name in results.structures:
        for number, structures in found.items():
            if name in absent and name in structures:
                rows.append(_presence_row(name, number, structures[name]))
    if not rows:
        return []
    columns = [
        Column("name", results.kind.capitalize()),
        Column("round", "Round"),
        Column("present", "Scans that have it", digits=0),
        Column("dice", "Dice in these scans", digits=3),
        Column("found", "Found, at least in part", of="present", tone="tone"),
        Column("false_alarms", "Predicted in scans without it", of="absent"),
    ]
    return [make_table(f"{results.kinds.capitalize()} that a scan may lack", columns, rows)]


def _presence_row(
    name: str,
    number: int,
    found: Presence,
) -> dict[str, Any]:
    present = found.present
    absent = found.absent
    is_rare = present.predicted < present.cases / 2
    return {
        "name": name,
        "round": round_name(number),
        "present": present.cases,
        "dice": present.dice.mean,
        "found": present.found,
        "tone": "bad" if is_rare else "",
        "absent": absent.cases,
        "false_alarms": absent.false_alarms,
    }


def _rounds_figure(results: Results, figures: Figures) -> Block:
    columns: dict[str, list[float | None]] = {}
    names = [f"dice_of_{name}" for name in results.structures]
    for key in ("dice", "dice_low", "dice_high", *names):
        columns[key] = [to_number(row[key]) for row in results.scores]
    figure = dice_by_round(
        [row["round"] for row in results.scores],
        columns["dice"],
        columns["dice_low"],
        columns["dice_high"],
        {name: columns[f"dice_of_{name}"] for name in results.structures},
    )
    caption = (
        f"Thick line and numbers below: mean over the {results.kinds}, with its 95% confidence"
        f" interval over patients. Thin lines: each {results.kind}."
    )
    return figures.add("dice_by_round", "Dice by round", figure, caption)


def _paired_figure(results: Results, figures: Figures) -> list[Block]:
    """Return each test case in the warm-up and in the last round."""
    before = results.case_dice(0)
    after = results.case_dice(results.last)
    names = [name for name in before if name in after]
    if not names:
        return []
    last = round_name(results.last)
    figure = paired_cases(
        names,
        [before[name] for name in names],
        [after[name] for name in names],
        ("warm-up", last),
    )
    caption = (
        "One marker for each scan. Scans above the diagonal are better in the last round, scans"
        " below it are worse. The largest losses are named."
    )
    return [figures.add("paired_cases", f"Each test scan, warm-up and {last}", figure, caption)]
