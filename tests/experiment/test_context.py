"""What a stage is given: keys of the configuration, files, cases, and parameters."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.experiment import cases as cases_module
from hstf.experiment import context as context_module
from hstf.experiment.cases import CaseSheet, Split
from hstf.experiment.context import StageContext
from hstf.experiment.dependencies import stage_parameters
from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import LABELS
from hstf.experiment.schedule import Schedule
from hstf.runtime.errors import HstfError

SPLITS = ["labelled"] * 2 + ["unlabelled"] * 3 + ["test"]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return a configuration with a case sheet of six cases, two in a shard."""
    lines = ["case_id,image,label,split"]
    for number, split in enumerate(SPLITS):
        lines.append(f"case_{number},image_{number}.nii.gz,label_{number}.nii.gz,{split}")
    (tmp_path / "cases.csv").write_text("\n".join(lines) + "\n")
    return resolve_config(
        {
            "experiment": "few",
            "cases": str(tmp_path / "cases.csv"),
            "output": str(tmp_path / "results"),
            "shard_size": 2,
            "rounds": 2,
            "device": "cpu",
            "rounds_overrides": {2: {"teacher": {"scales": [1.0]}}},
        }
    )


def ids(cases: Any) -> list[str]:
    return [case.case_id for case in cases]


def test_of_has_only_the_declared_keys(config: Config) -> None:
    context = StageContext.of(config, "teacher", 1)
    assert context.config.teacher.scales == config.teacher.scales
    assert context.config.preprocess.chunk == config.preprocess.chunk
    with pytest.raises(AttributeError, match=r"Config\.student is not declared by this stage"):
        _ = context.config.student
    with pytest.raises(AttributeError, match=r"TeacherConfig\.external is not declared"):
        _ = context.config.teacher.external
    with pytest.raises(AttributeError, match=r"PreprocessConfig\.workers is not declared"):
        _ = context.config.preprocess.workers


def test_of_has_free_keys_without_making_them_parameters(config: Config) -> None:
    context = StageContext.of(config, "plan")
    assert context.config.preprocess.workers == config.preprocess.workers
    assert set(context.parameters["preprocess"]) == {"axes"}


def test_of_has_the_keys_of_the_round(config: Config) -> None:
    context = StageContext.of(config, "teacher", 2)
    assert context.config.teacher.scales == (1.0,)
    assert context.config_of_round(1).teacher.scales == config.teacher.scales


def test_of_has_files_schedule_and_parameters(config: Config) -> None:
    context = StageContext.of(config, "student", 2)
    assert context.stage == "student"
    assert context.round == 2
    assert context.layout == Layout.of(config)
    assert context.schedule == Schedule.of(config)
    assert context.parameters == stage_parameters(config, "student", 2)
    assert context.device == "cpu"
    assert context.experiment == "few"


def test_of_arguments_loads_the_configuration(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config.model_dump_json())
    context = StageContext.of_arguments(Namespace(config=[path], round=2), "teacher")
    assert context.round == 2
    assert context.config.teacher.scales == (1.0,)
    assert StageContext.of_arguments(Namespace(config=[path]), "check").round == 0


def test_sheet_is_read_once(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def counted(config: Config) -> CaseSheet:
        reads.append(config)
        return cases_module.read_cases(config)

    monkeypatch.setattr(context_module, "read_cases", counted)
    context = StageContext.of(config, "check")
    assert reads == []
    assert context.sheet is context.sheet
    context.cases(Split.TEST)
    assert len(reads) == 1


def test_cases_are_those_of_a_split(config: Config) -> None:
    context = StageContext.of(config, "check")
    assert ids(context.cases(Split.UNLABELLED)) == ["case_2", "case_3", "case_4"]


def test_shards_divide_a_split(config: Config) -> None:
    context = StageContext.of(config, "check")
    shards = {name: ids(cases) for name, cases in context.shards(Split.UNLABELLED).items()}
    assert shards == {"unlabelled_0": ["case_2", "case_3"], "unlabelled_1": ["case_4"]}
    assert ids(context.shard("unlabelled_1")) == ["case_4"]


def test_shard_refuses_an_unknown_name(config: Config) -> None:
    with pytest.raises(HstfError, match="--shard unlabelled_7: there is no such shard"):
        StageContext.of(config, "check").shard("unlabelled_7")


def test_unlabelled_shard_returns_unlabelled_cases(config: Config) -> None:
    context = StageContext.of(config, "teacher", 1)
    assert ids(context.unlabelled_shard("unlabelled_0")) == ["case_2", "case_3"]


def test_unlabelled_shard_refuses_other_splits(config: Config) -> None:
    context = StageContext.of(config, "teacher", 1)
    with pytest.raises(HstfError, match="only unlabelled cases have pseudo-labels"):
        context.unlabelled_shard("labelled_0")


def test_unlabelled_shard_refuses_the_warmup(config: Config) -> None:
    with pytest.raises(HstfError, match="pseudo-labels belong to rounds 1 to 2"):
        StageContext.of(config, "teacher", 0).unlabelled_shard("unlabelled_0")


def test_joined_records_joins_the_shards_with_paths_from_the_folder(
    config: Config, tmp_path: Path
) -> None:
    context = StageContext.of(config, "labels", 1)

    def path_of(shard: str) -> Path:
        return tmp_path / f"{shard}.csv"

    for shard, cases in context.shards(Split.UNLABELLED).items():
        rows = []
        for case in cases:
            files = [f"{case.case_id}.nii.gz"]
            rows.append({"case_id": case.case_id, "round": 1, "files": files, "sha256": ["0"]})
        LABELS.write(path_of(shard), rows)
    joined = context.joined_records(LABELS, path_of, "labels")
    assert [row["case_id"] for row in joined] == ["case_2", "case_3", "case_4"]
    assert joined[2]["files"] == ["labels/case_4.nii.gz"]
    assert joined[2]["round"] == 1


def test_joined_records_names_a_missing_table(config: Config, tmp_path: Path) -> None:
    context = StageContext.of(config, "labels", 1)
    with pytest.raises(HstfError, match=r"unlabelled_0\.csv"):
        context.joined_records(LABELS, lambda shard: tmp_path / f"{shard}.csv", "labels")
