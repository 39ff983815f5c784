"""What a calibration was learned from, for the report and the model card."""

from collections.abc import Sequence
from math import isnan
from typing import Any

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Case
from hstf.method.plr.reliability import (
    VoxelSample,
    negative_log_likelihood,
    reliability,
    reliability_diagram,
)
from hstf.scoring.averages import finite_or_none, structure_means
from hstf.stages.calibrate.case_scores import CaseScore, pooled_recall
from hstf.stages.calibrate.quality import Quality

DIAGRAM_BINS = 20
"""Bins of the reliability diagram."""


def voxel_evidence(
    config: Config, sample: VoxelSample, calibrated: VoxelSample, temperature: float
) -> dict[str, Any]:
    """Return calibration error and likelihood before and after the temperature is applied."""
    classes = config.class_names
    likelihood: dict[str, float | None] = {"before": None, "after": None}
    if len(sample.label):
        likelihood["before"] = negative_log_likelihood(sample, 1.0)
        likelihood["after"] = negative_log_likelihood(sample, temperature)
    diagram = reliability(calibrated, len(classes), DIAGRAM_BINS)
    return {
        "voxels": len(sample.label),
        "negative_log_likelihood": likelihood,
        "calibration_error": {
            "before": _calibration_errors(config, sample),
            "after": _calibration_errors(config, calibrated),
        },
        "reliability": reliability_diagram(diagram, classes),
    }


def _calibration_errors(config: Config, sample: VoxelSample) -> dict[str, float | None]:
    """Return the calibration error of each class."""
    curves = reliability(sample, len(config.class_names), config.calibrate.bins)
    errors = [curve.error for curve in curves]
    return dict(zip(config.class_names, errors, strict=True))


def case_evidence(
    structures: Sequence[str],
    cases: Sequence[Case],
    scores: Sequence[CaseScore],
    dice: np.ndarray,
    quality: Quality,
) -> dict[str, Any]:
    """Return Dice and recall of each structure, and the Dice of each case that has a known one."""
    by_case = {}
    for case, row, predicted in zip(cases, dice, quality.predicted, strict=True):
        if np.isnan(row).all():
            continue
        values = zip(structures, row.tolist(), strict=True)
        by_case[case.case_id] = {
            "dice": {name: value for name, value in values if not isnan(value)},
            "mean_dice": float(np.nanmean(row)),
            "predicted_dice": float(predicted),
        }
    means = [finite_or_none(mean) for mean in structure_means(dice).tolist()]
    return {
        "dice": dict(zip(structures, means, strict=True)),
        "recall": dict(zip(structures, pooled_recall(scores), strict=True)),
        "cases": by_case,
    }
