"""Pseudo-label refinement (PLR) of one case: from the ensemble's views to label, weights, verdict.

The refinement of a case has four parts, and each can be switched off under ``refine:``.

1. Calibrate: the mean probabilities are scaled by the temperature of the calibration. The label is
   the most likely class.
2. Clean: the label is changed to obey the anatomy rules, and unlikely lesions are dropped
   (:class:`LabelCleaner`).
3. Weight: each voxel has a weight by the uncertainty of the ensemble. The weight is lowered where
   confidence is low or the label was changed (:class:`VoxelWeighting`).
4. Judge: the case is rejected if its predicted Dice is low (:func:`judge`).

With all parts off the pseudo-label is the most likely class of each voxel, and all weights are 1,
as in Noisy Student (Xie et al., CVPR 2020). Everything is on the planned grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np

from hstf.config.refine import RefineConfig
from hstf.imaging.probabilities import apply_temperature, make_certain, most_likely
from hstf.imaging.regions import Structures, structure_mask, structure_probability
from hstf.method.plr.anatomy_rules import (
    AnatomyRules,
    classes_outside,
    fill_holes,
    keep_components,
    reassign_voxels,
)
from hstf.method.plr.calibration import Calibration
from hstf.method.plr.lesions import Component, LesionModel, find_components
from hstf.method.plr.predicted_dice import (
    QualityFeatures,
    quality_features,
)
from hstf.method.plr.weights import below_threshold, cap_weight, scale_weight, voxel_weights
from hstf.method.tta_summary import TtaSummary


@dataclass(frozen=True)
class JudgedLesion:
    """A component of a structure that consists of lesions, and whether it was kept."""

    structure: str
    """Name of the class or region."""
    component: Component
    probability: float
    """Probability (0 to 1) that the component is a lesion."""
    kept: bool


@dataclass(frozen=True)
class CleanLabel:
    """A label map after the clean-up."""

    label: np.ndarray
    """``(X, Y, Z)`` uint8 class index."""
    confidence: np.ndarray
    """``(X, Y, Z)`` uint8, 255 times the calibrated probability of the most likely class."""
    probabilities: np.ndarray
    """``(K, X, Y, Z)`` uint8, 255 times the calibrated probability."""
    changed: dict[str, np.ndarray]
    """``(X, Y, Z)`` bool for each step: voxels whose label it changed."""
    lesions: list[JudgedLesion]
    lesion_probability: np.ndarray | None
    """``(X, Y, Z)`` uint8, 255 times the probability of the kept lesion at each voxel.

    It is 0 in regions of several classes, and None if lesions were not judged."""
    features: dict[str, QualityFeatures | None]
    """Quality features of each structure before the clean-up."""


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


@dataclass
class LesionJudgement:
    """Lesions of a case that were judged so far."""

    lesions: list[JudgedLesion] = field(default_factory=list)
    probability: np.ndarray | None = None
    """``(X, Y, Z)`` uint8, as :attr:`CleanLabel.lesion_probability` has it."""


@dataclass(frozen=True)
class LabelCleaner:
    """Change label maps so that they look like those of the labelled cases."""

    config: RefineConfig
    rules: AnatomyRules
    """Anatomy rules; structures that consist of lesions have none."""
    temperature: float
    lesions: Mapping[str, LesionModel]
    """Model of each structure that consists of lesions."""
    voxel_mm3: float
    """Volume of a voxel in mm³."""
    bounds: Mapping[str, float] = field(default_factory=dict)
    """Probability from which components are kept, by structure; for others
    ``refine.lesion_probability``."""

    def clean(self, summary: TtaSummary) -> CleanLabel:
        """Calibrate the probabilities, take the most likely class and clean the label.

        Example:
            >>> from hstf.method.plr.anatomy import AnatomyRule
            >>> from hstf.method.tta_summary import Agreement
            >>> organ = np.full((8, 8, 8), 20, np.uint8)
            >>> organ[2:6, 2:6, 2:6] = 240  # the organ
            >>> organ[7, 7, 7] = 200  # a false voxel
            >>> agreement = Agreement(
            ...     scales={}, members={}, flips={}, foreground_entropy={}, volumes_ml={}
            ... )
            >>> uncertainty = np.zeros((3, 8, 8, 8), np.uint8)
            >>> summary = TtaSummary(np.stack([255 - organ, organ]), uncertainty, agreement)
            >>> rule = AnatomyRule(
            ...     maximum_components=1, minimum_mm3=10.0, has_holes=False, may_be_absent=False
            ... )
            >>> rules = AnatomyRules(classes={"organ": (1,)}, rules={"organ": rule})
            >>> cleaner = LabelCleaner(RefineConfig(), rules, 1.0, lesions={}, voxel_mm3=1.0)
            >>> clean = cleaner.clean(summary)
            >>> int(clean.label[3, 3, 3]), int(clean.label[7, 7, 7])
            (1, 0)
            >>> int(clean.changed["components"].sum())
            1
        """
        calibrated = self._calibrate(summary.probabilities)
        original = most_likely(calibrated)
        confidence = calibrated.max(axis=0)
        features = quality_features(
            summary.agreement,
            original,
            calibrated,
            self.rules.classes,
        )
        judgement = LesionJudgement()
        label, changed = self._change_label(
            original,
            calibrated,
            summary.scale_variance,
            judgement,
        )
        return CleanLabel(
            label=label,
            confidence=confidence,
            probabilities=calibrated,
            changed=changed,
            lesions=judgement.lesions,
            lesion_probability=judgement.probability,
            features=features,
        )

    def _change_label(
        self,
        label: np.ndarray,
        probabilities: np.ndarray,
        scale_variance: np.ndarray,
        judgement: LesionJudgement,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Run the steps that are switched on; return the new label and the voxels of each step."""
        classes = self.rules.classes
        changed: dict[str, np.ndarray] = {}
        if self.config.keep_components:
            cleaned = keep_components(
                label,
                probabilities,
                classes,
                self.rules.rules,
                self.voxel_mm3,
            )
            changed["components"] = cleaned != label
            label = cleaned
        if self.config.judge_lesions and self.lesions:
            cleaned = self._judge_lesions(label, probabilities, scale_variance, judgement)
            changed["lesions"] = cleaned != label
            label = cleaned
        if self.config.fill_holes:
            cleaned = fill_holes(label, classes, self.rules.rules)
            changed["holes"] = cleaned != label
            label = cleaned
        return label, changed

    def _calibrate(self, probabilities: np.ndarray) -> np.ndarray:
        if self.config.calibrate:
            return apply_temperature(probabilities, self.temperature)
        return probabilities.copy()

    def _judge_lesions(
        self,
        label: np.ndarray,
        probabilities: np.ndarray,
        scale_variance: np.ndarray,
        judgement: LesionJudgement,
    ) -> np.ndarray:
        """Drop the lesions that are not likely enough; return the new label.

        The voxels of a dropped lesion get the next most likely class. Larger regions are judged
        first: a component of an inner region that was dropped with them is not judged again.
        """
        cleaned = label.copy()
        judgement.probability = np.zeros_like(label)
        names = sorted(self.lesions, key=lambda name: -len(self.rules.classes[name]))
        for name in names:
            bound = self.bounds.get(name, self.config.lesion_probability)
            classes = self.rules.classes[name]
            remaining = structure_mask(label, classes) & structure_mask(cleaned, classes)
            numbers, components = find_components(
                remaining,
                structure_probability(probabilities, classes),
                scale_variance,
                self.voxel_mm3,
            )
            # By the number of the component; number 0 is outside.
            dropped = np.zeros(len(components) + 1, bool)
            kept_probability = np.zeros(len(components) + 1, np.uint8)
            for index, component in enumerate(components, start=1):
                likely = self.lesions[name].probability(component)
                kept = likely >= bound
                judgement.lesions.append(JudgedLesion(name, component, likely, kept))
                dropped[index] = not kept
                # Kept for its rank, a lesion is learned like one that is just likely enough.
                weight = max(likely, self.config.lesion_probability)
                kept_probability[index] = round(255 * weight) if kept else 0
            targets = classes_outside(name, self.rules.classes)
            reassign_voxels(cleaned, dropped[numbers], probabilities, targets)
            # That a region of several classes is a lesion does not show which of them is right.
            # Voxels of a single class keep their label: no later structure contains them.
            if len(classes) == 1:
                judgement.probability = np.maximum(judgement.probability, kept_probability[numbers])
        return cleaned


@dataclass(frozen=True)
class VoxelWeighting:
    """Compute the voxel weights of a cleaned label, step by step.

    Each step changes ``weight`` ``(X, Y, Z)`` uint8 in place and returns the voxels it is about.
    """

    config: RefineConfig
    clean: CleanLabel
    uncertainty: np.ndarray
    """``(3, X, Y, Z)`` uint8, as :class:`hstf.method.tta_summary.TtaSummary` has it."""
    calibration: Calibration
    structures: Structures

    def compute(self) -> tuple[np.ndarray, dict[str, int]]:
        """Return the weights and the number of voxels of each step."""
        steps = []
        if self.config.voxel_weights:
            steps.append(("uncertainty", self._uncertainty))
        if self.config.thresholds:
            steps.append(("low_confidence", self._low_confidence))
        if self.clean.changed:
            steps.append(("changed", self._changed))
        if self.clean.lesions:
            steps.append(("lesion_weight", self._kept_lesions))
        if self.config.judge_lesions and self.calibration.lesions:
            steps.append(("possible_lesions", self._possible_lesions))
        weight = np.full(self.clean.label.shape, 255, np.uint8)
        counts = {}
        for name, step in steps:
            counts[name] = int(np.count_nonzero(step(weight)))
        return weight, counts

    def _uncertainty(self, weight: np.ndarray) -> np.ndarray:
        """Set the weight by the uncertainty of the ensemble."""
        weight[:] = voxel_weights(self.uncertainty, self.config)
        return weight < 255

    def _low_confidence(self, weight: np.ndarray) -> np.ndarray:
        """Lower the weight where confidence is below the threshold of the class."""
        thresholds = list(self.calibration.thresholds.values())
        doubtful = below_threshold(self.clean.label, self.clean.confidence, thresholds)
        scale_weight(weight, doubtful, self.config.below_threshold_weight)
        return doubtful

    def _changed(self, weight: np.ndarray) -> np.ndarray:
        """Lower the weight where the clean-up changed the label."""
        changed = reduce(np.logical_or, self.clean.changed.values())
        cap_weight(weight, changed, self.config.changed_weight)
        return changed

    def _kept_lesions(self, weight: np.ndarray) -> np.ndarray:
        """Raise the weight of a kept lesion to at least its probability.

        A kept lesion is learned as a whole, also at its uncertain border. Regions of several
        classes keep the weights of their classes.
        """
        probability = self.clean.lesion_probability
        assert probability is not None
        raised = weight < probability
        np.maximum(weight, probability, out=weight)
        return raised

    def _possible_lesions(self, weight: np.ndarray) -> np.ndarray:
        """Lower the weight where a lesion is possible, but not in the label.

        With weight 0 the student learns there neither a lesion nor its absence.
        """
        possible = np.zeros(weight.shape, bool)
        for name, model in self.calibration.lesions.items():
            classes = self.structures[name]
            probability = structure_probability(self.clean.probabilities, classes)
            likely = probability >= 255 * model.possible
            possible |= likely & ~structure_mask(self.clean.label, classes)
        cap_weight(weight, possible, self.config.possible_lesion_weight)
        return possible


def label_cleaner(
    calibration: Calibration,
    structures: Structures,
    voxel_mm3: float,
    config: RefineConfig,
    bounds: Mapping[str, float] | None = None,
) -> LabelCleaner:
    """Return what cleans the label of a case, see :func:`refine_case`."""
    return LabelCleaner(
        config=config,
        rules=calibration.applicable_rules(structures),
        temperature=calibration.temperature,
        lesions=calibration.lesions,
        voxel_mm3=voxel_mm3,
        bounds=bounds or {},
    )


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
