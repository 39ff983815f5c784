"""Predicted Dice: few cases, odd cases, and what must always hold."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hstf.method.plr.predicted_dice import (
    SMALLEST_SLOPE,
    UNKNOWN_SD,
    case_features,
    fit_dice_model,
    fit_models,
    fit_slope,
    interval,
    leave_one_out,
    residual_sd,
)

DICE = [0.95, 0.9, 0.85, 0.7, 0.5, 0.92, 0.88, 0.6]


def features_of(dice: list[float], noise: float = 0.0) -> list[dict[str, float] | None]:
    rng = np.random.default_rng(0)
    return [{"confidence": 0.8 + d / 10 + noise * rng.normal(), "scales": 0.9} for d in dice]


def names(cases: Sequence[object]) -> list[str]:
    """A patient for each case."""
    return [f"patient_{k}" for k in range(len(cases))]


def test_features_of_a_known_case() -> None:
    label = np.array([[[0, 1, 1]], [[1, 0, 0]]], np.uint8)
    probabilities = np.zeros((3, 2, 1, 3), np.uint8)
    probabilities[1] = [[[0, 204, 102]], [[153, 0, 0]]]
    agreement = {
        "scales": {"0.8": {"a": 0.8, "b": 1.0}, "1.25": {"a": 0.6, "b": 1.0}},
        "flips": {"none": {"a": 1.0, "b": 1.0}},  # the only view: says nothing
        "snapshots": {"1": {"a": 0.5, "b": 1.0}},
        "members": {"m": {"a": 0.1, "b": 0.1}},
        "foreground_entropy": {"a": 0.25, "b": 0.0},
    }
    found = case_features(agreement, label, probabilities, {"a": (1,), "b": (2,)})
    assert found["b"] is None
    assert found["a"] == pytest.approx({"scales": 0.7, "snapshots": 0.5, "confidence": 0.6})


def test_the_confidence_of_a_region_is_that_in_any_of_its_classes() -> None:
    """Necrosis or oedema, nobody knows, but tumour for sure."""
    label = np.array([0, 1, 2, 1], np.uint8).reshape(4, 1, 1)
    probabilities = np.array(
        [[250, 0, 5, 55], [0, 128, 125, 130], [5, 127, 125, 70]], np.uint8
    ).reshape(3, 4, 1, 1)
    found = case_features({}, label, probabilities, {"whole": (1, 2), "core": (1,)})
    assert found["whole"] == pytest.approx({"confidence": (255 + 250 + 200) / 3 / 255})
    assert found["core"] == pytest.approx({"confidence": (128 + 130) / 2 / 255})


def test_confidence_predicts_dice_in_the_right_order() -> None:
    model = fit_dice_model(features_of(DICE), DICE, 1.5, may_be_absent=False)
    predicted = [model.predict(x) for x in features_of(DICE)]
    assert np.argsort(predicted).tolist() == np.argsort(DICE).tolist()
    assert np.mean(predicted) == pytest.approx(np.mean(DICE))


def test_the_slope_is_that_of_the_cases_and_of_a_prior() -> None:
    """Two classes of two cases, each 0.02 from its class's mean, on lines of slope 3, weigh as much as the prior of 1."""
    classes = [
        (
            [{"confidence": centre - 0.02}, {"confidence": centre + 0.02}, None],
            [dice - 0.06, dice + 0.06, 0.0],
        )
        for centre, dice in ((0.8, 0.5), (0.6, 0.9))
    ]
    assert fit_slope(classes) == pytest.approx(2.0)
    assert fit_slope([]) == fit_slope([([None], [0.3])]) == pytest.approx(1.0)
    model = fit_dice_model(*classes[0], 2.0, False)
    assert model.predict({"confidence": 0.9}) == pytest.approx(0.5 + 2 * 0.1)


def test_few_cases_never_turn_the_order_round() -> None:
    x = [0.7, 0.8, 0.9]
    assert fit_slope([([{"confidence": v} for v in x], [0.9, 0.8, 0.7])]) == SMALLEST_SLOPE > 0


def test_confidence_and_agreement_count_alike() -> None:
    features = [{"confidence": 0.9, "scales": s, "flips": 1.0} for s in (0.9, 0.8, 0.95, 0.95)]
    model = fit_dice_model([*features, None], [0.9, 0.9, 0.9, 0.9, 0.0], 1.5, False)
    assert model.usual == pytest.approx({"confidence": 0.9, "flips": 1.0, "scales": 0.9})
    assert model.predict({"confidence": 0.8, "scales": 0.9, "flips": 1.0}) == pytest.approx(0.75)
    assert model.predict({"confidence": 0.9, "scales": 0.8, "flips": 1.0}) == pytest.approx(0.75)
    assert model.predict({"confidence": 0.85, "scales": 0.95, "flips": 0.9}) == pytest.approx(0.75)


def test_a_sign_that_only_one_side_has_says_nothing() -> None:
    """A round may ask for other views than the warm-up, and views may differ by case."""
    features = [
        {"confidence": 0.9, "scales": 0.9},
        {"confidence": 0.9, "scales": 0.7, "flips": 0.2},
    ]
    model = fit_dice_model(features, [0.9, 0.9], 1.0, False)
    assert model.predict({"confidence": 0.9}) == pytest.approx(0.9)
    assert model.predict({"confidence": 0.9, "scales": 0.7, "flips": 0.0}) == pytest.approx(0.8)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_few_cases_never_lead_astray(dice: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = [
        dict(zip(("confidence", "scales", "flips"), rng.random(3), strict=True)) for _ in dice
    ]
    slope = fit_slope([(features, dice)])
    model = fit_dice_model(features, dice, slope, may_be_absent=True)
    for x in (*features, {"confidence": 0.0}, {"confidence": 1.0, "scales": 1.0}, None):
        assert 0 <= model.predict(x) <= 1
    worse, better = ({"confidence": c, "scales": s} for c, s in ((0.3, 0.3), (0.9, 0.9)))
    assert model.predict(worse) <= model.predict(better)
    errors = leave_one_out(
        [{"organ": x} for x in features], np.array([dice]).T, {"organ": True}, names(dice)
    )
    assert np.all(np.abs(errors) <= 1)


def test_a_case_says_nothing_about_its_own_prediction() -> None:
    features = [{"a": x, "b": x} for x in features_of(DICE, noise=0.02)]
    table = np.array([DICE, DICE[::-1]]).T
    other = table.copy()
    other[3] -= 0.25
    errors, moved = (
        leave_one_out(features, dice, {"a": False, "b": False}, names(DICE))
        for dice in (table, other)
    )
    np.testing.assert_allclose(moved[3], errors[3] - 0.25, atol=1e-9)
    assert not np.allclose(moved[4], errors[4], atol=1e-4), "the others learn from it"


def test_nor_does_another_scan_of_the_same_patient() -> None:
    features = [{"a": x} for x in features_of(DICE, noise=0.02)]
    table, other = np.array([DICE, DICE])[:, :, None]
    other = other.copy()
    other[2] -= 0.25
    patients = ["p0", "p0", "p1", "p1", "p2", "p2", "p3", "p3"]
    errors, moved = (
        leave_one_out(features, dice, {"a": False}, patients) for dice in (table, other)
    )
    assert moved[3] == pytest.approx(errors[3]), "patient p1's other scan"
    assert not np.allclose(moved[4], errors[4], atol=1e-4)


def test_cases_whose_dice_is_not_known_are_left_out_and_told_nothing() -> None:
    features = [{"a": x, "b": x} for x in features_of([0.9, 0.8, 0.7])]
    table = np.array([[0.9, np.nan], [0.8, 0.6], [0.7, np.nan]])
    known = {"a": False, "b": False}
    assert fit_models(features, table, known)["b"].mean == pytest.approx(0.6)
    errors = leave_one_out(features, table, known, names(features))
    assert np.isfinite(errors[:, 0]).all()
    assert np.isnan(errors[:, 1]).all(), "without the one case nothing is known of b"


def test_equal_cases_predict_their_mean() -> None:
    model = fit_dice_model([{"confidence": 0.9}] * 4, [0.8, 0.82, 0.84, 0.86], 1.0, False)
    assert model.predict({"confidence": 0.9}) == pytest.approx(0.83)


def test_absent_classes() -> None:
    features = [{"confidence": 0.9}, {"confidence": 0.8}, None]
    assert fit_dice_model(features, [0.9, 0.7, 1.0], 1.0, may_be_absent=True).predict(
        None
    ) == pytest.approx(0.9)
    assert fit_dice_model(features, [0.9, 0.7, 0.0], 1.0, may_be_absent=False).predict(None) == 0
    never = fit_dice_model([None, None], [0.0, 0.0], 1.0, may_be_absent=False)
    assert never.predict({"confidence": 1.0}) == 0 and never.predict(None) == 0


def test_spread_and_interval() -> None:
    assert residual_sd(np.array([0.1, -0.1])) == UNKNOWN_SD
    assert residual_sd(np.array([0.1, -0.1, 0.1, -0.1])) == pytest.approx(0.1)
    assert residual_sd(np.zeros(6)) == pytest.approx(0.02)
    assert interval(0.9, 0.1, 10) == (
        pytest.approx(0.9 - 0.1 * 1.8331, abs=1e-4),
        1.0,
    )  # t of 9 degrees
    assert interval(0.5, 0.05, 2) == (
        pytest.approx(0.1843, abs=1e-4),
        pytest.approx(0.8157, abs=1e-4),
    )
    assert interval(0.05, 0.1, 10)[0] == 0.0
