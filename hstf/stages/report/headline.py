"""The top of the page: the main result, what to look at first, and the numbers of cases."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hstf.config.methods import METHODS
from hstf.experiment.cases import Split
from hstf.scoring.absent_classes import absence_warnings
from hstf.scoring.control import control_sentence
from hstf.scoring.significance import direction
from hstf.stages.report.page import (
    DASH,
    Link,
    Note,
    counted,
    interval_text,
    number_text,
    p_text,
    round_name,
    to_number,
)
from hstf.stages.report.results import Results
from hstf.stages.report.review import address, anchor

WORSE = 0.02
"""The Dice of a test case that decreased by more is worse."""
WORSE_STRUCTURE = 0.01
"""A class or region whose mean Dice decreased by more is listed."""
MAXIMUM_NAMES = 8
"""Number of pseudo-labels that are named."""

LEARNS_FROM = {
    "pseudo_labels": "the labelled scans and the pseudo-labels of the unlabelled scans",
    "images": "the labelled scans and the images of the unlabelled scans, without pseudo-labels",
    "labels": "only the labelled scans",
}
"""Text by :attr:`hstf.experiment.schedule.RoundSchedule.learns_from`."""

ABSENT = {
    "exclude": "A scan is left out of the mean of a {kind} if neither reference nor prediction has"
    " it. A {kind} that is missed, or predicted where it is absent, has a Dice of 0.",
    "one": "A {kind} that is absent from both reference and prediction has a Dice of 1"
    " (evaluate.empty: one). A model that never predicts it gets 1 for each scan without it. A"
    " {kind} that is missed, or predicted where it is absent, has a Dice of 0.",
}
"""Text by ``evaluate.empty``."""

UNUSED = {
    "pseudo_labels": "not used yet",
    "images": "used as images",
    "labels": "not used by this method",
}
"""Note of the number of unlabelled scans if there are no pseudo-labels."""

VERDICTS = {
    1: ("increased", "good"),
    0: ("shows no clear change", ""),
    -1: ("decreased", "bad"),
}
"""What happened to the Dice and the tone, by :func:`hstf.scoring.significance.direction`."""

Row = Mapping[str, Any]


def headline(results: Results) -> Note:
    """Return the main result in one sentence, and how it was measured."""
    scored = [row for row in results.scores if to_number(row["dice"]) is not None]
    if not scored:
        return _no_scores(results)
    row = _exported_row(results, scored)
    later = _later_rounds(results, scored, row)
    if to_number(row.get("gain")) is None or results.has_other_warmup_cases:
        return _one_score(results, row, [*later, *_other_warmup_cases(results)])
    sentence = _change_sentence(results, scored[0], row)
    doubtful = absence_warnings(results.presence(row["round"]))
    first_line = " ".join([sentence, *doubtful])
    tone = "warn" if doubtful else verdict(row)[1]
    lines = [first_line, *later, *_control(results), *_method(results), _basis(results, row)]
    return Note(lines, tone)


def _control(results: Results) -> list[str]:
    """Return what the unlabelled scans add, if the experiment has a control."""
    return [control_sentence(results.control)] if results.control is not None else []


def _exported_row(results: Results, scored: Sequence[Row]) -> Row:
    """Return the scores of the exported round; those of the last one if it has none."""
    if results.choice is not None:
        for row in scored:
            if row["round"] == results.choice.round:
                return row
    return scored[-1]


def _later_rounds(results: Results, scored: Sequence[Row], exported: Row) -> list[str]:
    """Return a sentence about rounds after the exported one, and why it was not one of them."""
    later = [row for row in scored if row["round"] > exported["round"]]
    choice = results.choice
    if not later or choice is None or choice.round != exported["round"]:
        return []
    dice = [f"{round_name(row['round'])}: {number_text(row['dice'])}" for row in later]
    name = round_name(choice.round)
    return [
        f"Exported is the model of {name}, not a later one (mean test Dice of {', '.join(dice)})."
        f" {choice.reason}"
    ]


def _no_scores(results: Results) -> Note:
    lines = [
        *_method(results),
        "There are no test scores yet. The report cannot show whether self-training improved the"
        " segmentation.",
    ]
    if results.split_counts[Split.TEST] == "0":
        estimate = ""
        if results.has_pseudo_labels:
            estimate = (
                " Without test cases, the only measure is the predicted Dice of the pseudo-labels"
                " below, which is an estimate."
            )
        lines.append(
            f"Add test cases to the case sheet (split: test) to have each round scored.{estimate}"
        )
    return Note(lines)


def _one_score(results: Results, row: Row, later: Sequence[str]) -> Note:
    model = f"model of {round_name(row['round'])}" if row["round"] else "warm-up model"
    dice = number_text(row["dice"])
    if to_number(row["dice_low"]) is not None:
        dice += f" (95% CI {interval_text(row['dice_low'], row['dice_high'])})"
    sentence = f"The {model} reaches a mean test Dice of {dice}."
    first_line = " ".join([sentence, *absence_warnings(results.presence(row["round"]))])
    return Note([first_line, *later, *_method(results), _basis(results, row)])


def _other_warmup_cases(results: Results) -> list[str]:
    """Return why there is no change from the warm-up, if it was scored on other test cases."""
    if not results.has_other_warmup_cases:
        return []
    return [
        "The warm-up is that of another experiment and was scored on other test scans. Its mean"
        " Dice cannot be compared with that of the rounds."
    ]


def _change_sentence(
    results: Results,
    first: Row,
    last: Row,
) -> str:
    """Return the change from the warm-up to the exported round with its interval and p-value."""
    of_training = " of self-training" if results.has_pseudo_labels else ""
    rounds = counted(last["round"], "round")
    evidence = ["no interval"]
    if to_number(last["gain_low"]) is not None:
        interval = interval_text(
            last["gain_low"],
            last["gain_high"],
            signed=True,
        )
        evidence = [f"95% CI {interval}"]
    if p_text(last["p_value"]):
        evidence.append(p_text(last["p_value"]))
    return (
        f"After {rounds}{of_training} the mean test Dice {verdict(last)[0]}:"
        f" {number_text(first['dice'])} (warm-up) → {number_text(last['dice'])}"
        f" ({round_name(last['round'])}), a change of {number_text(last['gain'], signed=True)}"
        f" ({', '.join(evidence)})."
    )


def verdict(row: Row) -> tuple[str, str]:
    """Return what happened to the Dice of a round, and the tone."""
    low = to_number(row.get("gain_low"))
    high = to_number(row.get("gain_high"))
    p_value = to_number(row.get("p_value"))
    return VERDICTS[direction(low, high, p_value)]


def _method(results: Results) -> list[str]:
    """Return the name of the method, and what its students learn from."""
    config = results.config
    source = LEARNS_FROM[results.schedule.learns_from(results.last)]
    description = METHODS[config.method].description
    lines = [f"Method {config.method}: {description}. Its students learn from {source}."]
    if config.withheld_labels:
        lines.append(
            "The unlabelled scans were used with their withheld labels (withheld_labels: true)."
            " This is the upper bound of a benchmark. It is not a result of learning from few"
            " labels."
        )
    return lines


def _basis(results: Results, row: Row) -> str:
    """Return how the Dice was measured."""
    config = results.config
    summary = results.summary(row["round"])
    scans = "the test scans"
    if summary is not None:
        patients = counted(summary.patients, "patient")
        scans = f"{counted(summary.cases, 'test scan')} of {patients}"
    structures = counted(len(results.structures), results.kind, results.kinds)
    sentences = [
        f"The Dice is the mean over {structures} ({', '.join(results.structures)}) and over"
        f" {scans}, in native space.",
        ABSENT[config.evaluate.empty].format(kind=results.kind),
        f"Confidence intervals: bootstrap over patients ({config.evaluate.bootstrap} resamples)."
        " p: Wilcoxon signed-rank test over patients.",
        "No model or setting was selected on the test scans.",
    ]
    if row.get("note"):
        sentences.append(f"Note: {row['note']}.")
    return " ".join(sentences)


def look_first(results: Results, anchors: Collection[str] = ()) -> Note | None:
    """Return what the reader should look at first, if there is anything.

    Cases that are named here can be corrected. Test cases cannot: whoever acts on their scores
    selects on them.

    Args:
        results: the experiment.
        anchors: addresses of the cases whose pictures are in the page.
    """
    lines = [*results.problems, *_collapsed_rounds(results), *_worse_structures(results)]
    number, cases = _to_review(results)
    links = []
    if cases:
        lines.append(_review_text(results, number))
        for case in cases:
            case_id = case["case_id"]
            text = f"{case_id} ({number_text(case['predicted_dice'])})"
            target = f"#{anchor(case_id)}"
            if anchor(case_id) not in anchors:
                label = results.layout.pseudo_label(number, case_id)
                target = address(label, results.layout.report)
            links.append(Link(text, target))
    if not lines:
        return None
    return Note(lines, "warn", title="Look at these first", links=links)


def _to_review(results: Results) -> tuple[int, list[dict[str, Any]]]:
    """Return a round, and its pseudo-labels that no reviewer has decided on, most urgent first.

    Open decisions come first, then what is not used, then the lowest predicted Dice.
    """
    if not results.pseudo_labels:
        return 0, []
    number = max(results.pseudo_labels)
    cases = results.pseudo_labels[number]
    is_open = cases["review"].isin(["open", "question"])
    is_decided = cases["source"].isin(["accepted", "corrected"]) | (
        cases["reviewer"].fillna("") != ""
    )
    left = cases[~is_decided | is_open].assign(is_open=is_open)
    left = left.sort_values("is_open", ascending=False, kind="stable")
    first: Any = left.head(MAXIMUM_NAMES).to_dict("records")
    return number, first


def _review_text(results: Results, number: int) -> str:
    """Return why pseudo-labels should be reviewed."""
    labels = results.pseudo_labels[number]
    unused = ((labels["source"] == "rejected") & (labels["reviewer"].fillna("") == "")).sum()
    text = (
        f"Pseudo-labels of round {number} that no reviewer has decided on, most urgent first, with"
        " their predicted Dice. Correcting them helps most."
    )
    if not unused:
        return text
    return (
        f"{text} {counted(int(unused), 'case')} of the round {'is' if unused == 1 else 'are'} not"
        f" used: the predicted Dice is too low, or a {results.kind} is missing (labels.csv has the"
        " reason)."
    )


def _collapsed_rounds(results: Results) -> list[str]:
    """Return a sentence for each round whose model has collapsed."""
    if results.choice is None:
        return []
    sentences = []
    for number, findings in results.choice.collapsed.items():
        exported = round_name(results.choice.round)
        sentences.append(
            f"The model of {round_name(number)} has collapsed: {'; '.join(findings)}. Exported is"
            f" {exported}."
        )
    return sentences


def _worse_structures(results: Results) -> list[str]:
    """Return a sentence for each class or region whose mean Dice decreased."""
    if len(results.scores) < 2 or results.has_other_warmup_cases:
        return []
    first = results.scores[0]
    last = _exported_row(results, results.scores)
    sentences = []
    for name in results.structures:
        before = to_number(first[f"dice_of_{name}"])
        after = to_number(last[f"dice_of_{name}"])
        if before is not None and after is not None and after - before < -WORSE_STRUCTURE:
            sentences.append(
                f"The Dice of {name} decreased from {number_text(before)} to {number_text(after)}."
            )
    return sentences


def tiles(results: Results) -> list[dict[str, str]]:
    """Return the numbers of cases."""
    counts = results.split_counts
    used_note = UNUSED[results.schedule.learns_from(results.last)]
    reviewed = DASH
    rounds = results.pseudo_label_rounds
    finished = [n for n in rounds if results.layout.labels_table(n).is_file()]
    if finished:
        sources = list(results.labels(finished[-1])["source"])
        used = len(sources) - sources.count("rejected")
        used_note = f"{used} used in {round_name(finished[-1])}"
        reviewed = str(sources.count("corrected") + sources.count("accepted"))
    return [
        _tile("Labelled scans", counts[Split.LABELLED], "labels of the case sheet"),
        _tile("Unlabelled scans", counts[Split.UNLABELLED], used_note),
        _tile("Reviewed labels", reviewed, "corrected or accepted by a reviewer"),
        _tile("Test scans", counts[Split.TEST], "used only for evaluation"),
        _tile("Rounds", str(results.last), "of self-training, after the warm-up"),
    ]


def _tile(
    name: str,
    value: str,
    note: str,
) -> dict[str, str]:
    return {"name": name, "value": value, "note": note}
