"""Predicted Dice: few cases, unusual cases and invariants."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hstf.method.plr import predicted_dice
from hstf.method.plr.predicted_dice import (
    MINIMUM_SLOPE,
    UNKNOWN_SD,
    DiceModel,
    KnownCases,
    QualityFeatures,
    fit_interval,
    fit_models,
    fit_slope,
    leave_one_out_errors,
    quality_features,
    residual_sd,
    useful_features,
)
from hstf.method.tta_summary import Agreement

DICE = [0.95, 0.9, 0.85, 0.7, 0.5, 0.92, 0.88, 0.6]


def features_of(dice: list[float], noise: float = 0.0) -> list[dict[str, float] | None]:
    rng = np.random.default_rng(0)
    return [{"confidence": 0.8 + d / 10 + noise * rng.normal(), "scales": 0.9} for d in dice]


def fit_dice_model(
    features: Sequence[QualityFeatures | None],
    dice: Sequence[float],
    slope: float,
    may_be_absent: bool,
) -> DiceModel:
    """Fit a model to cases given as two lists."""
    return predicted_dice.fit_dice_model(KnownCases(features, dice), slope, may_be_absent)


NO_VIEWS = Agreement(scales={}, members={}, flips={}, foreground_entropy={}, volumes_ml={})


def names(cases: Sequence[object]) -> list[str]:
    """Return a patient for each case."""
    return [f"patient_{k}" for k in range(len(cases))]


def test_quality_features_equal_values_by_hand() -> None:
    label = np.array([[[0, 1, 1]], [[1, 0, 0]]], np.uint8)
    probabilities = np.zeros((3, 2, 1, 3), np.uint8)
    probabilities[1] = [[[0, 204, 102]], [[153, 0, 0]]]
    agreement = Agreement(
        scales={"0.8": {"a": 0.8, "b": 1.0}, "1.25": {"a": 0.6, "b": 1.0}},
        members={"m": {"a": 0.1, "b": 0.1}},
        flips={"none": {"a": 1.0, "b": 1.0}},  # a single view is not used
        foreground_entropy={"a": 0.25, "b": 0.0},
        volumes_ml={"a": 1.0, "b": 0.0},
        snapshots={"1": {"a": 0.5, "b": 1.0}},
    )
    found = quality_features(agreement, label, probabilities, {"a": (1,), "b": (2,)})
    assert found["b"] is None
    assert found["a"] == pytest.approx({"scales": 0.7, "snapshots": 0.5, "confidence": 0.6})


def test_quality_features_add_the_confidence_of_a_region() -> None:
    """The classes of the region may be uncertain although the region is certain."""
    label = np.array([0, 1, 2, 1], np.uint8).reshape(4, 1, 1)
    probabilities = np.array(
        [[250, 0, 5, 55], [0, 128, 125, 130], [5, 127, 125, 70]], np.uint8
    ).reshape(3, 4, 1, 1)
    found = quality_features(NO_VIEWS, label, probabilities, {"whole": (1, 2), "core": (1,)})
    assert found["whole"] == pytest.approx({"confidence": (255 + 250 + 200) / 3 / 255})
    assert found["core"] == pytest.approx({"confidence": (128 + 130) / 2 / 255})


def test_fit_dice_model_keeps_the_order_of_confidence() -> None:
    model = fit_dice_model(features_of(DICE), DICE, 1.5, may_be_absent=False)
    predicted = [model.predict(x) for x in features_of(DICE)]
    assert np.argsort(predicted).tolist() == np.argsort(DICE).tolist()
    assert np.mean(predicted) == pytest.approx(np.mean(DICE))


def test_fit_slope_combines_cases_and_prior() -> None:
    """Four cases, 0.02 from the mean of their class, count as much as the prior."""
    classes = [
        (
            [{"confidence": centre - 0.02}, {"confidence": centre + 0.02}, None],
            [dice - 0.06, dice + 0.06, 0.0],
        )
        for centre, dice in ((0.8, 0.5), (0.6, 0.9))
    ]
    assert fit_slope([KnownCases(*cases) for cases in classes]) == pytest.approx(2.0)
    assert fit_slope([]) == fit_slope([KnownCases([None], [0.3])]) == pytest.approx(1.0)
    model = fit_dice_model(*classes[0], 2.0, False)
    assert model.predict({"confidence": 0.9}) == pytest.approx(0.5 + 2 * 0.1)


def test_fit_slope_is_never_negative() -> None:
    features = [{"confidence": 0.7}, {"confidence": 0.8}, {"confidence": 0.9}]
    assert fit_slope([KnownCases(features, [0.9, 0.8, 0.7])]) == MINIMUM_SLOPE > 0


def test_fit_dice_model_weights_all_features_equally() -> None:
    features = [{"confidence": 0.9, "scales": s, "flips": 1.0} for s in (0.9, 0.8, 0.95, 0.95)]
    model = fit_dice_model([*features, None], [0.9, 0.9, 0.9, 0.9, 0.0], 1.5, False)
    assert model.usual == pytest.approx({"confidence": 0.9, "flips": 1.0, "scales": 0.9})
    assert model.predict({"confidence": 0.8, "scales": 0.9, "flips": 1.0}) == pytest.approx(0.75)
    assert model.predict({"confidence": 0.9, "scales": 0.8, "flips": 1.0}) == pytest.approx(0.75)
    assert model.predict({"confidence": 0.85, "scales": 0.95, "flips": 0.9}) == pytest.approx(0.75)


def test_predict_ignores_features_that_one_side_lacks() -> None:
    """A round may have other TTA views than the warm-up."""
    features = [
        {"confidence": 0.9, "scales": 0.9},
        {"confidence": 0.9, "scales": 0.7, "flips": 0.2},
    ]
    model = fit_dice_model(features, [0.9, 0.9], 1.0, False)
    assert model.predict({"confidence": 0.9}) == pytest.approx(0.9)
    assert model.predict({"confidence": 0.9, "scales": 0.7, "flips": 0.0}) == pytest.approx(0.8)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_fit_dice_model_is_monotonic_and_in_range(dice: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = [
        dict(zip(("confidence", "scales", "flips"), rng.random(3), strict=True)) for _ in dice
    ]
    slope = fit_slope([KnownCases(features, dice)])
    model = fit_dice_model(features, dice, slope, may_be_absent=True)
    for x in (*features, {"confidence": 0.0}, {"confidence": 1.0, "scales": 1.0}, None):
        assert 0 <= model.predict(x) <= 1
    worse, better = ({"confidence": c, "scales": s} for c, s in ((0.3, 0.3), (0.9, 0.9)))
    assert model.predict(worse) <= model.predict(better)
    errors = leave_one_out_errors(
        [{"organ": x} for x in features], np.array([dice]).T, {"organ": True}, names(dice)
    )
    assert np.all(np.abs(errors) <= 1)


def test_leave_one_out_errors_do_not_use_the_case_itself() -> None:
    features = [{"a": x, "b": x} for x in features_of(DICE, noise=0.02)]
    table = np.array([DICE, DICE[::-1]]).T
    other = table.copy()
    other[3] -= 0.25
    errors, moved = (
        leave_one_out_errors(features, dice, {"a": False, "b": False}, names(DICE))
        for dice in (table, other)
    )
    np.testing.assert_allclose(moved[3], errors[3] - 0.25, atol=1e-9)
    assert not np.allclose(moved[4], errors[4], atol=1e-4), "the others learn from it"


def test_leave_one_out_errors_do_not_use_the_same_patient() -> None:
    features = [{"a": x} for x in features_of(DICE, noise=0.02)]
    table, other = np.array([DICE, DICE])[:, :, None]
    other = other.copy()
    other[2] -= 0.25
    patients = ["p0", "p0", "p1", "p1", "p2", "p2", "p3", "p3"]
    errors, moved = (
        leave_one_out_errors(features, dice, {"a": False}, patients) for dice in (table, other)
    )
    assert moved[3] == pytest.approx(errors[3]), "the other scan of patient p1"
    assert not np.allclose(moved[4], errors[4], atol=1e-4)


def test_fit_models_ignores_cases_with_unknown_dice() -> None:
    features = [{"a": x, "b": x} for x in features_of([0.9, 0.8, 0.7])]
    table = np.array([[0.9, np.nan], [0.8, 0.6], [0.7, np.nan]])
    known = {"a": False, "b": False}
    assert fit_models(features, table, known)["b"].mean == pytest.approx(0.6)
    errors = leave_one_out_errors(features, table, known, names(features))
    assert np.isfinite(errors[:, 0]).all()
    assert np.isnan(errors[:, 1]).all(), "no other case has b"


def test_predict_of_equal_cases_is_their_mean() -> None:
    model = fit_dice_model([{"confidence": 0.9}] * 4, [0.8, 0.82, 0.84, 0.86], 1.0, False)
    assert model.predict({"confidence": 0.9}) == pytest.approx(0.83)


def test_predict_of_an_absent_class() -> None:
    features = [{"confidence": 0.9}, {"confidence": 0.8}, None]
    assert fit_dice_model(features, [0.9, 0.7, 1.0], 1.0, may_be_absent=True).predict(
        None
    ) == pytest.approx(0.9)
    assert fit_dice_model(features, [0.9, 0.7, 0.0], 1.0, may_be_absent=False).predict(None) == 0
    never = fit_dice_model([None, None], [0.0, 0.0], 1.0, may_be_absent=False)
    assert never.predict({"confidence": 1.0}) == 0 and never.predict(None) == 0


def test_residual_sd_and_guessed_interval_equal_values_by_hand() -> None:
    assert residual_sd(np.array([0.1, -0.1])) == UNKNOWN_SD
    assert residual_sd(np.array([0.1, -0.1, 0.1, -0.1])) == pytest.approx(0.1)
    assert residual_sd(np.zeros(6)) == pytest.approx(0.02)
    guess = fit_interval(np.zeros(2), ["a", "b"], 0.05)
    assert (guess.method, guess.patients) == ("guess", 2)
    assert guess.around(0.5) == (
        pytest.approx(0.1843, abs=1e-4),
        pytest.approx(0.8157, abs=1e-4),
    )  # t of 1 degree of freedom
    assert guess.around(0.05)[0] == 0.0
    assert guess.around(0.9)[1] == 1.0


def test_interval_is_conformal_from_nine_patients_on() -> None:
    """The 90% quantile of nine errors and an unknown tenth one is the maximum."""
    errors = np.array([0.01, -0.09, 0.02, 0.03, -0.04, 0.05, 0.06, 0.07, 0.08])
    nine = fit_interval(errors, list("abcdefghi"), 0.05)
    assert (nine.method, nine.half_width, nine.patients) == ("conformal", 0.09, 9)
    assert fit_interval(errors[:8], list("abcdefgh"), 0.05).method == "guess"


def test_interval_counts_the_scans_of_a_patient_once() -> None:
    """Of 19 patients, 18 must be within: the many bad scans of one patient count as one patient."""
    names = [f"p{number}" for number in range(18)]
    errors = np.concatenate([np.linspace(0.01, 0.18, 18), np.full(50, 0.5)])
    found = fit_interval(errors, [*names, *["bad"] * 50], 0.05)
    assert found.half_width == pytest.approx(0.18)
    once = fit_interval(errors[:19], [*names, "bad"], 0.05)
    assert once.half_width == found.half_width


def test_conformal_interval_covers_new_patients() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        errors = rng.exponential(0.05, 13)
        interval = fit_interval(errors[:12], [str(k) for k in range(12)], 0.05)
        covered.append(errors[12] <= interval.half_width)
    assert 0.89 <= np.mean(covered) <= 0.96  # 12 of 13, and chance


def test_agreement_of_members_is_used_only_if_it_helps() -> None:
    rng = np.random.default_rng(1)
    dice = rng.uniform(0.5, 0.9, (12, 1))
    patients = [str(k) for k in range(12)]
    helpful = [{"a": {"confidence": 0.8, "members": float(value[0])}} for value in dice]
    used, errors = useful_features(helpful, dice, {"a": False}, patients)
    assert used == helpful
    assert errors["with_members"] < errors["without_members"]
    noise = [{"a": {"confidence": float(v[0]), "members": rng.uniform(0, 1)}} for v in dice]
    used, errors = useful_features(noise, dice, {"a": False}, patients)
    assert all("members" not in case["a"] for case in used)
    assert errors["with_members"] > errors["without_members"]
    plain = [{"a": {"confidence": 0.8}}, {"a": None}]
    assert useful_features(plain, dice[:2], {"a": False}, patients[:2]) == (plain, {})
