"""Evaluation with a predictor that replaces the networks: scores, summary, table of rounds."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
    install_predictors,
    make_experiment,
    summarise_round,
    truth,
    write_nifti,
    write_pseudo_labels,
)

from hstf.config.compare import CompareConfig
from hstf.config.experiment import Config
from hstf.experiment.comparison import control_layout
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import LABELS as LABELS_TABLE
from hstf.experiment.round_tables import LESIONS
from hstf.experiment.score_tables import (
    EVALUATION,
    EVALUATION_CASES,
    EVALUATION_LESIONS,
    EVALUATION_MEMBERS,
    PSEUDO_LABEL_SCORES,
    ROUNDS,
    SCALES,
    VALIDATION_CASES,
)
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_csv, write_csv, write_text
from hstf.scoring.absent_classes import AbsentCases, PresentCases
from hstf.scoring.averages import Statistics
from hstf.scoring.control import Control, ValidationScores, control_sentence, read_control
from hstf.scoring.documents import CaseScores, EmptyCounts, EvaluationSummary, MemberSummary
from hstf.scoring.metrics import METRICS, Metric, StructurePair
from hstf.scoring.printed_rounds import print_rounds
from hstf.scoring.round_choice import choose_round
from hstf.scoring.round_comparison import compare_with_warmup
from hstf.scoring.rounds import rounds_table
from hstf.scoring.significance import Comparison, Interval
from hstf.stages.compare.scores import read_scales
from hstf.stages.evaluate import cases as evaluate_cases
from hstf.stages.evaluate import scales
from hstf.stages.evaluate.summary import summarise_validation


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    return make_experiment(tmp_path)


@pytest.fixture
def predictors(config: Config, monkeypatch: pytest.MonkeyPatch) -> dict[int, FakePredictor]:
    return install_predictors(config, monkeypatch)


def report_context(config: Config) -> StageContext:
    return StageContext.of(config, "report")


def read_scores(config: Config, case_id: str) -> CaseScores:
    """Read the scores of a case in the warm-up."""
    return CaseScores.load(Layout.of(config).evaluation_scores(0, case_id))


def with_evaluate(config: Config, **keys: Any) -> Config:
    """Change keys of the section ``evaluate:``."""
    section = config.evaluate.model_copy(update=keys)
    return config.model_copy(update={"evaluate": section})


def test_evaluate_shard_writes_scores_and_predictions(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    layout = Layout.of(config)
    assert evaluate_shard(config, 0, "test_0") == 2
    written = nib.load(layout.evaluation_prediction(0, "a"))
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.roll(truth(0), 2, axis=0))
    np.testing.assert_array_equal(written.affine, AFFINE)
    scores = read_scores(config, "a")
    assert scores.classes["tumour"]["dice"] == 0
    # Two voxels of 2 mm.
    assert scores.classes["tumour"]["hd95_mm"] == pytest.approx(4)
    perfect = {"dice": 1, "hd95_mm": 0, "asd_mm": 0}
    assert scores.members["fold_0"] == {"liver": perfect, "tumour": perfect}
    row = EVALUATION.records(layout.evaluation_table(0, "test_0"))[0]
    assert row["dice"] == pytest.approx(scores.classes["liver"]["dice"] / 2, rel=1e-5)
    assert row["files"] == ["scores/a.json", "predictions/a.nii.gz"]


def test_evaluate_shard_computes_a_case_once(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    evaluate_shard(config, 1, "test_0")
    assert evaluate_shard(config, 1, "test_0") == 0
    assert evaluate_shard(with_evaluate(config, bootstrap=500), 1, "test_0") == 0
    write_nifti(Path("b_label.nii.gz"), truth(0))
    assert evaluate_shard(config, 1, "test_0") == 1
    write_text(Layout.of(config).weights(1, "seed_0"), "trained again")
    assert evaluate_shard(config, 1, "test_0") == 2
    assert len(predictors[1].calls) == 5


def test_evaluate_shard_loads_networks_only_if_needed(
    config: Config, predictors: dict[int, FakePredictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_shard(config, 0, "test_1")
    monkeypatch.setattr(evaluate_cases, "load_predictor", lambda *_: pytest.fail("loaded"))
    evaluate_shard(config, 0, "test_1")


def test_summarise_round_writes_tables_and_summary(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    summary = evaluate_all(config, 0)
    layout = Layout.of(config)
    frame = EVALUATION_CASES.read(layout.evaluation_cases(0))
    names = list(zip(frame["case_id"], frame["class"], strict=True))
    assert names[:3] == [("a", "liver"), ("a", "tumour"), ("b", "liver")]
    case_means = frame.groupby("case_id")["dice"].mean()
    assert summary.dice.mean == pytest.approx(case_means.mean(), rel=1e-5)
    assert summary.mean["dice"].sd == pytest.approx(case_means.std(), abs=1e-6)
    assert (summary.cases, summary.patients, summary.dice.patients) == (3, 2, 2)
    assert summary.members == MemberSummary(mean=1, each={"fold_0": 1, "fold_1": 1})
    assert summary.classes["tumour"].empty == EmptyCounts(both=0, prediction=0, reference=0)
    assert set(METRICS) <= summary.classes["liver"].model_dump().keys()
    members = EVALUATION_MEMBERS.read(layout.evaluation_members(0))
    assert len(members) == 3 * 2 * 2
    assert PSEUDO_LABEL_SCORES.records(layout.evaluation_pseudo_labels(0)) == []
    assert summary.pseudo_labels is None
    assert EvaluationSummary.load(layout.evaluation_summary(0)) == summary


def write_case(case_id: str, image: np.ndarray, label: np.ndarray) -> None:
    """Replace image and label of a case by file values. The fake predictor returns the image."""
    write_nifti(Path(f"{case_id}.nii.gz"), image.astype(np.float32))
    write_nifti(Path(f"{case_id}_label.nii.gz"), label.astype(np.uint8))


def without_tumour(label: np.ndarray) -> np.ndarray:
    return np.where(label == TUMOUR, LIVER, label)


def test_summarise_round_warns_about_a_class_that_is_never_predicted(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    """One of three test cases has a tumour, and the warm-up does not predict it."""
    predictors[0].shift = 0
    for number, case_id in enumerate("abc"):
        image = without_tumour(truth(number))
        write_case(case_id, image, truth(number) if case_id == "c" else image)
    summary = evaluate_all(config, 0)
    tumour = summary.classes["tumour"]
    dice = Statistics(mean=0, sd=None, median=0, cases=1)
    assert tumour.present == PresentCases(cases=1, predicted=0, found=0, dice=dice)
    assert tumour.absent == AbsentCases(cases=2, false_alarms=0)
    assert summary.dice.mean == pytest.approx(summary.classes["liver"].dice.mean / 2)
    assert summary.warnings == [
        "tumour is predicted in none of the 1 test cases that have it: no score of it is evidence"
        " that the model segments it."
    ]
    row = rounds_table(report_context(config))[0]
    assert row["warnings"] == summary.warnings[0]
    assert row["present_dice_of_tumour"] == 0
    assert "present_dice_of_liver" not in row


def test_summarise_round_counts_false_alarms_as_zero(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    predictors[0].shift = 0
    for number, case_id in enumerate("ab"):
        write_case(case_id, truth(number), without_tumour(truth(number)))
    tumour = evaluate_all(config, 0).classes["tumour"]
    assert tumour.dice.mean == pytest.approx(1 / 3)
    assert tumour.present.dice.mean == 1
    assert tumour.absent == AbsentCases(cases=2, false_alarms=2)


def test_summarise_round_scores_each_lesion(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    config = config.model_copy(update={"lesions": ("tumour",)})
    predictors[0].shift = 0
    extra = truth(0)
    # Only in the image of case a: a false positive of 6 mm3.
    extra[8, 8, 6] = TUMOUR
    write_case("a", extra, truth(0))
    # The tumour of case b is missed.
    write_case("b", without_tumour(truth(1)), truth(1))
    found = evaluate_all(config, 0).lesions["tumour"]
    assert (found.hits, found.missed, found.false_positives) == (2, 1, 1)
    assert found.f1.mean == pytest.approx(2 / 3)
    assert found.criterion.minimum == 0.1
    assert found.froc is not None
    (point,) = found.froc.points
    assert point == [pytest.approx(1 / 3), pytest.approx(2 / 3), pytest.approx(0.8)]
    rows = EVALUATION_LESIONS.records(Layout.of(config).evaluation_lesions(0))
    assert [(row["case_id"], row["lesion"], row["volume_mm3"]) for row in rows] == [
        ("a", "hit", 48),
        ("a", "false positive", 6),
        ("b", "missed", 48),
        ("c", "hit", 48),
    ]
    row = rounds_table(report_context(config))[0]
    assert row["f1_of_tumour"] == found.f1.mean
    assert row["false_positives_of_tumour"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("empty", "dice", "cases"), [("one", 1.0, 3), ("exclude", None, 2)])
def test_summarise_round_treats_absent_classes_as_configured(
    config: Config, predictors: dict[int, FakePredictor], empty: str, dice: float | None, cases: int
) -> None:
    write_case("a", without_tumour(truth(0)), without_tumour(truth(0)))
    summary = evaluate_all(with_evaluate(config, empty=empty), 0)
    tumour = summary.classes["tumour"]
    assert tumour.empty.both == 1
    assert tumour.dice.cases == cases
    assert read_scores(config, "a").classes["tumour"]["dice"] == dice


def test_evaluate_shard_leaves_out_ignored_voxels(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    label = truth(0)
    wrong = np.roll(label, 2, axis=0) != label
    label[wrong] = LABELS["ignore"]
    write_nifti(Path("a_label.nii.gz"), label)
    evaluate_shard(config, 0, "test_0")
    liver = read_scores(config, "a").classes["liver"]
    assert liver["dice"] == 1
    assert liver["volume_difference_ml"] == 0


def test_evaluate_shard_scores_only_the_overlap_with_scribbles(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    config = config.model_copy(update={"lesions": ("tumour",)})
    label = np.full(SHAPE, LABELS["ignore"], np.uint8)
    liver = tuple(np.argwhere(truth(0) == LABELS["liver"])[::7].T)
    label[liver] = LABELS["liver"]
    label[0, 0] = 0
    write_nifti(Path("a_label.nii.gz"), label)
    evaluate_shard(config, 0, "test_0")
    evaluate_shard(config, 0, "test_1")
    scores = read_scores(config, "a")
    assert 0 < scores.classes["liver"]["dice"] < 1
    assert scores.classes["liver"]["hd95_mm"] is None
    assert scores.classes["tumour"]["empty"] == "unknown"
    assert scores.lesions == {}
    tumour = summarise_round(config, 0).classes["tumour"]
    assert tumour.dice.cases == tumour.present.cases == 2
    assert tumour.absent.cases == 0


def test_evaluate_shard_refuses_other_cases(config: Config) -> None:
    with pytest.raises(
        HstfError, match=r"unlabelled_0: evaluate predicts only test and validation"
    ):
        evaluate_shard(config, 0, "unlabelled_0")


def test_evaluate_shard_refuses_labels_of_another_geometry(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    write_nifti(Path("c_label.nii.gz"), truth(0)[:-1])
    message = r"c: c_label.nii.gz has shape \(11, 10, 8\), the image \(12, 10, 8\)"
    with pytest.raises(HstfError, match=message):
        evaluate_shard(config, 0, "test_1")
    mirrored = nib.Nifti1Image(truth(0), AFFINE @ np.diag([-1.0, 1.0, 1.0, 1.0]))
    nib.save(mirrored, "c_label.nii.gz")
    message = r"c: c_label.nii.gz has an affine that puts corner voxels up to 44 mm"
    with pytest.raises(HstfError, match=message):
        evaluate_shard(config, 0, "test_1")


@pytest.mark.parametrize("shear", [0.0, 0.1])
def test_evaluate_shard_measures_in_mm_on_a_sheared_grid(
    config: Config, predictors: dict[int, FakePredictor], shear: float
) -> None:
    """Also on axes that are nearly at right angles: 2 degrees less for a shear of 0.1."""
    affine = AFFINE.copy()
    affine[0, 2] = shear
    for name in ("c.nii.gz", "c_label.nii.gz"):
        data = np.asarray(nib.load(name).dataobj)
        nib.save(nib.Nifti1Image(data, affine), name)
    evaluate_shard(config, 0, "test_1")
    classes = read_scores(config, "c").classes
    voxels = np.count_nonzero(np.asarray(nib.load("c_label.nii.gz").dataobj) == LIVER)
    ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    assert classes["liver"]["reference_ml"] == pytest.approx(voxels * ml, rel=1e-9)
    edges = np.linalg.norm(affine[:3, :3], axis=0).prod() / 1000
    assert (ml == pytest.approx(edges, rel=1e-9)) == (shear == 0)


def test_evaluate_shard_refuses_unknown_label_values(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    write_nifti(Path("c_label.nii.gz"), truth(0) + 1)
    with pytest.raises(HstfError, match=r"c_label.nii.gz: has the values \[1, 4, 8\]"):
        evaluate_shard(config, 0, "test_1")


def test_evaluate_shard_names_missing_files(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    Path("c_label.nii.gz").unlink()
    with pytest.raises(HstfError, match=r"c: c_label.nii.gz missing"):
        evaluate_shard(config, 0, "test_1")
    shutil.rmtree(Layout.of(config).model(1))
    with pytest.raises(HstfError, match=r"round 1 has no model yet: .*seed_0.weights.pt missing"):
        evaluate_shard(config, 1, "test_0")


def test_summarise_round_refuses_edited_predictions(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    evaluate_all(config, 0)
    write_nifti(Layout.of(config).evaluation_prediction(0, "a"), truth(0))
    with pytest.raises(HstfError, match=r"a: .*predictions/a.nii.gz was changed"):
        summarise_round(config, 0)


def test_summarise_round_without_test_cases_is_empty(config: Config) -> None:
    rows = [row for row in read_csv(Path("cases.csv")) if row["split"] != "test"]
    write_csv(Path("cases.csv"), rows, list(rows[0]))
    summary = summarise_round(config, 0)
    assert summary.cases == 0
    assert summary.dice.mean is None
    assert rounds_table(report_context(config))[0]["dice"] is None


def test_evaluate_scales_writes_a_row_for_each_scale_and_structure(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict_at(
        predictor: object, image: np.ndarray, geometry: object, scale: float
    ) -> np.ndarray:
        """Return the label of the image at scale 1, and nothing at other scales."""
        indices = np.select([image == LIVER, image == TUMOUR], [1, 2])
        return (indices * (scale == 1)).astype(np.uint8)

    monkeypatch.setattr(scales, "load_predictor", lambda context: SimpleNamespace(plan=None))
    monkeypatch.setattr(scales, "prepare_image", lambda volumes, *_: (volumes[0].data, None))
    monkeypatch.setattr(scales, "predict_at", predict_at)
    section = CompareConfig(scales=(0.5, 1.0), scale_cases=2)
    config = config.model_copy(update={"compare": section})
    scales.evaluate_scales(StageContext.of(config, "evaluate", 1))
    rows = SCALES.records(Layout.of(config).evaluation_scales(1))
    assert [row["case_id"] for row in rows] == ["a"] * 4 + ["b"] * 4
    assert [(row["scale"], row["class"], row["dice"]) for row in rows[:4]] == [
        (0.5, "liver", 0),
        (0.5, "tumour", 0),
        (1, "liver", 1),
        (1, "tumour", 1),
    ]


def test_evaluate_scales_writes_an_empty_cell_for_an_absent_structure(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = np.zeros(SHAPE, np.uint8)
    for case_id in ("a", "b", "c"):
        write_nifti(Path(f"{case_id}_label.nii.gz"), nothing)
    monkeypatch.setattr(scales, "load_predictor", lambda context: SimpleNamespace(plan=None))
    monkeypatch.setattr(scales, "prepare_image", lambda volumes, *_: (volumes[0].data, None))
    monkeypatch.setattr(scales, "predict_at", lambda *_: nothing)
    config = config.model_copy(update={"compare": CompareConfig(scales=(1.0,))})
    scales.evaluate_scales(StageContext.of(config, "evaluate", 1))
    table = Layout.of(config).evaluation_scales(1)
    assert [row["dice"] for row in SCALES.records(table)] == [None] * 6
    assert np.isnan(read_scales(table, list(config.structures))[1.0])


def test_evaluate_scales_needs_a_comparison(config: Config) -> None:
    with pytest.raises(HstfError, match=r"--scales: .* no section 'compare:'"):
        scales.evaluate_scales(StageContext.of(config, "evaluate", 1))


def test_rounds_table_compares_rounds_with_the_warm_up(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    write_pseudo_labels(config)
    warmup = evaluate_all(config, 0)
    student = evaluate_all(config, 1)
    first, second = rounds_table(report_context(config))
    assert (first["round"], first["model"], first["members"]) == (0, "warm-up", 2)
    assert first["pseudo_labelled"] == 0
    assert (second["round"], second["model"], second["labelled"]) == (1, "student", 1)
    assert (second["pseudo_labelled"], second["rejected"]) == (1, 1)
    gain = student.dice.mean - warmup.dice.mean
    assert gain > 0.1
    assert second["gain"] == pytest.approx(gain, abs=1e-5)
    assert second["gain_low"] <= gain <= second["gain_high"]
    assert "only 2 patients" in second["note"]
    assert compare_with_warmup(report_context(config), 1).patients == 2
    assert second["dice_of_liver"] == student.classes["liver"].dice.mean
    assert second["pseudo_label_dice"] == student.pseudo_labels.dice.mean
    written = ROUNDS.records(Layout.of(config).rounds_table)
    assert written[1]["dice"] == pytest.approx(student.dice.mean, rel=1e-5)
    assert written[0]["gain"] is None


@pytest.mark.parametrize(
    ("name", "kept", "problem"),
    [
        ("labels.csv", 1, "u: is missing"),
        ("evaluation/cases.csv", 1, "a: is missing"),
        ("evaluation/cases.csv", 5, "c: is missing"),
        ("evaluation/cases.csv", 6, "c: has 1 rows, expected 2"),
    ],
)
def test_rounds_table_refuses_shortened_tables(
    config: Config, predictors: dict[int, FakePredictor], name: str, kept: int, problem: str
) -> None:
    write_pseudo_labels(config)
    evaluate_all(config, 0)
    evaluate_all(config, 1)
    table = Layout.of(config).round(1) / name
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:kept]))
    with pytest.raises(HstfError, match=rf"(?s){table.name}: does not have.*{problem}"):
        rounds_table(report_context(config))


def test_print_rounds_warns_of_a_round_without_pseudo_labels(
    config: Config, predictors: dict[int, FakePredictor], capsys: pytest.CaptureFixture[str]
) -> None:
    write_pseudo_labels(config)
    table = Layout.of(config).labels_table(1)
    rows = [row | {"source": "rejected"} for row in LABELS_TABLE.records(table)]
    LABELS_TABLE.write(table, rows)
    evaluate_all(config, 0)
    evaluate_all(config, 1)
    print_rounds(report_context(config))
    printed = " ".join(capsys.readouterr().out.split())
    assert "Warning: Round 1 learned from no unlabelled case: all 2 are rejected" in printed
    assert not Layout.of(config).rounds_table.exists(), "printing writes nothing"
    rounds_table(report_context(config))
    assert "all 2 are rejected" in ROUNDS.records(Layout.of(config).rounds_table)[1]["warnings"]


def test_rounds_table_leaves_out_rounds_without_evaluation(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    assert rounds_table(report_context(config)) == []
    evaluate_all(config, 0)
    assert [row["round"] for row in rounds_table(report_context(config))] == [0]


def test_print_rounds_shows_dice_and_gain(
    config: Config, predictors: dict[int, FakePredictor], capsys: pytest.CaptureFixture[str]
) -> None:
    write_pseudo_labels(config)
    warmup = evaluate_all(config, 0)
    student = evaluate_all(config, 1)
    print_rounds(report_context(config))
    printed = capsys.readouterr().out
    assert f"{student.dice.mean:.3f}" in printed
    assert f"{student.dice.mean - warmup.dice.mean:+.3f}" in printed
    assert "report.html" in printed
    assert "longer training" in printed
    assert "evaluate: {control: true}" in printed


def test_summarise_round_counts_a_lesion_beyond_an_ignored_border_once(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    image = np.zeros(SHAPE, np.float32)
    image[1:8, 3:5, 2:4] = TUMOUR
    label = np.zeros(SHAPE, np.uint8)
    label[2:5, 3:5, 2:4] = TUMOUR
    label[5:7, 3:5, 2:4] = LABELS["ignore"]
    for case_id in ("a", "b", "c"):
        write_nifti(Path(f"{case_id}.nii.gz"), image)
        write_nifti(Path(f"{case_id}_label.nii.gz"), label)
    config = config.model_copy(update={"lesions": ("tumour",)})
    write_pseudo_labels(config)
    found = evaluate_all(config, 1).lesions["tumour"]
    assert (found.lesions, found.hits, found.false_positives) == (3, 3, 0)
    assert found.overlap == pytest.approx(3 / 5), "the student is shifted by one voxel"


def test_print_rounds_notes_a_warm_up_with_other_test_cases(
    config: Config, predictors: dict[int, FakePredictor], capsys: pytest.CaptureFixture[str]
) -> None:
    write_pseudo_labels(config)
    evaluate_all(config, 0)
    evaluate_all(config, 1)
    other = Path("other")
    shutil.copytree(Layout.of(config).round(0), other / "round_0")
    reuse = config.reuse.model_copy(update={"warmup": str(other)})
    config = config.model_copy(update={"reuse": reuse})
    print_rounds(report_context(config))
    assert "other test cases" not in capsys.readouterr().out
    table = Layout.of(config).evaluation_cases(0)
    rows = [row for row in EVALUATION_CASES.records(table) if row["case_id"] != "a"]
    EVALUATION_CASES.write(table, rows)
    print_rounds(report_context(config))
    printed = " ".join(capsys.readouterr().out.split())
    assert "was scored on other test cases: its Dice cannot be compared" in printed


def test_print_rounds_of_another_method_does_not_name_the_control(
    config: Config, predictors: dict[int, FakePredictor], capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config.model_validate({**config.model_dump(mode="json"), "method": "noisy_student"})
    write_pseudo_labels(config)
    evaluate_all(config, 0)
    print_rounds(report_context(config))
    printed = " ".join(capsys.readouterr().out.split())
    assert "compare methods" in printed and "evaluate: {control" not in printed


def test_print_rounds_shows_the_control(
    config: Config, predictors: dict[int, FakePredictor], capsys: pytest.CaptureFixture[str]
) -> None:
    """A control with the scores of the warm-up: the whole change comes from unlabelled scans."""
    config = with_evaluate(config, control=True)
    write_pseudo_labels(config)
    warmup = evaluate_all(config, 0)
    student = evaluate_all(config, 1)
    capsys.readouterr()
    print_rounds(report_context(config))
    assert "The control has no scores yet" in " ".join(capsys.readouterr().out.split())
    layout = Layout.of(config)
    shutil.copytree(layout.evaluation(0), control_layout(layout, config.seed).evaluation(1))
    print_rounds(report_context(config))
    printed = " ".join(capsys.readouterr().out.split())
    assert f"control: 1 0 {warmup.dice.mean:.3f} +0.000" in printed
    assert f"scans help: {student.dice.mean - warmup.dice.mean:+.3f} (95% CI +" in printed
    assert "round 1 against the control" in printed
    assert "longer training" not in printed
    control = read_control(report_context(config))
    assert control is not None
    gain = compare_with_warmup(report_context(config), 1)
    assert control.comparison == gain, "the same as the change from an equal warm-up"
    assert "corrected" not in control_sentence(control)
    labels = [{"case_id": "u", "source": "corrected"}, {"case_id": "v", "source": "corrected"}]
    LABELS_TABLE.write(layout.labels_table(1), labels)
    corrected = read_control(report_context(config))
    assert corrected is not None
    assert "Round 1 has learned from 2 corrected labels, too, and the control has not." in (
        control_sentence(corrected)
    )


@pytest.mark.parametrize(
    ("low", "high", "p_value", "text"),
    [
        (0.012, 0.055, 0.02, "Unlabelled scans add +0.034 (95% CI +0.012 to +0.055, p = 0.020)"),
        (0.012, 0.055, 0.0002, "p < 0.001): round 2 against the control, which has the same"),
        (-0.012, 0.055, 0.02, "It is not clear whether unlabelled scans help: +0.034 (95% CI"),
        (0.012, 0.055, 0.2, "It is not clear whether unlabelled scans help: +0.034 (95% CI"),
        (-0.055, -0.012, 0.02, "Unlabelled scans make the Dice worse: -0.034 (95% CI -0.055"),
        (None, None, None, "It is not clear whether unlabelled scans help: +0.034: round 2"),
    ],
)
def test_control_sentence_states_whether_unlabelled_scans_help(
    low: float | None, high: float | None, p_value: float | None, text: str
) -> None:
    mean = -0.034 if high is not None and high < 0 else 0.034
    interval = Interval(mean=mean, low=low, high=high, scans=9, patients=9)
    comparison = Comparison(difference=interval, p_value=p_value, patients=9)
    assert text in control_sentence(Control(2, {}, comparison))


def test_control_sentence_names_classes_that_are_worse_than_in_the_control() -> None:
    interval = Interval(mean=-0.1, low=-0.2, high=-0.05, scans=9, patients=9)
    comparison = Comparison(difference=interval, p_value=0.148, patients=9)
    sentence = control_sentence(Control(2, {}, comparison, {"lesion": (0.0, 0.525)}))
    assert sentence.startswith("It is not clear whether unlabelled scans help: -0.100 (95% CI")
    assert sentence.endswith("Lower than in the control: lesion 0.000 (0.525).")


def test_a_new_metric_has_a_column_in_the_table_of_cases(
    config: Config, predictors: dict[int, FakePredictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A metric is registered by one line in METRICS."""

    def surplus(pair: StructurePair) -> float:
        return (pair.predicted - pair.hits) * pair.voxel_ml

    added = Metric("surplus_ml", "volume", surplus)
    monkeypatch.setitem(METRICS, added.name, added)
    evaluate_shard(config, 0, "test_0")
    scores = read_scores(config, "a").classes["liver"]
    path = Path("cases_with_metric.csv")
    EVALUATION_CASES.write(path, [{"case_id": "a", "class": "liver"} | scores])
    assert EVALUATION_CASES.records(path)[0]["surplus_ml"] == pytest.approx(
        scores["surplus_ml"], rel=1e-5
    )


# --- validation cases


def with_validation(config: Config) -> None:
    """Give the two test scans of patient p1 the split ``validation``."""
    path = Path(config.cases)
    path.write_text(path.read_text().replace("test,p1", "validation,p1"))


def test_validation_cases_are_scored_apart_from_test_cases(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    with_validation(config)
    write_pseudo_labels(config)
    layout = Layout.of(config)
    for number in (0, 1):
        evaluate_shard(config, number, "validation_0")
        evaluate_shard(config, number, "test_0")
        validation = summarise_validation(StageContext.of(config, "evaluate", number))
        test = summarise_round(config, number)
        assert (validation.cases, test.cases) == (2, 1)
        assert EvaluationSummary.load(layout.validation_summary(number)) == validation
        names = {
            row["case_id"] for row in VALIDATION_CASES.records(layout.validation_table(number))
        }
        assert names == {"a", "b"}
        tested = {
            row["case_id"] for row in EVALUATION_CASES.records(layout.evaluation_cases(number))
        }
        assert tested == {"c"}
    choice = choose_round(report_context(config))
    assert (choice.round, choice.chosen_by) == (1, "validation")
    # Test scores decide nothing: the choice is the same without them.
    for number in (0, 1):
        layout.evaluation_summary(number).unlink()
    assert choose_round(report_context(config)) == choice


def test_read_control_compares_the_exported_round_with_it_on_the_validation_cases(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    """The control has the scores of the warm-up here."""
    config = with_evaluate(config, control=True)
    with_validation(config)
    write_pseudo_labels(config)
    validation = []
    for number in (0, 1):
        evaluate_shard(config, number, "validation_0")
        evaluate_shard(config, number, "test_0")
        validation.append(summarise_validation(StageContext.of(config, "evaluate", number)))
        summarise_round(config, number)
    layout = Layout.of(config)
    folder = control_layout(layout, config.seed)
    shutil.copytree(layout.evaluation(0), folder.evaluation(1))
    control = read_control(report_context(config))
    assert control is not None
    assert control.validation == ValidationScores(
        cases=2,
        round=1,
        exported=validation[1].dice.mean,
        control=validation[0].dice.mean,
        target=f"supervised_seed_{config.seed}_export",
    )
    assert "validation" not in control_sentence(control), "the exported round is better"
    folder.validation_summary(1).unlink()
    assert read_control(report_context(config)) is None, "its scores are not complete"


def test_control_sentence_names_the_command_that_exports_a_better_control() -> None:
    interval = Interval(mean=-0.02, low=-0.048, high=-0.003, scans=12, patients=12)
    comparison = Comparison(difference=interval, p_value=0.007, patients=12)
    scores = ValidationScores(10, 2, 0.859, 0.879, "supervised_seed_0_export")
    sentence = control_sentence(Control(2, {}, comparison, validation=scores))
    assert sentence.endswith(
        "On the 10 validation cases the control is better: 0.879, and 0.859 for round 2, which is"
        " exported. To export the control, run snakemake again with the target"
        " supervised_seed_0_export."
    )
    equal = ValidationScores(10, 2, 0.879, 0.879, "supervised_seed_0_export")
    assert "validation" not in control_sentence(Control(2, {}, comparison, validation=equal))


def test_choose_round_ignores_scores_of_cases_that_are_no_validation_cases_now(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    """The cases of the earlier run may be test cases now."""
    with_validation(config)
    write_pseudo_labels(config)
    for number in (0, 1):
        evaluate_shard(config, number, "validation_0")
        summarise_validation(StageContext.of(config, "evaluate", number))
    assert choose_round(report_context(config)).chosen_by == "validation"
    sheet = Path(config.cases)
    text = sheet.read_text()
    sheet.write_text(text.replace("validation", "test"))
    assert choose_round(report_context(config)).chosen_by == "last"
    lines = [line for line in text.splitlines() if not line.startswith("b,")]
    sheet.write_text("\n".join(lines) + "\n")
    assert choose_round(report_context(config)).validation == {}


def test_summary_of_validation_needs_validation_cases(config: Config) -> None:
    with pytest.raises(HstfError, match="no validation cases"):
        summarise_validation(StageContext.of(config, "evaluate", 0))


def test_print_rounds_warns_of_lesions_that_no_pseudo_label_has(
    config: Config, predictors: dict[int, FakePredictor], capsys: pytest.CaptureFixture[str]
) -> None:
    name = next(iter(config.structures))
    config = config.model_copy(update={"lesions": (name,)})
    write_pseudo_labels(config)
    columns = [column.name for column in LESIONS.columns]
    lesion = dict.fromkeys(columns, 0) | {"case_id": "a", "class": name, "kept": False}
    LESIONS.write(Layout.of(config).lesions(1), [lesion] * 7)
    evaluate_all(config, 0)
    evaluate_all(config, 1)
    print_rounds(report_context(config))
    printed = " ".join(capsys.readouterr().out.split())
    assert f"Round 1: all 7 components of {name} are dropped" in printed
