"""Temperature, confidence thresholds and reliability, from voxels with known results."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hstf.config.refine import CalibrateConfig
from hstf.imaging.probabilities import apply_temperature
from hstf.method.plr.reliability import (
    Reliability,
    VoxelSample,
    confidence_threshold,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    reliability_diagram,
    sample_voxels,
)


def drawn_sample(temperature: float, voxels: int = 40_000) -> VoxelSample:
    """Return voxels of a teacher that is calibrated at ``temperature``.

    The labels are drawn from p^(1/T).
    """
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1.5, (3, voxels)).clip(-3, 3)
    stated = np.exp(logits) / np.exp(logits).sum(axis=0)
    true = np.exp(logits / temperature) / np.exp(logits / temperature).sum(axis=0)
    label = (rng.random(voxels) > true.cumsum(axis=0)[:2]).sum(axis=0).astype(np.uint8)
    return VoxelSample(np.rint(255 * stated).astype(np.uint8), label)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.0])
def test_fit_temperature_finds_the_temperature_of_a_known_teacher(temperature: float) -> None:
    sample = drawn_sample(temperature)
    found = fit_temperature(sample)
    assert found == pytest.approx(temperature, rel=0.06)
    assert negative_log_likelihood(sample, found) <= negative_log_likelihood(sample, 1.0) + 1e-6


def test_fit_temperature_lowers_the_calibration_error() -> None:
    sample = drawn_sample(2.0)
    calibrated = VoxelSample(
        apply_temperature(sample.probabilities, fit_temperature(sample)), sample.label
    )
    before = reliability(sample, 3, 20)
    after = reliability(calibrated, 3, 20)
    assert all(b.error > 0.1 and a.error < 0.03 for b, a in zip(before, after, strict=True))


def test_fit_temperature_is_one_without_voxels() -> None:
    assert fit_temperature(VoxelSample(np.zeros((2, 0), np.uint8), np.zeros(0, np.uint8))) == 1.0


def test_reliability_equals_a_count_by_hand() -> None:
    sample = VoxelSample(
        np.array([[255, 140, 100], [0, 115, 155]], np.uint8), np.array([0, 1, 1], np.uint8)
    )
    background, foreground = reliability(sample, 2, bins=10)
    assert background.voxels.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert background.correct.tolist() == [0] * 9 + [1]
    assert background.error == pytest.approx((140 / 255 + 0) / 2)
    assert foreground.error == pytest.approx(1 - 155 / 255)
    assert reliability(sample, 3, bins=10)[2].error is None


def test_reliability_puts_a_voxel_into_the_bin_that_contains_its_confidence() -> None:
    sample = VoxelSample(np.array([[143], [112]], np.uint8), np.array([0]))
    background, _ = reliability(sample, 2, bins=10)
    assert background.voxels.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0], "0.56 is below 0.6"


def test_reliability_diagram_has_only_bins_with_voxels() -> None:
    sample = VoxelSample(
        np.array([[255, 140, 100], [0, 115, 155]], np.uint8), np.array([0, 1, 1], np.uint8)
    )
    assert reliability_diagram(reliability(sample, 2, bins=10), ["background", "organ"]) == [
        {
            "class": "background",
            "confidence": pytest.approx(140 / 255),
            "accuracy": 0.0,
            "voxels": 1,
        },
        {"class": "background", "confidence": 1.0, "accuracy": 1.0, "voxels": 1},
        {"class": "organ", "confidence": pytest.approx(155 / 255), "accuracy": 1.0, "voxels": 1},
    ]


def test_negative_log_likelihood_counts_a_probability_of_0_as_half_a_step() -> None:
    sample = VoxelSample(np.array([[255], [0]], np.uint8), np.array([1]))
    assert negative_log_likelihood(sample, 1.0) == pytest.approx(np.log(2 * 255), rel=1e-5)


def curve(*accuracy: float) -> Reliability:
    """Return ten bins of 100 voxels each."""
    voxels = np.full(10, 100)
    return Reliability(voxels, np.array(accuracy) * 100, (np.arange(10) + 0.5) / 10)


def test_confidence_threshold_is_where_the_precision_is_reached() -> None:
    config = CalibrateConfig(
        target_precision=0.8, threshold_bounds=(0.5, 0.95), minimum_pass_fraction=0
    )
    assert confidence_threshold(
        curve(0, 0, 0, 0, 0, 0.5, 0.6, 0.8, 0.9, 1), config
    ) == pytest.approx(0.7)


def test_confidence_threshold_pools_a_curve_that_falls() -> None:
    """The early peak and the dip after it pool to 0.75, which is not enough."""
    config = CalibrateConfig(
        target_precision=0.8, threshold_bounds=(0.5, 0.95), minimum_pass_fraction=0
    )
    assert confidence_threshold(
        curve(0, 0, 0, 0, 0, 0.4, 0.9, 0.6, 0.9, 1), config
    ) == pytest.approx(0.8)


def test_confidence_threshold_pools_bins_by_their_voxels() -> None:
    """100 voxels with 95% and 10 with 50% pool to 91%; the mean of both bins is 73%."""
    voxels = np.array([0, 0, 0, 0, 0, 100, 10, 100, 100, 100])
    accuracy = np.array([0, 0, 0, 0, 0, 0.95, 0.5, 1, 1, 1])
    found = Reliability(voxels, accuracy * voxels, (np.arange(10) + 0.5) / 10)
    config = CalibrateConfig(target_precision=0.9, minimum_pass_fraction=0)
    assert confidence_threshold(found, config) == pytest.approx(0.5)


def test_confidence_threshold_stays_within_its_bounds() -> None:
    config = CalibrateConfig(
        target_precision=0.8, threshold_bounds=(0.5, 0.95), minimum_pass_fraction=0
    )
    assert confidence_threshold(curve(*[1.0] * 10), config) == 0.5
    assert confidence_threshold(curve(*[0.1] * 10), config) == 0.95
    never = Reliability(np.zeros(10), np.zeros(10), np.zeros(10))
    assert confidence_threshold(never, config) == 0.95


def test_confidence_threshold_keeps_the_minimum_fraction() -> None:
    """Of 1,000 voxels spread evenly over ten bins, 500 lie above 0.5, 300 above 0.7."""
    wrong = curve(*[0.1] * 10)
    for fraction, threshold in ((0.5, 0.5), (0.3, 0.7), (0.25, 0.7), (0.0, 0.95)):
        config = CalibrateConfig(threshold_bounds=(0.1, 0.95), minimum_pass_fraction=fraction)
        assert confidence_threshold(wrong, config) == pytest.approx(threshold)


def test_confidence_threshold_keeps_the_minimum_fraction_below_its_bounds() -> None:
    """Of three classes or more, the most likely one may never reach the lower bound."""
    voxels = np.array([0, 0, 0, 400, 600, 0, 0, 0, 0, 0])
    never_sure = Reliability(voxels, 0.45 * voxels, (np.arange(10) + 0.5) / 10)
    for fraction, threshold in ((0.5, 0.4), (0.8, 0.3), (0.0, 0.95)):
        config = CalibrateConfig(threshold_bounds=(0.5, 0.95), minimum_pass_fraction=fraction)
        assert confidence_threshold(never_sure, config) == pytest.approx(threshold)


@given(st.integers(0, 200), st.floats(0.1, 0.99))
@settings(max_examples=40, deadline=None)
def test_confidence_threshold_does_not_fall_with_a_stricter_target(
    seed: int, target: float
) -> None:
    accuracy = np.random.default_rng(seed).random(10)
    low = confidence_threshold(curve(*accuracy), CalibrateConfig(target_precision=target * 0.9))
    high = confidence_threshold(curve(*accuracy), CalibrateConfig(target_precision=target))
    assert 0.5 <= low <= high <= 0.95


def test_sample_voxels_takes_foreground_and_as_much_uncertain_background() -> None:
    foreground = np.array(
        [0, 55, 60, 65, 200, 210, 220, 0], np.uint8
    )  # the last voxel is a confident miss
    probabilities = np.stack([255 - foreground, foreground])[:, None, None]
    label = np.array([[[0, 0, 1, 0, 1, 0, 255, 1]]], np.uint8)
    sample = sample_voxels(probabilities, label, 9, seed=0)
    found = sorted(zip(sample.probabilities[1].tolist(), sample.label.tolist(), strict=True))
    assert found[2:] == [(200, 1), (210, 0)]
    assert len(found) == 4 and set(found[:2]) < {(55, 0), (60, 1), (65, 0)}
    assert len(sample_voxels(probabilities, label, 1, seed=0).label) == 2
    probabilities[1] = 50
    probabilities[0] = 205  # nothing is found: all doubt is taken
    assert len(sample_voxels(probabilities, label, 9, seed=0).label) == 7
