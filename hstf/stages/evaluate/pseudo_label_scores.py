"""Scores of the pseudo-labels of a round, if withheld labels of unlabelled cases exist.

Only files that already exist are scored. Nothing that trains, refines or selects reads the result.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Any

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, Split, names_of
from hstf.experiment.checked_scans import warn_of_unchecked_scans
from hstf.experiment.context import StageContext
from hstf.experiment.round_tables import REFINE
from hstf.experiment.score_tables import PSEUDO_LABEL_SCORES
from hstf.imaging.label_values import IGNORED, class_indices
from hstf.imaging.regions import Structures, overlaps
from hstf.imaging.sparse_labels import unknown_structures
from hstf.imaging.volumes import read_label
from hstf.runtime.processes import worker_count
from hstf.runtime.shards import Row, read_shard
from hstf.scoring.averages import describe, finite_or_none, mean
from hstf.scoring.confusion import confusion, table_dice
from hstf.scoring.documents import PseudoLabelSummary, RiskPoint, VoxelErrors
from hstf.scoring.metrics import EMPTY_DICE
from hstf.scoring.ranking import risk_coverage_area, worst_found
from hstf.scoring.significance import rank_correlation
from hstf.stages.evaluate.references import read_reference

KEPT_WEIGHT = 128
"""Minimum weight (0 to 255) of a voxel that counts as kept."""
RISK_WEIGHTS = np.linspace(255, 0, 18).astype(int)
"""Minimum weights (0 to 255) of the points of the risk-coverage curve."""


@dataclass(frozen=True)
class PseudoLabelScore:
    """A pseudo-label compared with the withheld label."""

    case_id: str
    accepted: bool
    predicted_dice: float | None
    interval: tuple[float, float] | None
    """90% prediction interval of the mean Dice."""
    dice: dict[str, float | None]
    """Dice of each structure."""
    true_dice: float | None
    """Mean Dice as predicted Dice defines it: a structure that both labels lack has 1, whatever
    ``evaluate.empty`` is."""
    kept: np.ndarray
    """``(K, K)`` number of kept voxels by class, rows for the pseudo-label, columns for the
    withheld label."""
    low: np.ndarray
    """The same for the other voxels."""
    by_weight: np.ndarray
    """``(2, 256)`` number of all and of wrong foreground voxels of each weight, see
    :func:`weight_counts`."""

    @property
    def mean_dice(self) -> float | None:
        """Mean Dice of the structures."""
        return mean(self.dice.values())

    @property
    def is_within_interval(self) -> float | None:
        """1 if the true Dice is within its prediction interval, 0 if not, None if unknown."""
        if self.interval is None or self.true_dice is None:
            return None
        low, high = self.interval
        return float(low <= self.true_dice <= high)


def score_pseudo_labels(context: StageContext) -> PseudoLabelSummary | None:
    """Write ``pseudo_labels.csv`` of the round and summarise it.

    Returns:
        None if there is nothing to score.

    Raises:
        HstfError: if a table is missing, if files have changed since they were written, or if they
            do not match the withheld label.
    """
    scores = []
    if context.schedule.has_pseudo_labels(context.round):
        scores = _score_all(context)
    rows: list[dict[str, Any]] = []
    for score in scores:
        rows += _rows(score, context.config.structures)
    PSEUDO_LABEL_SCORES.write(context.layout.evaluation_pseudo_labels(context.round), rows)
    return summarise(scores) if scores else None


def _score_all(context: StageContext) -> list[PseudoLabelScore]:
    """Score the pseudo-labels of all cases with a withheld label."""
    layout = context.layout
    number = context.round
    unlabelled = context.cases(Split.UNLABELLED)
    references = [case.reference for case in unlabelled if case.reference is not None]
    if not references:
        return []
    warn_of_unchecked_scans(layout, references)
    verdicts = read_shard(REFINE, layout.refine(number), names_of(unlabelled), verify=False)
    works: list[Callable[[], PseudoLabelScore | None]] = []
    for shard, cases in context.shards(Split.UNLABELLED).items():
        table = layout.pseudo_labels_table(number, shard)
        # Raises if cases or files are missing, or if files have changed.
        read_shard(REFINE, table, names_of(cases), endings=(".nii.gz",))
        for case in cases:
            if case.reference:
                works.append(
                    partial(
                        _score_case,
                        context,
                        case,
                        verdicts[case.case_id],
                    )
                )
    with ThreadPoolExecutor(worker_count(0)) as pool:
        futures = [pool.submit(work) for work in works]
        scores = [future.result() for future in futures]
    return [score for score in scores if score is not None]


def _score_case(
    context: StageContext,
    case: Case,
    verdict: Row,
) -> PseudoLabelScore | None:
    """Score the pseudo-label of a case; None if a rejected case has no file."""
    folder = context.layout.pseudo_labels(context.round)
    path = folder / f"{case.case_id}.nii.gz"
    if not path.is_file():
        return None
    pseudo_label = read_label(path)
    label = class_indices(pseudo_label.data, context.config, path)
    weight = read_label(folder / f"{case.case_id}.weight.nii.gz").data
    reference = read_reference(case, pseudo_label, context.config)
    return score_pseudo_label(
        context.config,
        verdict,
        label,
        weight,
        reference,
    )


def score_pseudo_label(
    config: Config,
    verdict: Row,
    label: np.ndarray,
    weight: np.ndarray,
    reference: np.ndarray,
) -> PseudoLabelScore:
    """Compare a pseudo-label with the withheld label.

    Args:
        config: the configuration of the stage.
        verdict: row of the case in ``refine.csv``.
        label: class indices ``(X, Y, Z)`` uint8 of the pseudo-label.
        weight: voxel weights ``(X, Y, Z)`` uint8, 255 times the weight.
        reference: class indices ``(X, Y, Z)`` uint8 of the withheld label.
    """
    classes = len(config.class_names)
    is_kept = weight >= KEPT_WEIGHT
    ignored = np.uint8(IGNORED)
    kept = confusion(label, np.where(is_kept, reference, ignored), classes)
    low = confusion(label, np.where(is_kept, ignored, reference), classes)
    unknown = unknown_structures(reference, config.structures)
    table = kept + low
    dices = table_dice(table, config.structures, EMPTY_DICE[config.evaluate.empty])
    dices_as_predicted = table_dice(table, config.structures, 1.0)
    dices[unknown] = nan
    dices_as_predicted[unknown] = nan
    dice = {}
    for name, value in zip(config.structures, dices.tolist(), strict=True):
        dice[name] = finite_or_none(value)
    return PseudoLabelScore(
        case_id=verdict["case_id"],
        accepted=verdict["accepted"],
        predicted_dice=verdict["predicted_dice"],
        interval=_interval(verdict),
        dice=dice,
        true_dice=mean(dices_as_predicted.tolist()),
        kept=kept,
        low=low,
        by_weight=weight_counts(
            label,
            weight,
            reference,
            classes,
        ),
    )


def _interval(verdict: Row) -> tuple[float, float] | None:
    low = verdict["predicted_dice_low"]
    high = verdict["predicted_dice_high"]
    return None if low is None or high is None else (low, high)


def weight_counts(
    label: np.ndarray,
    weight: np.ndarray,
    reference: np.ndarray,
    classes: int,
) -> np.ndarray:
    """Count the voxels of each weight that are foreground in one of the two labels.

    Args:
        label: class indices ``(X, Y, Z)`` of the pseudo-label.
        weight: voxel weights ``(X, Y, Z)`` uint8.
        reference: class indices ``(X, Y, Z)`` of the withheld label.
        classes: number of classes with the background.

    Returns:
        ``(2, 256)``: all voxels and wrong voxels of each weight.
    """
    counts = np.zeros((2, 256), np.int64)
    # Plane by plane, so that temporary arrays stay small.
    for pseudo, weights, true in zip(
        label,
        weight,
        reference,
        strict=True,
    ):
        is_foreground = (pseudo > 0) | (true > 0)
        inside = (true < classes) & is_foreground
        wrong = inside & (pseudo != true)
        counts[0] += np.bincount(weights[inside], minlength=256)
        counts[1] += np.bincount(weights[wrong], minlength=256)
    return counts


def risk_coverage(by_weight: np.ndarray) -> list[RiskPoint]:
    """Compute the risk-coverage curve of the voxel weights.

    A minimum weight keeps a fraction of the voxels (coverage), of which a fraction is wrong (risk).
    See selective classification, El-Yaniv and Wiener, Journal of Machine Learning Research 2010.

    Args:
        by_weight: ``(2, 256)``, result of :func:`weight_counts`.

    Returns:
        A point for each of :data:`RISK_WEIGHTS` that keeps voxels.
    """
    # Number of all and of wrong voxels with at least each weight.
    kept, wrong = by_weight[:, ::-1].cumsum(axis=1)[:, ::-1]
    points = []
    for weight in RISK_WEIGHTS:
        if kept[weight]:
            point = RiskPoint(
                weight=float(weight / 255),
                coverage=float(kept[weight] / kept[0]),
                error=float(wrong[weight] / kept[weight]),
            )
            points.append(point)
    return points


def _rows(
    score: PseudoLabelScore,
    structures: Structures,
) -> Iterator[dict[str, Any]]:
    """Yield a row for each structure of a case."""
    kept_hits, kept, _ = overlaps(score.kept, structures)
    low_hits, low, _ = overlaps(score.low, structures)
    for index, name in enumerate(structures):
        yield {
            "case_id": score.case_id,
            "accepted": score.accepted,
            "predicted_dice": score.predicted_dice,
            "true_dice": score.true_dice,
            "class": name,
            "dice": score.dice[name],
            "kept_error": _error(kept[index], kept_hits[index]),
            "low_weight_error": _error(low[index], low_hits[index]),
            "kept_fraction": _fraction(kept[index], low[index]),
        }


def summarise(scores: Sequence[PseudoLabelScore]) -> PseudoLabelSummary:
    """Summarise the scores of at least one pseudo-label."""
    kept = np.sum([score.kept for score in scores], axis=0)
    low = np.sum([score.low for score in scores], axis=0)
    classes = {}
    for name in scores[0].dice:
        classes[name] = describe(score.dice[name] for score in scores)
    predicted, true = _both_dice(scores)
    return PseudoLabelSummary(
        dice=describe(score.mean_dice for score in scores),
        accepted=describe(score.mean_dice for score in scores if score.accepted),
        rejected=describe(score.mean_dice for score in scores if not score.accepted),
        classes=classes,
        spearman=rank_correlation(predicted, true),
        risk_coverage_area=risk_coverage_area(predicted, true),
        worst_fifth_found=worst_found(predicted, true),
        interval_coverage=mean(score.is_within_interval for score in scores),
        voxels=_voxel_errors(kept, low),
        foreground_voxels=_voxel_errors(_without_background(kept), _without_background(low)),
        risk_coverage=risk_coverage(np.sum([score.by_weight for score in scores], axis=0)),
    )


def _both_dice(scores: Sequence[PseudoLabelScore]) -> tuple[list[float], list[float]]:
    """Return predicted and true Dice of the cases that have both."""
    predicted = []
    true = []
    for score in scores:
        if score.predicted_dice is not None and score.true_dice is not None:
            predicted.append(score.predicted_dice)
            true.append(score.true_dice)
    return predicted, true


def _voxel_errors(
    kept: np.ndarray,
    low: np.ndarray,
) -> VoxelErrors:
    return VoxelErrors(
        kept_error=_error(kept.sum(), np.trace(kept)),
        low_weight_error=_error(low.sum(), np.trace(low)),
        kept_fraction=_fraction(kept.sum(), low.sum()),
    )


def _without_background(table: np.ndarray) -> np.ndarray:
    """Leave out the voxels that are background in both labels."""
    foreground = table.copy()
    foreground[0, 0] = 0
    return foreground


def _error(
    voxels: int,
    correct: int,
) -> float | None:
    return float(1 - correct / voxels) if voxels else None


def _fraction(
    part: int,
    rest: int,
) -> float | None:
    return float(part / (part + rest)) if part + rest else None
