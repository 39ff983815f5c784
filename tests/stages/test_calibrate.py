"""The stage ``calibrate``, on voxels and cases with known results."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pseudo_label_files import tta_summary
from support.shard_files import write_shard
from support.stages import calibrate as calibrate_stage
from support.stages import learn_anatomy

from hstf.config.experiment import Config
from hstf.config.refine import CalibrateConfig, RefineConfig
from hstf.experiment.cases import Case, Split
from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import TEACHER
from hstf.experiment.scan_tables import PREPROCESSED
from hstf.imaging.arrays import write_array
from hstf.imaging.geometry import Geometry
from hstf.imaging.probabilities import apply_temperature
from hstf.method.plr.anatomy import AnatomyRule
from hstf.method.plr.anatomy_rules import AnatomyRules
from hstf.method.plr.calibration import Calibration, applicable_rules, prediction_rules
from hstf.method.plr.lesion_bounds import lesion_bound
from hstf.method.plr.lesions import Component, fit_lesions
from hstf.method.plr.out_of_fold import LabelledCase
from hstf.method.plr.reliability import (
    Reliability,
    VoxelSample,
    confidence_threshold,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    reliability_diagram,
    sample_voxels,
)
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_csv, write_json
from hstf.stages.calibrate.case_scores import CaseScore, pooled_recall, recall_warnings, score_case
from hstf.stages.calibrate.lesions import LearnedLesions, learn_lesions
from hstf.stages.calibrate.quality import learn_quality
from hstf.stages.calibrate.stage import assemble, learn_voxels
from hstf.stages.out_of_fold import with_gains


def drawn_sample(temperature: float, voxels: int = 40_000) -> VoxelSample:
    """Return voxels of a teacher that is calibrated at ``temperature``.

    The labels are drawn from p^(1/T).
    """
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1.5, (3, voxels)).clip(-3, 3)
    stated = np.exp(logits) / np.exp(logits).sum(axis=0)
    true = np.exp(logits / temperature) / np.exp(logits / temperature).sum(axis=0)
    label = (rng.random(voxels) > true.cumsum(axis=0)[:2]).sum(axis=0).astype(np.uint8)
    return VoxelSample(np.rint(255 * stated).astype(np.uint8), label)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.0])
def test_fit_temperature_finds_the_temperature_of_a_known_teacher(temperature: float) -> None:
    sample = drawn_sample(temperature)
    found = fit_temperature(sample)
    assert found == pytest.approx(temperature, rel=0.06)
    assert negative_log_likelihood(sample, found) <= negative_log_likelihood(sample, 1.0) + 1e-6


def test_fit_temperature_lowers_the_calibration_error() -> None:
    sample = drawn_sample(2.0)
    calibrated = VoxelSample(
        apply_temperature(sample.probabilities, fit_temperature(sample)), sample.label
    )
    before = reliability(sample, 3, 20)
    after = reliability(calibrated, 3, 20)
    assert all(b.error > 0.1 and a.error < 0.03 for b, a in zip(before, after, strict=True))


def test_reliability_equals_a_count_by_hand() -> None:
    sample = VoxelSample(
        np.array([[255, 140, 100], [0, 115, 155]], np.uint8), np.array([0, 1, 1], np.uint8)
    )
    background, foreground = reliability(sample, 2, bins=10)
    assert background.voxels.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert background.correct.tolist() == [0] * 9 + [1]
    assert background.error == pytest.approx((140 / 255 + 0) / 2)
    assert foreground.error == pytest.approx(1 - 155 / 255)
    assert reliability(sample, 3, bins=10)[2].error is None


def test_reliability_puts_a_voxel_into_the_bin_that_contains_its_confidence() -> None:
    sample = VoxelSample(np.array([[143], [112]], np.uint8), np.array([0]))
    background, _ = reliability(sample, 2, bins=10)
    assert background.voxels.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0], "0.56 is below 0.6"


def test_negative_log_likelihood_counts_a_probability_of_0_as_half_a_step() -> None:
    sample = VoxelSample(np.array([[255], [0]], np.uint8), np.array([1]))
    assert negative_log_likelihood(sample, 1.0) == pytest.approx(np.log(2 * 255), rel=1e-5)


def curve(*accuracy: float) -> Reliability:
    """Return ten bins of 100 voxels each."""
    voxels = np.full(10, 100)
    return Reliability(voxels, np.array(accuracy) * 100, (np.arange(10) + 0.5) / 10)


def test_confidence_threshold_is_where_the_precision_is_reached() -> None:
    config = CalibrateConfig(
        target_precision=0.8, threshold_bounds=(0.5, 0.95), minimum_pass_fraction=0
    )
    assert confidence_threshold(
        curve(0, 0, 0, 0, 0, 0.5, 0.6, 0.8, 0.9, 1), config
    ) == pytest.approx(0.7)


def test_confidence_threshold_pools_a_curve_that_falls() -> None:
    """The early peak and the dip after it pool to 0.75, which is not enough."""
    config = CalibrateConfig(
        target_precision=0.8, threshold_bounds=(0.5, 0.95), minimum_pass_fraction=0
    )
    assert confidence_threshold(
        curve(0, 0, 0, 0, 0, 0.4, 0.9, 0.6, 0.9, 1), config
    ) == pytest.approx(0.8)


def test_confidence_threshold_pools_bins_by_their_voxels() -> None:
    """100 voxels with 95% and 10 with 50% pool to 91%; the mean of both bins is 73%."""
    voxels = np.array([0, 0, 0, 0, 0, 100, 10, 100, 100, 100])
    accuracy = np.array([0, 0, 0, 0, 0, 0.95, 0.5, 1, 1, 1])
    found = Reliability(voxels, accuracy * voxels, (np.arange(10) + 0.5) / 10)
    config = CalibrateConfig(target_precision=0.9, minimum_pass_fraction=0)
    assert confidence_threshold(found, config) == pytest.approx(0.5)


def test_confidence_threshold_stays_within_its_bounds() -> None:
    config = CalibrateConfig(
        target_precision=0.8, threshold_bounds=(0.5, 0.95), minimum_pass_fraction=0
    )
    assert confidence_threshold(curve(*[1.0] * 10), config) == 0.5
    assert confidence_threshold(curve(*[0.1] * 10), config) == 0.95
    never = Reliability(np.zeros(10), np.zeros(10), np.zeros(10))
    assert confidence_threshold(never, config) == 0.95


def test_confidence_threshold_keeps_the_minimum_fraction() -> None:
    """Of 1,000 voxels spread evenly over ten bins, 500 lie above 0.5, 300 above 0.7."""
    wrong = curve(*[0.1] * 10)
    for fraction, threshold in ((0.5, 0.5), (0.3, 0.7), (0.25, 0.7), (0.0, 0.95)):
        config = CalibrateConfig(threshold_bounds=(0.1, 0.95), minimum_pass_fraction=fraction)
        assert confidence_threshold(wrong, config) == pytest.approx(threshold)


def test_confidence_threshold_keeps_the_minimum_fraction_below_its_bounds() -> None:
    """Of three classes or more, the most likely one may never reach the lower bound."""
    voxels = np.array([0, 0, 0, 400, 600, 0, 0, 0, 0, 0])
    never_sure = Reliability(voxels, 0.45 * voxels, (np.arange(10) + 0.5) / 10)
    for fraction, threshold in ((0.5, 0.4), (0.8, 0.3), (0.0, 0.95)):
        config = CalibrateConfig(threshold_bounds=(0.5, 0.95), minimum_pass_fraction=fraction)
        assert confidence_threshold(never_sure, config) == pytest.approx(threshold)


@given(st.integers(0, 200), st.floats(0.1, 0.99))
@settings(max_examples=40, deadline=None)
def test_confidence_threshold_does_not_fall_with_a_stricter_target(
    seed: int, target: float
) -> None:
    accuracy = np.random.default_rng(seed).random(10)
    low = confidence_threshold(curve(*accuracy), CalibrateConfig(target_precision=target * 0.9))
    high = confidence_threshold(curve(*accuracy), CalibrateConfig(target_precision=target))
    assert 0.5 <= low <= high <= 0.95


def test_sample_voxels_takes_foreground_and_as_much_uncertain_background() -> None:
    foreground = np.array(
        [0, 55, 60, 65, 200, 210, 220, 0], np.uint8
    )  # the last voxel is a confident miss
    probabilities = np.stack([255 - foreground, foreground])[:, None, None]
    label = np.array([[[0, 0, 1, 0, 1, 0, 255, 1]]], np.uint8)
    sample = sample_voxels(probabilities, label, 9, seed=0)
    found = sorted(zip(sample.probabilities[1].tolist(), sample.label.tolist(), strict=True))
    assert found[2:] == [(200, 1), (210, 0)]
    assert len(found) == 4 and set(found[:2]) < {(55, 0), (60, 1), (65, 0)}
    assert len(sample_voxels(probabilities, label, 1, seed=0).label) == 2
    probabilities[1] = 50
    probabilities[0] = 205  # nothing is found: all doubt is taken
    assert len(sample_voxels(probabilities, label, 9, seed=0).label) == 7


def test_fit_temperature_is_one_without_voxels() -> None:
    assert fit_temperature(VoxelSample(np.zeros((2, 0), np.uint8), np.zeros(0, np.uint8))) == 1.0


def ball_case(case_id: str, error: int) -> LabelledCase:
    """Return a cube that is predicted ``error`` voxels too long.

    The confidence falls with the error. The clean-up removes a stray voxel.
    """
    label = np.zeros((16, 16, 16), np.uint8)
    label[4:10, 4:10, 4:10] = 1
    probabilities = np.zeros((2, 16, 16, 16), np.uint8)
    probabilities[1, 4 : 10 + error, 4:10, 4:10] = 230 - 5 * error
    probabilities[1, 15, 15, 15] = 200
    probabilities[0] = 255 - probabilities[1]
    quality = {"foreground": 1 - error / 10}
    agreement = {
        "scales": {"0.8": quality, "1.0": quality},
        "flips": {"none": quality, "0": quality},
        "foreground_entropy": {"foreground": 0.1},
    }
    return LabelledCase(
        case_id, tta_summary(probabilities, probabilities[[0, 0, 0]], agreement), label, 1.0
    )


def sheet_of(case_ids: Iterable[str]) -> list[Case]:
    """Return labelled cases of different patients."""
    return [Case(name, (), None, Split.LABELLED, name, "") for name in case_ids]


FOREGROUND = {"foreground": (1,)}
RULES = {
    "foreground": AnatomyRule(
        maximum_components=1, minimum_mm3=100.0, has_holes=False, may_be_absent=False
    )
}
KNOWN = AnatomyRules(classes=FOREGROUND, rules=RULES)
UNKNOWN = AnatomyRules(classes=FOREGROUND, rules={})


def test_score_case_scores_the_refined_label() -> None:
    score = score_case(ball_case("a", 0), 1.0, KNOWN, {}, Config())
    assert score.dice.tolist() == [1.0]
    assert score.found.tolist() == score.voxels.tolist() == [6**3]
    assert score.features["foreground"]["scales"] == 1.0  # type: ignore[index]


def test_score_case_of_a_dropped_lesion_has_no_features() -> None:
    """As in the refinement, predicted Dice is that of the label after the clean-up."""
    case = ball_case("a", 0)
    bound = lesion_bound([], 0.0, RefineConfig(lesion_probability=1.0))
    lesions = {"foreground": LearnedLesions(fit_lesions([], [], 0.2), bound)}
    score = score_case(case, 1.0, UNKNOWN, lesions, Config())
    assert score.found.tolist() == [0]
    assert score.features == {"foreground": None}


def test_learn_voxels_samples_the_same_number_from_each_case(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hstf.stages.calibrate.stage.MAXIMUM_VOXELS", 40)
    cases = [ball_case("a", 0), ball_case("b", 6)]
    for case in cases:
        case.output.probabilities[:, 0] = np.array([200, 55], np.uint8)[:, None, None]
    given = SimpleNamespace(case_ids=["a", "b"], read=lambda step: iter(cases))
    sample = learn_voxels(given, Config())  # type: ignore[arg-type]
    predicted = sample.probabilities.argmax(axis=0)
    assert np.bincount(predicted).tolist() == [20, 20], "10 of each kind from each case"


def test_assemble_takes_thresholds_from_calibrated_confidence() -> None:
    """Temperature 2 turns the confidence 0.8 into 2/3."""
    cases = [ball_case(f"case_{e}", e) for e in range(3)]
    scores = [score_case(case, 2.0, KNOWN, {}, Config()) for case in cases]
    sample = VoxelSample(np.tile(np.array([[51], [204]], np.uint8), 100), np.ones(100, np.uint8))
    patients = sheet_of(case.case_id for case in cases)
    for temperature, threshold in ((1.0, 0.8), (2.0, 0.66)):
        found = assemble(Config(), patients, sample, temperature, RULES, {}, scores)
        assert found.thresholds["foreground"] == pytest.approx(threshold)


def test_recall_warnings_names_a_structure_that_is_not_found() -> None:
    """The prediction has all voxels of the first class, and 20 of 120 voxels of the second."""
    config = Config(labels={"background": 0, "organ": 1, "lesion": 2, "duct": 3})
    label = np.zeros((12, 12, 12), np.uint8)
    label[2:10, 2:10, 2:10] = 1
    label[4:8, 4:9, 3:9] = 2
    predicted = np.where(label == 2, 1, label)
    predicted[4, 4:8, 3:8] = 2
    probabilities = (255 * (predicted == np.arange(4).reshape(-1, 1, 1, 1))).astype(np.uint8)
    case = LabelledCase("a", tta_summary(probabilities, probabilities[:3] * 0, {}), label, 1.0)
    score = score_case(case, 1.0, AnatomyRules(classes=config.structures, rules={}), {}, config)
    recall = dict(zip(config.structures, pooled_recall([score, score]), strict=True))
    assert recall == {"organ": 1.0, "lesion": pytest.approx(20 / 120), "duct": None}, (
        "no case has a duct"
    )
    (warning,) = recall_warnings(recall)
    assert "finds 17% of the voxels of lesion" in warning and "warmup.steps" in warning


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


def test_assemble_ranks_cases_and_survives_a_round_trip(tmp_path: Path) -> None:
    config = Config()
    cases = [ball_case(f"case_{e}", e) for e in (0, 0, 1, 2, 4, 6)]
    scores = [score_case(case, 1.0, KNOWN, {}, config) for case in cases]
    sample = sample_voxels(cases[-1].output.probabilities, cases[-1].label, 5000, seed=0)
    calibration = assemble(
        config, sheet_of(c.case_id for c in cases), sample, 1.0, RULES, {}, scores
    )
    calibration.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == calibration
    json.loads((tmp_path / "calibration.json").read_text(), parse_constant=pytest.fail)  # no NaN
    predicted = []
    for score in scores:
        predicted.append(calibration.predict_dice(score.features)["foreground"])
    assert predicted == sorted(predicted, reverse=True) and predicted[0] > predicted[-1]
    assert calibration.minimum_predicted_dice < min(predicted)
    assert calibration.evidence["dice"]["foreground"] == pytest.approx(
        np.mean([score.dice for score in scores])
    )
    points = calibration.evidence["reliability"]
    assert {point["class"] for point in points} <= {"background", "foreground"}
    assert sum(point["voxels"] for point in points) == len(sample.label)


def test_reliability_diagram_has_only_bins_with_voxels() -> None:
    sample = VoxelSample(
        np.array([[255, 140, 100], [0, 115, 155]], np.uint8), np.array([0, 1, 1], np.uint8)
    )
    assert reliability_diagram(reliability(sample, 2, bins=10), ["background", "organ"]) == [
        {
            "class": "background",
            "confidence": pytest.approx(140 / 255),
            "accuracy": 0.0,
            "voxels": 1,
        },
        {"class": "background", "confidence": 1.0, "accuracy": 1.0, "voxels": 1},
        {"class": "organ", "confidence": pytest.approx(155 / 255), "accuracy": 1.0, "voxels": 1},
    ]


def test_learn_lesions_learns_from_each_component() -> None:
    """Of two components, the cube is a lesion and the stray voxel is not."""
    case = ball_case("a", 0)
    model = learn_lesions([case], (1,), 1.0, RefineConfig()).model
    assert (model.components, model.real) == (2, 1)  # the cube and the stray voxel
    assert model.lesions_per_case == 1
    sizes = [Component(1, ml, 0.8, 1.0, (0.0, 0.0, 0.0)) for ml in (0.001, 0.216)]
    stray = model.probability(sizes[0])
    cube = model.probability(sizes[1])
    assert cube > stray + 0.02  # equally sure, but of the size of the real one
    assert model.possible == 0.05


def test_learn_lesions_learns_false_components_from_cases_without_lesions() -> None:
    case = ball_case("a", 0)
    empty = replace(case, label=np.zeros_like(case.label))
    model = learn_lesions([empty, empty], (1,), 1.0, RefineConfig()).model
    assert (model.components, model.real) == (4, 0)
    assert model.probability(Component(1, 0.216, 0.9, 1.0, (0.0, 0.0, 0.0))) < 0.5


def test_learn_lesions_keeps_the_most_probable_half_of_the_expected_lesions() -> None:
    """Hardly any component is a lesion, so that all seem unlikely."""
    case = ball_case("a", 0)
    empty = replace(case, label=np.zeros_like(case.label))
    learned = learn_lesions([case, case, *[empty] * 11], (1,), 1.0, RefineConfig())
    assert learned.model.lesions_per_case == pytest.approx(2 / 13)
    assert learned.bound.is_lowered and learned.bound.probability < 0.5
    assert learned.bound.kept >= 1
    config = RefineConfig(minimum_lesion_fraction=0)
    unchanged = learn_lesions([case, case, *[empty] * 11], (1,), 1.0, config)
    assert unchanged.bound.probability == 0.5 and unchanged.bound.kept == 0


def scribbled(case: LabelledCase, *curves: tuple[int, tuple[slice | int, ...]]) -> LabelledCase:
    """Return ``case`` with a sparse label; each curve has a class and a place."""
    label = np.full(case.label.shape, 255, np.uint8)
    for index, place in curves:
        label[place] = index
    return replace(case, label=label)


ORGAN = (1, (5, 5, slice(4, 10)))
BESIDE = (1, (12, 12, slice(0, 3)))
BACKGROUND = (0, (2, 2, slice(2, 14)))


def test_score_case_uses_only_labelled_voxels() -> None:
    case = ball_case("a", 2)
    dice = []
    for curves in ((ORGAN, BACKGROUND), (ORGAN, BESIDE), (BESIDE, BACKGROUND)):
        score = score_case(scribbled(case, *curves), 1.0, UNKNOWN, {}, Config())
        dice.append(score.dice.tolist())
    assert dice == [[1.0], [2 * 6 / (2 * 6 + 3)], [0.0]]
    assert np.isnan(score_case(scribbled(case, BACKGROUND), 1.0, UNKNOWN, {}, Config()).dice).all()


def test_assemble_accepts_sparse_labels(tmp_path: Path) -> None:
    """Of three cases one shows two classes, one shows one and one none; no case shows the third."""
    config = Config(labels={"background": 0, "organ": 1, "vessel": 2, "duct": 3, "ignore": 9})
    features = []
    for confidence in (0.9, 0.8, 0.7):
        features.append({name: {"confidence": confidence} for name in ("organ", "vessel", "duct")})
    nan = float("nan")
    dice = [np.array(row) for row in ([0.9, 0.7, nan], [0.8, nan, nan], [nan, nan, nan])]
    voxels = [np.where(np.isnan(row), 0, 10) for row in dice]
    scores = [CaseScore(f, d, n // 2, n) for f, d, n in zip(features, dice, voxels, strict=True)]
    rules = {
        name: AnatomyRule(
            maximum_components=0, minimum_mm3=0.0, has_holes=False, may_be_absent=name != "organ"
        )
        for name in ("organ", "vessel", "duct")
    }
    sample = VoxelSample(np.array([[255], [0], [0], [0]], np.uint8), np.zeros(1, np.uint8))
    calibration = assemble(config, sheet_of("abc"), sample, 1.0, rules, {}, scores)
    calibration.save(tmp_path / "calibration.json")
    json.loads((tmp_path / "calibration.json").read_text(), parse_constant=pytest.fail)  # no NaN
    models = calibration.dice_models
    assert [models[name].mean for name in models] == pytest.approx([0.85, 0.7, 0.8])
    assert calibration.class_sd["vessel"] == 0.2, "one case has no standard deviation"
    assert calibration.evidence["recall"] == {"organ": 0.5, "vessel": 0.5, "duct": None}
    cases = calibration.evidence["cases"]
    assert cases.keys() == {"a", "b"} and cases["b"]["dice"].keys() == {"organ"}
    assert cases["b"]["mean_dice"] == pytest.approx(0.8), "a filled Dice is no evidence"
    assert calibration.evidence["dice"].pop("duct") is None
    assert calibration.evidence["dice"] == pytest.approx({"organ": 0.85, "vessel": 0.7})


def test_learn_quality_takes_no_evidence_from_a_class_that_no_label_shows() -> None:
    """Twelve patients with scribbles of one class; the Dice of the other class is unknown."""
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 0.9, 12)
    dice = 0.1 + 0.8 * confidence + rng.normal(0, 0.05, 12)
    shown = [{"organ": {"confidence": value}} for value in confidence]
    both = [case | {"duct": {"confidence": rng.uniform(0.1, 0.9)}} for case in shown]
    patients = [str(number) for number in range(12)]
    expected = learn_quality(shown, dice[:, None], {"organ": False}, patients)
    table = np.stack([dice, np.full(12, np.nan)], axis=1)
    found = learn_quality(both, table, {"organ": False, "duct": True}, patients)
    assert found.models["organ"] == expected.models["organ"]
    assert found.models["duct"].mean == pytest.approx(dice.mean())
    assert found.models["duct"].slope == expected.models["organ"].slope
    assert (found.interval, found.mean_sd) == (expected.interval, expected.mean_sd)
    assert found.class_sd == expected.class_sd | {"duct": 0.2}


def test_learn_quality_without_a_known_dice_has_no_error() -> None:
    features = [{"organ": {"confidence": value}} for value in (0.6, 0.7, 0.8)]
    found = learn_quality(features, np.full((3, 1), np.nan), {"organ": False}, list("abc"))
    assert found.models["organ"].mean == 1.0
    assert (found.interval.patients, found.mean_sd) == (0, 0.2)


def test_learn_lesions_ignores_components_without_labelled_voxels() -> None:
    case = ball_case("a", 0)  # a cube, and a stray voxel in a corner
    assert learn_lesions([scribbled(case, ORGAN)], (1,), 1.0, RefineConfig()).model.components == 1
    everywhere = learn_lesions([case], (1,), 1.0, RefineConfig()).model
    known = learn_lesions(
        [scribbled(case, ORGAN, (0, (15, 15, 15)))], (1,), 1.0, RefineConfig()
    ).model
    assert (known.components, known.real) == (everywhere.components, everywhere.real) == (2, 1)


def test_learn_lesions_counts_lesions_in_dense_labels_only() -> None:
    """Three strokes in a lesion are one lesion. The stray voxel is unlikely, but it is kept by half
    of the number of the strokes.
    """
    case = ball_case("a", 0)
    strokes = [(1, (z, 5, slice(4, 10))) for z in (4, 6, 8)]
    sparse = scribbled(case, *strokes, (0, (15, 15, slice(10, 16))))
    sparse_only = learn_lesions([sparse] * 6, (1,), 1.0, RefineConfig())
    assert sparse_only.model.lesions_per_case == sparse_only.bound.expected == 0
    assert sparse_only.bound.probability == RefineConfig().lesion_probability
    mixed = learn_lesions([case, *[sparse] * 6], (1,), 1.0, RefineConfig())
    assert mixed.model.lesions_per_case == mixed.bound.expected == 1
    assert (mixed.model.components, mixed.model.real) == (14, 7), "all cases show what is real"
    assert mixed.bound.components == 2


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
