"""``compare`` turns the scores of cells into tables, tests, figures and a page."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import wilcoxon
from support.compare_files import CASES, CLASSES, DICE, GAIN, configuration, dice_of, write_round

from hstf.config.compare import CompareConfig
from hstf.config.experiment import Config
from hstf.experiment.comparison import cells_of
from hstf.experiment.context import StageContext
from hstf.experiment.job_seconds import Compute
from hstf.experiment.layout import Layout
from hstf.experiment.score_tables import (
    COMPARE_CELLS,
    COMPARE_TABLE,
    EVALUATION_CASES,
    EVALUATION_MEMBERS,
)
from hstf.runtime.errors import HstfError
from hstf.stages.compare import charts
from hstf.stages.compare import stage as compare_stage
from hstf.stages.compare.page import markdown
from hstf.stages.compare.scores import (
    RoundScores,
    read_cell,
    read_members,
    read_round,
    without_warmup,
)
from hstf.stages.compare.table import UPPER_BOUND, WARMUP, Entry, gap_fraction
from hstf.stages.compare.table import tested as paired
from hstf.stages.report.page import Cell, Table

EXPECTED_CHANGE = DICE["hstf"] - DICE["supervised"] + GAIN
"""Difference of each case between hstf and supervised training."""


def compare(config: Config) -> Path:
    return compare_stage.compare(StageContext.of(config, "compare"), cells_of(config))


def write_benchmark(file: Path, wall: float, cpu: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"s\th:m:s\tcpu_time\n{wall}\t0:00:01\t{cpu}\n")


@pytest.fixture
def finished_cells(tmp_path: Path) -> Config:
    """Write the scores of all cells of :func:`configuration`, see :data:`DICE`."""
    config = configuration(tmp_path)
    for cell in cells_of(config):
        write_round(cell.config, 0, dice_of("warm-up", cell.seed))
        write_round(cell.config, 1, dice_of(cell.method, cell.seed))
    return config


def rows_of(config: Config) -> dict[str, dict[str, Any]]:
    """Read the first row of each method of ``table.csv``: its ensemble, if it has one."""
    found: dict[str, dict[str, Any]] = {}
    for (method, _), row in models_of(config).items():
        found.setdefault(method, row)
    return found


def models_of(config: Config) -> dict[tuple[str, str], dict[str, Any]]:
    """Read ``table.csv`` by method and model."""
    path = Layout.of(config).compare / "table.csv"
    return {(row["method"], row["model"]): row for row in COMPARE_TABLE.records(path)}


@pytest.fixture
def table(finished_cells: Config) -> dict[str, dict[str, Any]]:
    """The rows of ``table.csv`` by method."""
    compare(finished_cells)
    return rows_of(finished_cells)


def test_compare_writes_means_over_seeds(table: dict[str, dict[str, Any]]) -> None:
    assert list(table) == ["warm-up", "supervised", "hstf", "full"]
    for method, row in table.items():
        assert row["dice"] == pytest.approx(DICE[method], abs=1e-5)
        assert row["dice_sd"] == pytest.approx(np.std([-0.01, 0.01], ddof=1), abs=1e-5)
        assert row["dice_of_anterior"] == pytest.approx(DICE[method] - 0.02, abs=1e-5)
        assert row["hd95_mm"] == pytest.approx(2 - DICE[method], abs=1e-5)


def test_compare_writes_the_fraction_of_the_gap(table: dict[str, dict[str, Any]]) -> None:
    for method, row in table.items():
        expected = (DICE[method] - 0.6) / 0.3
        assert row["gap_fraction"] == pytest.approx(expected, abs=1e-4)
    expected = (DICE["hstf"] - DICE["supervised"]) / (DICE["full"] - DICE["supervised"])
    assert table["hstf"]["label_gap_fraction"] == pytest.approx(expected, abs=1e-4)
    assert table["warm-up"]["label_gap_fraction"] is None


def test_compare_tests_cases_after_averaging_the_seeds(table: dict[str, dict[str, Any]]) -> None:
    row = table["hstf"]
    assert row["vs_supervised"] == pytest.approx(EXPECTED_CHANGE.mean(), abs=1e-5)
    assert row["vs_supervised_p"] == pytest.approx(wilcoxon(EXPECTED_CHANGE).pvalue, abs=1e-5)
    assert EXPECTED_CHANGE.min() < row["vs_supervised_low"] < EXPECTED_CHANGE.mean()
    assert table["supervised"]["vs_supervised"] is None, "no method is compared with itself"
    assert row["vs_noisy_student"] is None, "not among the methods"


def entry_of(name: str, dice: np.ndarray) -> Entry:
    """Return an entry with one seed, from the Dice ``(N, S)`` of each case and structure."""
    cases = tuple(f"case_{k}" for k in range(len(dice)))
    scores = RoundScores(cases, cases, {"dice": dice[None]}, Compute(0, 0))
    return Entry(name, {0: scores}, Compute(0, 0))


def test_one_network_is_the_mean_of_the_scores_of_the_members(tmp_path: Path) -> None:
    """A false alarm of one member is a 0 of this member, in a scan where others have no score."""
    members = 5
    cases = 20
    rows = []
    for case in range(cases):
        for member in range(members):
            tumour = 0.8 if case < 5 else 0.0 if case % members == member else None
            for name, dice in (("liver", 0.95), ("tumour", tumour)):
                key = {"case_id": f"case_{case:02}", "member": f"seed_{member}", "class": name}
                rows.append(key | {"dice": dice})
    path = tmp_path / "members.csv"
    EVALUATION_MEMBERS.write(path, rows)
    case_ids = [f"case_{case:02}" for case in range(cases)]
    tables = read_members(path, case_ids, ["liver", "tumour"])
    single = RoundScores(tuple(case_ids), tuple(case_ids), tables, Compute(0, 0))
    assert tables["dice"].shape == (members, cases, 2)
    # Each member has 5 found tumours and 3 false alarms.
    assert single.mean("dice") == pytest.approx((0.95 + 5 * 0.8 / 8) / 2)
    assert single.structure_means("dice")[1] == pytest.approx(0.5)


def test_tested_ranks_only_patients_with_a_difference() -> None:
    """Only the first case has the second class, and only this class improves."""
    old = np.full((CASES, 2), 0.5)
    old[1:, 1] = np.nan
    new = old.copy()
    new[0, 1] += 0.4
    found = paired(entry_of("new", new), entry_of("old", old), 200, 0)
    assert found.difference.mean == pytest.approx(0.4 / 2), "half of the classes gain 0.4"
    assert found.patients == 1
    assert found.p_value == pytest.approx(1)


def test_compare_writes_page_tables_and_figures(finished_cells: Config) -> None:
    page = compare(finished_cells).read_text()
    folder = Layout.of(finished_cells).compare
    names = {path.name for path in folder.iterdir()}
    assert {
        "cells.csv",
        "table.csv",
        "table.md",
        "dice_by_round.png",
        "dice_by_method.png",
    } <= names
    assert "<title>base: comparison of methods</title>" in page
    assert "self-training report" not in page
    assert not re.search(r"(src|href)=.https?:|@import", page), "the page needs no other file"
    assert "0.800 ± 0.014" in page
    assert "| hstf | one network | 2 | 0.800 ± 0.014 |" in (folder / "table.md").read_text()
    assert len(COMPARE_CELLS.records(folder / "cells.csv")) == 3 * 2 * 2


def remove_last_round(config: Config, name: str) -> None:
    """Remove the scores of the last round of a cell."""
    cell = next(cell for cell in cells_of(config) if cell.name == name)
    Layout.of(cell.config).evaluation_cases(1).unlink()


def test_compare_writes_an_empty_cell_for_a_class_without_any_score(
    finished_cells: Config,
) -> None:
    """All test cases lack a class, and so do all predictions."""
    for cell in cells_of(finished_cells):
        table = Layout.of(cell.config).evaluation_cases(1)
        rows = EVALUATION_CASES.records(table)
        for row in rows:
            if row["class"] == "posterior":
                row |= {"dice": None, "hd95_mm": None, "asd_mm": None}
        EVALUATION_CASES.write(table, rows)
    compare(finished_cells)
    folder = Layout.of(finished_cells).compare
    assert "nan" not in (folder / "cells.csv").read_text()
    (row, *_) = [row for row in COMPARE_CELLS.records(folder / "cells.csv") if row["round"] == 1]
    assert row["dice_of_posterior"] is None
    assert row["dice"] == row["dice_of_anterior"]
    assert rows_of(finished_cells)["hstf"]["dice_of_posterior"] is None


def test_compare_leaves_out_and_names_unfinished_cells(finished_cells: Config) -> None:
    remove_last_round(finished_cells, "hstf_seed_1")
    compare(finished_cells)
    assert rows_of(finished_cells)["hstf"]["seeds"] == 1
    text = (Layout.of(finished_cells).compare / "table.md").read_text()
    assert "left out: hstf with seed 1." in text


def test_compare_names_methods_without_training_at_other_scales(finished_cells: Config) -> None:
    path = Layout.of(finished_cells).compare / "table.md"
    compare(finished_cells)
    assert "another scale" not in path.read_text()
    section = CompareConfig(methods=("supervised", "hstf", "uamt", "bcp"), seeds=(0, 1))
    compare(finished_cells.model_copy(update={"compare": section}))
    assert "uamt, bcp do not train on images at another scale" in path.read_text()


def test_compare_uses_the_seeds_that_both_methods_have(finished_cells: Config) -> None:
    """Seeds differ by 0.02, so a seed must be compared with the same seed of the other method."""
    remove_last_round(finished_cells, "hstf_seed_1")
    compare(finished_cells)
    row = rows_of(finished_cells)["hstf"]
    assert row["vs_supervised"] == pytest.approx(EXPECTED_CHANGE.mean(), abs=1e-5)
    assert row["vs_supervised_p"] == pytest.approx(wilcoxon(EXPECTED_CHANGE).pvalue, abs=1e-5)
    assert row["gap_fraction"] == pytest.approx((DICE["hstf"] - 0.6) / 0.3, abs=1e-4)


def test_compare_refuses_cells_with_different_test_cases(finished_cells: Config) -> None:
    write_round(cells_of(finished_cells)[0].config, 1, dice_of("hstf", 0)[:-1])
    with pytest.raises(HstfError, match="different test cases"):
        compare(finished_cells)


def test_compare_leaves_out_a_reused_warm_up_with_other_test_cases(tmp_path: Path) -> None:
    """The warm-up of another experiment has two test cases less. It is that of the first seed."""
    reuse = {"data": str(tmp_path / "other"), "warmup": str(tmp_path / "other")}
    config = configuration(tmp_path, reuse=reuse)
    for cell in cells_of(config):
        dice = dice_of("warm-up", cell.seed)
        is_reused = cell.config.reuse.warmup == reuse["warmup"]
        write_round(cell.config, 0, dice[:-2] if is_reused else dice)
        write_round(cell.config, 1, dice_of(cell.method, cell.seed))
    write_benchmark(tmp_path / "other" / "benchmarks" / "warmup" / "fold_0.tsv", 100, "60")
    compare(config)
    rows = rows_of(config)
    assert (rows["warm-up"]["seeds"], rows["hstf"]["seeds"]) == (1, 2)
    assert rows["warm-up"]["dice"] == pytest.approx(DICE["warm-up"] + 0.01, abs=1e-5)
    assert rows["hstf"]["vs_supervised"] == pytest.approx(EXPECTED_CHANGE.mean(), abs=1e-5)
    assert rows["hstf"]["wall_s"] == pytest.approx(100 / 2), "the time of the warm-up still counts"
    text = (Layout.of(config).compare / "table.md").read_text()
    assert "The warm-up of seed 0 is that of another experiment" in text
    assert "scored on other test cases" in text


def test_compare_counts_the_time_of_rounds_that_are_not_evaluated_yet(
    finished_cells: Config,
) -> None:
    for cell in cells_of(finished_cells):
        layout = Layout.of(cell.config)
        write_benchmark(layout.root / "benchmarks" / "student" / "round_1_seed_0.tsv", 7, "8")
        write_benchmark(layout.warmup / "benchmarks" / "warmup" / "fold_0.tsv", 100, "60")
        if cell.seed == 1:
            layout.evaluation_cases(0).unlink(missing_ok=True)
    compare(finished_cells)
    for method in ("supervised", "hstf"):
        row = rows_of(finished_cells)[method]
        assert (row["cpu_s"], row["wall_s"]) == (68, 107)


def test_dice_by_round_has_the_rounds_of_all_seeds(finished_cells: Config) -> None:
    cells = [read_cell(cell) for cell in cells_of(finished_cells) if cell.method == "hstf"]
    by_round = charts.dice_by_round_of(cells)
    assert by_round[0] == pytest.approx([0.59, 0.61], abs=1e-5)
    assert list(charts.dice_by_round_of([cells[0], without_warmup(cells[1])])) == [1]
    assert list(charts.dice_by_round_of([without_warmup(cells[0]), cells[1]])) == [1]


def test_markdown_escapes_the_character_between_cells() -> None:
    table = Table("By class", ("method", "Dice a|b"), [[Cell("hstf"), Cell("0.8")]], "table.csv")
    assert r"| method | Dice a\|b |" in markdown("title", [table], [])


def test_compare_without_finished_cells_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(HstfError, match="snakemake compare"):
        compare(configuration(tmp_path))


def test_read_round_adds_up_the_time_of_training_jobs(tmp_path: Path) -> None:
    external = {"other": {"command": "copy {image} {output}", "labels": {"anterior": 1}}}
    config = configuration(
        tmp_path,
        compare={"methods": ["hstf"], "seeds": [0]},
        lesions=["anterior"],
        teacher={"external": external},
    )
    (cell,) = cells_of(config)
    # The experiment itself has trained the warm-up.
    warmup = Layout.of(config).root / "benchmarks" / "warmup"
    for member in ("fold_0", "fold_1", "fold_2"):
        write_benchmark(warmup / f"{member}.tsv", 10, "8")
    own = Layout.of(cell.config).root / "benchmarks"
    write_benchmark(warmup.parent / "out_of_fold.tsv", 4, "3")
    write_benchmark(own / "calibrate.tsv", 1, "NA")
    write_benchmark(own / "external" / "labelled_0.tsv", 6, "5")
    write_benchmark(own / "external.tsv", 1, "1")
    write_benchmark(own / "external" / "unlabelled_0.tsv", 20, "10")
    write_benchmark(own / "lesions" / "round_1.tsv", 3, "2")
    write_benchmark(own / "student" / "round_1_seed_0.tsv", 100, "190")
    write_benchmark(own / "refine" / "round_1.tsv", 2, "1")
    # Jobs that are not counted in round 1.
    write_benchmark(own / "student" / "round_10_seed_0.tsv", 1000, "1000")
    write_benchmark(own / "evaluate" / "round_1_test_0.tsv", 50, "50")
    write_benchmark(own / "monitor" / "round_1.tsv", 30, "30")
    # Left by an earlier configuration with more members.
    write_benchmark(own / "student" / "round_1_seed_7.tsv", 5000, "5000")
    write_benchmark(warmup / "fold_3.tsv", 5000, "5000")
    for number in (0, 1):
        write_round(cell.config, number, dice_of("hstf", 0))
    assert read_round(cell.config, 0).compute == Compute(cpu=43, wall=62)
    assert read_round(cell.config, 1).compute == Compute(cpu=193, wall=105)


def test_compare_measures_the_gap_between_single_networks(finished_cells: Config) -> None:
    rows = []
    for member, dice in (("fold_0", 0.48), ("fold_1", 0.52)):
        for k in range(CASES):
            key = {"case_id": f"case_{k:03d}", "member": member}
            scores = {"dice": dice, "hd95_mm": 10 * dice, "asd_mm": 2.0}
            rows += [{**key, "class": name, **scores} for name in CLASSES]
    for cell in cells_of(finished_cells):
        EVALUATION_MEMBERS.write(Layout.of(cell.config).evaluation_members(0), rows)
    compare(finished_cells)
    table = rows_of(finished_cells)
    models = models_of(finished_cells)
    assert models["warm-up", "ensemble"]["dice"] == pytest.approx(0.6, abs=1e-5)
    single = models["warm-up", "one network"]
    assert (single["dice"], single["hd95_mm"]) == pytest.approx((0.5, 5.0), abs=1e-5)
    # One network is compared with one network: here, that of `supervised` has no ensemble.
    change = models["warm-up", "ensemble"]["vs_supervised"] - single["vs_supervised"]
    assert change == pytest.approx(0.1, abs=1e-5)
    assert ("hstf", "ensemble") not in models, "the members of hstf were not scored"
    assert table["hstf"]["dice"] == pytest.approx(DICE["hstf"], abs=1e-5)
    expected = (0.8 - 0.5) / (0.9 - 0.5)
    assert table["hstf"]["gap_fraction"] == pytest.approx(expected, abs=1e-4)


def test_gap_fraction_needs_both_ends_in_order() -> None:
    lower = entry_of(WARMUP, np.full((2, 1), 0.5))
    middle = entry_of("hstf", np.full((2, 1), 0.7))
    upper = entry_of(UPPER_BOUND, np.full((2, 1), 0.9))
    ends = {WARMUP: lower, UPPER_BOUND: upper}
    assert gap_fraction(ends, middle, WARMUP) == pytest.approx(0.5)
    assert gap_fraction({WARMUP: lower}, middle, WARMUP) is None
    reversed_ends = {WARMUP: upper, UPPER_BOUND: lower}
    assert gap_fraction(reversed_ends, middle, WARMUP) is None
