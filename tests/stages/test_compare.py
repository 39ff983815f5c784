"""Comparison of methods: cells with known scores, what cells reuse, and a real comparison."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import wilcoxon
from support.workspace import TINY, Workspace, write_sheet

from hstf.cli import main
from hstf.config.compare import CompareConfig
from hstf.config.evaluate import PredictConfig
from hstf.config.experiment import Config
from hstf.config.load import config_text, resolve_config
from hstf.experiment.case_rules import refuse_no_test_cases
from hstf.experiment.cases import Split, read_cases
from hstf.experiment.comparison import (
    cells_of,
    control_layout,
    control_messages,
    control_of,
    experiments,
    refuse_no_comparison,
    scaled_cases,
)
from hstf.experiment.context import StageContext
from hstf.experiment.dependencies import stage_parameters
from hstf.experiment.job_seconds import Compute
from hstf.experiment.layout import Layout
from hstf.experiment.reuse import check_reuse, refuse_reused, refuse_unfinished
from hstf.experiment.round_tables import TEACHER
from hstf.experiment.schedule import Schedule
from hstf.experiment.score_tables import (
    COMPARE_CELLS,
    COMPARE_TABLE,
    EVALUATION_CASES,
    EVALUATION_MEMBERS,
    SCALES,
)
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_text
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

CASES = 8
CLASSES = ("anterior", "posterior")
DICE = {"warm-up": 0.6, "supervised": 0.65, "hstf": 0.8, "full": 0.9}
"""Mean Dice of each method; the two seeds are 0.01 below and above."""
GAIN = np.linspace(-0.02, 0.02, CASES)
"""Additional Dice of each case. Without it all cases would have the same difference."""
EXPECTED_CHANGE = DICE["hstf"] - DICE["supervised"] + GAIN
"""Difference of each case between hstf and supervised training."""


def configuration(folder: Path, **keys: Any) -> Config:
    """Return an experiment with a comparison, on cases whose files need not exist."""
    write_sheet(folder, ["labelled"] * 3 + ["unlabelled"] * 3 + ["test"] * CASES)
    content = {
        "experiment": "base",
        "output": str(folder / "results"),
        "cases": str(folder / "cases.csv"),
        "rounds": 1,
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "compare": {"methods": ["supervised", "hstf", "full"], "seeds": [0, 1]},
    }
    return resolve_config(content | keys)


def dice_of(method: str, seed: int) -> np.ndarray:
    """Return the Dice of each case ``(N,)``. Supervised training has no :data:`GAIN`."""
    gain = 0 * GAIN if method == "supervised" else GAIN
    return DICE[method] + gain + (2 * seed - 1) * 0.01


def write_round(config: Config, number: int, dice: np.ndarray) -> None:
    """Write scores as ``evaluate`` does; the classes are 0.02 below and above the mean."""
    rows = []
    for k, value in enumerate(dice.tolist()):
        for name, shift in zip(CLASSES, (-0.02, 0.02), strict=True):
            row = {
                "case_id": f"case_{k:03d}",
                "group": f"p{k}",
                "class": name,
                "dice": value + shift,
                "hd95_mm": 2 - value,
                "asd_mm": 1 - value,
            }
            rows.append(row)
    EVALUATION_CASES.write(Layout.of(config).evaluation_cases(number), rows)


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


def test_experiments_reuse_data_and_warm_up_if_they_are_the_same(tmp_path: Path) -> None:
    methods = ["supervised", "hstf_without_csc_and_plr", "cross_teaching", "full"]
    config = configuration(tmp_path, compare={"methods": methods, "seeds": [0, 5]})
    found = experiments(config)
    reuse = {name: (c.reuse.data, c.reuse.warmup) for name, c in found.items()}
    root = tmp_path / "results" / "base"
    base = str(root)
    warmup = str(root / "compare" / "warmup_seed_5")
    full = str(root / "compare" / "full_data")
    assert reuse == {
        "supervised_seed_0": (base, base),
        "supervised_seed_5": (base, warmup),
        "warmup_seed_5": (base, None),
        "hstf_without_csc_and_plr_seed_0": (base, base),
        "hstf_without_csc_and_plr_seed_5": (base, warmup),
        "cross_teaching_seed_0": (base, None),
        "cross_teaching_seed_5": (base, None),
        "full_data": (None, None),
        "full_seed_0": (full, None),
        "full_seed_5": (full, None),
    }
    assert {c.seed for name, c in found.items() if name.endswith("_5")} == {5}
    labelled = read_cases(found["full_data"]).of(Split.LABELLED)
    assert len(labelled) == 6, "unlabelled cases are labelled cases"


def test_cells_leave_out_manual_overrides(tmp_path: Path) -> None:
    config = configuration(tmp_path, overrides=str(tmp_path / "mine"))
    assert all(str(tmp_path / "mine") != cell.config.overrides for cell in cells_of(config))


def test_cells_refuse_a_seed_that_occurs_twice(tmp_path: Path) -> None:
    with pytest.raises(HstfError, match="has a value twice"):
        cells_of(configuration(tmp_path, compare={"seeds": [1, 1]}))


def test_cells_of_another_method_are_empty(tmp_path: Path) -> None:
    """``--config method=supervised`` works with a configuration that has a comparison."""
    config = configuration(tmp_path, method="supervised")
    assert cells_of(config) == []
    assert experiments(config) == {}
    with pytest.raises(HstfError, match="Leave 'method' out"):
        refuse_no_comparison(config)


def test_scaled_cases_are_evenly_spaced(tmp_path: Path) -> None:
    test = read_cases(configuration(tmp_path)).of(Split.TEST)
    scaled = scaled_cases(CompareConfig(scale_cases=4), test)
    assert [case.case_id[-2:] for case in scaled] == ["06", "08", "10", "12"]
    assert scaled_cases(CompareConfig(scale_cases=0), test) == test


def test_workflow_reuses_data_and_warm_up_in_a_comparison(experiment: Workspace) -> None:
    experiment.configure(compare={"methods": ["supervised", "hstf"], "seeds": [0, 1]})
    assert experiment.jobs() == {}, "a comparison adds nothing to the experiment itself"
    jobs = experiment.jobs("compare")
    done = {"check", "plan", "preprocess_shard", "warmup_member", "evaluate_table"}
    assert not done & jobs.keys(), jobs
    assert jobs["warmup_seed_1_warmup_member"] == 3
    assert not [rule for rule in jobs if "preprocess" in rule]
    supervised = [rule for rule in jobs if rule.startswith("supervised")]
    assert not [rule for rule in supervised if "labels" in rule]
    assert jobs["hstf_seed_0_student_member"] == jobs["supervised_seed_1_student_member"] == 2
    cell_jobs = experiment.jobs("compare_hstf_seed_0")
    assert not [rule for rule in cell_jobs if rule.startswith("supervised")]


def test_workflow_makes_missing_phantoms_for_a_comparison(tmp_path: Path) -> None:
    splits = ["labelled"] * 4 + ["test"] * 2 + ["unlabelled"] * 3
    write_sheet(tmp_path, splits, "images/{}.nii.gz", "labels/{}.nii.gz")
    workspace = Workspace(tmp_path)
    workspace.configure(**TINY, compare={"methods": ["supervised"], "seeds": [0]})
    assert workspace.jobs("compare")["phantom"] == 1


def test_workflow_reuses_data_and_warm_up_of_another_experiment(experiment: Workspace) -> None:
    kept = experiment.folder / "results" / "few" / "config.yaml"
    kept.write_text((experiment.folder / "config.yaml").read_text())
    experiment.configure(experiment="next", reuse={"data": "results/few", "warmup": "results/few"})
    jobs = experiment.jobs()
    assert not {"check", "plan", "preprocess_shard", "warmup_member"} & jobs.keys(), jobs
    assert (jobs["calibrate"], jobs["student_member"], jobs["evaluate_table"]) == (1, 2, 2)
    experiment.configure(reuse={"data": "results/few"})
    jobs = experiment.jobs()
    assert (jobs["warmup_member"], jobs["evaluate_table"]) == (3, 3)
    assert "plan" not in jobs


def test_workflow_refuses_to_reuse_results_that_do_not_exist(experiment: Workspace) -> None:
    results = experiment.folder / "results" / "few"
    (results / "config.yaml").write_text((experiment.folder / "config.yaml").read_text())
    experiment.configure(experiment="next", reuse={"data": "results/few", "warmup": "results/few"})
    (results / "preprocessed" / "unlabelled_0.csv").unlink()
    message = experiment.refusal()
    assert "reuse.data: results/few has no preprocessed/unlabelled_0.csv; run" in message
    assert "run 'snakemake preprocess' with the configuration of that experiment first" in message
    assert "MissingInputException" not in message


def test_refuse_unfinished_names_the_target_that_must_run_first(tmp_path: Path) -> None:
    base = configuration(tmp_path)
    layout = Layout.of(base)
    root = str(layout.root)
    reusing = configuration(tmp_path, experiment="next", reuse={"data": root, "warmup": root})
    refuse_unfinished(base)
    with pytest.raises(HstfError) as raised:
        refuse_unfinished(reusing)
    message = str(raised.value)
    assert f"reuse.data: {root} has no plan.json, preprocessed/labelled_0.csv, " in message
    assert f"reuse.warmup: {root} has no round_0/model/" in message
    assert "run 'snakemake warmup' with the configuration" in message
    for file in [
        layout.plan,
        *(layout.preprocessed_table(f"{kind}_0") for kind in ("labelled", "unlabelled")),
    ]:
        write_text(file, "")
    for member in Schedule.of(reusing).trained(0):
        write_text(layout.weights(0, member), "")
    refuse_unfinished(reusing)


def test_refuse_unfinished_needs_no_unlabelled_scans_for_supervised(tmp_path: Path) -> None:
    layout = Layout.of(configuration(tmp_path))
    for file in (layout.plan, layout.preprocessed_table("labelled_0")):
        write_text(file, "")
    reuse = {"data": str(layout.root)}
    refuse_unfinished(configuration(tmp_path, experiment="next", method="supervised", reuse=reuse))
    with pytest.raises(HstfError, match=r"has no preprocessed/unlabelled_0\.csv"):
        refuse_unfinished(configuration(tmp_path, experiment="next", reuse=reuse))


def test_reuse_of_a_warm_up_needs_its_data(tmp_path: Path) -> None:
    with pytest.raises(HstfError, match=r"reuse.warmup needs reuse.data"):
        configuration(tmp_path, reuse={"warmup": "results/few"})


def test_check_reuse_refuses_experiments_that_do_not_match(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    write_text(Layout.of(config).config, config_text(config))
    root = str(tmp_path / "results" / "base")
    reusing = configuration(tmp_path, experiment="next", reuse={"data": root, "warmup": root})
    check_reuse(reusing)
    refuse_reused(config, "plan")
    with pytest.raises(HstfError, match=f"warmup: this experiment reuses the results of {root}"):
        refuse_reused(reusing, "warmup")
    with pytest.raises(HstfError, match=r"(?s)reuse.data: labels is .*reuse.warmup: labels is"):
        check_reuse(reusing.model_copy(update={"labels": {"background": 0, "liver": 1}}))
    swapped = {"background": 0, "posterior": 2, "anterior": 1}
    assert swapped == config.labels, "only the order of the classes is different"
    with pytest.raises(HstfError, match=r"reuse.data: labels is"):
        check_reuse(reusing.model_copy(update={"labels": swapped}))
    with pytest.raises(HstfError, match=r"reuse.warmup: warmup.folds is 3 in .* and 2 here"):
        check_reuse(
            reusing.model_copy(update={"warmup": config.warmup.model_copy(update={"folds": 2})})
        )
    with pytest.raises(HstfError, match=r"reuse.warmup: predict.clean is True in .* and False"):
        check_reuse(reusing.model_copy(update={"predict": PredictConfig(clean=False)}))
    with pytest.raises(HstfError, match="is not an experiment"):
        check_reuse(configuration(tmp_path, reuse={"data": "results/nowhere"}))


def test_evaluate_refuses_to_score_a_reused_warm_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configuration(tmp_path)
    write_text(Layout.of(config).config, config_text(config))
    root = str(Layout.of(config).root)
    reusing = configuration(tmp_path, experiment="next", reuse={"data": root, "warmup": root})
    write_text(tmp_path / "next.yaml", config_text(reusing))
    command = ["evaluate", "--config", str(tmp_path / "next.yaml"), "--round", "0"]
    for options in ([], ["--shard", "test_0"], ["--scales"]):
        assert main([*command, *options]) == 1
        assert f"evaluate: this experiment reuses the results of {root}" in capsys.readouterr().err


def test_refuse_no_test_cases_before_a_comparison(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    refuse_no_test_cases(read_cases(config))
    write_sheet(tmp_path, ["labelled"] * 3 + ["unlabelled"] * 3)
    with pytest.raises(HstfError, match="no test cases to compare"):
        refuse_no_test_cases(read_cases(config))


def test_check_reuse_refuses_cases_that_were_not_preprocessed(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    write_text(Layout.of(config).config, config_text(config))
    root = str(Layout.of(config).root)
    reusing = configuration(tmp_path, experiment="next", reuse={"data": root})
    check_reuse(reusing)
    sheet = Path(reusing.cases)
    longer = tmp_path / "longer.csv"
    rows = sheet.read_text().rstrip("\n").splitlines()
    unlabelled = next(row for row in rows if ",unlabelled" in row)
    name = unlabelled.split(",")[0]
    write_text(longer, "\n".join([*rows, unlabelled.replace(name, "added")]) + "\n")
    with pytest.raises(HstfError, match="has not preprocessed added; leave 'reuse:' out"):
        check_reuse(reusing.model_copy(update={"cases": str(longer)}))


def test_check_reuse_refuses_training_on_test_patients(tmp_path: Path) -> None:
    sheets = {
        "first": "a,labelled,ann;b,labelled,bob;c,labelled,cid;u,unlabelled,uma;t,test,tom",
        "second": "a,labelled,ann;b,labelled,bob;c,unlabelled,cid;u,test,uma;t,test,tom",
    }
    for name, rows in sheets.items():
        lines = ["case_id,image,label,split,group"]
        for row in rows.split(";"):
            case_id, rest = row.split(",", 1)
            lines.append(f"{case_id},{case_id}.nii,{case_id}_l.nii,{rest}")
        write_text(tmp_path / f"{name}.csv", "\n".join(lines))
    first = configuration(tmp_path, cases=str(tmp_path / "first.csv"))
    write_text(Layout.of(first).config, config_text(first))
    root = str(Layout.of(first).root)
    own = {"experiment": "next", "cases": str(tmp_path / "second.csv")}
    message = r"reuse.data: uma is a validation or test patient here and a training patient in"
    with pytest.raises(HstfError, match=message):
        check_reuse(configuration(tmp_path, **own, reuse={"data": root}))
    message = (
        r"(?s)uma is a validation or test patient.*reuse.warmup: .* other labelled cases .*\(c\)"
    )
    with pytest.raises(HstfError, match=message):
        check_reuse(configuration(tmp_path, **own, reuse={"data": root, "warmup": root}))


def test_check_reuse_reads_the_cases_of_a_warm_up_from_its_tables(tmp_path: Path) -> None:
    """The case sheet, which both experiments use, was edited after the training."""
    config = configuration(tmp_path)
    layout = Layout.of(config)
    write_text(layout.config, config_text(config))
    reusing = configuration(
        tmp_path, experiment="next", reuse={"data": str(layout.root), "warmup": str(layout.root)}
    )
    for fold, names in enumerate((["case_000"], ["case_001", "case_002"], ["case_006"])):
        rows = [{"case_id": name} for name in names]
        TEACHER.write(layout.out_of_fold_table(f"fold_{fold}"), rows)
    with pytest.raises(HstfError, match=r"other labelled cases than this experiment \(case_006\)"):
        check_reuse(reusing)


@pytest.mark.workflow
def test_workflow_runs_a_tiny_comparison(finished: Workspace, tmp_path: Path) -> None:
    """The comparison reuses data and warm-up of a finished experiment.

    Only ``evaluate`` opens withheld labels.
    """
    workspace = finished.copy_to(tmp_path)
    (tmp_path / "opened.txt").unlink()
    scales = {"scales": [0.7, 1.0], "scale_cases": 1}
    workspace.configure(
        rounds=1, compare={"methods": ["supervised", "mean_teacher"], "seeds": [0], **scales}
    )
    workspace.run("compare")
    folder = tmp_path / "results" / "tiny" / "compare"
    rows = {row["method"]: row for row in COMPARE_TABLE.records(folder / "table.csv")}
    assert list(rows) == ["warm-up", "supervised", "mean_teacher"]
    assert rows["supervised"]["wall_s"] > rows["warm-up"]["wall_s"] > 0
    assert (folder / "dice_by_scale.png").is_file()
    evaluation = folder / "supervised_seed_0" / "round_1" / "evaluation"
    scaled = [row for row in SCALES.records(evaluation / "scales.csv") if row["scale"] == 1]
    plain = EVALUATION_CASES.records(evaluation / "cases.csv")
    dice = {(row["case_id"], row["class"]): row["dice"] for row in plain}
    assert len(scaled) == 4
    for row in scaled:
        expected = dice[row["case_id"], row["class"]]
        assert row["dice"] == expected, "scale 1 is the plain prediction"
    assert not (folder / "supervised_seed_0" / "round_1" / "teacher").exists()
    opened = (tmp_path / "opened.txt").read_text().splitlines()
    assert {line.split()[0] for line in opened} == {"evaluate"}
    assert workspace.jobs("compare") == {}


# --- the control of an experiment


def with_control(folder: Path, **keys: Any) -> Config:
    return configuration(folder, **({"evaluate": {"control": True}, "compare": None} | keys))


def test_control_is_an_experiment_that_reuses_data_and_warmup(tmp_path: Path) -> None:
    config = with_control(tmp_path, seed=3)
    control = control_of(config, read_cases(config))
    assert control is not None
    root = tmp_path / "results" / "base"
    assert (control.method, control.seed) == ("supervised", 3)
    assert control.config.reuse.data == control.config.reuse.warmup == str(root)
    assert not control.config.evaluate.control
    assert control_layout(Layout.of(config), 3).root == Layout.of(control.config).root
    assert experiments(config, control) == {"supervised_seed_3": control.config}


def test_control_is_the_cell_of_a_comparison(tmp_path: Path) -> None:
    config = with_control(tmp_path, compare={"methods": ["supervised", "hstf"], "seeds": [0]})
    control = control_of(config, read_cases(config))
    assert control == cells_of(config)[0]
    assert experiments(config, control) == experiments(config)


def test_control_changes_no_other_experiment(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    assert control_of(config, read_cases(config)) is None
    changed = configuration(tmp_path, evaluate={"control": True})
    for stage in ("evaluate", "report", "student"):
        assert stage_parameters(changed, stage, 1) == stage_parameters(config, stage, 1)


@pytest.mark.parametrize(
    ("keys", "splits", "reason"),
    [
        ({"method": "noisy_student"}, ["unlabelled", "test"], "the method is 'noisy_student'"),
        ({"rounds": 0}, ["unlabelled", "test"], "no rounds"),
        ({}, ["test"], "no unlabelled scans"),
        ({}, ["unlabelled"], "no test cases"),
    ],
)
def test_control_without_a_purpose_is_ignored_with_a_message(
    tmp_path: Path, keys: dict[str, Any], splits: list[str], reason: str
) -> None:
    config = with_control(tmp_path, **keys)
    write_sheet(tmp_path, ["labelled"] * 3 + splits)
    sheet = read_cases(config)
    assert control_of(config, sheet) is None
    (message,) = control_messages(config, sheet)
    assert message.startswith("evaluate.control: true is ignored, because")
    assert reason in message
