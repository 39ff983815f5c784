"""The configuration: merging, defaults, faults as sentences, and what is generated from the classes."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from hstf.cli import main
from hstf.config import Config, load_config, resolve_config
from hstf.config.command import config_text, document, schema_text
from hstf.config.load import merge
from hstf.config.phantom import PhantomConfig
from hstf.errors import HstfError
from hstf.stages import STAGES, stage_parameters


def write(folder: Path, **files: object) -> list[Path]:
    """A YAML file for each keyword."""
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return [folder / f"{name}.yaml" for name in files]


def test_defaults_need_no_file() -> None:
    config = resolve_config({})
    assert config.rounds == 2
    assert config.class_names == ["background", "foreground"]


def test_later_files_win_key_by_key(tmp_path: Path) -> None:
    first = {"student": {"steps": 5, "csc": {"every": 3}}, "seed": 1}
    config = load_config(*write(tmp_path, first=first, second={"student": {"csc": {"ramp": 0.5}}}))
    assert (config.student.steps, config.student.csc.every, config.student.csc.ramp, config.seed) == (
        5,
        3,
        0.5,
        1,
    )


def test_labels_and_modalities_are_replaced_as_a_whole(tmp_path: Path) -> None:
    first = {"labels": {"liver": 1, "spleen": 2}, "modalities": {"t1": "mr", "t2": "mr"}}
    config = load_config(
        *write(tmp_path, first=first, second={"labels": {"heart": 1}, "modalities": {"ct": "ct"}})
    )
    assert config.class_names == ["background", "heart"]
    assert config.modalities == {"ct": "ct"}


nested = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3), max_leaves=8
)
mappings = st.dictionaries(st.sampled_from("abcd"), nested, max_size=3)


@given(mappings, mappings)
def test_merging_keeps_the_second_and_changes_neither(base: dict, over: dict) -> None:
    before = json.dumps([base, over])
    merged = merge(base, over)
    assert json.dumps([base, over]) == before
    assert merge(merged, over) == merged
    assert merged.keys() == base.keys() | over.keys()
    assert all(merged[key] == value for key, value in over.items() if not isinstance(value, dict))


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"rouns": 3}, "rouns: unknown key. Did you mean 'rounds'?"),
        ({"student": {"csc": {"evry": 1}}}, "student.csc.evry: unknown key. Did you mean 'every'?"),
        ({"rounds": -1}, "rounds: Input should be greater than or equal to 0"),
        ({"labels": {"a": 1, "b": 1}}, "labels share a value"),
        ({"labels": {"background": 0}}, "labels name no class besides the background"),
        ({"experiment": "../x"}, "names a folder"),
        ({"rounds_overrides": {2: {"plan": {}}}}, "plan cannot differ by round"),
        ({"rounds_overrides": {2: {"student": {"step": 1}}}}, "unknown key. Did you mean 'steps'?"),
        ({"phantom": {"size": [40, 40]}}, "phantom.size"),
    ],
)
def test_faults_are_sentences(raw: dict, told: str) -> None:
    with pytest.raises(HstfError) as error:
        resolve_config(raw, "my.yaml")
    assert "my.yaml" in str(error.value)
    assert told in str(error.value)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(HstfError) as error:
        resolve_config({"rouns": 3, "student": {"steps": 0}, "seed": -1})
    assert all(key in str(error.value) for key in ("rouns", "student.steps", "seed"))


@pytest.mark.parametrize(
    ("text", "told"), [("- 1", "holds list"), ("a: [", "not valid YAML"), ("a: &x 1\nb: *x", "alias")]
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(HstfError, match=told):
        load_config(path)


def test_a_round_differs_where_it_says_so() -> None:
    config = resolve_config(
        {"rounds_overrides": {2: {"student": {"steps": 7}}}, "student": {"learning_rate": 0.5}}
    )
    assert config.for_round(1) is config
    assert config.for_round(2).student.steps == 7
    assert config.for_round(2).student.learning_rate == 0.5


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_of_a_stage_survive_json(stage: str) -> None:
    parameters = stage_parameters(Config(), stage, 1)
    assert json.loads(json.dumps(parameters)) == parameters
    assert {key.partition(".")[0] for key in STAGES[stage].keys} <= parameters.keys()


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_of_the_repository_are_in_order(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(path)
    if Path(config.cases).is_file():
        assert main(["config", "--check", "--config", str(path)]) == 0
        assert f"{config.experiment}: in order" in capsys.readouterr().out
    else:  # the data come from their owners alone: the file says how to import them
        assert f"--sheet {config.cases}" in path.read_text()


def test_what_is_shown_is_read_back_as_the_same() -> None:
    config = load_config(ROOT / "config" / "config.yaml")
    assert resolve_config(yaml.safe_load(config_text(config))) == config


def test_generated_files_are_in_step_with_the_classes() -> None:
    readme, schema = ROOT / "config" / "README.md", ROOT / "workflow" / "schemas" / "config.schema.json"
    assert readme.read_text() == document(), "run `make docs`"
    assert schema.read_text() == schema_text(), "run `make docs`"


def test_every_key_is_explained() -> None:
    empty = [line for line in document().splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert empty == []


def test_the_schema_refuses_what_the_classes_refuse() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(schema_text()))
    assert validator.is_valid(yaml.safe_load((ROOT / "config" / "config.yaml").read_text()))
    assert not validator.is_valid({"rouns": 3})
    assert not validator.is_valid({"student": {"steps": 0}})


def test_phantom_options_are_those_of_the_command() -> None:
    options = PhantomConfig(cases=5, size=(8, 9, 10)).options().split()
    assert options[:6] == ["--output", "demo", "--size", "8", "9", "10"]
    assert options[options.index("--cases") + 1] == "5"
