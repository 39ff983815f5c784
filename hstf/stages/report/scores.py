"""Sections about how good the models are: headline, rounds, test cases."""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from hstf.config.methods import METHODS
from hstf.experiment.tables import EVALUATION_CASES, LABELS
from hstf.scoring.absent_classes import doubts, may_be_absent
from hstf.scoring.averages import mean
from hstf.scoring.rounds import case_dice as round_dice
from hstf.stages.report.figures import Figures, dice_by_round, paired_cases
from hstf.stages.report.page import (
    DASH,
    Block,
    Cell,
    Note,
    Section,
    Table,
    count_cell,
    counted,
    estimate_cell,
    interval_text,
    number_cell,
    number_text,
    p_text,
    share_cell,
    text_cells,
)
from hstf.stages.report.results import Results, to_number

WORSE = 0.02
"""A test case or class whose Dice fell by more is worth a look."""
MOST_NAMED = 8
Row = Mapping[str, Any]


def round_name(number: int) -> str:
    """``warm-up`` or ``round 1``."""
    return f"round {number}" if number else "warm-up"


def headline(results: Results) -> Note:
    """What came out, in a sentence with numbers, and what it rests on."""
    scored = [row for row in results.scores if to_number(row.get("dice")) is not None]
    if not scored:
        return Note([
            *_method(results),
            "No test scores yet: this report cannot say whether self-training helped.",
            "With test cases in the case sheet (split: test), each round is scored on them. Until then the predicted"
            " Dice of the pseudo-labels below is the only measure, and it is an estimate.",
        ])  # fmt: skip
    first, last = scored[0], scored[-1]
    if last is first or to_number(last.get("gain")) is None:
        text = f"The {_model(first)} reaches a mean test Dice of {_dice_with_interval(first)}."
        text = " ".join([text, *doubts(results.presence(first["round"]))])
        return Note([text, *_method(results), _basis(results, first)])
    change, low, high = (to_number(last.get(key)) for key in ("gain", "gain_low", "gain_high"))
    verdict, tone = _verdict(last)
    p_value = p_text(last.get("p_value"))
    interval = (
        f"95% CI {interval_text(low, high, signed=True)}" if low is not None else "no interval"
    )
    sentence = (
        f"After {counted(int(last['round']), 'round')}{_of_what(results)} the mean test Dice {verdict}:"
        f" {number_text(first['dice'])} (warm-up) → {number_text(last['dice'])} (round {last['round']}),"
        f" a change of {number_text(change, signed=True)} ({interval}{', ' + p_value if p_value else ''})."
    )
    doubted = doubts(results.presence(last["round"]))
    lines = [" ".join([sentence, *doubted]), *_method(results), _basis(results, last)]
    return Note(lines, "warn" if doubted else tone)


LEARNS_FROM = {
    "pseudo_labels": "the labelled scans and pseudo-labels of the unlabelled ones",
    "images": "the labelled scans and the unlabelled ones as images, without pseudo-labels",
    "labels": "the labelled scans alone",
}


def _method(results: Results) -> list[str]:
    """The method by name, and what its students learn from; a ceiling is called one."""
    config = results.config
    lines = [
        f"Method {config.method}: {METHODS[config.method].description}. Its students learn from"
        f" {LEARNS_FROM[results.schedule.learns_from(results.schedule.last)]}."
    ]
    if config.withheld_labels:
        lines.append(
            "The unlabelled scans were learned from with their withheld labels (withheld_labels): this is the ceiling of a"
            " benchmark, not a result of learning from few labels."
        )
    return lines


def _model(row: Row) -> str:
    return "warm-up model" if row["round"] == 0 else f"model of round {row['round']}"


def _dice_with_interval(row: Row) -> str:
    interval = interval_text(row.get("dice_low"), row.get("dice_high"))
    return number_text(row["dice"]) + (
        f" (95% CI {interval})" if to_number(row.get("dice_low")) is not None else ""
    )


def _verdict(row: Row) -> tuple[str, str]:
    """Words and tone: a change needs an interval without zero and p < 0.05, since few patients give narrow intervals."""
    low, high, p_value = (to_number(row.get(key)) for key in ("gain_low", "gain_high", "p_value"))
    if p_value is not None and p_value < 0.05:
        if low is not None and low > 0:
            return "rose", "good"
        if high is not None and high < 0:
            return "fell", "bad"
    return "did not change beyond chance", ""


def _basis(results: Results, row: Row) -> str:
    config, caveat = results.config, row.get("note")
    summary = results.document(results.layout.evaluation_summary(row["round"]))
    patients = summary.get("patients")
    scored = (
        f"{counted(summary['cases'], 'test scan')} of {counted(patients, 'patient')}"
        if patients
        else "the test scans"
    )
    structures = counted(len(results.structures), results.kind, results.kinds)
    absent = EMPTY_TEXT[config.evaluate.empty].format(kind=results.kind)
    return (
        f"Mean over {structures} ({', '.join(results.structures)}) of the mean Dice over {scored}, in native space."
        f" {absent} Intervals by bootstrap over patients ({config.evaluate.bootstrap} resamples),"
        f" p by Wilcoxon's signed-rank test. Nothing was chosen on the test scans.{f' Note: {caveat}.' if caveat else ''}"
    )


EMPTY_TEXT = {
    "exclude": "A scan in which neither reference nor prediction has a {kind} does not count for it; a {kind} missed,"
    " or predicted where it is not, counts 0.",
    "one": "A {kind} that neither reference nor prediction has counts 1 (evaluate.empty), so a model that never predicts it"
    " is paid for every scan without it; a {kind} missed, or predicted where it is not, counts 0.",
}  # fmt: skip


def _of_what(results: Results) -> str:
    return (
        " of self-training"
        if any(results.schedule.has_pseudo_labels(n) for n in results.rounds)
        else ""
    )


def look_first(results: Results) -> Note | None:
    """What deserves a person's time first."""
    lines = [*results.faults, *_worse_classes(results), *_worse_cases(results)]
    last = results.rounds[-1:]
    rejected = [
        r["case_id"]
        for n in last
        for r in results.table(LABELS, results.layout.labels_table(n))
        if r["source"] == "rejected" and not r["reviewer"]
    ]
    if rejected:
        lines.append(
            f"{counted(len(rejected), 'unlabelled case')} taught the last round nothing: {_some(rejected)}."
            " Their predicted Dice is the lowest, or they lack a class (the reason stands in labels.csv); correcting them by"
            " hand is worth the most."
        )
    return Note(lines, "warn", title="Look at these first") if lines else None


def _worse_classes(results: Results) -> list[str]:
    rounds = results.scores
    if len(rounds) < 2:
        return []
    changes = {
        name: _difference(rounds[-1], rounds[0], f"dice_{name}") for name in results.structures
    }
    return [
        f"Dice of {name} fell from {number_text(rounds[0][f'dice_{name}'])} to {number_text(rounds[-1][f'dice_{name}'])}."
        for name, change in changes.items()
        if change is not None and change < -WORSE / 2
    ]


def _difference(new: Row, old: Row, key: str) -> float | None:
    values = to_number(new.get(key)), to_number(old.get(key))
    return None if values[0] is None or values[1] is None else values[0] - values[1]


def _worse_cases(results: Results) -> list[str]:
    before, after = (case_dice(results, number) for number in (0, results.schedule.last))
    changes = {name: after[name] - before[name] for name in after if name in before}
    worse = sorted(
        (name for name, change in changes.items() if change < -WORSE),
        key=lambda name: changes[name],
    )
    if not worse:
        return []
    lost = ", ".join(
        f"{name} ({number_text(changes[name], signed=True)})" for name in worse[:MOST_NAMED]
    )
    return [
        f"{counted(len(worse), 'test scan')} lost more than {WORSE} Dice against the warm-up: {lost}."
    ]


def _some(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def case_dice(results: Results, number: int) -> dict[str, float]:
    """Mean Dice over the classes or regions of each test case in a round, where it has one."""
    if not results.table(EVALUATION_CASES, results.layout.evaluation_cases(number)):
        return {}
    return {
        name: dice for name, dice in round_dice(results.context, number).items() if not isnan(dice)
    }


def rounds_section(results: Results, figures: Figures) -> Section:
    """The rounds in numbers and as curves."""
    blocks: list[Block] = []
    if results.scores:
        blocks += [
            _rounds_table(results),
            *_doubts(results),
            _classes_table(results),
            *_presence_table(results),
        ]
    if any(to_number(row["dice"]) is not None for row in results.scores):
        blocks.append(_rounds_figure(results, figures))
    if results.schedule.last:
        blocks += _paired_figure(results, figures)
    return Section(
        "rounds", "Rounds",
        "Change and p compare with the warm-up on the same test scans. “Dice of one member” is the mean Dice of each member"
        " alone: it tells a gain by self-training from one by averaging several networks."
        f"{_other_sources(results)}",
        blocks, "No round is finished yet.",
    )  # fmt: skip


def _other_sources(results: Results) -> str:
    """What else than unlabelled scans a change may come of; nothing where students see the labels alone."""
    if results.schedule.learns_from(results.schedule.last) == "labels":
        return ""
    return (
        " Students differ from the warm-up in more than what the unlabelled scans teach: they are trained further, and on"
        " the labels of all folds. Method supervised does these two alone; “snakemake compare” sets it beside"
        f" {results.config.method}."
    )


ROUND_COUNTS = {
    "pseudo_labelled": "Pseudo-labelled", "corrected": "Corrected by people", "rejected": "Not used",
    "members": "Members",
}  # fmt: skip


def _rounds_table(results: Results) -> Table:
    titles = (
        "Round", *ROUND_COUNTS.values(), "Dice (95% CI)", "Change (95% CI)", "p", "Dice of one member", "HD95 (mm)",
        "ASD (mm)",
    )  # fmt: skip
    rows = [_round_row(row) for row in results.scores]
    return Table("Every round, scored on the test cases", titles, rows, "rounds.csv")


def _round_row(row: Row) -> list[Cell]:
    change, low, high = (row.get(key) for key in ("gain", "gain_low", "gain_high"))
    p_value = p_text(row.get("p_value")).removeprefix("p = ").removeprefix("p ")
    return [
        Cell(round_name(row["round"])),
        *(count_cell(row[key]) for key in ROUND_COUNTS),
        estimate_cell(row["dice"], row["dice_low"], row["dice_high"]),
        estimate_cell(change, low, high, signed=True, tone=_verdict(row)[1]),
        Cell(p_value or DASH, to_number(row.get("p_value")), numeric=True),
        number_cell(row["dice_single"]),
        number_cell(row["hd95_mm"], 1),
        number_cell(row["asd_mm"], 2),
    ]


def _classes_table(results: Results) -> Table:
    """Dice of each class or region in each round, and its change from the warm-up to the last."""
    columns = {
        name: [row.get(f"dice_{name}") for row in results.scores] for name in results.structures
    }
    rows = []
    for name, values in columns.items():
        change = _difference({"": values[-1]}, {"": values[0]}, "") if len(values) > 1 else None
        rows.append([Cell(name), *(number_cell(value) for value in values), _change_cell(change)])
    titles = (
        results.kind.capitalize(),
        *(round_name(row["round"]) for row in results.scores),
        "Change",
    )
    return Table(f"Dice of each {results.kind}", titles, rows)


def _doubts(results: Results) -> list[Note]:
    """Classes whose scores in a round are no evidence."""
    numbers = [int(row["round"]) for row in results.scores]
    lines = [
        f"{round_name(n).capitalize()}: {text}"
        for n in numbers
        for text in doubts(results.presence(n))
    ]
    return [Note(lines, "warn", title="Scores that are no evidence")] if lines else []


def _presence_table(results: Results) -> list[Table]:
    """Classes that a scan may lack: how good they are where they are, and whether they are found."""
    found = {int(row["round"]): results.presence(int(row["round"])) for row in results.scores}
    names = [
        n
        for n in results.structures
        if any(n in may_be_absent(classes) for classes in found.values())
    ]
    rows = [
        [Cell(name), Cell(round_name(number)), *_presence_cells(classes[name])]
        for name in names
        for number, classes in found.items()
        if name in classes
    ]
    titles = (
        results.kind.capitalize(),
        "Round",
        "Scans with it",
        "Dice where present",
        "Some of it found in",
        "False alarm in",
    )
    return (
        [Table(f"{results.kinds.capitalize()} that a scan may lack", titles, rows)] if rows else []
    )


def _presence_cells(found: Mapping[str, Any]) -> list[Cell]:
    present, absent = found["present"], found["absent"]
    tone = "bad" if present["predicted"] < present["cases"] / 2 else ""
    return [
        count_cell(present["cases"]),
        number_cell(present["dice"]["mean"]),
        share_cell(present["found"], present["cases"], tone),
        share_cell(absent["false_alarms"], absent["cases"]),
    ]


def _change_cell(change: float | None) -> Cell:
    """A change of Dice, coloured when it is worth a look."""
    tone = "" if change is None or abs(change) < WORSE else ("good" if change > 0 else "bad")
    return number_cell(change, signed=True, tone=tone)


def _rounds_figure(results: Results, figures: Figures) -> Block:
    def numbers(key: str) -> list[float | None]:
        return [to_number(row.get(key)) for row in results.scores]

    figure = dice_by_round(
        [int(row["round"]) for row in results.scores], numbers("dice"), numbers("dice_low"), numbers("dice_high"),
        {name: numbers(f"dice_{name}") for name in results.structures},
    )  # fmt: skip
    return figures.add(
        "dice_by_round", "Dice by round", figure,
        f"Thick, in numbers below: mean over the {results.kinds} with its 95% interval over patients. Thin: each of them.",
    )  # fmt: skip


def _paired_figure(results: Results, figures: Figures) -> list[Block]:
    last = results.schedule.last
    before, after = case_dice(results, 0), case_dice(results, last)
    names = [name for name in before if name in after]
    if not names:
        return []
    figure = paired_cases(
        names, [before[n] for n in names], [after[n] for n in names], ("warm-up", round_name(last))
    )
    return [figures.add(
        "paired_cases", f"Each test scan, warm-up and {round_name(last)}", figure,
        "One mark for each scan: above the diagonal it gained, below it lost. The largest losses are named.",
    )]  # fmt: skip


CASE_METRICS = (
    ("dice", "Dice", 3), ("precision", "Precision", 3), ("recall", "Recall", 3), ("hd95_mm", "HD95 (mm)", 1),
    ("asd_mm", "ASD (mm)", 2), ("volume_ml", "Volume (ml)", 1), ("reference_ml", "Reference (ml)", 1),
)  # fmt: skip


def test_cases_section(results: Results) -> Section:
    """Each test case and class (or region) of the last round, worst first, and the means by it and by site."""
    last = next(
        (
            n
            for n in reversed([0, *results.rounds])
            if results.table(EVALUATION_CASES, results.layout.evaluation_cases(n))
        ),
        None,
    )
    title, missing = (
        "Test cases",
        "No scored test cases: give some the split “test” in the case sheet.",
    )
    if last is None:
        return Section("tests", title, "", [], missing)
    rows = results.table(EVALUATION_CASES, results.layout.evaluation_cases(last))
    earlier = (
        {
            (r["case_id"], r["class"]): r
            for r in results.table(EVALUATION_CASES, results.layout.evaluation_cases(0))
        }
        if last
        else {}
    )
    rows.sort(
        key=lambda row: number if (number := to_number(row.get("dice"))) is not None else -1.0
    )
    sites = sorted({row.get("site") or "" for row in rows})
    means = [_mean_table("class", results.structures, rows, results.kind)] + (
        [_mean_table("site", sites, rows)] if len(sites) > 1 else []
    )
    columns = (
        "Case",
        results.kind.capitalize(),
        *(name for _, name, _ in CASE_METRICS),
        "Dice against warm-up",
        "Absent from",
    )
    source = f"round_{last}/evaluation/cases.csv"
    table = Table(
        f"Each test case in {round_name(last)}",
        columns,
        [_case_row(r, earlier) for r in rows],
        source,
    )
    intro = "Worst first. A click on a title sorts by that column. Distances are symmetric, in mm, in native space."
    return Section("tests", title, intro, [*means, table], missing)


def _case_row(row: Row, earlier: Mapping[tuple[str, str], Row]) -> list[Cell]:
    change = _difference(row, earlier.get((row["case_id"], row["class"]), {}), "dice")
    return [
        *text_cells([row["case_id"], row["class"]]),
        *(number_cell(row.get(key), digits) for key, _, digits in CASE_METRICS),
        _change_cell(change),
        *text_cells([row.get("empty")]),
    ]


def _mean_table(key: str, names: Sequence[str], rows: Sequence[Row], title: str = "site") -> Table:
    """Means of the rows whose column ``key`` is each of ``names``."""
    groups = {name: [row for row in rows if (row.get(key) or "") == name] for name in names}
    metrics = CASE_METRICS[:5]
    body = [
        [Cell(name or "unnamed"), count_cell(len({r["case_id"] for r in members}))]
        + [
            number_cell(mean(to_number(r.get(metric)) for r in members), digits)
            for metric, _, digits in metrics
        ]
        for name, members in groups.items()
    ]
    return Table(
        f"Means by {title}", (title.capitalize(), "Cases", *(name for _, name, _ in metrics)), body
    )
