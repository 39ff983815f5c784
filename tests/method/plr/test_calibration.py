"""The document of the calibration and the rules that are applied."""

import json
from pathlib import Path

import pytest

from hstf.method.plr.anatomy import AnatomyRule
from hstf.method.plr.calibration import Calibration, applicable_rules
from hstf.method.plr.lesions import fit_lesions
from hstf.method.plr.predicted_dice import DiceInterval, DiceModel
from hstf.runtime.errors import HstfError

KEYS = [
    "temperature",
    "thresholds",
    "anatomy_rules",
    "lesions",
    "dice_models",
    "class_sd",
    "mean_sd",
    "interval",
    "minimum_predicted_dice",
    "evidence",
]
STRUCTURES = {"liver": (1,), "tumour": (2,)}


def rule(dice_gain: float = 0.0) -> AnatomyRule:
    """Return a rule of a structure that every case has."""
    return AnatomyRule(
        maximum_components=1,
        minimum_mm3=10.0,
        has_holes=False,
        may_be_absent=False,
        dice_gain=dice_gain,
        gain_error=0.002,
    )


@pytest.fixture
def calibration() -> Calibration:
    """Return the calibration of a liver with lesions."""
    return Calibration(
        temperature=1.2,
        thresholds={"background": 0.5, "liver": 0.6, "tumour": 0.7},
        anatomy_rules={"liver": rule(), "tumour": rule()},
        lesions={"tumour": fit_lesions([], [], 0.2)},
        dice_models={
            "liver": DiceModel(mean=0.9, slope=1.0, usual={"confidence": 0.9}, absent=0.0)
        },
        class_sd={"liver": 0.05},
        mean_sd=0.05,
        interval=DiceInterval(half_width=0.1, method="guess", patients=5),
        minimum_predicted_dice=0.7,
        evidence={"voxels": 3, "calibration_error": {"before": {"liver": None}}},
    )


def test_save_writes_what_load_reads(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    calibration.save(path)
    assert list(json.loads(path.read_text())) == KEYS
    assert Calibration.load(path) == calibration


def test_load_refuses_the_key_of_an_earlier_version(
    calibration: Calibration, tmp_path: Path
) -> None:
    path = tmp_path / "calibration.json"
    content = calibration.to_json()
    content["structure"] = content.pop("anatomy_rules")
    path.write_text(json.dumps(content))
    with pytest.raises(HstfError, match=r"(?s)run the stage 'calibrate' again.*anatomy_rules"):
        Calibration.load(path)


def test_applicable_rules_leave_out_harmful_rules_and_lesions(calibration: Calibration) -> None:
    assert list(calibration.applicable_rules(STRUCTURES).rules) == ["liver"]
    harmful = {"liver": rule(-0.01), "tumour": rule(0.01)}
    assert list(applicable_rules(STRUCTURES, harmful, []).rules) == ["tumour"]
    unclear = {"liver": rule(-0.003), "tumour": rule(-0.005)}
    assert list(applicable_rules(STRUCTURES, unclear, []).rules) == ["liver"]


def test_may_be_absent_is_true_for_lesions(calibration: Calibration) -> None:
    assert calibration.may_be_absent("tumour")
    assert not calibration.may_be_absent("liver")


def test_predict_dice_uses_the_model_of_each_structure(calibration: Calibration) -> None:
    assert calibration.predict_dice({"liver": {"confidence": 0.8}}) == {"liver": pytest.approx(0.8)}
    assert calibration.predict_dice({"liver": None}) == {"liver": 0.0}
