"""Pseudo-labels in hindsight: how good they were, where the case sheet has a withheld label of an unlabelled case.

Only files that already exist are scored, and nothing that trains, refines or selects reads what is written here.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, Split
from hstf.experiment.context import StageContext
from hstf.experiment.tables import PSEUDO_LABEL_SCORES, REFINE
from hstf.imaging.label_values import IGNORED, class_indices
from hstf.imaging.regions import Structures, overlaps
from hstf.imaging.sparse_labels import unknown_structures
from hstf.imaging.volumes import read_label
from hstf.runtime.processes import worker_count
from hstf.runtime.shards import Row, read_shard
from hstf.scoring.averages import describe, known, mean
from hstf.scoring.metrics import EMPTY_DICE, confusion, table_dice
from hstf.scoring.significance import rank_correlation
from hstf.stages.evaluate.references import read_reference

KEPT_WEIGHT = 128
"""Voxels of at least this weight (of 255) count as kept."""
RISK_WEIGHTS = np.linspace(255, 0, 18).astype(int)
"""Least weights (of 255) at which risk and coverage are told."""


@dataclass(frozen=True)
class Hindsight:
    """A pseudo-label against the truth."""

    case_id: str
    accepted: bool
    predicted_dice: float | None
    interval: tuple[float, float] | None
    """In which the mean Dice was expected with 90 %."""
    dice: dict[str, float | None]
    """By structure: class or region."""
    as_predicted: float | None
    """Mean Dice as predicted Dice means it: a structure that is in neither has 1, whatever ``evaluate.empty`` says."""
    kept: np.ndarray
    """``(K, K)`` voxel counts of kept voxels, rows the pseudo-label, columns the truth."""
    low: np.ndarray
    """The same of the other voxels."""
    by_weight: np.ndarray
    """``(2, 256)`` foreground voxels (of the pseudo-label, the truth or both) of each weight, and the wrong ones."""


def score_pseudo_labels(context: StageContext) -> dict[str, Any] | None:
    """Write ``pseudo_labels.csv`` of a round and sum it up; None where there is nothing to score.

    A row of the table is a class (or region) of a case: its Dice, the share of wrong voxels among those so labelled, kept
    (weight >= 0.5) and not (low weight), and the share kept; ``true_dice`` of the case is the mean that is predicted.
    The summary gives mean Dice, also of accepted and of rejected cases, Spearman's correlation of predicted with true Dice,
    the share of the cases whose Dice lies in its predicted interval (90 % of them should), error rates over all voxels of
    all cases, and ``risk_coverage`` of the foreground, see :func:`risk_coverage`.

    Raises:
        HstfError: a table is missing, files were changed after they were written, or do not fit the reference.
    """
    scored = []
    if context.schedule.has_pseudo_labels(context.round):
        scored = _score_all(context)
    rows = [row for case in scored for row in _rows(case, context.config.structures)]
    PSEUDO_LABEL_SCORES.write(context.layout.evaluation_pseudo_labels(context.round), rows)
    return summary(scored) if scored else None


def _score_all(context: StageContext) -> list[Hindsight]:
    layout = context.layout
    number = context.round
    if not any(case.reference for case in context.cases(Split.UNLABELLED)):
        return []
    verdicts = read_shard(REFINE, layout.refine(number), verify=False)
    works = []
    for shard, cases in context.shards(Split.UNLABELLED).items():
        table = read_shard(REFINE, layout.pseudo_labels_table(number, shard))
        works += [
            (case, verdicts[case.case_id])
            for case in cases
            if case.case_id in table and case.reference
        ]
    folder = layout.pseudo_labels(number)
    with ThreadPoolExecutor(worker_count(0)) as pool:
        scored = pool.map(lambda work: _score(context.config, folder, *work), works)
        return [case for case in scored if case is not None]


def _score(config: Config, folder: Path, case: Case, row: Row) -> Hindsight | None:
    """Score a pseudo-label; None where a rejected case has no file."""
    path, weight_path = folder / f"{case.case_id}.nii.gz", folder / f"{case.case_id}.weight.nii.gz"
    if not path.is_file():
        return None
    pseudo_label = read_label(path)
    label = class_indices(pseudo_label.data, config, path)
    reference = read_reference(case, pseudo_label, config)
    return hindsight(config, case.case_id, row, label, read_label(weight_path).data, reference)


def hindsight(
    config: Config,
    case_id: str,
    row: Row,
    label: np.ndarray,
    weight: np.ndarray,
    reference: np.ndarray,
) -> Hindsight:
    """Score a pseudo-label: class indices ``label`` and ``reference``, ``weight`` 0..255, all ``(X, Y, Z)`` uint8."""
    classes = len(config.class_names)
    trusted = weight >= KEPT_WEIGHT
    kept = confusion(label, np.where(trusted, reference, np.uint8(IGNORED)), classes)
    low = confusion(label, np.where(trusted, np.uint8(IGNORED), reference), classes)
    unknown = unknown_structures(reference, config.structures)
    dices, predicted = (
        np.where(unknown, np.nan, table_dice(kept + low, config.structures, empty))
        for empty in (EMPTY_DICE[config.evaluate.empty], 1.0)
    )
    return Hindsight(
        case_id,
        row["accepted"],
        row["predicted_dice"],
        _interval(row),
        {name: known(dice) for name, dice in zip(config.structures, dices, strict=True)},
        mean(known(dice) for dice in predicted),
        kept,
        low,
        weight_counts(label, weight, reference, classes),
    )


def _interval(row: Row) -> tuple[float, float] | None:
    low = row["predicted_dice_low"]
    high = row["predicted_dice_high"]
    return None if low is None or high is None else (low, high)


def weight_counts(
    label: np.ndarray, weight: np.ndarray, reference: np.ndarray, classes: int
) -> np.ndarray:
    """Foreground voxels ``(2, 256)`` of each weight, all and the wrong ones; plane by plane, which bounds the memory."""
    counts = np.zeros((2, 256), np.int64)
    for pseudo, weights, truth in zip(label, weight, reference, strict=True):
        inside = (truth < classes) & ((pseudo > 0) | (truth > 0))
        counts[0] += np.bincount(weights[inside], minlength=256)
        counts[1] += np.bincount(weights[inside & (pseudo != truth)], minlength=256)
    return counts


def risk_coverage(by_weight: np.ndarray) -> list[dict[str, float]]:
    """How wrong the voxels are that a least weight keeps, and how many it keeps: one point for each of a few weights.

    The risk-coverage curve of selective classification (El-Yaniv and Wiener, JMLR 2010), from counts ``(2, 256)`` as
    :func:`weight_counts` gives them; empty without voxels.
    """
    kept, wrong = by_weight[:, ::-1].cumsum(axis=1)[:, ::-1]
    return [
        {
            "weight": float(w / 255),
            "coverage": float(kept[w] / kept[0]),
            "error": float(wrong[w] / kept[w]),
        }
        for w in RISK_WEIGHTS
        if kept[w]
    ]


def _rows(case: Hindsight, structures: Structures) -> list[dict[str, Any]]:
    (kept_right, kept, _), (low_right, low, _) = (
        overlaps(t, structures) for t in (case.kept, case.low)
    )
    return [
        {
            "case_id": case.case_id,
            "accepted": case.accepted,
            "predicted_dice": case.predicted_dice,
            "true_dice": case.as_predicted,
            "class": name,
            "dice": case.dice[name],
            "kept_error": _error(kept[row], kept_right[row]),
            "low_weight_error": _error(low[row], low_right[row]),
            "kept_fraction": _share(kept[row], low[row]),
        }
        for row, name in enumerate(structures)
    ]


def summary(scored: Sequence[Hindsight]) -> dict[str, Any]:
    """What :func:`score_pseudo_labels` says of them together."""
    dices = [mean(case.dice.values()) for case in scored]
    pairs = [(case.predicted_dice, case.as_predicted) for case in scored]
    both = [(p, d) for p, d in pairs if p is not None and d is not None]
    told = [
        (c.interval, c.as_predicted) for c in scored if c.interval and c.as_predicted is not None
    ]
    kept, low = (
        np.sum(tables, axis=0) for tables in zip(*((c.kept, c.low) for c in scored), strict=True)
    )
    return {
        "dice": describe(dices),
        "accepted": describe(d for case, d in zip(scored, dices, strict=True) if case.accepted),
        "rejected": describe(d for case, d in zip(scored, dices, strict=True) if not case.accepted),
        "classes": {name: describe(case.dice[name] for case in scored) for name in scored[0].dice},
        "spearman": rank_correlation([p for p, _ in both], [d for _, d in both]),
        "interval_coverage": mean(float(low <= d <= high) for (low, high), d in told),
        "voxels": _voxel_summary(kept, low),
        "foreground_voxels": _voxel_summary(_without_background(kept), _without_background(low)),
        "risk_coverage": risk_coverage(np.sum([case.by_weight for case in scored], axis=0)),
    }


def _voxel_summary(kept: np.ndarray, low: np.ndarray) -> dict[str, float | None]:
    return {
        "kept_error": _error(kept.sum(), np.trace(kept)),
        "low_weight_error": _error(low.sum(), np.trace(low)),
        "kept_fraction": _share(kept.sum(), low.sum()),
    }


def _without_background(table: np.ndarray) -> np.ndarray:
    """The counts of voxels that are foreground in the pseudo-label, in truth, or in both."""
    foreground = table.copy()
    foreground[0, 0] = 0
    return foreground


def _error(voxels: int, right: int) -> float | None:
    return float(1 - right / voxels) if voxels else None


def _share(part: int, rest: int) -> float | None:
    return float(part / (part + rest)) if part + rest else None
