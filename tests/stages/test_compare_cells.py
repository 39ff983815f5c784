"""The experiments of a comparison, the control of an experiment, and a real comparison."""

from pathlib import Path
from typing import Any

import pytest
from support.compare_files import configuration
from support.workspace import TINY, Workspace, write_sheet

from hstf.config.compare import CompareConfig
from hstf.config.experiment import Config
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
from hstf.experiment.dependencies import stage_parameters
from hstf.experiment.layout import Layout
from hstf.experiment.score_tables import COMPARE_TABLE, EVALUATION_CASES, SCALES
from hstf.runtime.errors import HstfError


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


def test_refuse_no_test_cases_before_a_comparison(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    refuse_no_test_cases(read_cases(config))
    write_sheet(tmp_path, ["labelled"] * 3 + ["unlabelled"] * 3)
    with pytest.raises(HstfError, match="no test cases to compare"):
        refuse_no_test_cases(read_cases(config))


def test_workflow_makes_missing_phantoms_for_a_comparison(tmp_path: Path) -> None:
    splits = ["labelled"] * 4 + ["test"] * 2 + ["unlabelled"] * 3
    write_sheet(tmp_path, splits, "images/{}.nii.gz", "labels/{}.nii.gz")
    workspace = Workspace(tmp_path)
    workspace.configure(**TINY, compare={"methods": ["supervised"], "seeds": [0]})
    assert workspace.jobs("compare")["phantom"] == 1


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
