"""The configuration: merging, defaults, messages, and what is generated from the classes."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.workspace import ROOT, write_sheet

from hstf.cli import main
from hstf.commands.config import document, schema_text
from hstf.config.experiment import Config
from hstf.config.load import config_text, load_config, merge, resolve_config
from hstf.config.phantom import PhantomConfig
from hstf.experiment.dependencies import STAGES, stage_parameters
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_json


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
    assert (
        config.student.steps,
        config.student.csc.every,
        config.student.csc.ramp,
        config.seed,
    ) == (
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
    st.integers(),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
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
    ("key", "form"),
    [
        ("warmup.steps", "'warmup={steps: VALUE}'"),
        ("warmup_steps", "'warmup={steps: VALUE}'"),
        ("warmup-steps", "'warmup={steps: VALUE}'"),
        ("student.csc.every", "'student={csc: {every: VALUE}}'"),
    ],
)
def test_key_outside_its_section_is_refused_with_the_form_that_works(key: str, form: str) -> None:
    with pytest.raises(HstfError) as raised:
        resolve_config({key: 100})
    assert f"{key}: unknown key. In a file, write " in str(raised.value)
    assert f"After --config, write {form}." in str(raised.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"rouns": 3}, "rouns: unknown key. Did you mean 'rounds'?"),
        ({"student": {"csc": {"evry": 1}}}, "student.csc.evry: unknown key. Did you mean 'every'?"),
        ({"rounds": -1}, "rounds: Input should be greater than or equal to 0, found -1"),
        (
            {"plan": {"spacing": [-1, 1, 1]}},
            "plan.spacing.0: Input should be greater than 0, found -1",
        ),
        (
            {"plan": {"patch_size": [0, 64, 64]}},
            "plan.patch_size.0: Input should be greater than or equal to 1",
        ),
        (
            {"predict": {"flip_axes": [3]}},
            "predict.flip_axes: expected some of the axes 0, 1 and 2, each once, found [3]",
        ),
        ({"warmup": {"augmentation": {"flip_axes": [0, 0]}}}, "each once, found [0, 0]"),
        ({"student": {"csc": {"scale_range": [0, 1.4]}}}, "within 0.25 to 4, found [0.0, 1.4]"),
        (
            {"warmup": {"augmentation": {"scale_range": [1.2, 0.8]}}},
            "the minimum and the maximum scale",
        ),
        ({"labels": {"a": 1, "b": 1}}, "two labels have the same value"),
        (
            {"labels": {"background": 0}},
            "labels must name at least one class in addition to the background",
        ),
        ({"experiment": "../x"}, "is the name of a folder"),
        ({"experiment": "-rf"}, "is the name of a folder"),
        ({"output": "-rf"}, "output: '-rf' begins with a dash, so that commands would take it"),
        ({"output": "./-rf/x"}, "begins with a dash"),
        ({"phantom": {"folder": "-rf"}}, "phantom.folder: '-rf' begins with a dash"),
        ({"rounds_overrides": {2: {"plan": {}}}}, "plan cannot differ by round"),
        ({"rounds_overrides": {2: {"student": {"step": 1}}}}, "unknown key. Did you mean 'steps'?"),
        ({"phantom": {"size": [40, 40]}}, "phantom.size"),
    ],
)
def test_resolve_config_describes_problems(raw: dict, message: str) -> None:
    with pytest.raises(HstfError) as error:
        resolve_config(raw, "my.yaml")
    assert "my.yaml" in str(error.value)
    assert message in str(error.value)


def test_resolve_config_lists_all_problems() -> None:
    with pytest.raises(HstfError) as error:
        resolve_config({"rouns": 3, "student": {"steps": 0}, "seed": -1})
    assert all(key in str(error.value) for key in ("rouns", "student.steps", "seed"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "holds list"),
        ("a: [", "not valid YAML"),
        ("a: &x 1\nb: *x", "alias"),
        (
            "student: {steps: 5}\nseed: 1\nstudent: {members: 2}",
            r"(?s)a key twice.*'student' is in lines 1 and 3",
        ),
        ("labels: {background: 0, a: 1, a: 2}", "'a' is in lines 1 and 1"),
    ],
)
def test_load_config_refuses_files_that_are_no_configuration(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(HstfError, match=message):
        load_config(path)


TUMOUR = {
    "labels": {"necrosis": 1, "oedema": 2, "enhancing": 4, "ignore": 9},
    "regions": {
        "whole_tumour": ["necrosis", "oedema", "enhancing"],
        "tumour_core": ["necrosis", "enhancing"],
        "enhancing_tumour": ["enhancing"],
    },
}


def test_structures_are_regions_or_classes() -> None:
    config = resolve_config(TUMOUR | {"lesions": ["enhancing_tumour"]})
    assert config.structures == {
        "whole_tumour": (1, 2, 3),
        "tumour_core": (1, 3),
        "enhancing_tumour": (3,),
    }
    assert config.heads == ((1, 2, 3), (1, 3), (3,)) and config.structure_kind == "region"
    plain = resolve_config({"labels": TUMOUR["labels"], "lesions": ["oedema"]})
    assert plain.structures == {"necrosis": (1,), "oedema": (2,), "enhancing": (3,)}
    assert plain.heads == () and plain.structure_kind == "class"
    with pytest.raises(
        HstfError,
        match="lesions name oedema, expected some of the regions whole_tumour, tumour_core",
    ):
        resolve_config(TUMOUR | {"lesions": ["oedema"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"whole_tumour": ["necrosis", "edema"]},
            "whole_tumour has 'edema', which is not a class. Did you mean 'oedema'?",
        ),
        (
            {"whole_tumour": ["xyz"]},
            "'xyz', which is not a class; the classes are necrosis, oedema, enhancing",
        ),
        (
            {"core": ["background", "oedema"]},
            "core has the class background, which no region may have",
        ),
        ({"core": ["ignore"]}, "core has 'ignore', which is not a class"),
        (
            {"core": ["enhancing", "necrosis"]},
            "tumour_core and core have the same classes; keep one of them",
        ),
        ({"core": ["oedema", "oedema"]}, "core has a class twice"),
        ({"core": []}, "core has no class"),
        ({"background": ["oedema"]}, "background cannot be the name of a region"),
        (
            {"whole_tumour": ["necrosis", "enhancing"]},
            "the class oedema is in no region; add a region for it, oedema: [oedema]",
        ),
        (
            {"enhancing_tumour": ["oedema"]},
            "the classes necrosis and enhancing are in the same regions"
            " (tumour_core, whole_tumour), which cannot distinguish them; add a region with one",
        ),
    ],
)
def test_config_refuses_regions_that_are_no_label_map(change: dict, message: str) -> None:
    with pytest.raises(HstfError) as error:
        resolve_config(TUMOUR | {"regions": TUMOUR["regions"] | change})
    assert message in str(error.value)


def test_config_lists_all_problems_of_regions() -> None:
    with pytest.raises(HstfError) as error:
        resolve_config(TUMOUR | {"regions": {"core": ["necrosi", "background"]}})
    message = str(error.value)
    for part in ("'necrosi'", "has the class background", "oedema is in no region"):
        assert part in message
    assert "enhancing is in no" in message


def test_regions_are_replaced_as_a_whole_and_are_parameters(
    tmp_path: Path,
) -> None:
    first = TUMOUR | {"experiment": "first"}
    second = {
        "regions": {
            "a": ["oedema"],
            "b": ["enhancing"],
            "tumour": ["necrosis", "oedema", "enhancing"],
        }
    }
    assert list(load_config(*write(tmp_path, first=first, second=second)).regions) == [
        "a",
        "b",
        "tumour",
    ]
    changed = [s for s in STAGES if "regions" in stage_parameters(resolve_config(TUMOUR), s, 1)]
    assert changed == [
        "warmup",
        "out_of_fold",
        "external",
        "calibrate",
        "monitor",
        "teacher",
        "lesions",
        "refine",
        "student",
        "evaluate",
    ]


def test_for_round_merges_the_overrides_of_a_round() -> None:
    config = resolve_config(
        {"rounds_overrides": {2: {"student": {"steps": 7}}}, "student": {"learning_rate": 0.5}}
    )
    assert config.for_round(1) is config
    assert config.for_round(2).student.steps == 7
    assert config.for_round(2).student.learning_rate == 0.5


@pytest.mark.parametrize("stage", STAGES)
def test_stage_parameters_survive_json(stage: str) -> None:
    parameters = stage_parameters(Config(regions={"whole": ("foreground",)}), stage, 1)
    assert json.loads(json.dumps(parameters)) == parameters
    assert {key.partition(".")[0] for key in STAGES[stage].keys} <= parameters.keys()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem
)
def test_check_accepts_the_configurations_of_the_repository(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(path)
    if Path(config.cases).is_file():
        assert main(["config", "--check", "--config", str(path)]) == 0
        assert f"{config.experiment}: valid" in capsys.readouterr().out
    else:  # the owners distribute the data: the file describes the import
        assert f"--sheet {config.cases}" in path.read_text()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"warmup": {"folds": 9}}, "warmup.folds is 9, but there are 3 labelled patients"),
        ({"compare": {"seeds": [0, 0]}}, "has a value twice"),
        ({"reuse": {"data": "results/nowhere"}}, "is not an experiment"),
    ],
)
def test_check_refuses_what_the_workflow_refuses(
    tmp_path: Path, keys: dict, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sheet(tmp_path, ["labelled"] * 3 + ["unlabelled", "test"])
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump({"cases": str(tmp_path / "cases.csv"), "labels": {"organ": 1}} | keys)
    )
    assert main(["config", "--check", "--config", str(path)]) == 1
    assert message in capsys.readouterr().err


def test_config_text_is_read_back_as_the_same() -> None:
    config = load_config(ROOT / "config" / "config.yaml")
    assert resolve_config(yaml.safe_load(config_text(config))) == config


def test_schema_text_is_the_schema_of_the_repository() -> None:
    schema = ROOT / "workflow" / "schemas" / "config.schema.json"
    assert schema.read_text() == schema_text(), "run `make docs`"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"calibrate": {"smallest_pass": 0.5}}, "this key is now called calibrate.minimum_pass"),
        ({"student": {"held_gb": 2}}, "student.held_gb: this key is now called student.gpu_cache"),
        ({"warmup": {"nodes": 2}}, "warmup.nodes: this key was removed: training uses the GPUs"),
    ],
)
def test_resolve_config_names_the_new_key_of_a_renamed_one(keys: dict, message: str) -> None:
    with pytest.raises(HstfError) as error:
        resolve_config(keys)
    assert message in str(error.value)


def test_resolve_config_reads_renamed_values_with_a_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = {"student": {"start": "warmup"}}
    config = resolve_config(old | {"rounds_overrides": {2: old}}, "my.yaml")
    assert config.student.start == "previous_round"
    assert config.for_round(2).student.start == "previous_round"
    message = "my.yaml: student.start: 'warmup' is now called 'previous_round'"
    assert capsys.readouterr().err.splitlines() == [message, message]


def test_document_explains_every_key() -> None:
    empty = [
        line for line in document().splitlines() if line.startswith("| `") and line.endswith("|  |")
    ]
    assert empty == []


def test_schema_text_refuses_what_the_classes_refuse() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(schema_text()))
    assert validator.is_valid(yaml.safe_load((ROOT / "config" / "config.yaml").read_text()))
    assert not validator.is_valid({"rouns": 3})
    assert not validator.is_valid({"student": {"steps": 0}})


def test_options_of_phantom_are_those_of_the_command() -> None:
    options = PhantomConfig(cases=5, size=(8, 9, 10)).options().split()
    assert options[:6] == ["--output", "demo", "--size", "8", "9", "10"]
    assert options[options.index("--cases") + 1] == "5"


def test_stage_parameters_contain_the_order_of_classes_and_channels() -> None:
    """The order decides class indices and channels; JSON with sorted keys has no order."""
    one = Config(
        labels={"background": 0, "liver": 1, "lesion": 2}, modalities={"t1": "mr", "t2": "mr"}
    )
    other = Config(
        labels={"background": 0, "lesion": 2, "liver": 1}, modalities={"t2": "mr", "t1": "mr"}
    )
    assert one.labels == other.labels and one.modalities == other.modalities
    for stage in ("preprocess", "warmup", "refine", "labels", "student", "evaluate"):
        assert sha256_json(stage_parameters(one, stage, 1)) != sha256_json(
            stage_parameters(other, stage, 1)
        )


def test_config_refuses_no_modality() -> None:
    with pytest.raises(ValueError, match="there is no modality"):
        Config.model_validate({"modalities": {}})
