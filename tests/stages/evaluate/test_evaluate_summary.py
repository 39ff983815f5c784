"""The summary of a round: absent classes, lesions and changed files. Scores at other scales."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.evaluation_files import (
    LABELS,
    LIVER,
    SHAPE,
    TUMOUR,
    FakePredictor,
    evaluate_all,
    read_scores,
    report_context,
    summarise_round,
    truth,
    with_evaluate,
    write_nifti,
    write_pseudo_labels,
)

from hstf.config.compare import CompareConfig
from hstf.config.experiment import Config
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.score_tables import (
    EVALUATION_CASES,
    EVALUATION_LESIONS,
    EVALUATION_MEMBERS,
    PSEUDO_LABEL_SCORES,
    SCALES,
)
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_csv, write_csv
from hstf.scoring.absent_classes import AbsentCases, PresentCases
from hstf.scoring.averages import Statistics
from hstf.scoring.documents import EmptyCounts, EvaluationSummary, MemberSummary
from hstf.scoring.metrics import METRICS
from hstf.scoring.rounds import rounds_table
from hstf.stages.compare.scores import read_scales
from hstf.stages.evaluate import scales


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
