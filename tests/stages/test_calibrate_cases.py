"""What ``calibrate`` learns from cases with known errors, and from cases with sparse labels."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.calibration_files import KNOWN, RULES, UNKNOWN, ball_case
from support.pseudo_label_files import tta_summary

from hstf.config.experiment import Config
from hstf.config.refine import RefineConfig
from hstf.experiment.cases import Case, Split
from hstf.method.plr.anatomy import AnatomyRule
from hstf.method.plr.anatomy_rules import AnatomyRules
from hstf.method.plr.calibration import Calibration
from hstf.method.plr.lesion_bounds import lesion_bound
from hstf.method.plr.lesions import Component, fit_lesions
from hstf.method.plr.out_of_fold import LabelledCase
from hstf.method.plr.reliability import VoxelSample, sample_voxels
from hstf.stages.calibrate.case_scores import CaseScore, pooled_recall, recall_warnings, score_case
from hstf.stages.calibrate.lesions import LearnedLesions, learn_lesions
from hstf.stages.calibrate.quality import learn_quality
from hstf.stages.calibrate.stage import assemble, learn_voxels


def sheet_of(case_ids: Iterable[str]) -> list[Case]:
    """Return labelled cases of different patients."""
    return [Case(name, (), None, Split.LABELLED, name, "") for name in case_ids]


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
    sample = VoxelSample(np.tile(np.array([[51], [204]], np.uint8), 100), np.ones(100, np.uint8))
    patients = sheet_of(case.case_id for case in cases)
    for temperature, threshold in ((1.0, 0.8), (2.0, 0.66)):
        scores = [score_case(case, temperature, KNOWN, {}, Config()) for case in cases]
        found = assemble(Config(), patients, sample, temperature, RULES, {}, scores)
        assert found.thresholds["foreground"] == pytest.approx(threshold)


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
