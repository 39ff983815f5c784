"""What people write in YAML is read as they mean it, or refused with the true reason."""

from pathlib import Path

import numpy as np
import pytest

from hstf.config.experiment import Config
from hstf.config.load import config_text, load_config, resolve_config
from hstf.config.yaml_files import read_yaml
from hstf.imaging.label_values import IGNORED, class_indices, to_label_values
from hstf.runtime.errors import HstfError

ODD_NAMES = ("no", "yes", "on", "off", "null", "~", "true", "1", "001", "1e3", "1.50", "2024-05-01")


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def loaded(folder: Path, text: str) -> Config:
    return load_config(written(folder, text))


@pytest.mark.parametrize("name", ODD_NAMES)
def test_class_and_region_may_have_any_name(tmp_path: Path, name: str) -> None:
    config = loaded(
        tmp_path,
        f"labels: {{{name}: 1, other: 2}}\nregions: {{{name}: [{name}], both: [{name}, other]}}\n"
        f"lesions: [{name}]\nmodalities: {{{name}: mr}}\n",
    )
    assert config.labels == {"background": 0, name: 1, "other": 2}
    assert config.regions == {name: (name,), "both": (name, "other")}
    assert config.lesions == (name,) and list(config.modalities) == [name]
    again = loaded(tmp_path, config_text(config))
    assert again == config, "also in the configuration that is written into results"


@pytest.mark.parametrize("name", [name for name in ODD_NAMES if name not in ("null", "~")])
def test_experiment_may_have_any_name_of_a_folder(tmp_path: Path, name: str) -> None:
    config = loaded(tmp_path, f"experiment: {name}\ncases: {name}\n")
    assert (config.experiment, config.cases) == (name, name)
    assert loaded(tmp_path, config_text(config)) == config


@pytest.mark.parametrize(
    ("text", "expected"),
    [("010", 10), ("007", 7), ("1_000", 1000), ("1e3", 1000), ("1000.0", 1000), ("'5'", 5)],
)
def test_whole_numbers_are_decimal(tmp_path: Path, text: str, expected: int) -> None:
    assert loaded(tmp_path, f"warmup: {{steps: {text}}}").warmup.steps == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1e-3", 1e-3), ("1.e-3", 1e-3), (".5", 0.5), ("1", 1.0), ("+2E-2", 0.02)],
)
def test_real_numbers_may_have_an_exponent(tmp_path: Path, text: str, expected: float) -> None:
    config = loaded(tmp_path, f"warmup: {{learning_rate: {text}}}")
    assert config.warmup.learning_rate == expected


@pytest.mark.parametrize("word", ["no", "off", "false", "False", "No", "OFF"])
def test_truth_values_may_be_words(tmp_path: Path, word: str) -> None:
    config = loaded(tmp_path, f"track: {{enabled: {word}}}\nwarmup: {{amp: {word}}}\n")
    assert config.track.enabled is False
    assert config.warmup.amp == "off"


def test_null_is_nothing_where_a_key_may_be_empty(tmp_path: Path) -> None:
    for empty in ("null", "~", ""):
        assert loaded(tmp_path, f"overrides: {empty}\nplan: {{spacing: {empty}}}").overrides is None


def test_numbers_of_rounds_stay_numbers(tmp_path: Path) -> None:
    content = read_yaml(written(tmp_path, "rounds_overrides: {2: {refine: {overlays: 3}}}"))
    assert content == {"rounds_overrides": {2: {"refine": {"overlays": 3}}}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("labels: {no: 1, no: 2}", "'no' is in lines 1 and 1"),
        ("labels: {organ: yes}", "labels.organ: .*found 'yes'"),
        ("labels: {organ: true}", "the value of organ is true or false, not a number"),
        ("labels: {organ: 1:30}", "labels.organ: .*found '1:30'"),
        ("labels: {organ: 0x10}", "labels.organ: .*found '0x10'"),
        ("labels: {organ: 1.5}", "labels.organ: .*1.5"),
        ("labels: {organ: 1, ignore: -1}", "between 0 and 255, found {'ignore': -1}.*value 255"),
        ("labels: {organ: 1001}", "between 0 and 255, found {'organ': 1001}.*anew"),
        ("experiment: null", "experiment: expected text, found nothing"),
        ("experiment: [a]", "experiment: expected text, found list"),
        ("? [a, b]\n: 1", "line 1 has a list or a section as key"),
        ("rounds_overrides: {first: {}}", "rounds_overrides.first"),
        ("rounds: 2024-05-01", "rounds: .*found '2024-05-01'"),
        ("warmup: {steps: 1e-3}", "warmup.steps"),
    ],
)
def test_the_true_reason_is_named(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(HstfError, match=reason):
        loaded(tmp_path, text)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"labels": {False: 1}}, "labels: the names False are no text.*quotes"),
        ({"labels": {None: 1}}, "the names None are no text"),
        ({"regions": {True: ("a",)}, "labels": {"a": 1}}, "regions: the names True"),
        ({"modalities": {1: "mr"}}, "modalities: the names 1"),
        ({"experiment": 1}, "experiment: expected text, found 1: .*quotes"),
        ({"lesions": [None]}, "expected text, found nothing"),
    ],
)
def test_values_of_the_command_line_that_lost_their_text_are_refused(
    content: dict, reason: str
) -> None:
    with pytest.raises(HstfError, match=reason):
        resolve_config(content)


def test_at_most_255_classes() -> None:
    classes = {f"class_{value}": value for value in range(1, 256)}
    with pytest.raises(HstfError, match="256 classes with the background, but at most 255"):
        resolve_config({"labels": classes})
    del classes["class_7"]
    assert len(resolve_config({"labels": classes}).class_names) == 255
    assert resolve_config({"labels": {**classes, "ignore": 7}}).ignore_value == 7
    with pytest.raises(
        HstfError, match=r"same value: background 0, air 0\. 'background' is 0 unless"
    ):
        resolve_config({"labels": {"air": 0, "organ": 1}})


def test_label_values_up_to_255_are_converted_and_back() -> None:
    values = np.array([0, 255, 254, 7], np.uint8)
    for labels in ({"organ": 255, "x": 254, "y": 7}, {"ignore": 255, "x": 254, "y": 7}):
        config = resolve_config({"labels": labels})
        indices = class_indices(values, config, Path("label.nii.gz"))
        is_ignored = values == config.ignore_value
        assert np.array_equal(indices == IGNORED, is_ignored)
        restored = to_label_values(indices[~is_ignored], config)
        assert np.array_equal(restored, values[~is_ignored])


@pytest.mark.parametrize(
    "text",
    [
        "output: ~/x",
        "cases: ~/x",
        "overrides: ~/x",
        "reuse: {data: ~/x, warmup: ~/x}",
        "phantom: {folder: ~/x}",
        "track: {uri: 'sqlite:///~/x'}",
    ],
)
def test_home_folder_in_any_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    section = next(iter(read_yaml(written(tmp_path, text))))
    shown = loaded(tmp_path, text).model_dump_json(include={section})
    assert f"{tmp_path}/x" in shown and "~" not in shown


@pytest.mark.parametrize("key", ["output", "cases", "overrides"])
def test_home_folder_of_an_unknown_user_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(HstfError, match=f"{key}: '~nobody_here/x': there is no user 'nobody_here'"):
        loaded(tmp_path, f"{key}: ~nobody_here/x")
