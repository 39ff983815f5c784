"""Methods set what their name means in the configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.config.methods import METHODS, NO_REFINEMENT, Method
from hstf.config.objectives import OBJECTIVES
from hstf.config.refine import RefineConfig
from hstf.config.training import StudentConfig
from hstf.method.objectives.registry import build_objective
from hstf.runtime.errors import HstfError

ROOT = Path(__file__).parents[2]
EVERYTHING: dict[str, Any] = {
    "student": {
        "members": 2,
        "ema_blend": 0.5,
        "mixing": {"probability": 0.75, "fraction": 0.5},
        "csc": {
            "prediction_weight": 0.4,
            "feature_weight": 0.2,
            "pyramid_weight": 0.1,
            "segmentation_weight": 0.5,
        },
    },
}
"""A configuration that switches all parts of the method on."""
CSC_WEIGHTS = ("prediction_weight", "feature_weight", "pyramid_weight")


def resolved(method: str, **changes: Any) -> Config:
    return resolve_config({**EVERYTHING, "method": method, **changes})


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in values.items():
        found |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found


def differences(method: str) -> dict[str, Any]:
    """Return the values that differ between ``method`` and ``hstf``."""
    mine, other = (flat(resolved(name).model_dump(mode="json")) for name in (method, "hstf"))
    return {key: value for key, value in mine.items() if other[key] != value and key != "method"}


def test_methods_and_objectives_are_those_of_the_configuration() -> None:
    assert list(METHODS) == list(get_args(Method))
    objective = StudentConfig.model_fields["objective"].annotation
    assert list(OBJECTIVES) == list(get_args(objective))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_build_objective_imports_every_objective(name: str) -> None:
    assert callable(build_objective(name, Config()))


@pytest.mark.parametrize("method", METHODS)
def test_resolve_config_applies_the_overrides_of_a_method(method: Method) -> None:
    found = flat(resolved(method).model_dump())
    assert {key: found[key] for key in flat(METHODS[method].overrides)} == flat(
        METHODS[method].overrides
    )


def test_method_hstf_changes_nothing() -> None:
    assert METHODS["hstf"].overrides == {}
    assert resolve_config(EVERYTHING) == resolved("hstf")
    assert Config().method == "hstf"


def test_method_without_csc_changes_the_three_weights_only() -> None:
    assert differences("hstf_without_csc") == {f"student.csc.{key}": 0.0 for key in CSC_WEIGHTS}
    assert resolved("hstf_without_csc").student.csc.segmentation_weight == 0.5


@pytest.mark.parametrize(
    "path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem
)
def test_method_without_csc_keeps_scale_augmentation(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    values.pop("method", None)
    method, control = (
        resolve_config({**values, "method": m}).student.csc for m in ("hstf", "hstf_without_csc")
    )
    assert method.consistent
    assert not control.consistent
    assert control.zoomed
    assert (control.segmentation_weight, control.every) == (
        method.segmentation_weight,
        method.every,
    )


def test_method_without_plr_switches_off_every_part() -> None:
    parts = {name for name, field in RefineConfig.model_fields.items() if field.annotation is bool}
    assert dict.fromkeys(parts, False) == NO_REFINEMENT
    found = differences("hstf_without_plr")
    expected = {f"refine.{part}": False for part in parts}
    expected |= {
        "student.soft_targets": False,
        "student.ema_blend": 0.0,
    }
    assert found == expected
    assert differences("hstf_without_csc_and_plr") == expected | differences("hstf_without_csc")


def test_methods_without_transformer_change_the_network_only() -> None:
    assert differences("hstf_without_transformer") == {"network.name": "hybrid_identity"}
    assert differences("hstf_with_convolutions") == {"network.name": "cnn"}


def test_method_noisy_student_has_hard_labels_only() -> None:
    found = differences("noisy_student")
    assert found == {
        **differences("hstf_without_csc_and_plr"),
        "student.mixing.probability": 0.0,
    }
    assert resolved("noisy_student").student.learns_from == "pseudo_labels"


@pytest.mark.parametrize("method", ["supervised", "full"])
def test_supervised_methods_learn_from_labels_only(method: str) -> None:
    config = resolved(method)
    assert config.student.learns_from == "labels"
    assert config.withheld_labels == (method == "full")
    assert not config.student.csc.consistent
    assert (config.student.ema_blend, config.student.start) == (0, "previous_round")
    assert config.student.mixing == resolved("hstf").student.mixing, (
        "mixed among themselves, as in the warm-up"
    )
    assert config.student.steps == resolved("hstf").student.steps


@pytest.mark.parametrize("method", ["mean_teacher", "uamt", "cross_teaching", "bcp"])
def test_online_methods_learn_from_images(method: str) -> None:
    config = resolved(method)
    assert (config.student.learns_from, config.student.objective) == ("images", method)
    assert (config.network.name == "pair") == (method == "cross_teaching")
    assert (config.student.steps, config.rounds) == (
        resolved("hstf").student.steps,
        resolved("hstf").rounds,
    )


def test_method_wins_over_rounds_overrides() -> None:
    rounds = {2: {"student": {"steps": 7, "csc": {"prediction_weight": 0.9}}}}
    config = resolved("hstf_without_csc", rounds_overrides=rounds)
    assert config.for_round(2).student.steps == 7
    assert not config.for_round(2).student.csc.consistent
    assert resolve_config(config.model_dump(mode="json")) == config


def test_resolve_config_suggests_the_nearest_method() -> None:
    with pytest.raises(
        HstfError,
        match=r"method: there is no method 'hstff'\. Did you mean 'hstf'\? The methods are hstf, ",
    ):
        resolve_config({"method": "hstff"})
    with pytest.raises(HstfError, match="there is no method 3"):
        resolve_config({"method": 3})


def test_resolve_config_refuses_cross_teaching_without_a_pair() -> None:
    with pytest.raises(HstfError, match=r"needs two networks: set network\.name to pair"):
        resolve_config({"student": {"objective": "cross_teaching"}})
