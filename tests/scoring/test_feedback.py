"""Predicted Dice against corrected labels, with known answers."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.report_files import Fabricated, fabricated

from hstf.experiment.round_tables import REFINE
from hstf.experiment.schedule import Schedule
from hstf.runtime.files import sha256_file, write_text
from hstf.scoring.feedback import CorrectedCase, Feedback, feedback

SHAPE = (10, 10, 4)
HEADER = "round,case_id,action,reviewer,date,reason,sha256"


def write_label(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)


def pseudo_label() -> np.ndarray:
    """Liver in 40 voxels; no spleen and no lesion."""
    label = np.zeros(SHAPE, np.uint8)
    label[:, 0] = 1
    return label


@pytest.fixture
def experiment(tmp_path: Path) -> Fabricated:
    """An experiment whose first case was corrected: half of the liver was wrong."""
    made = fabricated(tmp_path, rounds=1, unlabelled=8)
    made.write_pseudo_labels(1)
    name = made.unlabelled_ids[0]
    path = made.layout.pseudo_label(1, name)
    write_label(path, pseudo_label())
    corrected = pseudo_label()
    corrected[:5, 0] = 0
    write_label(made.layout.override(1, name), corrected)
    refined = REFINE.records(made.layout.refine(1))
    for row in refined:
        if row["case_id"] == name:
            row["files"] = [f"pseudo_labels/{name}.nii.gz"]
            row["sha256"] = [sha256_file(path)]
            row |= {"predicted_dice": 0.8, "predicted_dice_low": 0.7, "predicted_dice_high": 0.9}
    REFINE.write(made.layout.refine(1), refined, ("liver", "spleen", "lesion"))
    return made


MEASURED = (2 * 20 / (40 + 20) + 1 + 1) / 3
"""Dice of the liver 2/3; both labels lack the other two classes."""


def found(experiment: Fabricated) -> Feedback:
    schedule = Schedule.of(experiment.config)
    return feedback(experiment.config, experiment.layout, schedule, experiment.unlabelled_ids)


def test_feedback_measures_the_pseudo_label_with_the_corrected_label(
    experiment: Fabricated,
) -> None:
    (case,) = found(experiment).cases
    assert (case.case_id, case.round, case.reviewer) == (experiment.unlabelled_ids[0], 1, "")
    assert case.predicted == 0.8 and case.measured == pytest.approx(MEASURED)
    assert case.is_within_interval == float(0.7 <= MEASURED <= 0.9)


def test_feedback_leaves_ignored_voxels_out(tmp_path: Path) -> None:
    labels = {"background": 0, "liver": 1, "ignore": 255}
    made = fabricated(tmp_path, rounds=1, labels=labels, lesions=[])
    made.write_pseudo_labels(1)
    name = made.unlabelled_ids[0]
    write_label(made.layout.pseudo_label(1, name), pseudo_label())
    corrected = pseudo_label()
    corrected[:5, 0] = 255
    corrected[5, 1] = 1
    write_label(made.layout.override(1, name), corrected)
    (case,) = found(made).cases
    # 20 + 24 voxels of liver outside the ignored ones, 20 in both.
    assert case.measured == pytest.approx(2 * 20 / (20 + 24))


def test_feedback_leaves_out_a_case_whose_pseudo_label_has_changed(
    experiment: Fabricated,
) -> None:
    name = experiment.unlabelled_ids[0]
    row = f"1,{name},replace,AB,2026-01-01,leak,{'f' * 64}"
    write_text(experiment.layout.decisions, f"{HEADER}\n{row}\n")
    feedback_now = found(experiment)
    assert feedback_now.changed == [name] and not feedback_now.cases


def test_feedback_uses_what_was_measured_when_the_label_was_saved(
    experiment: Fabricated,
) -> None:
    name = experiment.unlabelled_ids[0]
    result = sha256_file(experiment.layout.override(1, name))
    header = f"{HEADER},result_sha256,dice_before,dice_after"
    row = f"1,{name},replace,AB,2026-01-01,leak,{'f' * 64},{result},0.55,0.66"
    write_text(experiment.layout.decisions, f"{header}\n{row}\n")
    (case,) = found(experiment).cases
    # The interval belongs to another version of the pseudo-label.
    assert case == CorrectedCase(name, 1, "AB", 0.55, None, None, 0.66)
    write_text(experiment.layout.decisions, f"{header}\n{row.replace(result, 'e' * 64)}\n")
    assert found(experiment).changed == [name], "the label was changed in another program"


def test_feedback_names_labels_that_cannot_be_read(experiment: Fabricated) -> None:
    experiment.layout.override(1, experiment.unlabelled_ids[0]).write_bytes(b"torn")
    feedback_now = found(experiment)
    assert not feedback_now.cases and "could not be compared" in feedback_now.problems[0]


def cases_of(pairs: list[tuple[float, float]]) -> Feedback:
    cases = []
    for index, (predicted, measured) in enumerate(pairs):
        low, high = predicted - 0.1, predicted + 0.1
        cases.append(CorrectedCase(str(index), 1, "", predicted, low, high, measured))
    return Feedback(cases)


def test_feedback_summarises_the_cases() -> None:
    summary = cases_of(
        [(0.5, 0.55), (0.6, 0.75), (0.7, 0.78), (0.8, 0.85), (0.9, 0.95), (0.4, 0.2)]
    )
    assert summary.predicted == pytest.approx(0.65) and summary.measured == pytest.approx(0.68)
    assert summary.coverage == pytest.approx(4 / 6) and summary.correlation == pytest.approx(1.0)
    assert summary.text == (
        "Of 6 corrected cases: predicted Dice 0.65, measured 0.68. The measured Dice of 4 of 6 is"
        " within the 90% interval. Rank correlation 1.00."
    )


def test_feedback_has_no_rank_correlation_of_few_cases() -> None:
    summary = cases_of([(0.5, 0.55), (0.6, 0.65)])
    assert summary.correlation is None and "Rank" not in summary.text
    assert "nothing can be compared" in Feedback().text
