"""Methods compared: hand-made cells with known answers, what cells share, and a real comparison."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import wilcoxon
from support.workspace import TINY, Workspace, write_sheet

from hstf.cli import main
from hstf.config.compare import CompareConfig
from hstf.config.experiment import Config
from hstf.config.load import config_text, resolve_config
from hstf.experiment.cases import Split, read_cases, refuse_no_test_cases
from hstf.experiment.comparison import cells_of, experiments, refuse_no_comparison, scaled_cases
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.reuse import check_reuse, refuse_reused
from hstf.experiment.tables import EVALUATION_CASES, EVALUATION_MEMBERS, TEACHER
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_text
from hstf.stages.compare import stage as compare_stage
from hstf.stages.compare.scores import Compute, RoundScores, read_round
from hstf.stages.compare.table import UPPER_BOUND, WARMUP, Entry, gap_fraction
from hstf.stages.compare.table import tested as paired

CASES = 8
CLASSES = ("anterior", "posterior")
DICE = {"warm-up": 0.6, "supervised": 0.65, "hstf": 0.8, "full": 0.9}
"""Mean Dice of each method; seeds lie 0.01 below and above."""
GAIN = np.linspace(-0.02, 0.02, CASES)
"""By case; without it all cases would gain the same."""


def configuration(folder: Path, **keys: Any) -> Config:
    """An experiment with a comparison, on cases that need not exist."""
    write_sheet(folder, ["labelled"] * 3 + ["unlabelled"] * 3 + ["test"] * CASES)
    content = {
        "experiment": "base", "output": str(folder / "results"), "cases": str(folder / "cases.csv"), "rounds": 1,
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "compare": {"methods": ["supervised", "hstf", "full"], "seeds": [0, 1]},
    }  # fmt: skip
    return resolve_config(content | keys)


def dice_of(method: str, seed: int) -> np.ndarray:
    """``(cases,)``; the supervised model's cases are the others' without the gain."""
    return DICE[method] + (method != "supervised") * GAIN + (2 * seed - 1) * 0.01


def write_round(config: Config, number: int, dice: np.ndarray) -> None:
    """Scores as ``evaluate`` writes them; the classes lie 0.02 below and above."""
    rows = [
        {"case_id": f"case_{k:03d}", "group": f"p{k}", "class": name, "dice": value + shift, "hd95_mm": 2 - value,
         "asd_mm": 1 - value}
        for k, value in enumerate(dice)
        for name, shift in zip(CLASSES, (-0.02, 0.02), strict=True)
    ]  # fmt: skip
    EVALUATION_CASES.write(Layout.of(config).evaluation_cases(number), rows)


def compare(config: Config) -> Path:
    return compare_stage.compare(StageContext.of(config, "compare"), cells_of(config))


def write_benchmark(file: Path, wall: float, cpu: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"s\th:m:s\tcpu_time\n{wall}\t0:00:01\t{cpu}\n")


@pytest.fixture
def finished_cells(tmp_path: Path) -> Config:
    """All cells of :func:`configuration`, their Dice as :data:`DICE` says."""
    config = configuration(tmp_path)
    for cell in cells_of(config):
        write_round(cell.config, 0, dice_of("warm-up", cell.seed))
        write_round(cell.config, 1, dice_of(cell.method, cell.seed))
    return config


def rows_of(file: Path) -> dict[str, dict[str, str]]:
    with file.open() as stream:
        return {row["method"]: row for row in csv.DictReader(stream)}


def test_mean_and_deviation_over_seeds_and_share_of_the_gap(finished_cells: Config) -> None:
    compare(finished_cells)
    table = rows_of(Layout.of(finished_cells).compare / "table.csv")
    assert list(table) == ["warm-up", "supervised", "hstf", "full"]
    for method, row in table.items():
        assert float(row["dice"]) == pytest.approx(DICE[method], abs=1e-5)
        assert float(row["dice_sd"]) == pytest.approx(np.std([-0.01, 0.01], ddof=1), abs=1e-5)
        assert float(row["dice_anterior"]) == pytest.approx(DICE[method] - 0.02, abs=1e-5)
        assert float(row["hd95_mm"]) == pytest.approx(2 - DICE[method], abs=1e-5)
        assert float(row["gap_fraction"] or "nan") == pytest.approx(
            (DICE[method] - 0.6) / 0.3, abs=1e-4
        )
    share = (DICE["hstf"] - DICE["supervised"]) / (DICE["full"] - DICE["supervised"])
    assert float(table["hstf"]["label_gap_fraction"]) == pytest.approx(share, abs=1e-4)
    assert table["warm-up"]["label_gap_fraction"] == ""


def test_paired_tests_are_scipys_over_cases_with_seeds_averaged(finished_cells: Config) -> None:
    compare(finished_cells)
    table = rows_of(Layout.of(finished_cells).compare / "table.csv")
    gain = DICE["hstf"] - DICE["supervised"] + GAIN
    assert float(table["hstf"]["vs_supervised"]) == pytest.approx(gain.mean(), abs=1e-5)
    assert float(table["hstf"]["vs_supervised_p"]) == pytest.approx(wilcoxon(gain).pvalue, abs=1e-5)
    assert gain.min() < float(table["hstf"]["vs_supervised_low"]) < gain.mean()
    assert table["supervised"]["vs_supervised"] == "", "no method is compared with itself"
    assert table["hstf"]["vs_noisy_student"] == "", "not among the methods"


def test_a_class_that_cases_lack_counts_fully_in_the_change_and_not_in_the_test_of_the_others() -> (
    None
):
    """Only the first case has the second class, and gains there alone: the other patients are no evidence."""
    old = np.full((CASES, 2), 0.5)
    old[1:, 1] = np.nan
    new = old.copy()
    new[0, 1] += 0.4
    cases = tuple(f"case_{k}" for k in range(CASES))
    entry, reference = (
        Entry("x", {0: RoundScores(cases, cases, {"dice": dice}, Compute(0, 0))}, Compute(0, 0))
        for dice in (new, old)
    )
    found = paired(entry, reference, 200, 0)
    assert found.difference.mean == pytest.approx(0.4 / 2), "half of the classes gain 0.4"
    assert found.patients == 1 and found.p_value == pytest.approx(1)


def test_page_tables_and_figures_are_written(finished_cells: Config) -> None:
    page = compare(finished_cells).read_text()
    folder = Layout.of(finished_cells).compare
    assert {"cells.csv", "table.csv", "table.md", "dice_by_round.png", "dice_by_method.png"} <= {
        path.name for path in folder.iterdir()
    }
    assert "<title>base: comparison of methods</title>" in page and "self-training report" not in page
    assert not re.search(r"(src|href)=.https?:|@import", page), "needs nothing but itself"
    assert "0.800 ± 0.014" in page
    assert "| hstf | 2 | 0.800 ± 0.014 |" in (folder / "table.md").read_text()
    with (folder / "cells.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 3 * 2 * 2


def test_cells_that_are_not_done_are_left_out_and_named(finished_cells: Config) -> None:
    cell = next(cell for cell in cells_of(finished_cells) if cell.name == "hstf_seed_1")
    Layout.of(cell.config).evaluation_cases(1).unlink()
    compare(finished_cells)
    folder = Layout.of(finished_cells).compare
    assert rows_of(folder / "table.csv")["hstf"]["seeds"] == "1"
    assert "left out: hstf with seed 1." in (folder / "table.md").read_text()


def test_what_sees_no_other_scale_is_named(finished_cells: Config) -> None:
    table = Layout.of(finished_cells).compare / "table.md"
    compare(finished_cells)
    assert "another scale" not in table.read_text()
    methods = {"methods": ("supervised", "hstf", "uamt", "bcp")}
    asked = finished_cells.compare.model_copy(update=methods)  # type: ignore[union-attr]
    compare(finished_cells.model_copy(update={"compare": asked}))
    assert "uamt, bcp do not train on images at another scale" in table.read_text()


def test_methods_are_compared_on_the_seeds_that_both_have(finished_cells: Config) -> None:
    """Seeds differ by 0.02: the one that is left must meet its like, not the mean of both."""
    cell = next(cell for cell in cells_of(finished_cells) if cell.name == "hstf_seed_1")
    Layout.of(cell.config).evaluation_cases(1).unlink()
    compare(finished_cells)
    row = rows_of(Layout.of(finished_cells).compare / "table.csv")["hstf"]
    gain = DICE["hstf"] - DICE["supervised"] + GAIN
    assert float(row["vs_supervised"]) == pytest.approx(gain.mean(), abs=1e-5)
    assert float(row["vs_supervised_p"]) == pytest.approx(wilcoxon(gain).pvalue, abs=1e-5)
    assert float(row["gap_fraction"]) == pytest.approx((DICE["hstf"] - 0.6) / 0.3, abs=1e-4)


def test_cells_scored_on_other_cases_are_refused(finished_cells: Config) -> None:
    write_round(cells_of(finished_cells)[0].config, 1, dice_of("hstf", 0)[:-1])
    with pytest.raises(HstfError, match="different test cases"):
        compare(finished_cells)


def test_nothing_done_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(HstfError, match="snakemake compare"):
        compare(configuration(tmp_path))


def test_compute_is_that_of_learning_wherever_it_was_spent(tmp_path: Path) -> None:
    config = configuration(tmp_path, compare={"methods": ["hstf"], "seeds": [0]})
    (cell,) = cells_of(config)
    base, own = Layout.of(config).root / "benchmarks", Layout.of(cell.config).root / "benchmarks"
    for member in ("fold_0", "fold_1", "fold_2"):
        write_benchmark(base / "warmup" / f"{member}.tsv", 10, "8")
    write_benchmark(own / "calibrate.tsv", 1, "NA")
    write_benchmark(own / "student" / "round_1_seed_0.tsv", 100, "190")
    write_benchmark(own / "refine" / "round_1.tsv", 2, "1")
    write_benchmark(own / "student" / "round_10_seed_0.tsv", 1000, "1000")
    write_benchmark(own / "evaluate" / "round_1_test_0.tsv", 50, "50")
    for number in (0, 1):
        write_round(cell.config, number, dice_of("hstf", 0))
    spent = [read_round(cell.config, number).compute for number in (0, 1)]
    assert [(c.wall, c.cpu) for c in spent] == [(31, 24), (102, 191)]


def test_the_gap_lies_between_networks_and_not_between_a_team_and_a_network(
    finished_cells: Config,
) -> None:
    for cell in cells_of(finished_cells):
        rows = [
            {"case_id": f"case_{k:03d}", "member": member, "class": name, "dice": dice}
            for member, dice in (("fold_0", 0.48), ("fold_1", 0.52))
            for k in range(CASES)
            for name in CLASSES
        ]
        table = Layout.of(cell.config).evaluation_members(0)
        EVALUATION_MEMBERS.write(table, rows)
    compare(finished_cells)
    table = rows_of(Layout.of(finished_cells).compare / "table.csv")
    assert float(table["warm-up"]["dice"]) == pytest.approx(0.6, abs=1e-5)
    assert float(table["warm-up"]["dice_single"]) == pytest.approx(0.5, abs=1e-5)
    assert float(table["hstf"]["dice_single"]) == pytest.approx(DICE["hstf"], abs=1e-5)
    assert float(table["hstf"]["gap_fraction"]) == pytest.approx(
        (0.8 - 0.5) / (0.9 - 0.5), abs=1e-4
    )


def test_the_gap_needs_both_ends_and_a_ceiling_above_the_floor() -> None:
    def entry(name: str, dice: float) -> Entry:
        from hstf.stages.compare.scores import Compute, RoundScores

        by_class = dict.fromkeys(("dice", "hd95_mm", "asd_mm"), np.full((2, 1), dice))
        scores = RoundScores(("a", "b"), ("a", "b"), by_class, Compute(0, 0))
        return Entry(name, {0: scores}, Compute(0, 0))

    floor, middle, ceiling = entry(WARMUP, 0.5), entry("hstf", 0.7), entry(UPPER_BOUND, 0.9)
    assert gap_fraction({WARMUP: floor, UPPER_BOUND: ceiling}, middle, WARMUP) == pytest.approx(0.5)
    assert gap_fraction({WARMUP: floor}, middle, WARMUP) is None
    assert gap_fraction({WARMUP: ceiling, UPPER_BOUND: floor}, middle, WARMUP) is None


def test_cells_share_data_and_warmup_where_theirs_would_be_the_same(tmp_path: Path) -> None:
    methods = ["supervised", "hstf_without_csc_and_plr", "cross_teaching", "full"]
    config = configuration(tmp_path, compare={"methods": methods, "seeds": [0, 5]})
    found = experiments(config)
    root = tmp_path / "results" / "base"
    reuse = {name: (c.reuse.data, c.reuse.warmup) for name, c in found.items()}
    base, warm, full = (
        str(root),
        str(root / "compare" / "warmup_seed_5"),
        str(root / "compare" / "full_data"),
    )
    assert reuse == {
        "supervised_seed_0": (base, base), "supervised_seed_5": (base, warm), "warmup_seed_5": (base, None),
        "hstf_without_csc_and_plr_seed_0": (base, base), "hstf_without_csc_and_plr_seed_5": (base, warm),
        "cross_teaching_seed_0": (base, None), "cross_teaching_seed_5": (base, None),
        "full_data": (None, None), "full_seed_0": (full, None), "full_seed_5": (full, None),
    }  # fmt: skip
    assert {c.seed for name, c in found.items() if name.endswith("_5")} == {5}
    assert len(read_cases(found["full_data"]).of(Split.LABELLED)) == 6, (
        "unlabelled cases are labelled ones"
    )


def test_cells_leave_persons_overrides_out(tmp_path: Path) -> None:
    config = configuration(tmp_path, overrides=str(tmp_path / "mine"))
    assert all(str(tmp_path / "mine") != cell.config.overrides for cell in cells_of(config))


def test_a_seed_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HstfError, match="has a value twice"):
        cells_of(configuration(tmp_path, compare={"seeds": [1, 1]}))


def test_an_experiment_of_another_method_runs_alone(tmp_path: Path) -> None:
    """``--config method=supervised`` on a file with a comparison: only who asks for the comparison is refused."""
    config = configuration(tmp_path, method="supervised")
    assert cells_of(config) == [] and experiments(config) == {}
    with pytest.raises(HstfError, match="Leave 'method' out"):
        refuse_no_comparison(config)


def test_scaled_cases_lie_at_even_distances(tmp_path: Path) -> None:
    config = configuration(tmp_path, compare={"scale_cases": 4})
    test = read_cases(config).of(Split.TEST)
    assert [case.case_id[-2:] for case in scaled_cases(config.compare, test)] == [
        "06",
        "08",
        "10",
        "12",
    ]
    assert scaled_cases(CompareConfig(scale_cases=0), test) == test


def test_the_jobs_of_a_comparison_share_data_and_warmup(experiment: Workspace) -> None:
    experiment.configure(compare={"methods": ["supervised", "hstf"], "seeds": [0, 1]})
    assert experiment.jobs() == {}, "a comparison adds nothing to the experiment itself"
    jobs = experiment.jobs("compare")
    assert not {"check", "plan", "preprocess_shard", "warmup_member", "evaluate_table"} & set(
        jobs
    ), jobs
    assert jobs["warmup_seed_1_warmup_member"] == 3
    assert not [rule for rule in jobs if "preprocess" in rule]
    assert not [rule for rule in jobs if rule.startswith("supervised") and "labels" in rule]
    assert jobs["hstf_seed_0_student_member"] == jobs["supervised_seed_1_student_member"] == 2
    assert not [
        rule for rule in experiment.jobs("compare_hstf_seed_0") if rule.startswith("supervised")
    ]


def test_scans_that_are_still_to_be_made_can_be_compared_on(tmp_path: Path) -> None:
    write_sheet(tmp_path, ["labelled"] * 4 + ["test"] * 2 + ["unlabelled"] * 3, "images/{}.nii.gz")
    workspace = Workspace(tmp_path)
    workspace.configure(**TINY, compare={"methods": ["supervised"], "seeds": [0]})
    assert workspace.jobs("compare")["phantom"] == 1


def test_an_experiment_takes_data_and_warmup_of_another(experiment: Workspace) -> None:
    kept = experiment.folder / "results" / "few" / "config.yaml"
    kept.write_text((experiment.folder / "config.yaml").read_text())
    experiment.configure(experiment="next", reuse={"data": "results/few", "warmup": "results/few"})
    jobs = experiment.jobs()
    assert not {"check", "plan", "preprocess_shard", "warmup_member"} & set(jobs), jobs
    assert (jobs["calibrate"], jobs["student_member"], jobs["evaluate_table"]) == (1, 2, 2)
    experiment.configure(reuse={"data": "results/few"})
    jobs = experiment.jobs()
    assert (jobs["warmup_member"], jobs["evaluate_table"]) == (3, 3)
    assert "plan" not in jobs


def test_a_warmup_is_taken_with_its_data(tmp_path: Path) -> None:
    with pytest.raises(HstfError, match=r"reuse.warmup needs reuse.data"):
        configuration(tmp_path, reuse={"warmup": "results/few"})


def test_reused_work_must_fit_and_is_never_written(tmp_path: Path) -> None:
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
    assert swapped == config.labels, "but for the order, which is that of the classes"
    with pytest.raises(HstfError, match=r"reuse.data: labels is"):
        check_reuse(reusing.model_copy(update={"labels": swapped}))
    with pytest.raises(HstfError, match=r"reuse.warmup: warmup.folds is 3 in .* and 2 here"):
        check_reuse(
            reusing.model_copy(update={"warmup": config.warmup.model_copy(update={"folds": 2})})
        )
    with pytest.raises(HstfError, match="is not an experiment"):
        check_reuse(configuration(tmp_path, reuse={"data": "results/nowhere"}))


def test_the_scores_of_a_warm_up_are_written_where_it_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configuration(tmp_path)
    write_text(Layout.of(config).config, config_text(config))
    root = str(Layout.of(config).root)
    reusing = configuration(tmp_path, experiment="next", reuse={"data": root, "warmup": root})
    write_text(tmp_path / "next.yaml", config_text(reusing))
    for more in ([], ["--shard", "test_0"], ["--scales"]):
        assert (
            main(["evaluate", "--config", str(tmp_path / "next.yaml"), "--round", "0", *more]) == 1
        )
        assert f"evaluate: this experiment reuses the results of {root}" in capsys.readouterr().err


def test_methods_are_compared_on_test_cases(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    refuse_no_test_cases(read_cases(config))
    write_sheet(tmp_path, ["labelled"] * 3 + ["unlabelled"] * 3)
    with pytest.raises(HstfError, match="no test cases to compare"):
        refuse_no_test_cases(read_cases(config))


def test_what_is_reused_has_learned_from_no_test_patient(tmp_path: Path) -> None:
    sheets = {
        "first": "a,labelled,ann;b,labelled,bob;c,labelled,cid;u,unlabelled,uma;t,test,tom",
        "second": "a,labelled,ann;b,labelled,bob;c,unlabelled,cid;u,test,uma;t,test,tom",
    }
    for name, rows in sheets.items():
        lines = [
            f"{i},{i}.nii,{i}_l.nii,{rest}"
            for i, rest in (row.split(",", 1) for row in rows.split(";"))
        ]
        write_text(tmp_path / f"{name}.csv", "\n".join(["case_id,image,label,split,group", *lines]))
    first = configuration(tmp_path, cases=str(tmp_path / "first.csv"))
    write_text(Layout.of(first).config, config_text(first))
    root, own = (
        str(Layout.of(first).root),
        {"experiment": "next", "cases": str(tmp_path / "second.csv")},
    )
    with pytest.raises(
        HstfError, match=r"reuse.data: uma is tested here, but .* among its training cases"
    ):
        check_reuse(configuration(tmp_path, **own, reuse={"data": root}))
    with pytest.raises(
        HstfError, match=r"(?s)uma is tested.*reuse.warmup: .* other labelled cases .*\(c\)"
    ):
        check_reuse(configuration(tmp_path, **own, reuse={"data": root, "warmup": root}))


def test_what_a_warm_up_learned_from_stands_in_its_own_tables(tmp_path: Path) -> None:
    """The sheet, which both experiments name, is no longer the one that it was trained with."""
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
def test_a_tiny_comparison(finished: Workspace, tmp_path: Path) -> None:
    """On the data and the warm-up of a finished experiment; no process opens what is withheld."""
    workspace = finished.copy_to(tmp_path)
    (tmp_path / "opened.txt").unlink()
    scales = {"scales": [0.7, 1.0], "scale_cases": 1}
    workspace.configure(
        rounds=1, compare={"methods": ["supervised", "mean_teacher"], "seeds": [0], **scales}
    )
    workspace.run("compare")
    folder = tmp_path / "results" / "tiny" / "compare"
    table = rows_of(folder / "table.csv")
    assert list(table) == ["warm-up", "supervised", "mean_teacher"]
    assert float(table["supervised"]["wall_s"]) > float(table["warm-up"]["wall_s"]) > 0
    assert (folder / "dice_by_scale.png").is_file()
    evaluation = folder / "supervised_seed_0" / "round_1" / "evaluation"
    with (evaluation / "scales.csv").open() as scaled, (evaluation / "cases.csv").open() as plain:
        as_planned = [row for row in csv.DictReader(scaled) if row["scale"] == "1"]
        dice = {(row["case_id"], row["class"]): row["dice"] for row in csv.DictReader(plain)}
    assert len(as_planned) == 4
    assert all(row["dice"] == dice[row["case_id"], row["class"]] for row in as_planned), (
        "scale 1 is the plain prediction"
    )
    assert not (folder / "supervised_seed_0" / "round_1" / "teacher").exists()
    assert {line.split()[0] for line in (tmp_path / "opened.txt").read_text().splitlines()} == {
        "evaluate"
    }
    assert workspace.jobs("compare") == {}
