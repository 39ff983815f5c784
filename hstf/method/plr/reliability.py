"""Confidence against the truth, voxel by voxel: the temperature of a teacher, the reliability of its classes, their
thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression, minimize_scalar

from hstf.config.refine import CalibrateConfig
from hstf.imaging.geometry import IGNORED
from hstf.imaging.probabilities import LEVELS, most_likely

TRIVIAL_BACKGROUND = 252
"""Background voxels with at least this probability (of 255) say nothing about doubt."""
TEMPERATURES = (0.25, 4.0)


@dataclass(frozen=True)
class Sample:
    """Voxels that say something about doubt."""

    probabilities: np.ndarray
    """``(K, N)`` uint8."""
    label: np.ndarray
    """``(N,)`` class index."""


def sample_voxels(probabilities: np.ndarray, label: np.ndarray, most: int, seed: int) -> Sample:
    """Random voxels whose class is known: predicted foreground, and no more than that of doubtful background.

    Voxels are chosen by their prediction alone. A choice by label would make confidence look better or worse than it is.

    Args:
        probabilities: ``(K, X, Y, Z)`` uint8.
        label: ``(X, Y, Z)`` uint8.
        most: voxels of either kind.
    """
    known = label.reshape(-1) != IGNORED
    predicted = most_likely(probabilities).reshape(-1)
    foreground = np.flatnonzero(known & (predicted > 0))
    doubtful = np.flatnonzero(
        known & (predicted == 0) & (probabilities[0].reshape(-1) < TRIVIAL_BACKGROUND)
    )
    rng = np.random.default_rng(seed)
    count = min(most, len(foreground) or len(doubtful))
    chosen = np.concatenate([rng.permutation(voxels)[:count] for voxels in (foreground, doubtful)])
    return Sample(
        probabilities.reshape(len(probabilities), -1)[:, chosen], label.reshape(-1)[chosen]
    )


def fit_temperature(sample: Sample) -> float:
    """The temperature at which :func:`hstf.imaging.probabilities.sharpen` makes the labels most likely; 1 without voxels."""
    if not len(sample.label):
        return 1.0
    found = minimize_scalar(
        lambda t: negative_log_likelihood(sample, exp(t)),
        bounds=[log(t) for t in TEMPERATURES],
        method="bounded",
    )
    return float(exp(found.x))


def negative_log_likelihood(sample: Sample, temperature: float) -> float:
    """Mean of -log p(label) (nats) at ``temperature``; a probability that uint8 rounds to 0 counts as half a step."""
    raised = np.take(LEVELS ** np.float32(1 / temperature), sample.probabilities)
    true = np.take_along_axis(raised, sample.label[None].astype(np.intp), axis=0)[0] / raised.sum(
        axis=0
    )
    return float(-np.log(true.clip(0.5 / 255)).mean(dtype=float))


@dataclass(frozen=True)
class Reliability:
    """Voxels predicted as one class, in bins of confidence from 0 to 1."""

    voxels: np.ndarray
    """``(bins,)`` voxels in each bin."""
    right: np.ndarray
    """``(bins,)`` voxels among them that are right."""
    confidence: np.ndarray
    """``(bins,)`` their mean confidence; the centre of an empty bin."""

    @property
    def error(self) -> float | None:
        """Expected calibration error: mean distance of confidence and accuracy over the voxels; None without any."""
        total = self.voxels.sum()
        if not total:
            return None
        gaps = np.abs(self.right - self.confidence * self.voxels)
        return float(gaps.sum() / total)


def reliability(sample: Sample, classes: int, bins: int) -> list[Reliability]:
    """Reliability of each class, background first, of calibrated probabilities."""
    predicted, confidence = (
        sample.probabilities.argmax(axis=0),
        sample.probabilities.max(axis=0) / 255,
    )
    cell = predicted * bins + np.minimum((confidence * bins).astype(np.intp), bins - 1)
    counts, right, total = (
        np.bincount(cell, weights=weights, minlength=classes * bins).reshape(classes, bins)
        for weights in (None, predicted == sample.label, confidence)
    )
    centres = (np.arange(bins) + 0.5) / bins
    means = np.where(counts > 0, total / np.maximum(counts, 1), centres)
    return [Reliability(*rows) for rows in zip(counts, right, means, strict=True)]


def diagram(curves: Sequence[Reliability], names: Sequence[str]) -> list[dict[str, Any]]:
    """The bins that hold voxels, for people: class, mean confidence, accuracy (both 0..1), voxels."""
    return [
        {
            "class": name,
            "confidence": float(mean),
            "accuracy": float(right / voxels),
            "voxels": int(voxels),
        }
        for name, curve in zip(names, curves, strict=True)
        for mean, right, voxels in zip(curve.confidence, curve.right, curve.voxels, strict=True)
        if voxels
    ]


def confidence_threshold(curve: Reliability, config: CalibrateConfig) -> float:
    """The lowest confidence at which voxels are right with ``target_precision``, within ``threshold_bounds``.

    Accuracy is made to rise with confidence first (isotonic regression, each bin counting by its voxels). A share
    ``smallest_pass`` of the voxels reaches the threshold however often they are wrong: a small class whose voxels are never
    that certain would otherwise be learned from nowhere while the background around it counts in full. The upper bound
    stands where the class was never predicted.
    """
    lowest, highest = config.threshold_bounds
    seen = np.flatnonzero(curve.voxels)
    if not len(seen):
        return highest
    accuracy = isotonic_regression(
        curve.right[seen] / curve.voxels[seen], weights=curve.voxels[seen]
    ).x
    enough = seen[accuracy >= config.target_precision - 1e-9]
    bins = len(curve.voxels)
    passing = np.append(curve.voxels[::-1].cumsum()[::-1], 0) / curve.voxels.sum()
    fair = np.flatnonzero(passing >= config.smallest_pass - 1e-9)[-1]
    precise = enough[0] if len(enough) else bins
    return float(np.clip(min(precise, fair) / bins, lowest, highest))
