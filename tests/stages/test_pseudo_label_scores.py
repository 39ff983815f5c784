"""Pseudo-labels in hindsight: what the withheld labels say of them, and of what was predicted."""

from pathlib import Path

import numpy as np
import pytest
from support.evaluation_files import (
    LIVER,
    SHAPE,
    TUMOUR,
    FakePredictor,
    evaluate_all,
    make_experiment,
    stand_in,
    truth,
    write_pseudo_labels,
)

from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.runtime.files import read_csv
from hstf.stages.evaluate.pseudo_label_scores import Hindsight, hindsight, summary


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    return make_experiment(tmp_path)


@pytest.fixture
def predictors(config: Config, monkeypatch: pytest.MonkeyPatch) -> dict[int, FakePredictor]:
    return stand_in(config, monkeypatch)


def test_pseudo_labels_in_hindsight(config: Config, predictors: dict[int, FakePredictor]) -> None:
    write_pseudo_labels(config)
    found = evaluate_all(config, 1)["pseudo_labels"]
    rows = read_csv(Layout.of(config).evaluation_pseudo_labels(1))
    label, reference = np.roll(truth(1), 1, axis=0), truth(1)
    expected = {}
    for name, value in (("liver", LIVER), ("tumour", TUMOUR)):
        a, b = label == value, reference == value
        expected[name] = 2 * (a & b).sum() / (a.sum() + b.sum())
    assert [(row["case_id"], row["class"]) for row in rows] == [("u", "liver"), ("u", "tumour")]
    assert {row["class"]: float(row["dice"]) for row in rows} == pytest.approx(expected, rel=1e-5)
    kept = (label == LIVER)[..., :4]
    assert float(rows[0]["kept_error"]) == pytest.approx(
        (reference[..., :4][kept] != LIVER).mean(), rel=1e-5
    )
    assert float(rows[0]["kept_fraction"]) == pytest.approx(
        kept.sum() / (label == LIVER).sum(), rel=1e-5
    )
    assert rows[1]["low_weight_error"] == ""  # the tumour has no voxel of low weight
    assert found["dice"]["mean"] == pytest.approx(np.mean(list(expected.values())))
    assert (
        found["accepted"]["cases"] == 1
        and found["rejected"]["mean"] is None
        and found["spearman"] is None
    )
    assert found["interval_coverage"] == float(abs(found["dice"]["mean"] - 0.75) <= 0.05)
    wrong = label != reference
    assert found["voxels"]["kept_error"] == pytest.approx(wrong[..., :4].mean())
    assert found["voxels"]["low_weight_error"] == pytest.approx(wrong[..., 4:].mean())
    curve = found["risk_coverage"]
    assert curve[-1]["coverage"] == 1 and curve[-1]["weight"] == 0
    assert curve[0]["error"] == pytest.approx(found["foreground_voxels"]["kept_error"])
    assert curve[0]["coverage"] == pytest.approx(found["foreground_voxels"]["kept_fraction"])
    inside = (label > 0) | (reference > 0)
    assert found["foreground_voxels"]["kept_error"] == pytest.approx(
        wrong[..., :4][inside[..., :4]].mean()
    )


def test_the_share_of_pseudo_labels_within_their_interval(config: Config) -> None:
    label, weight = np.zeros(SHAPE, np.uint8), np.full(SHAPE, 255, np.uint8)
    label[:2], label[2:4] = 1, 2

    def scored(low: float | None, high: float | None) -> Hindsight:
        row = {
            "accepted": True,
            "predicted_dice": 0.9,
            "predicted_dice_low": low,
            "predicted_dice_high": high,
        }
        return hindsight(config, "u", row, label, weight, label)

    assert summary([scored(0.8, 1.0), scored(0.8, 0.99), scored(0.9, 1.0)])[
        "interval_coverage"
    ] == (pytest.approx(2 / 3))
    assert summary([scored(None, None)])["interval_coverage"] is None


def test_a_class_in_neither_map_counts_as_right_where_predicted_dice_is_judged(
    config: Config,
) -> None:
    """So it does where predicted Dice is learned; the Dice that is reported leaves it out."""
    label, weight = np.zeros(SHAPE, np.uint8), np.full(SHAPE, 255, np.uint8)
    label[:2] = 1
    reference = np.roll(label, 1, axis=0)
    row = {
        "accepted": True,
        "predicted_dice": 0.75,
        "predicted_dice_low": 0.7,
        "predicted_dice_high": 0.8,
    }
    scored = hindsight(config, "u", row, label, weight, reference)
    assert scored.as_predicted == pytest.approx(0.75)
    found = summary([scored])
    assert found["dice"]["mean"] == pytest.approx(0.5)
    assert found["interval_coverage"] == 1.0  # (0.5 + 1) / 2
