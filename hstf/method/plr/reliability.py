"""Compare confidence with the truth: temperature, reliability and thresholds.

A network is calibrated if, of the voxels with confidence 0.8, 80% are correct. Networks are usually
too sure or not sure enough. On the out-of-fold predictions of the labelled cases this module

- fits the temperature that makes the labels most likely (Guo et al., On Calibration of Modern
  Neural Networks, ICML 2017),
- measures the reliability of each class: confidence and accuracy in bins of confidence,
- derives the confidence threshold of each class: the lowest confidence at which accuracy reaches
  ``calibrate.target_precision``, after isotonic regression.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression, minimize_scalar

from hstf.config.refine import CalibrateConfig
from hstf.imaging.label_values import IGNORED
from hstf.imaging.probabilities import LEVELS, most_likely

TRIVIAL_BACKGROUND = 252
"""Background voxels with at least this probability (of 255) do not show how confidence works."""
TEMPERATURES = (0.25, 4.0)
"""Bounds of the temperature."""
TOLERANCE = 1e-9
"""Tolerance of comparisons with numbers of the configuration."""


@dataclass(frozen=True)
class VoxelSample:
    """Predicted voxels and their labels."""

    probabilities: np.ndarray
    """``(K, N)`` uint8, 255 times the probability."""
    label: np.ndarray
    """``(N,)`` class index."""


def sample_voxels(
    probabilities: np.ndarray,
    label: np.ndarray,
    maximum: int,
    seed: int,
) -> VoxelSample:
    """Draw random voxels whose class is known.

    Half of them are predicted as foreground, and half (or fewer) are doubtful background. They are
    chosen by their prediction only: a choice by label would bias the confidence.

    Args:
        probabilities: ``(K, X, Y, Z)`` uint8, 255 times the probability.
        label: ``(X, Y, Z)`` uint8 class index; 255 is unknown.
        maximum: maximum number of voxels of each kind.
        seed: seed of the random choice.
    """
    flat = probabilities.reshape(len(probabilities), -1)
    known = label.reshape(-1) != IGNORED
    predicted = most_likely(probabilities).reshape(-1)
    foreground = np.flatnonzero(known & (predicted > 0))
    doubtful = np.flatnonzero(known & (predicted == 0) & (flat[0] < TRIVIAL_BACKGROUND))
    rng = np.random.default_rng(seed)
    count = min(maximum, len(foreground) or len(doubtful))
    chosen_foreground = rng.permutation(foreground)[:count]
    chosen_background = rng.permutation(doubtful)[:count]
    chosen = np.concatenate([chosen_foreground, chosen_background])
    return VoxelSample(flat[:, chosen], label.reshape(-1)[chosen])


def fit_temperature(sample: VoxelSample) -> float:
    """Return the temperature that makes the labels most likely; 1 without voxels.

    Example:
        >>> probabilities = np.array([[26] * 10, [229] * 10], np.uint8)  # 90% sure of class 1
        >>> label = np.array([1] * 7 + [0] * 3)  # but correct in 70% of the voxels
        >>> round(fit_temperature(VoxelSample(probabilities, label)), 1)
        2.6
    """
    if not len(sample.label):
        return 1.0
    lower, upper = TEMPERATURES
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(sample, exp(log_t)),
        bounds=[log(lower), log(upper)],
        method="bounded",
    )
    return float(exp(found.x))


def negative_log_likelihood(sample: VoxelSample, temperature: float) -> float:
    """Return the mean of ``-log p(label)`` in nats at a temperature.

    A probability that uint8 rounds to 0 counts as half a step.
    """
    powers = LEVELS ** np.float32(1 / temperature)
    raised = np.take(powers, sample.probabilities)
    label = sample.label[None].astype(np.intp)
    of_label = np.take_along_axis(raised, label, axis=0)[0]
    likelihood = of_label / raised.sum(axis=0)
    return float(-np.log(likelihood.clip(0.5 / 255)).mean(dtype=float))


@dataclass(frozen=True)
class Reliability:
    """Voxels that are predicted as one class, in bins of confidence from 0 to 1."""

    voxels: np.ndarray
    """``(bins,)`` number of voxels."""
    correct: np.ndarray
    """``(bins,)`` number of voxels that are correct."""
    confidence: np.ndarray
    """``(bins,)`` mean confidence; the centre of the bin if it is empty."""

    @property
    def error(self) -> float | None:
        """Expected calibration error: mean of |accuracy - confidence|; None without voxels."""
        total = self.voxels.sum()
        if not total:
            return None
        gaps = np.abs(self.correct - self.confidence * self.voxels)
        return float(gaps.sum() / total)


def reliability(
    sample: VoxelSample,
    classes: int,
    bins: int,
) -> list[Reliability]:
    """Measure the reliability of each class, background first.

    Args:
        sample: voxels with calibrated probabilities.
        classes: number of classes.
        bins: number of bins of confidence.
    """
    predicted = sample.probabilities.argmax(axis=0)
    confidence = sample.probabilities.max(axis=0) / 255
    confidence_bin = np.minimum((confidence * bins).astype(np.intp), bins - 1)
    cell = predicted * bins + confidence_bin

    def sum_by_cell(weights: np.ndarray | None) -> np.ndarray:
        sums = np.bincount(
            cell,
            weights=weights,
            minlength=classes * bins,
        )
        return sums.reshape(classes, bins)

    voxels = sum_by_cell(None)
    correct = sum_by_cell(predicted == sample.label)
    total = sum_by_cell(confidence)
    centres = (np.arange(bins) + 0.5) / bins
    means = np.where(
        voxels > 0,
        total / np.maximum(voxels, 1),
        centres,
    )
    return [Reliability(*rows) for rows in zip(voxels, correct, means, strict=True)]


def reliability_diagram(
    curves: Sequence[Reliability], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the points of the reliability diagram: one for each bin that contains voxels.

    Args:
        curves: reliability of each class.
        names: name of each class.

    Returns:
        Dictionaries with ``class``, mean ``confidence``, ``accuracy`` (both 0 to 1) and ``voxels``.
    """
    points = []
    for name, curve in zip(names, curves, strict=True):
        for index in np.flatnonzero(curve.voxels):
            voxels = curve.voxels[index]
            point = {
                "class": name,
                "confidence": float(curve.confidence[index]),
                "accuracy": float(curve.correct[index] / voxels),
                "voxels": int(voxels),
            }
            points.append(point)
    return points


def confidence_threshold(curve: Reliability, config: CalibrateConfig) -> float:
    """Return the lowest confidence at which voxels of a class are correct often enough.

    Isotonic regression makes the accuracy rise with confidence; each bin counts by its voxels. The
    threshold is the first bin with ``target_precision``, within ``threshold_bounds``. At least the
    fraction ``minimum_pass_fraction`` of the voxels reaches it, even if they are often wrong and
    the threshold is then below ``threshold_bounds``. Otherwise a small class whose voxels are never
    sure would be learned nowhere, while the background around it counts in full.

    Args:
        curve: reliability of the class.
        config: section ``calibrate`` of the configuration.

    Returns:
        The threshold (0 to 1). It is the upper bound if the class is never predicted.
    """
    lower, upper = config.threshold_bounds
    occupied = np.flatnonzero(curve.voxels)
    if not len(occupied):
        return upper
    bins = len(curve.voxels)
    voxels = curve.voxels[occupied]
    accuracy = isotonic_regression(curve.correct[occupied] / voxels, weights=voxels).x
    precise = occupied[accuracy >= config.target_precision - TOLERANCE]
    first_precise = precise[0] if len(precise) else bins
    # Fraction of the voxels in each bin or above; 0 above the last bin.
    above = np.append(curve.voxels[::-1].cumsum()[::-1], 0)
    passing = above / curve.voxels.sum()
    last_passing = np.flatnonzero(passing >= config.minimum_pass_fraction - TOLERANCE)[-1]
    precise_threshold = np.clip(first_precise / bins, lower, upper)
    return float(min(precise_threshold, last_passing / bins))
