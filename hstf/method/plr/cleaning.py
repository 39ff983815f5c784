"""Clean the label of a case: calibrate, obey the anatomy rules, drop unlikely lesions.

This is the first half of pseudo-label refinement (:mod:`hstf.method.plr.refinement`). Everything is
on the planned grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hstf.config.refine import RefineConfig
from hstf.imaging.probabilities import apply_temperature, most_likely
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
from hstf.method.plr.predicted_dice import QualityFeatures, quality_features
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


def label_cleaner(
    calibration: Calibration,
    structures: Structures,
    voxel_mm3: float,
    config: RefineConfig,
    bounds: Mapping[str, float] | None = None,
) -> LabelCleaner:
    """Return what cleans the label of a case.

    Args:
        calibration: what the labelled cases show.
        structures: classes of each structure.
        voxel_mm3: volume of a voxel of the grid in mm³.
        config: section ``refine`` of the configuration.
        bounds: see :attr:`LabelCleaner.bounds`.
    """
    return LabelCleaner(
        config=config,
        rules=calibration.applicable_rules(structures),
        temperature=calibration.temperature,
        lesions=calibration.lesions,
        voxel_mm3=voxel_mm3,
        bounds=bounds or {},
    )
