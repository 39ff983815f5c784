"""Pseudo-label refinement (PLR) of one case: from the ensemble's views to label, weights, verdict.

The refinement of a case has four parts, and each can be switched off under ``refine:``.

1. Calibrate: the mean probabilities are scaled by the temperature of the calibration. The label is
   the most likely class.
2. Clean: the label is changed to obey the anatomy rules, and unlikely lesions are dropped
   (:mod:`hstf.method.plr.cleaning`).
3. Weight: each voxel has a weight by the uncertainty of the ensemble. The weight is lowered where
   confidence is low or the label was changed (:mod:`hstf.method.plr.weights`).
4. Judge: the case is rejected if its predicted Dice is low (:func:`judge`).

With all parts off the pseudo-label is the most likely class of each voxel, and all weights are 1,
as in Noisy Student (Xie et al., CVPR 2020). Everything is on the planned grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hstf.config.refine import RefineConfig
from hstf.imaging.probabilities import make_certain
from hstf.imaging.regions import Structures
from hstf.method.plr.calibration import Calibration
from hstf.method.plr.cleaning import JudgedLesion, label_cleaner
from hstf.method.plr.predicted_dice import QualityFeatures
from hstf.method.plr.weights import VoxelWeighting
from hstf.method.tta_summary import TtaSummary


@dataclass(frozen=True)
class Refined:
    """A refined pseudo-label."""

    label: np.ndarray
    """``(X, Y, Z)`` uint8 class index."""
    weight: np.ndarray
    """``(X, Y, Z)`` uint8, 255 times the voxel weight."""
    probabilities: np.ndarray
    """``(K, X, Y, Z)`` uint8, calibrated; one-hot where the clean-up changed the label."""
    changed: dict[str, int]
    """For each step, the number of voxels whose label or weight it changed."""
    lesions: list[JudgedLesion]
    features: dict[str, QualityFeatures | None]
    """Quality features of each structure before the clean-up."""


@dataclass(frozen=True)
class Verdict:
    """Predicted quality of a pseudo-label, and whether it is used."""

    predicted: dict[str, float]
    """Predicted Dice of each structure."""
    mean: float
    """Mean predicted Dice."""
    low: float
    """Lower end of its 90% interval."""
    high: float
    """Upper end of its 90% interval."""
    accepted: bool
    reason: str


def refine_case(
    summary: TtaSummary,
    calibration: Calibration,
    structures: Structures,
    voxel_mm3: float,
    config: RefineConfig,
    bounds: Mapping[str, float] | None = None,
) -> Refined:
    """Refine the pseudo-label of a case: calibrate, clean and weight it.

    Args:
        summary: what the ensemble wrote about the case.
        calibration: what the labelled cases show.
        structures: classes of each structure.
        voxel_mm3: volume of a voxel of the grid in mm³.
        config: section ``refine`` of the configuration.
        bounds: see :attr:`LabelCleaner.bounds`.
    """
    cleaner = label_cleaner(calibration, structures, voxel_mm3, config, bounds)
    clean = cleaner.clean(summary)
    weighting = VoxelWeighting(
        config,
        clean,
        summary.uncertainty,
        calibration,
        structures,
    )
    weight, weight_counts = weighting.compute()
    label_counts = {}
    for name, voxels in clean.changed.items():
        label_counts[name] = int(np.count_nonzero(voxels))
        make_certain(clean.probabilities, clean.label, voxels, 255)
    return Refined(
        label=clean.label,
        weight=weight,
        probabilities=clean.probabilities,
        changed=label_counts | weight_counts,
        lesions=clean.lesions,
        features=clean.features,
    )


def judge(
    features: Mapping[str, QualityFeatures | None],
    present: Mapping[str, bool],
    calibration: Calibration,
    config: RefineConfig,
) -> Verdict:
    """Predict the Dice of a pseudo-label, and decide whether it is used.

    Args:
        features: quality features of each structure, before the clean-up.
        present: whether the pseudo-label has the structure after the clean-up.
        calibration: what the labelled cases show.
        config: section ``refine`` of the configuration.
    """
    known = {name: values if present[name] else None for name, values in features.items()}
    predicted = calibration.predict_dice(known)
    mean = float(np.mean(list(predicted.values())))
    low, high = calibration.interval.around(mean)
    if not config.select_cases:
        reason = "every case is used (refine.select_cases is off)"
        return Verdict(
            predicted=predicted,
            mean=mean,
            low=low,
            high=high,
            accepted=True,
            reason=reason,
        )
    bound = config.minimum_predicted_dice
    if bound is None:
        bound = calibration.minimum_predicted_dice
    problems = []
    for name, there in present.items():
        if not there and not calibration.may_be_absent(name):
            problems.append(f"{name} is absent, but every labelled case has it")
    if mean < bound:
        problems.append(f"predicted Dice {mean:.3f} is below {bound:.3f}")
    reason = "; ".join(problems) or f"predicted Dice {mean:.3f} reaches {bound:.3f}"
    return Verdict(
        predicted=predicted,
        mean=mean,
        low=low,
        high=high,
        accepted=not problems,
        reason=reason,
    )


def select_best(rows: Sequence[dict[str, Any]], fraction: float) -> None:
    """Reject accepted cases that are not among the best by predicted Dice, in place.

    Cases that are rejected already take no place. At least one accepted case stays. Of cases with
    the same predicted Dice the first by ``case_id`` stays.

    Args:
        rows: rows of ``refine.csv``, with a number ``predicted_dice`` and a flag ``accepted``.
        fraction: fraction (0 to 1) of all cases that may be accepted.

    Example:
        >>> rows = [
        ...     {"case_id": "a", "predicted_dice": 0.9, "accepted": True, "reason": ""},
        ...     {"case_id": "b", "predicted_dice": 0.7, "accepted": True, "reason": ""},
        ... ]
        >>> select_best(rows, fraction=0.5)
        >>> [row["accepted"] for row in rows]
        [True, False]
    """
    maximum = max(1, round(fraction * len(rows)))
    accepted = [row for row in rows if row["accepted"]]
    accepted.sort(key=lambda row: (-row["predicted_dice"], row["case_id"]))
    for rank, row in enumerate(accepted[maximum:], start=maximum + 1):
        row["accepted"] = False
        row["reason"] = (
            f"predicted Dice {row['predicted_dice']:.3f} is number {rank} of the {len(accepted)}"
            f" cases that pass the other checks; this round learns from the best {maximum}"
        )
