"""The predicted Dice of a new scan: known values, missing structures."""

import numpy as np
import pytest

from hstf.config.teacher import TtaConfig
from hstf.method.plr.predicted_dice import DiceInterval, DiceModel
from hstf.method.plr.scan_quality import QualityModel
from hstf.method.tta_summary import Agreement, TtaSummary

SHAPE = (4, 4, 4)


def quality_model(bound: float = 0.5) -> QualityModel:
    """Return a model of two classes: the first is in every labelled case, the second may lack."""
    usual = {"confidence": 0.8, "scales": 0.9}
    organ = DiceModel(mean=0.85, slope=1.0, usual=usual, absent=0.0)
    lesion = DiceModel(mean=0.6, slope=1.0, usual=usual, absent=0.5)
    return QualityModel(
        classes={"organ": (1,), "lesion": (2,)},
        temperature=1.0,
        dice_models={"organ": organ, "lesion": lesion},
        may_be_absent=["lesion"],
        interval=DiceInterval(half_width=0.1, method="conformal", patients=12),
        minimum_predicted_dice=bound,
        views=TtaConfig(scales=(1.0, 0.5), flip_axes=(0,)),
    )


def summary_of(label: np.ndarray, confidence: int, agreement: float) -> TtaSummary:
    """Return the summary of a scan whose voxels all have the same confidence (0 to 255)."""
    probabilities = np.full((3, *SHAPE), (255 - confidence) // 2, np.uint8)
    np.put_along_axis(probabilities, label[None].astype(np.intp), confidence, axis=0)
    dice = dict.fromkeys(("organ", "lesion"), agreement)
    found = Agreement(
        scales={"1.0": dice, "0.5": dice},
        members={},
        flips={},
        foreground_entropy={},
        volumes_ml={},
    )
    return TtaSummary(probabilities, np.zeros((3, *SHAPE), np.uint8), found)


def organ() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[:2] = 1
    return label


def test_predicted_dice_has_known_values() -> None:
    """Features 0.1 below the usual ones: 0.85 - 0.1 - 0.1."""
    label = organ()
    label[3] = 2
    found = quality_model().judge(summary_of(label, round(0.7 * 255), 0.8), label)
    assert found.predicted == pytest.approx({"organ": 0.65, "lesion": 0.4}, abs=0.01)
    assert (found.low, found.high) == pytest.approx((found.mean - 0.1, found.mean + 0.1))
    assert (found.interval, found.missing, found.is_low) == ("conformal", [], False)


def test_a_missing_organ_is_reported_and_a_missing_lesion_is_not() -> None:
    label = organ()
    summary = summary_of(label, 204, 0.9)
    found = quality_model().judge(summary, label)
    assert found.missing == []
    assert found.predicted == pytest.approx({"organ": 0.85, "lesion": 0.5}, abs=0.01)
    cleaned = np.zeros_like(label)
    found = quality_model().judge(summary, cleaned)
    assert found.missing == ["organ"]
    assert found.predicted["organ"] == 0
    assert found.is_low


def test_passes_count_the_voxels_of_all_views() -> None:
    assert quality_model().passes == (1 + 0.125) * 2
