"""Section about the test cases of the last evaluated round, with means by class and by site."""

import pandas as pd

from hstf.stages.report.headline import WORSE
from hstf.stages.report.page import (
    Block,
    Note,
    Section,
    Table,
    counted,
    number_text,
    round_name,
    some_of,
)
from hstf.stages.report.results import Results
from hstf.stages.report.rounds import change_tone
from hstf.stages.report.tables import Column, make_table

MAXIMUM_NAMES = 8
"""Number of cases that a sentence names."""
METRICS = (
    Column("dice", "Dice", digits=3),
    Column("precision", "Precision", digits=3),
    Column("recall", "Recall", digits=3),
    Column("hd95_mm", "HD95 (mm)", digits=1),
    Column("asd_mm", "ASD (mm)", digits=2),
)
"""Metrics with means by class and site; names as in ``evaluation/cases.csv``."""
VOLUMES = (
    Column("volume_ml", "Volume (ml)", digits=1),
    Column("reference_ml", "Reference (ml)", digits=1),
)
CHANGE = (
    Column("change", "Change of Dice since warm-up", digits=3, signed=True, tone="tone"),
    Column("empty", "Absent from"),
)


def test_cases_section(results: Results) -> Section:
    """Return the scores of each test case, worst first."""
    numbers = [0, *results.rounds]
    evaluated = [number for number in numbers if len(results.test_cases(number))]
    title = "Test cases"
    if not evaluated:
        missing = (
            "There are no scored test cases. Test cases have the split “test” in the case sheet."
        )
        return Section("tests", title, "", [], missing)
    last = evaluated[-1]
    cases = results.test_cases(last)
    blocks: list[Block] = [
        *_worse_cases(results),
        _means(cases, "class", results.kind, results.structures),
    ]
    sites = sorted(cases["site"].unique())
    if len(sites) > 1:
        blocks.append(_means(cases, "site", "site", sites))
    blocks.append(_cases_table(results, cases, last))
    intro = (
        "The worst cases come first. Click on a heading to sort by its column. Surface distances"
        " are symmetric, in mm, in native space."
    )
    return Section("tests", title, intro, blocks)


def _worse_cases(results: Results) -> list[Note]:
    """Return a note about the test cases whose Dice decreased, largest loss first."""
    before = results.case_dice(0)
    after = results.case_dice(results.last)
    losses = []
    for name, dice in after.items():
        change = dice - before.get(name, dice)
        if change < -WORSE:
            losses.append((change, name))
    if not losses:
        return []
    losses.sort()
    texts = [f"{name} ({number_text(change, signed=True)})" for change, name in losses]
    return [
        Note(
            [
                f"The Dice of {counted(len(losses), 'test scan')} decreased by more than {WORSE}"
                f" since the warm-up: {some_of(texts, MAXIMUM_NAMES)}."
            ]
        )
    ]


def _cases_table(
    results: Results,
    cases: pd.DataFrame,
    number: int,
) -> Table:
    """Return the table of all cases and classes in a round."""
    keys = ["case_id", "class"]
    cases = cases.sort_values(
        "dice",
        kind="stable",
        na_position="first",
    )
    if number:
        warmup = results.test_cases(0)[[*keys, "dice"]]
        cases = cases.merge(
            warmup,
            "left",
            on=keys,
            suffixes=("", "_warmup"),
        )
        cases["change"] = cases["dice"] - cases["dice_warmup"]
    else:
        cases["change"] = float("nan")
    cases["tone"] = [change_tone(change) for change in cases["change"]]
    kind = Column("class", results.kind.capitalize())
    columns = [Column("case_id", "Case"), kind, *METRICS, *VOLUMES, *CHANGE]
    caption = f"Each test case in {round_name(number)}"
    return make_table(caption, columns, cases, f"round_{number}/evaluation/cases.csv")


def _means(
    cases: pd.DataFrame,
    key: str,
    title: str,
    names: list[str],
) -> Table:
    """Return the mean of each metric in each class or site.

    Args:
        cases: the scores.
        key: column by which the cases are grouped.
        title: what a group is.
        names: the groups in order.
    """
    metrics = [metric.name for metric in METRICS]
    # The mean over the classes of a site weights all classes equally, as in all other tables.
    keys = list(dict.fromkeys([key, "class"]))
    means = cases.groupby(keys)[metrics].mean().groupby(level=0).mean()
    means["cases"] = cases.groupby(key)["case_id"].nunique()
    means = means.reindex(names)
    means["name"] = [name or "without name" for name in names]
    columns = [Column("name", title.capitalize()), Column("cases", "Cases", digits=0), *METRICS]
    return make_table(f"Means by {title}", columns, means)
