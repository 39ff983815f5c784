"""Predicted Dice: few cases, odd cases, and what must always hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hstf.refine.score import UNKNOWN_SD, case_features, fit_dice_model, interval, leave_one_out, residual_sd

DICE = [0.95, 0.9, 0.85, 0.7, 0.5, 0.92, 0.88, 0.6]


def features_of(dice: list[float], noise: float = 0.0) -> list[dict[str, float] | None]:
    rng = np.random.default_rng(0)
    return [
        {"scales": 0.5 + d / 2 + noise * rng.normal(), "certainty": d**2, "confidence": 0.8 + d / 10}
        for d in dice
    ]


def test_features_of_a_known_case() -> None:
    label = np.array([[[0, 1, 1]]], np.uint8)
    confidence = np.array([[[255, 204, 102]]], np.uint8)
    agreement = {
        "scales": {"0.8": {"a": 0.8, "b": 1.0}, "1.25": {"a": 0.6, "b": 1.0}},
        "members": {"m": {"a": 0.1, "b": 0.1}},
        "foreground_entropy": {"a": 0.25, "b": 0.0},
    }
    found = case_features(agreement, label, confidence, ["background", "a", "b"])
    assert found["b"] is None
    assert found["a"] == pytest.approx({"scales": 0.7, "certainty": 0.75, "confidence": 0.6})


def test_better_agreement_predicts_better_dice_in_the_right_order() -> None:
    model = fit_dice_model(features_of(DICE, noise=0.01), DICE, may_be_absent=False)
    predicted = [model.predict(x) for x in features_of(DICE)]
    assert np.corrcoef(predicted, DICE)[0, 1] > 0.95
    assert np.abs(np.subtract(predicted, DICE)).mean() < 0.06


def test_a_sign_that_tells_nothing_gets_no_weight() -> None:
    features = features_of(DICE)
    for x, d in zip(features, DICE, strict=True):
        x["flips"] = 1 - d  # type: ignore[index]  # worse agreement where Dice is better
    assert fit_dice_model(features, DICE, False).weights["flips"] == pytest.approx(0, abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_few_cases_never_lead_astray(dice: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = [dict(zip(("scales", "certainty", "confidence"), rng.random(3), strict=True)) for _ in dice]
    model = fit_dice_model(features, dice, may_be_absent=True)
    assert all(weight >= 0 for weight in model.weights.values())
    for x in (*features, {"scales": 0.0}, {"scales": 1.0, "certainty": 1.0, "confidence": 1.0}, None):
        assert 0 <= model.predict(x) <= 1
    worse, better = ({"scales": s, "certainty": 0.5, "confidence": 0.5} for s in (0.3, 0.9))
    assert model.predict(worse) <= model.predict(better)
    assert np.all(np.abs(leave_one_out(features, dice, True)) <= 1)


def test_equal_cases_predict_their_mean() -> None:
    model = fit_dice_model([{"scales": 0.9}] * 4, [0.8, 0.82, 0.84, 0.86], False)
    assert model.predict({"scales": 0.9}) == pytest.approx(0.83)
    assert model.predict({}) == pytest.approx(0.83)


def test_the_fit_is_shrunk_to_the_mean() -> None:
    """Four cases on a line of one feature: ridge with four prior cases gives half of the slope."""
    x = np.array([0.6, 0.7, 0.8, 0.9])
    model = fit_dice_model([{"scales": v} for v in x], (x - 0.05).tolist(), False)
    assert model.predict({"scales": 0.9}) == pytest.approx(0.70 + 0.15 / 2)


def test_absent_classes() -> None:
    features = [{"scales": 0.9}, {"scales": 0.8}, None]
    assert fit_dice_model(features, [0.9, 0.7, 1.0], may_be_absent=True).predict(None) == pytest.approx(0.9)
    assert fit_dice_model(features, [0.9, 0.7, 0.0], may_be_absent=False).predict(None) == 0
    never = fit_dice_model([None, None], [0.0, 0.0], may_be_absent=False)
    assert never.predict({"scales": 1.0}) == 0 and never.predict(None) == 0


def test_spread_and_interval() -> None:
    assert residual_sd(np.array([0.1, -0.1])) == UNKNOWN_SD
    assert residual_sd(np.array([0.1, -0.1, 0.1, -0.1])) == pytest.approx(0.1)
    assert residual_sd(np.zeros(6)) == pytest.approx(0.02)
    assert interval(0.9, 0.1) == (pytest.approx(0.7355), 1.0)
    assert interval(0.05, 0.1)[0] == 0.0
