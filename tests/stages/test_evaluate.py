"""Evaluation with a stand-in for the networks: scores, skipping, the summary, rounds."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.evaluation_files import (
    AFFINE,
    LABELS,
    LIVER,
    SHAPE,
    TUMOUR,
    FakePredictor,
    evaluate_all,
    evaluate_shard,
    make_experiment,
    stand_in,
    summarise_round,
    truth,
    write_nifti,
    write_pseudo_labels,
)

from hstf.config.experiment import Config
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_csv, read_json, write_csv, write_text
from hstf.scoring.averages import class_balanced
from hstf.scoring.metrics import METRICS
from hstf.scoring.rounds import compare_with_warmup, print_rounds, rounds_table
from hstf.stages.evaluate import cases as evaluate_cases


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    return make_experiment(tmp_path)


@pytest.fixture
def predictors(config: Config, monkeypatch: pytest.MonkeyPatch) -> dict[int, FakePredictor]:
    return stand_in(config, monkeypatch)


def report_context(config: Config) -> StageContext:
    return StageContext.of(config, "report")


def test_scores_and_predictions_of_a_shard(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    layout = Layout.of(config)
    assert evaluate_shard(config, 0, "test_0") == 2
    written = nib.load(layout.evaluation_prediction(0, "a"))
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.roll(truth(0), 2, axis=0))
    np.testing.assert_array_equal(written.affine, AFFINE)
    scores = read_json(layout.evaluation_scores(0, "a"))
    assert scores["classes"]["tumour"]["dice"] == 0
    assert scores["classes"]["tumour"]["hd95_mm"] == pytest.approx(4)  # two voxels of 2 mm
    assert scores["members"]["fold_0"] == {"liver": 1, "tumour": 1}
    row = read_csv(layout.evaluation_table(0, "test_0"))[0]
    liver = scores["classes"]["liver"]["dice"]
    assert float(row["dice"]) == pytest.approx(liver / 2, rel=1e-5)
    assert row["files"] == "scores/a.json;predictions/a.nii.gz"


def test_cases_are_done_once(config: Config, predictors: dict[int, FakePredictor]) -> None:
    evaluate_shard(config, 1, "test_0")
    assert evaluate_shard(config, 1, "test_0") == 0
    more_resamples = config.model_copy(
        update={"evaluate": config.evaluate.model_copy(update={"bootstrap": 500})}
    )
    assert evaluate_shard(more_resamples, 1, "test_0") == 0
    write_nifti(Path("b_label.nii.gz"), truth(0))
    assert evaluate_shard(config, 1, "test_0") == 1
    write_text(Layout.of(config).weights(1, "seed_0"), "trained again")
    assert evaluate_shard(config, 1, "test_0") == 2
    assert len(predictors[1].calls) == 5


def test_networks_are_not_loaded_for_nothing(
    config: Config, predictors: dict[int, FakePredictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_shard(config, 0, "test_1")
    monkeypatch.setattr(evaluate_cases, "load_predictor", lambda *_: pytest.fail("loaded"))
    evaluate_shard(config, 0, "test_1")


def test_summary_of_a_round(config: Config, predictors: dict[int, FakePredictor]) -> None:
    summary = evaluate_all(config, 0)
    layout = Layout.of(config)
    rows = read_csv(layout.evaluation_cases(0))
    assert [(row["case_id"], row["class"]) for row in rows[:3]] == [
        ("a", "liver"),
        ("a", "tumour"),
        ("b", "liver"),
    ]
    means = [
        np.mean([float(row["dice"]) for row in rows if row["case_id"] == case]) for case in "abc"
    ]
    assert summary["dice"]["mean"] == pytest.approx(np.mean(means), rel=1e-5)
    assert summary["mean"]["dice"]["sd"] == pytest.approx(np.std(means, ddof=1), abs=1e-6)
    assert (summary["cases"], summary["patients"], summary["dice"]["patients"]) == (3, 2, 2)
    assert summary["members"] == {"mean": 1, "each": {"fold_0": 1, "fold_1": 1}}
    assert summary["classes"]["tumour"]["empty"] == {"both": 0, "prediction": 0, "reference": 0}
    assert set(METRICS) <= summary["classes"]["liver"].keys()
    assert len(read_csv(layout.evaluation_members(0))) == 3 * 2 * 2
    assert read_csv(layout.evaluation_pseudo_labels(0)) == []
    assert summary["pseudo_labels"] is None
    assert read_json(layout.evaluation_summary(0)) == summary


def shown(config: Config, case_id: str, image: np.ndarray, label: np.ndarray) -> None:
    """Give a case another image (from which the stand-in predicts) and label, both as file values."""
    write_nifti(Path(f"{case_id}.nii.gz"), image.astype(np.float32))
    write_nifti(Path(f"{case_id}_label.nii.gz"), label.astype(np.uint8))


def without_tumour(label: np.ndarray) -> np.ndarray:
    return np.where(label == TUMOUR, LIVER, label)


def test_a_class_that_is_never_predicted_is_no_gain(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    """The warm-up sees a tumour everywhere, the student nowhere: one test case of three has one."""
    predictors[0].shift = predictors[1].shift = 0
    for number, case_id in enumerate("abc"):
        label = truth(number) if case_id == "c" else without_tumour(truth(number))
        shown(config, case_id, without_tumour(truth(number)), label)
    summary = evaluate_all(config, 0)
    tumour = summary["classes"]["tumour"]
    assert tumour["present"] == {
        "cases": 1, "predicted": 0, "found": 0, "dice": {"mean": 0, "sd": None, "median": 0, "cases": 1},
    }  # fmt: skip
    assert tumour["absent"] == {"cases": 2, "false_alarms": 0}
    assert summary["dice"]["mean"] == pytest.approx(summary["classes"]["liver"]["dice"]["mean"] / 2)
    assert summary["warnings"] == [
        "tumour is predicted in none of the 1 test cases that have it: no score of it is evidence that the model"
        " segments it."
    ]
    row = rounds_table(report_context(config))[0]
    assert row["warnings"] == summary["warnings"][0] and row["present_tumour"] == 0
    assert "present_liver" not in row


def test_false_alarms_count_as_zero(config: Config, predictors: dict[int, FakePredictor]) -> None:
    predictors[0].shift = 0
    for number, case_id in enumerate("ab"):
        shown(config, case_id, truth(number), without_tumour(truth(number)))
    tumour = evaluate_all(config, 0)["classes"]["tumour"]
    assert tumour["dice"]["mean"] == pytest.approx(1 / 3) and tumour["present"]["dice"]["mean"] == 1
    assert tumour["absent"] == {"cases": 2, "false_alarms": 2}


def test_lesions_are_scored_one_by_one(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    config = config.model_copy(update={"lesions": ("tumour",)})
    predictors[0].shift = 0
    extra = truth(0)
    extra[8, 8, 6] = TUMOUR  # in a's image alone: a false positive of 6 mm3
    shown(config, "a", extra, truth(0))
    shown(config, "b", without_tumour(truth(1)), truth(1))  # missed
    summary = evaluate_all(config, 0)
    found = summary["lesions"]["tumour"]
    assert (found["hits"], found["missed"], found["false_positives"]) == (2, 1, 1)
    assert found["f1"]["mean"] == pytest.approx(2 / 3) and found["criterion"]["minimum"] == 0.1
    assert found["froc"]["points"] == [
        [pytest.approx(1 / 3), pytest.approx(2 / 3), pytest.approx(0.8)]
    ]
    rows = read_csv(Layout.of(config).evaluation_lesions(0))
    assert [(r["case_id"], r["lesion"], float(r["volume_mm3"])) for r in rows] == [
        ("a", "hit", 48), ("a", "false positive", 6), ("b", "missed", 48), ("c", "hit", 48),
    ]  # fmt: skip
    row = rounds_table(report_context(config))[0]
    assert row["f1_tumour"] == found["f1"]["mean"] and row[
        "false_positives_tumour"
    ] == pytest.approx(1 / 3)


def test_all_classes_weigh_the_same() -> None:
    nan = float("nan")
    scores = np.array([[0.9, nan], [0.7, nan], [0.8, 0.1], [0.6, 0.3]])
    values = class_balanced(scores)
    assert values.mean() == pytest.approx((0.75 + 0.2) / 2)
    np.testing.assert_allclose(class_balanced(scores[2:]), scores[2:].mean(axis=1))
    np.testing.assert_allclose(class_balanced(np.array([[0.4, nan], [0.6, nan]])), [0.4, 0.6])
    assert (
        np.isnan(class_balanced(np.full((2, 2), nan))).all()
        and class_balanced(np.empty((0, 2))).size == 0
    )


def test_the_influence_of_a_case_gives_the_spread_of_the_mean() -> None:
    """The bootstrap of the values is that of the mean over the classes, drawn case by case."""
    generator = np.random.default_rng(0)
    scores = generator.uniform(0.3, 0.9, (60, 2))
    scores[generator.random(60) < 0.5, 1] = np.nan
    drawn = generator.integers(0, 60, (4000, 60))
    direct = np.nanmean(scores[drawn], axis=1).mean(axis=1)
    assert class_balanced(scores)[drawn].mean(axis=1).std() == pytest.approx(direct.std(), rel=0.05)


@pytest.mark.parametrize(("empty", "dice", "cases"), [("one", 1.0, 3), ("exclude", None, 2)])
def test_absent_classes_follow_the_configuration(
    config: Config, predictors: dict[int, FakePredictor], empty: str, dice: float | None, cases: int
) -> None:
    shown(config, "a", without_tumour(truth(0)), without_tumour(truth(0)))
    config = config.model_copy(
        update={"evaluate": config.evaluate.model_copy(update={"empty": empty})}
    )
    summary = evaluate_all(config, 0)
    tumour = summary["classes"]["tumour"]
    assert tumour["empty"]["both"] == 1 and tumour["dice"]["cases"] == cases
    assert (
        read_json(Layout.of(config).evaluation_scores(0, "a"))["classes"]["tumour"]["dice"] == dice
    )


def test_voxels_to_ignore_are_left_out(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    label, unknown = truth(0), np.roll(truth(0), 2, axis=0) != truth(0)
    label[unknown] = LABELS["ignore"]
    write_nifti(Path("a_label.nii.gz"), label)
    evaluate_shard(config, 0, "test_0")
    scores = read_json(Layout.of(config).evaluation_scores(0, "a"))["classes"]
    assert scores["liver"]["dice"] == 1
    assert scores["liver"]["volume_difference_ml"] == 0


def test_a_scribbled_reference_tells_overlap_alone(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    config = config.model_copy(update={"lesions": ("tumour",)})
    label = np.full(SHAPE, LABELS["ignore"], np.uint8)
    liver = tuple(np.argwhere(truth(0) == LABELS["liver"])[::7].T)
    label[liver], label[0, 0] = LABELS["liver"], 0
    write_nifti(Path("a_label.nii.gz"), label)
    evaluate_shard(config, 0, "test_0")
    evaluate_shard(config, 0, "test_1")
    scores = read_json(Layout.of(config).evaluation_scores(0, "a"))
    assert (
        0 < scores["classes"]["liver"]["dice"] < 1 and scores["classes"]["liver"]["hd95_mm"] is None
    )
    assert scores["classes"]["tumour"]["empty"] == "unknown" and scores["lesions"] == {}
    tumour = summarise_round(config, 0)["classes"]["tumour"]
    assert (
        tumour["dice"]["cases"] == tumour["present"]["cases"] == 2
        and tumour["absent"]["cases"] == 0
    )


def test_faults_are_told_with_case_and_file(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    with pytest.raises(HstfError, match=r"unlabelled_0: evaluate predicts only test cases"):
        evaluate_shard(config, 0, "unlabelled_0")
    write_nifti(Path("c_label.nii.gz"), truth(0)[:-1])
    with pytest.raises(
        HstfError, match=r"c: c_label.nii.gz has shape \(11, 10, 8\), the image \(12, 10, 8\)"
    ):
        evaluate_shard(config, 0, "test_1")
    mirrored = nib.Nifti1Image(truth(0), AFFINE @ np.diag([-1.0, 1.0, 1.0, 1.0]))
    nib.save(mirrored, "c_label.nii.gz")
    with pytest.raises(
        HstfError, match=r"c: c_label.nii.gz has an affine that puts corner voxels up to 44 mm"
    ):
        evaluate_shard(config, 0, "test_1")
    write_nifti(Path("c_label.nii.gz"), truth(0) + 1)
    with pytest.raises(HstfError, match=r"c_label.nii.gz: has the values \[1, 4, 8\]"):
        evaluate_shard(config, 0, "test_1")
    Path("c_label.nii.gz").unlink()
    with pytest.raises(HstfError, match=r"c: c_label.nii.gz missing"):
        evaluate_shard(config, 0, "test_1")
    shutil.rmtree(Layout.of(config).model(1))
    with pytest.raises(HstfError, match=r"round 1 has no model yet: .*seed_0.weights.pt missing"):
        evaluate_shard(config, 1, "test_0")


def test_edited_predictions_are_found(config: Config, predictors: dict[int, FakePredictor]) -> None:
    evaluate_all(config, 0)
    write_nifti(Layout.of(config).evaluation_prediction(0, "a"), truth(0))
    with pytest.raises(HstfError, match=r"a: .*predictions/a.nii.gz was changed"):
        summarise_round(config, 0)


def test_rounds_side_by_side(
    config: Config, predictors: dict[int, FakePredictor], capsys: pytest.CaptureFixture[str]
) -> None:
    write_pseudo_labels(config)
    warmup = evaluate_all(config, 0)
    student = evaluate_all(config, 1)
    rows = rounds_table(report_context(config))
    assert [row["round"] for row in rows] == [0, 1]
    assert (rows[0]["model"], rows[0]["pseudo_labelled"], rows[0]["members"]) == ("warm-up", 0, 2)
    assert (rows[1]["labelled"], rows[1]["pseudo_labelled"], rows[1]["rejected"]) == (1, 1, 1)
    gain = student["dice"]["mean"] - warmup["dice"]["mean"]
    assert gain > 0.1 and rows[1]["gain"] == pytest.approx(gain, abs=1e-5)
    assert rows[1]["gain_low"] <= gain <= rows[1]["gain_high"]
    assert (
        compare_with_warmup(report_context(config), 1).patients == 2
        and "only 2 patients" in rows[1]["note"]
    )
    assert rows[1]["dice_liver"] == student["classes"]["liver"]["dice"]["mean"]
    assert rows[1]["pseudo_label_dice"] == student["pseudo_labels"]["dice"]["mean"]
    written = read_csv(Layout.of(config).rounds_table)
    assert float(written[1]["dice"]) == pytest.approx(student["dice"]["mean"], rel=1e-5)
    assert written[0]["gain"] == ""
    print_rounds(report_context(config))
    shown = capsys.readouterr().out
    assert (
        f"{student['dice']['mean']:.3f}" in shown
        and f"{gain:+.3f}" in shown
        and "report.html" in shown
    )
    assert "further training" in shown and "method: supervised" in shown


def test_rounds_without_evaluation_are_left_out(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    assert rounds_table(report_context(config)) == []
    evaluate_all(config, 0)
    assert [row["round"] for row in rounds_table(report_context(config))] == [0]


def test_an_experiment_without_test_cases_has_an_empty_summary(config: Config) -> None:
    rows = [row for row in read_csv(Path("cases.csv")) if row["split"] != "test"]
    write_csv(Path("cases.csv"), rows, list(rows[0]))
    summary = summarise_round(config, 0)
    assert summary["cases"] == 0 and summary["dice"]["mean"] is None
    assert rounds_table(report_context(config))[0]["dice"] is None
