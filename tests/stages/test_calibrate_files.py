"""``calibrate`` reads out-of-fold predictions, and keeps the anatomy rules that help."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.calibration_files import FOREGROUND, KNOWN, RULES, ball_case
from support.shard_files import write_shard
from support.stages import calibrate as calibrate_stage
from support.stages import learn_anatomy

from hstf.config.experiment import Config
from hstf.config.refine import RefineConfig
from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import TEACHER
from hstf.experiment.scan_tables import PREPROCESSED
from hstf.imaging.arrays import write_array
from hstf.imaging.geometry import Geometry
from hstf.method.plr.anatomy import AnatomyRule
from hstf.method.plr.calibration import Calibration, applicable_rules, prediction_rules
from hstf.method.plr.out_of_fold import LabelledCase
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_csv, write_json
from hstf.stages.out_of_fold import with_gains


def make_out_of_fold(
    folder: Path, errors: tuple[int, ...] = (0, 1, 2, 4), patients: str = "abcd"
) -> Config:
    """Write labelled cases, preprocessed and predicted by two folds."""
    cases = {f"case_{k}": ball_case(f"case_{k}", error) for k, error in enumerate(errors)}
    sheet = [
        {
            "case_id": c,
            "split": "labelled",
            "image": "i.nii.gz",
            "label": "l.nii.gz",
            "group": patient,
        }
        for c, patient in zip(cases, patients, strict=True)
    ]
    write_csv(folder / "cases.csv", sheet, list(sheet[0]))
    config = Config(cases=str(folder / "cases.csv"), output=str(folder), warmup={"folds": 2})  # type: ignore[arg-type]
    layout = Layout.of(config)
    for case_id, case in cases.items():
        preprocessed = layout.preprocessed / case_id
        predicted = layout.out_of_fold / case_id
        geometry = Geometry.of((16,) * 3, np.eye(4), (1.0,) * 3)
        geometry.save(preprocessed / "geometry.json")
        write_array(preprocessed / "label.b2nd", case.label, 8)
        write_array(predicted / "probabilities.b2nd", case.output.probabilities, 8)
        write_array(predicted / "uncertainty.b2nd", case.output.uncertainty, 8)
        case.output.agreement.save(predicted / "agreement.json")
    write_shard(PREPROCESSED, layout.preprocessed_table("labelled_0"), list(cases))
    write_shard(TEACHER, layout.out_of_fold_table("fold_0"), list(cases)[::2])
    write_shard(TEACHER, layout.out_of_fold_table("fold_1"), list(cases)[1::2])
    return config


def calibrate(config: Config) -> Calibration:
    """Run what comes after the predictions."""
    learn_anatomy(config)
    return calibrate_stage(config)


def test_calibrate_learns_from_files(tmp_path: Path) -> None:
    config = make_out_of_fold(tmp_path)
    found = calibrate(config)
    assert Calibration.load(Layout.of(config).calibration) == found
    rule = found.anatomy_rules["foreground"]
    assert rule == AnatomyRule(
        maximum_components=1,
        minimum_mm3=108.0,
        has_holes=False,
        may_be_absent=False,
        cut_bridges=True,
        dice_gain=rule.dice_gain,
        gain_error=rule.gain_error,
    )
    assert 0 < rule.dice_gain < 0.01, "a stray voxel in a corner of each"
    truth = [1.0, 12 / 13, 6 / 7, 0.75]
    assert [case["mean_dice"] for case in found.evidence["cases"].values()] == pytest.approx(truth)
    assert found.minimum_predicted_dice < 0.75


def test_calibrate_of_a_single_patient_states_that_the_interval_is_a_guess(tmp_path: Path) -> None:
    config = make_out_of_fold(tmp_path, patients="aaaa")
    found = calibrate(config)
    assert found.interval.method == "guess"
    assert found.interval.patients == 0, "each error needs another patient"
    assert found.interval.around(0.5) == (0.0, 1.0)


def test_calibrate_without_temperature_uses_the_given_probabilities(tmp_path: Path) -> None:
    """Refinement does not change these probabilities, so that thresholds must belong to them."""
    config = make_out_of_fold(tmp_path)
    assert calibrate(config).temperature != pytest.approx(1.0, abs=0.05)
    plain = config.model_copy(update={"refine": RefineConfig(calibrate=False)})
    found = calibrate(plain)
    assert found.temperature == 1.0
    assert (
        found.evidence["calibration_error"]["before"]
        == found.evidence["calibration_error"]["after"]
    )


def test_calibrate_counts_the_scans_of_a_patient_once(tmp_path: Path) -> None:
    single = calibrate(make_out_of_fold(tmp_path / "single"))
    shared = calibrate(make_out_of_fold(tmp_path / "shared", patients="aabb"))
    assert (single.interval.patients, shared.interval.patients) == (4, 2)
    assert single.interval.method == "guess"
    assert shared.mean_sd > single.mean_sd, "the worst two are unlike the others"


def test_load_refuses_a_calibration_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    calibrate(make_out_of_fold(tmp_path)).save(path)
    content = json.loads(path.read_text())
    content["dice_models"]["foreground"]["centre"] = 0.9
    write_json(path, content)
    message = r"calibration.json: does not have .* run the stage .calibrate. again"
    with pytest.raises(HstfError, match=message):
        Calibration.load(path)


def test_calibrate_names_a_case_without_prediction(tmp_path: Path) -> None:
    config = make_out_of_fold(tmp_path)
    write_shard(TEACHER, Layout.of(config).out_of_fold_table("fold_1"), ["case_1"])
    with pytest.raises(
        HstfError, match=r"fold_\*\.csv: does not .*3 found, 4 expected.*\n.*case_3: is missing"
    ):
        calibrate(config)


def test_a_prediction_that_was_changed_is_refused(tmp_path: Path) -> None:
    config = make_out_of_fold(tmp_path)
    write_json(Layout.of(config).out_of_fold / "case_2" / "agreement.json", {})
    with pytest.raises(HstfError, match=r"case_2/agreement\.json was changed"):
        calibrate(config)


def test_calibrate_takes_the_anatomy_rules_that_evaluation_uses(tmp_path: Path) -> None:
    config = make_out_of_fold(tmp_path)
    anatomy = learn_anatomy(config)
    assert anatomy.rules["foreground"].dice_gain is not None
    assert calibrate_stage(config).anatomy_rules == anatomy.rules
    rules = prediction_rules(config, Layout.of(config))
    assert rules == applicable_rules(config.structures, anatomy.rules, anatomy.lesions)


def test_learn_anatomy_does_not_depend_on_the_refinement(tmp_path: Path) -> None:
    config = make_out_of_fold(tmp_path)
    refine = RefineConfig(calibrate=False, keep_components=False, fill_holes=False)
    assert learn_anatomy(config.model_copy(update={"refine": refine})) == learn_anatomy(config)


def torn_case(case_id: str) -> LabelledCase:
    """Return a cube that is lost in its middle, so that its smaller part would go."""
    torn = ball_case(case_id, 0)
    torn.output.probabilities[:, 7:9] = np.array([255, 0], np.uint8)[:, None, None, None]
    return torn


def test_with_gains_refuses_a_rule_that_lowers_the_dice() -> None:
    """A stray voxel goes at no cost; of an organ that was lost in its middle, a part would."""
    torn = [torn_case(name) for name in "abc"]
    patients = {name: name for name in "abcde"}
    rules = with_gains(KNOWN, torn, patients)
    assert rules["foreground"].dice_gain < 0
    assert applicable_rules(FOREGROUND, rules, ()).rules == {}
    whole = [ball_case(name, 0) for name in "abc"]
    helpful = with_gains(KNOWN, whole, patients)
    assert helpful["foreground"].dice_gain > 0
    assert applicable_rules(FOREGROUND, helpful, ()).rules == helpful
    assert applicable_rules(FOREGROUND, RULES, ("foreground",)).rules == {}, (
        "lesions are judged one by one"
    )


def test_with_gains_keeps_a_rule_that_a_single_prediction_speaks_against() -> None:
    """The mean gain of three patients is negative because one prediction failed."""
    cases = [torn_case("a"), ball_case("b", 0), ball_case("c", 0)]
    rules = with_gains(KNOWN, cases, {name: name for name in "abc"})
    rule = rules["foreground"]
    # Of 216 voxels 108 and 36 are found, in two parts. The smaller part and the stray voxel go.
    torn = 2 * 108 / (216 + 108) - 2 * 144 / (216 + 145)
    whole = 1 - 2 * 216 / (216 + 217)
    mean = (torn + 2 * whole) / 3
    deviation = ((torn - mean) ** 2 + 2 * (whole - mean) ** 2) / 2
    assert rule.dice_gain == pytest.approx(mean)
    assert rule.gain_error == pytest.approx((deviation / 3) ** 0.5)
    assert mean < 0
    assert applicable_rules(FOREGROUND, rules, ()).rules == rules


def test_with_gains_counts_a_patient_once() -> None:
    cases = [torn_case("a"), torn_case("b"), ball_case("c", 0)]
    of_scans = with_gains(KNOWN, cases, {"a": "ann", "b": "bob", "c": "cid"})["foreground"]
    of_patients = with_gains(KNOWN, cases, {"a": "ann", "b": "ann", "c": "cid"})["foreground"]
    assert of_patients.dice_gain > of_scans.dice_gain, "one of two, not two of three, are torn"
    single = with_gains(KNOWN, cases, dict.fromkeys("abc", "ann"))
    assert single["foreground"].gain_error is None
    assert applicable_rules(FOREGROUND, single, ()).rules == single, (
        "a single patient shows nothing about chance, and its labels obey the rule"
    )
