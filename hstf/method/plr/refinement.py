"""Refinement of one case on the planned grid: from the teacher's views to label, weights and predicted Dice.

Each part of ``refine:`` that is switched on is a step of a list. Steps of :class:`Cleaning` change the label map, those of
:func:`weight_steps` the voxel weights. With no step, the label is the most likely class and all weights are 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Self

import numpy as np

from hstf.config.refine import RefineConfig
from hstf.imaging.arrays import read_array
from hstf.imaging.probabilities import make_certain, most_likely, sharpen
from hstf.imaging.regions import Structures, mask, probability
from hstf.method.plr.anatomy_rules import (
    KnownStructure,
    fill_holes,
    keep_components,
    outside,
    take_out,
)
from hstf.method.plr.calibration import Calibration
from hstf.method.plr.lesions import Component, LesionModel, find_components
from hstf.method.plr.predicted_dice import Features, case_features, interval
from hstf.method.plr.weights import below_threshold, cap_weight, scale_weight, voxel_weights
from hstf.runtime.files import read_json

SCALE_VARIANCE = 1
"""Its channel in the uncertainty."""


@dataclass(frozen=True)
class TeacherOutput:
    """What the teacher wrote about a case."""

    probabilities: np.ndarray
    """``(K, X, Y, Z)`` uint8, not calibrated."""
    uncertainty: np.ndarray
    """``(3, X, Y, Z)`` uint8, as :class:`hstf.method.tta.Views` has it."""
    agreement: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a case's folder below ``teacher/`` or ``out_of_fold/``."""
        return cls(
            read_array(folder / "probabilities.b2nd"),
            read_array(folder / "uncertainty.b2nd"),
            read_json(folder / "agreement.json"),
        )


@dataclass(frozen=True)
class JudgedLesion:
    """A component of a lesion class or region, and what became of it."""

    structure: str
    """Name of the class or region."""
    component: Component
    probability: float
    """That it is a lesion (0..1)."""
    kept: bool


@dataclass
class JudgedLesions:
    """The components of the structures of a case that are lesions."""

    lesions: list[JudgedLesion] = field(default_factory=list)
    floor: np.ndarray | None = None
    """``(X, Y, Z)`` uint8, 255 times the probability of the lesion that a voxel belongs to, if it was kept."""


@dataclass(frozen=True)
class CleanLabel:
    """A label map on the grid, and what made it."""

    label: np.ndarray
    """``(X, Y, Z)`` uint8 class index after the clean-up."""
    confidence: np.ndarray
    """``(X, Y, Z)`` uint8, 255 times the calibrated probability of the most likely class."""
    probabilities: np.ndarray
    """``(K, X, Y, Z)`` uint8, calibrated."""
    changed: dict[str, np.ndarray]
    """``(X, Y, Z)`` bool by step: voxels whose label it changed."""
    lesions: "JudgedLesions"
    features: dict[str, Features | None]
    """By structure, of the label before the clean-up."""


@dataclass(frozen=True)
class Refined:
    """A pseudo-label on the grid."""

    label: np.ndarray
    """``(X, Y, Z)`` uint8 class index."""
    weight: np.ndarray
    """``(X, Y, Z)`` uint8, 255 times the voxel weight."""
    probabilities: np.ndarray
    """``(K, X, Y, Z)`` uint8, calibrated, and one-hot where the clean-up changed the label."""
    changed: dict[str, int]
    """Voxels that each step lowered in weight or changed."""
    lesions: list[JudgedLesion]
    features: dict[str, Features | None]


@dataclass(frozen=True)
class Verdict:
    """How good a pseudo-label is thought to be, and whether it is used."""

    predicted: dict[str, float]
    mean: float
    low: float
    high: float
    accepted: bool
    reason: str


@dataclass(frozen=True)
class Cleaning:
    """How label maps are brought to what the labelled cases show."""

    config: RefineConfig
    known: KnownStructure
    """Without rules for lesions."""
    temperature: float
    lesions: Mapping[str, LesionModel]
    """Of the structures that are lesions."""
    voxel_mm3: float

    def __call__(self, output: TeacherOutput) -> CleanLabel:
        """Calibrate the teacher's probabilities, take the most likely class, and clean."""
        given = output.probabilities
        calibrated = sharpen(given, self.temperature) if self.config.calibrate else given.copy()
        label, confidence = most_likely(calibrated), calibrated.max(axis=0)
        features = case_features(output.agreement, label, calibrated, self.known.structures)
        changed: dict[str, np.ndarray] = {}
        judged = JudgedLesions()
        for name, step in self._steps(output.uncertainty[SCALE_VARIANCE], judged).items():
            cleaned = step(label, calibrated)
            changed[name] = cleaned != label
            label = cleaned
        return CleanLabel(label, confidence, calibrated, changed, judged, features)

    def _steps(
        self, scale_variance: np.ndarray, judged: JudgedLesions
    ) -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
        """The parts that are on, in order: from label and calibrated probabilities to another label."""
        config = self.config
        parts = {
            "components": (
                config.keep_components,
                lambda label, p: keep_components(
                    label, p, self.known.structures, self.known.rules, self.voxel_mm3
                ),
            ),
            "lesions": (
                config.judge_lesions and self.lesions,
                lambda label, p: self._judge_lesions(label, p, scale_variance, judged),
            ),
            "holes": (
                config.fill_holes,
                lambda label, _: fill_holes(label, self.known.structures, self.known.rules),
            ),
        }
        return {name: step for name, (wanted, step) in parts.items() if wanted}

    def _judge_lesions(
        self,
        label: np.ndarray,
        probabilities: np.ndarray,
        scale_variance: np.ndarray,
        judged: JudgedLesions,
    ) -> np.ndarray:
        """``label`` without the lesions that are not likely enough: their voxels go to the next most likely class.

        Of regions within one another the larger come first: what goes with them is judged no more.
        """
        cleaned = label.copy()
        judged.floor = np.zeros_like(label)
        for name in sorted(self.lesions, key=lambda name: -len(self.known.structures[name])):
            model, members = self.lesions[name], self.known.structures[name]
            numbers, components = find_components(
                mask(label, members) & mask(cleaned, members),
                probability(probabilities, members),
                scale_variance,
                self.voxel_mm3,
            )
            likely = [model.probability(component) for component in components]
            kept = [p >= self.config.lesion_probability for p in likely]
            judged.lesions += map(JudgedLesion, [name] * len(kept), components, likely, kept)
            dropped = np.array([False, *(not keep for keep in kept)])[numbers]
            take_out(cleaned, dropped, probabilities, outside(name, self.known.structures))
            floors = [round(255 * p) if keep else 0 for p, keep in zip(likely, kept, strict=True)]
            judged.floor = np.maximum(judged.floor, np.array([0, *floors], np.uint8)[numbers])
        return cleaned


WeightStep = Callable[[np.ndarray], np.ndarray]
"""Changes the weights ``(X, Y, Z)`` uint8 in place; returns the voxels it is about."""


def weight_steps(
    clean: CleanLabel, uncertainty: np.ndarray, calibration: Calibration, cleaning: Cleaning
) -> dict[str, WeightStep]:
    """The parts that are on, in order."""
    config = cleaning.config
    thresholds = list(calibration.thresholds.values())

    def uncertain(weight: np.ndarray) -> np.ndarray:
        weight[:] = voxel_weights(uncertainty, config)
        return weight < 255

    def low_confidence(weight: np.ndarray) -> np.ndarray:
        doubtful = below_threshold(clean.label, clean.confidence, thresholds)
        scale_weight(weight, doubtful, config.below_threshold_weight)
        return doubtful

    def structure(weight: np.ndarray) -> np.ndarray:
        contradicted = reduce(np.logical_or, clean.changed.values())
        cap_weight(weight, contradicted, config.changed_weight)
        return contradicted

    def lesions(weight: np.ndarray) -> np.ndarray:
        """A lesion that is kept is learned as a whole: its voxels count at least as much as it is likely."""
        assert clean.lesions.floor is not None
        raised = weight < clean.lesions.floor
        np.maximum(weight, clean.lesions.floor, out=weight)
        return raised

    def possible_lesions(weight: np.ndarray) -> np.ndarray:
        possible = np.zeros(weight.shape, bool)
        for name, model in cleaning.lesions.items():
            members = cleaning.known.structures[name]
            likely = probability(clean.probabilities, members) >= 255 * model.possible
            possible |= likely & ~mask(clean.label, members)
        cap_weight(weight, possible, config.possible_lesion_weight)
        return possible

    parts = {
        "uncertainty": (config.voxel_weights, uncertain),
        "low_confidence": (config.thresholds, low_confidence),
        "structure": (clean.changed, structure),
        "lesion_weight": (clean.lesions.lesions, lesions),
        "possible_lesions": (config.judge_lesions and cleaning.lesions, possible_lesions),
    }
    return {name: step for name, (wanted, step) in parts.items() if wanted}


def refine_case(
    output: TeacherOutput,
    calibration: Calibration,
    structures: Structures,
    voxel_mm3: float,
    config: RefineConfig,
) -> Refined:
    """The pseudo-label of a case: calibrated, cleaned, weighted."""
    known = calibration.known_structure(structures)
    cleaning = Cleaning(config, known, calibration.temperature, calibration.lesions, voxel_mm3)
    clean = cleaning(output)
    counts = {name: int(np.count_nonzero(voxels)) for name, voxels in clean.changed.items()}
    weight = np.full(clean.label.shape, 255, np.uint8)
    for name, step in weight_steps(clean, output.uncertainty, calibration, cleaning).items():
        counts[name] = int(np.count_nonzero(step(weight)))
    for voxels in clean.changed.values():
        make_certain(clean.probabilities, clean.label, voxels, 255)
    return Refined(
        clean.label, weight, clean.probabilities, counts, clean.lesions.lesions, clean.features
    )


def judge(
    features: Mapping[str, Features | None],
    present: Mapping[str, bool],
    calibration: Calibration,
    config: RefineConfig,
) -> Verdict:
    """Predicted Dice of a case, and whether its pseudo-label is good enough to be used.

    Args:
        features: by structure, before the clean-up.
        present: whether the pseudo-label has the structure after it.
    """
    predicted = calibration.predicted_dice(
        {name: values if present[name] else None for name, values in features.items()}
    )
    mean = float(np.mean(list(predicted.values())))
    low, high = interval(mean, calibration.mean_sd, calibration.patients)
    if not config.select_cases:
        return Verdict(
            predicted, mean, low, high, True, "every case is used (refine.select_cases is off)"
        )
    given = config.minimum_predicted_dice
    bound = calibration.minimum_predicted_dice if given is None else given
    lacking = [n for n, there in present.items() if not there and not calibration.may_be_absent(n)]
    faults = [f"{name} is absent, but every labelled case has it" for name in lacking]
    if mean < bound:
        faults.append(f"predicted Dice {mean:.3f} is below {bound:.3f}")
    reason = "; ".join(faults) or f"predicted Dice {mean:.3f} reaches {bound:.3f}"
    return Verdict(predicted, mean, low, high, not faults, reason)


def select_best(rows: Sequence[dict[str, str]], share: float) -> None:
    """Reject, in place, accepted ``rows`` of ``refine.csv`` beyond the best ``share`` (0..1) of all by predicted Dice.

    At least one case stays, and of equal cases the ones that come first by ``case_id``.
    """
    most = max(1, round(share * len(rows)))
    ranked = sorted(rows, key=lambda row: (-float(row["predicted_dice"]), row["case_id"]))
    for rank, row in enumerate(ranked[most:], start=most + 1):
        if row["accepted"] == "1":
            row["accepted"] = "0"
            row["reason"] = (
                f"predicted Dice {float(row['predicted_dice']):.3f} is number {rank} of {len(rows)};"
                f" this round learns from the best {most}"
            )
