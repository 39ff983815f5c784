"""Pseudo-labels compared with withheld labels, and predicted with true Dice."""

import numpy as np
import pytest
from support.evaluation_files import (
    LIVER,
    SHAPE,
    TUMOUR,
    FakePredictor,
    evaluate_all,
    truth,
    write_pseudo_labels,
)

from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.experiment.score_tables import PSEUDO_LABEL_SCORES
from hstf.scoring.documents import PseudoLabelSummary
from hstf.stages.evaluate.pseudo_label_scores import (
    PseudoLabelScore,
    score_pseudo_label,
    summarise,
)


@pytest.fixture
def found(config: Config, predictors: dict[int, FakePredictor]) -> PseudoLabelSummary:
    """The summary of round 1 with the pseudo-labels of :func:`write_pseudo_labels`."""
    write_pseudo_labels(config)
    summary = evaluate_all(config, 1).pseudo_labels
    assert summary is not None
    return summary


LABEL = np.roll(truth(1), 1, axis=0)
REFERENCE = truth(1)


def expected_dice(value: int) -> float:
    """Compute the Dice of a file value in the pseudo-label."""
    predicted = value == LABEL
    true = value == REFERENCE
    return 2 * (predicted & true).sum() / (predicted.sum() + true.sum())


def test_score_pseudo_labels_writes_a_row_for_each_structure(
    config: Config, found: PseudoLabelSummary
) -> None:
    liver, tumour = PSEUDO_LABEL_SCORES.records(Layout.of(config).evaluation_pseudo_labels(1))
    assert (liver["case_id"], liver["class"]) == ("u", "liver")
    assert (tumour["case_id"], tumour["class"]) == ("u", "tumour")
    assert liver["dice"] == pytest.approx(expected_dice(LIVER), rel=1e-5)
    assert tumour["dice"] == pytest.approx(expected_dice(TUMOUR), rel=1e-5)
    is_liver = LABEL == LIVER
    # The weight is 0 from the fifth plane of Z on.
    kept = is_liver[..., :4]
    kept_error = (REFERENCE[..., :4][kept] != LIVER).mean()
    assert liver["kept_error"] == pytest.approx(kept_error, rel=1e-5)
    assert liver["kept_fraction"] == pytest.approx(kept.sum() / is_liver.sum(), rel=1e-5)
    assert tumour["low_weight_error"] is None, "the tumour has no voxel of low weight"


def test_score_pseudo_labels_summarises_dice(found: PseudoLabelSummary) -> None:
    mean = np.mean([expected_dice(LIVER), expected_dice(TUMOUR)])
    assert found.dice.mean == pytest.approx(mean)
    assert found.accepted.cases == 1
    assert found.rejected.mean is None
    assert found.spearman is None
    assert found.interval_coverage == float(abs(mean - 0.75) <= 0.05)


def test_score_pseudo_labels_summarises_voxel_errors(found: PseudoLabelSummary) -> None:
    wrong = LABEL != REFERENCE
    assert found.voxels.kept_error == pytest.approx(wrong[..., :4].mean())
    assert found.voxels.low_weight_error == pytest.approx(wrong[..., 4:].mean())
    is_foreground = (LABEL > 0) | (REFERENCE > 0)
    kept_error = wrong[..., :4][is_foreground[..., :4]].mean()
    assert found.foreground_voxels.kept_error == pytest.approx(kept_error)


def test_risk_coverage_ends_with_all_voxels(found: PseudoLabelSummary) -> None:
    first, *_, last = found.risk_coverage
    assert (last.coverage, last.weight) == (1, 0)
    assert first.error == pytest.approx(found.foreground_voxels.kept_error)
    assert first.coverage == pytest.approx(found.foreground_voxels.kept_fraction)


def score(
    config: Config,
    label: np.ndarray,
    reference: np.ndarray,
    interval: tuple[float | None, float | None],
) -> PseudoLabelScore:
    """Score an accepted pseudo-label with full weight everywhere."""
    verdict = {
        "case_id": "u",
        "accepted": True,
        "predicted_dice": 0.9,
        "predicted_dice_low": interval[0],
        "predicted_dice_high": interval[1],
    }
    weight = np.full(SHAPE, 255, np.uint8)
    return score_pseudo_label(config, verdict, label, weight, reference)


def test_summarise_counts_true_dice_within_the_interval(config: Config) -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[:2] = 1
    label[2:4] = 2
    intervals = [(0.8, 1.0), (0.8, 0.99), (0.9, 1.0)]
    scores = [score(config, label, label, interval) for interval in intervals]
    assert summarise(scores).interval_coverage == pytest.approx(2 / 3)
    unknown = score(config, label, label, (None, None))
    assert summarise([unknown]).interval_coverage is None


def test_score_pseudo_label_counts_absent_structures_as_predicted_dice_does(
    config: Config,
) -> None:
    """A structure that both labels lack has Dice 1 for predicted Dice, but is not reported."""
    label = np.zeros(SHAPE, np.uint8)
    label[:2] = 1
    reference = np.roll(label, 1, axis=0)
    scored = score(config, label, reference, (0.7, 0.8))
    assert scored.true_dice == pytest.approx((0.5 + 1) / 2)
    found = summarise([scored])
    assert found.dice.mean == pytest.approx(0.5)
    assert found.interval_coverage == 1.0
