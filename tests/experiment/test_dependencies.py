"""Each stage declares the keys of the configuration that it reads, and no others.

A key that is read without being declared raises an error. These tests therefore run all stages of a
small experiment and look for declared keys that no stage reads.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from support.workspace import TINY, Workspace, write_sheet

from hstf.cli import main
from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.config.section import Section
from hstf.experiment import context as context_module
from hstf.experiment.context import StageContext
from hstf.experiment.dependencies import STAGES, stage_parameters

TRACKED_PARAMETERS = {
    "track": set(STAGES["track"].free_keys),
}
"""The run in MLflow gets these sections as a whole, by ``model_dump``."""

NOT_IN_THIS_EXPERIMENT = {
    # Only probabilities are stored as arrays.
    "external": {"preprocess.chunk"},
    # The stage compare needs finished experiments of several methods.
    "compare": {*STAGES["compare"].keys, *STAGES["compare"].free_keys},
    # `hstf evaluate --scales` belongs to a comparison of methods.
    "evaluate": {"compare"},
}

OTHER = {"files": "labels/{case}.nii.gz", "labels": {"liver": 1}, "probabilities": False}
"""An external teacher that knows the liver. No command is started for it."""

ROUND = ("--round", "1")
SHARD = ("--shard", "unlabelled_0")
COMMANDS = (
    ("check",),
    ("plan",),
    ("preprocess", "--shard", "labelled_0"),
    ("preprocess", "--shard", "unlabelled_0"),
    ("pretrain",),
    ("warmup", "--member", "fold_0"),
    ("warmup", "--member", "fold_1"),
    ("warmup", "--member", "seed_0"),
    ("out_of_fold",),
    ("external", "--shard", "labelled_0"),
    ("external",),
    ("external", "--shard", "unlabelled_0"),
    ("calibrate",),
    ("calibrate", *ROUND),
    ("monitor", "--round", "0"),
    ("teacher", *ROUND, *SHARD),
    ("lesions", *ROUND),
    ("refine", *ROUND, *SHARD),
    ("refine", *ROUND),
    ("labels", *ROUND, *SHARD),
    ("labels", *ROUND),
    ("student", *ROUND, "--member", "seed_0"),
    ("student", *ROUND, "--member", "seed_1"),
    ("monitor", *ROUND),
    ("evaluate", "--round", "0", "--shard", "test_0"),
    ("evaluate", "--round", "0"),
    ("evaluate", *ROUND, "--shard", "test_0"),
    ("evaluate", *ROUND),
    ("track", *ROUND),
    ("report",),
    ("export",),
    # Without rounds, the model of the warm-up is exported.
    ("export", "--config", "config.yaml", "no_rounds.yaml"),
)
"""A round of self-training, in the order of the workflow."""


class ReadKeys:
    """Records which keys of watched configurations are read."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self._names: dict[int, str] = {}
        self._watched: list[Config] = []

    def watch(self, config: Config) -> Config:
        """Return a copy of ``config`` whose keys are recorded when they are read."""
        copy = config.model_copy(deep=True)
        self._watched.append(copy)  # an object that exists keeps its id
        self._names[id(copy)] = ""
        for name, value in copy.__dict__.items():
            if isinstance(value, Section):
                self._names[id(value)] = f"{name}."
        return copy

    def record(self, section: Section, name: str) -> None:
        """Record the attribute ``name`` of a section, if the section is watched."""
        prefix = self._names.get(id(section))
        if prefix is not None and name in type(section).model_fields:
            self.keys.add(f"{prefix}{name}")


@pytest.fixture
def read_keys(monkeypatch: pytest.MonkeyPatch) -> ReadKeys:
    """Record the keys that are read from the configurations of contexts."""
    found = ReadKeys()
    restrict = context_module._restricted_to_round
    get_attribute = Section.__getattribute__

    def watched(*arguments: Any) -> Config:
        return found.watch(restrict(*arguments))

    def recorded(section: Section, name: str) -> Any:
        if not name.startswith("_"):
            found.record(section, name)
        return get_attribute(section, name)

    monkeypatch.setattr(context_module, "_restricted_to_round", watched)
    monkeypatch.setattr(Section, "__getattribute__", recorded)
    return found


def in_this_process(
    function: Callable[[Any], Any], items: Iterable[Any], workers: int
) -> Iterator[tuple[Any, Any]]:
    """Replace ``map_processes``: keys that another process reads are not recorded here."""
    for item in items:
        yield item, function(item)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Return a folder with a small synthetic data set and its configuration."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr("hstf.stages.check.reading.map_processes", in_this_process)
    monkeypatch.setattr("hstf.stages.plan.fingerprint.map_processes", in_this_process)
    phantom = ["phantom", "--output", str(tmp_path), "--cases", "6", "--labelled", "3"]
    assert main([*phantom, "--test", "1", "--size", "24", "24", "24"]) == 0
    splits = ["labelled"] * 3 + ["test"] + ["unlabelled"] * 2
    write_sheet(tmp_path, splits, "images/{}.nii.gz", "labels/{}.nii.gz")
    workspace = Workspace(tmp_path)
    settings = {
        "rounds": 1,
        "lesions": ["lesion"],
        # Only the scale of CT depends on labels.
        "modalities": {"image": "ct"},
        "refine": {"select_cases": False},
        "teacher": {"scales": [1.0, 1.25], "overlap": 0.25, "external": {"other": OTHER}},
        "warmup": {"folds": 2, "seeds": 1, "steps": 4, "history_every": 4},
        "student": {"start": "scratch", "steps": 3, "history_every": 3},
        "pretrain": {"task": "masked", "steps": 2, "history_every": 2},
    }
    workspace.configure(**(TINY | settings))
    (tmp_path / "no_rounds.yaml").write_text("rounds: 0\n")
    # A corrected label of an unlabelled case.
    overrides = tmp_path / "overrides" / "round_1"
    overrides.mkdir(parents=True)
    shutil.copy(tmp_path / "labels" / "case_004.nii.gz", overrides)
    return workspace


def is_read(key: str, read: set[str]) -> bool:
    """Return whether a declared key is read; a section is read if one of its keys is."""
    return key in read or any(name.startswith(f"{key}.") for name in read)


def test_stages_read_all_keys_that_they_declare(workspace: Workspace, read_keys: ReadKeys) -> None:
    read: dict[str, set[str]] = {stage: set() for stage in STAGES}
    with chdir(workspace.folder):
        for stage, *options in COMMANDS:
            read_keys.keys.clear()
            assert main([stage, "--config", "config.yaml", *options]) == 0, stage
            read[stage] |= read_keys.keys
    unread = {}
    for stage, dependencies in STAGES.items():
        declared = {*dependencies.keys, *dependencies.free_keys}
        expected = declared - NOT_IN_THIS_EXPERIMENT.get(stage, set())
        expected -= TRACKED_PARAMETERS.get(stage, set())
        unread[stage] = {key for key in expected if not is_read(key, read[stage])}
    assert {stage: keys for stage, keys in unread.items() if keys} == {}


@pytest.mark.parametrize("stage", STAGES)
def test_context_refuses_keys_that_the_stage_does_not_declare(stage: str) -> None:
    config = StageContext.of(resolve_config({"compare": {}}), stage, 1).config
    declared = {*STAGES[stage].keys, *STAGES[stage].free_keys}
    sections = {key.partition(".")[0] for key in declared}
    for name in set(Config.model_fields) - sections:
        with pytest.raises(AttributeError, match="is not declared by this stage"):
            getattr(config, name)


@pytest.mark.parametrize("stage", STAGES)
def test_keys_and_free_keys_of_a_stage_are_different(stage: str) -> None:
    assert not set(STAGES[stage].keys) & set(STAGES[stage].free_keys)


def test_stage_parameters_have_the_version_and_the_keys() -> None:
    parameters = stage_parameters(resolve_config({"labels": {"liver": 3}}), "check")
    assert parameters == {
        "version": STAGES["check"].version,
        "check": {"affine_tolerance_mm": 0.01},
        "labels": [["background", 0], ["liver", 3]],
        "modalities": [["image", "mr"]],
    }


def test_stage_parameters_depend_on_the_order_of_labels() -> None:
    first = resolve_config({"labels": {"liver": 1, "spleen": 2}})
    second = resolve_config({"labels": {"spleen": 2, "liver": 1}})
    assert stage_parameters(first, "check") != stage_parameters(second, "check")


def test_stage_parameters_leave_out_free_keys_and_keys_of_speed() -> None:
    plain = resolve_config({})
    faster = resolve_config({"preprocess": {"workers": 7}, "teacher": {"window_batch": 16}})
    for stage in ("plan", "preprocess", "teacher"):
        assert stage_parameters(faster, stage, 1) == stage_parameters(plain, stage, 1)


def test_stage_parameters_leave_out_newer_keys_at_their_default() -> None:
    """Otherwise an update of the program would run all trainings again."""
    usual = stage_parameters(resolve_config({}), "warmup")
    assert not {"start", "start_keys", "start_rate"} & usual["network"].keys()
    assert "extra_steps" not in usual["warmup"]
    changed = resolve_config({"network": {"start_rate": 0.5}, "warmup": {"extra_steps": 3}})
    found = stage_parameters(changed, "warmup")
    assert found["network"]["start_rate"] == 0.5
    assert found["warmup"]["extra_steps"] == 3
    assert "fine_tune" not in stage_parameters(resolve_config({}), "student", 1)["student"]
    tuned = stage_parameters(resolve_config({"student": {"fine_tune": 0.3}}), "student", 1)
    assert tuned["student"]["fine_tune"] == 0.3


def test_stage_parameters_of_the_plan_have_the_crop_only_if_it_is_off() -> None:
    """Plans of earlier versions stay valid; the preprocessing always had the key."""
    usual = resolve_config({})
    assert stage_parameters(usual, "plan")["preprocess"] == {"axes": "anatomical"}
    assert stage_parameters(usual, "preprocess")["preprocess"]["crop"] is True
    whole = resolve_config({"preprocess": {"crop": False}})
    assert stage_parameters(whole, "plan")["preprocess"]["crop"] is False


def test_stage_parameters_are_those_of_the_round() -> None:
    overrides = {2: {"student": {"steps": 7}}}
    config = resolve_config({"rounds_overrides": overrides})
    assert stage_parameters(config, "student", 2)["student"]["steps"] == 7
    assert stage_parameters(config, "student", 1) == stage_parameters(
        resolve_config({}), "student", 1
    )
