"""The calibration: what the labelled cases show about the ensemble (``round_0/calibration.json``).

Each labelled case is predicted by a warm-up member that has not learned from it. These out-of-fold
predictions are compared with the labels. The result is a temperature for the probabilities (Guo et
al., On Calibration of Modern Neural Networks, ICML 2017), a confidence threshold for each class,
and for each structure the anatomy rule, the model of lesions and the model of predicted Dice. The
stage ``calibrate`` writes the file once, and refinement uses it in all rounds.
"""

from collections.abc import Container, Mapping
from typing import Any

from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.imaging.regions import Structures
from hstf.method.plr.anatomy import AnatomyRule
from hstf.method.plr.anatomy_rules import AnatomyRules
from hstf.method.plr.lesions import LesionModel
from hstf.method.plr.predicted_dice import DiceInterval, DiceModel, QualityFeatures
from hstf.runtime.documents import Document


class LearnedAnatomy(Document):
    """What the labels and the out-of-fold predictions show about the anatomy.

    The stage ``out_of_fold`` writes it (``round_0/anatomy_rules.json``). It does not depend on
    ``refine:``, and final segmentations need nothing else of the calibration.
    """

    stage = "out_of_fold"

    rules: dict[str, AnatomyRule]
    """By structure."""
    lesions: list[str]
    """Structures that consist of lesions."""


class Calibration(Document):
    """All that refinement knows about the ensemble.

    Dictionaries have the name of a structure as key: a region or, without regions, a class.
    """

    stage = "calibrate"

    temperature: float
    """Temperature of the probabilities."""
    thresholds: dict[str, float]
    """Confidence (0 to 1) from which voxels are mostly correct, by class, background first."""
    anatomy_rules: dict[str, AnatomyRule]
    lesions: dict[str, LesionModel]
    """Only for structures that consist of lesions."""
    dice_models: dict[str, DiceModel]
    class_sd: dict[str, float]
    """Standard deviation of the error of the predicted Dice of each structure."""
    mean_sd: float
    """Standard deviation of the error of the mean predicted Dice of a case."""
    interval: DiceInterval
    """Interval of the mean predicted Dice of a case."""
    minimum_predicted_dice: float
    """A case with a lower mean predicted Dice is unlike any labelled case."""
    evidence: dict[str, Any]
    """For the report: calibration error, reliability, likelihood and Dice of the labelled cases."""

    def applicable_rules(self, structures: Structures) -> AnatomyRules:
        """Return the anatomy rules that are applied; see :func:`applicable_rules`."""
        return applicable_rules(
            structures,
            self.anatomy_rules,
            self.lesions,
        )

    def may_be_absent(self, name: str) -> bool:
        """Return whether a case may lack the structure ``name``."""
        return name in self.lesions or self.anatomy_rules[name].may_be_absent

    def predict_dice(self, features: Mapping[str, QualityFeatures | None]) -> dict[str, float]:
        """Return the predicted Dice (0 to 1) of each structure.

        Args:
            features: quality features of each structure; None if the prediction lacks it.
        """
        return {name: model.predict(features[name]) for name, model in self.dice_models.items()}


def applicable_rules(
    structures: Structures,
    rules: Mapping[str, AnatomyRule],
    lesions: Container[str],
) -> AnatomyRules:
    """Return the anatomy rules that are applied to segmentations.

    Rules that clearly lower the Dice are left out. Lesions have no rule: their components are
    judged one by one (:mod:`hstf.method.plr.lesions`).

    Args:
        structures: classes of each structure.
        rules: rule of each structure.
        lesions: structures that consist of lesions.

    Example:
        >>> values = {"minimum_mm3": 10.0, "has_holes": False, "may_be_absent": False}
        >>> values["gain_error"] = 0.002
        >>> helpful = AnatomyRule(maximum_components=1, dice_gain=0.01, **values)
        >>> harmful = AnatomyRule(maximum_components=1, dice_gain=-0.01, **values)
        >>> structures = {"liver": (1,), "spleen": (2,)}
        >>> rules = applicable_rules(structures, {"liver": helpful, "spleen": harmful}, lesions=[])
        >>> list(rules.rules)
        ['liver']
    """
    applicable = {}
    for name, rule in rules.items():
        if not rule.is_harmful and name not in lesions:
            applicable[name] = rule
    return AnatomyRules(classes=dict(structures), rules=applicable)


def prediction_rules(config: Config, layout: Layout) -> AnatomyRules | None:
    """Return the anatomy rules of final segmentations; None if ``predict.clean`` is off.

    Args:
        config: configuration of the round with the sections ``predict``, ``labels`` and
            ``regions``.
        layout: files of the experiment.

    Raises:
        HstfError: if ``anatomy_rules.json`` is missing or damaged.
    """
    if not config.predict.clean:
        return None
    anatomy = LearnedAnatomy.load(layout.anatomy_rules)
    return applicable_rules(config.structures, anatomy.rules, anatomy.lesions)
