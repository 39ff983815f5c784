"""The predicted Dice of the segmentation of a new scan, without a reference.

It is the fit of :mod:`hstf.method.plr.predicted_dice` with the features of the same TTA views from
which it was fitted, so that a feature means the same for a new scan as for the labelled cases.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hstf.config.teacher import TtaConfig
from hstf.imaging.probabilities import apply_temperature, most_likely
from hstf.imaging.regions import ClassIndices, structure_mask
from hstf.method.plr.calibration import Calibration
from hstf.method.plr.predicted_dice import DiceInterval, DiceModel, quality_features
from hstf.method.tta_summary import TtaSummary
from hstf.runtime.documents import Part


class QualityModel(Part):
    """What an exported model knows about the quality of its segmentations."""

    classes: dict[str, ClassIndices]
    """Class indices of each structure."""
    temperature: float
    """Temperature of the probabilities."""
    dice_models: dict[str, DiceModel]
    may_be_absent: list[str]
    """Structures that a scan may lack."""
    interval: DiceInterval
    """Interval of the mean predicted Dice."""
    minimum_predicted_dice: float
    """A scan with a lower mean predicted Dice is unlike any labelled case."""
    views: TtaConfig
    """TTA views from which the quality features are computed."""

    @classmethod
    def of(
        cls,
        calibration: Calibration,
        structures: Mapping[str, ClassIndices],
        views: TtaConfig,
    ) -> "QualityModel | None":
        """Return what a calibration shows; None if it has no model of the predicted Dice.

        Args:
            calibration: what the labelled cases show.
            structures: classes of each structure.
            views: section ``teacher`` of the configuration of the calibration.
        """
        if not calibration.dice_models:
            return None
        optional = [name for name in structures if calibration.may_be_absent(name)]
        return cls(
            classes=dict(structures),
            temperature=calibration.temperature,
            dice_models=calibration.dice_models,
            may_be_absent=optional,
            interval=calibration.interval,
            minimum_predicted_dice=calibration.minimum_predicted_dice,
            views=views,
        )

    @property
    def passes(self) -> float:
        """Number of predictions by each network, in predictions of the scan as it is.

        Example:
            >>> model = QualityModel(
            ...     classes={},
            ...     temperature=1.0,
            ...     dice_models={},
            ...     may_be_absent=[],
            ...     interval=DiceInterval(half_width=0.1, method="guess", patients=3),
            ...     minimum_predicted_dice=0.5,
            ...     views=TtaConfig(scales=(1.0, 0.5), flip_axes=(0,)),
            ... )
            >>> model.passes
            2.25
        """
        return sum(scale**3 for scale in self.views.scales) * (1 + len(self.views.flip_axes))

    def judge(self, summary: TtaSummary, label: np.ndarray) -> "ScanQuality":
        """Predict the Dice of a segmentation.

        Args:
            summary: summary of the TTA views of the scan.
            label: ``(...)`` class indices of the segmentation, on any grid.
        """
        probabilities = apply_temperature(summary.probabilities, self.temperature)
        features = quality_features(
            summary.agreement, most_likely(probabilities), probabilities, self.classes
        )
        missing = []
        predicted = {}
        for name, model in self.dice_models.items():
            is_present = bool(structure_mask(label, self.classes[name]).any())
            predicted[name] = model.predict(features[name] if is_present else None)
            if not is_present and name not in self.may_be_absent:
                missing.append(name)
        mean = float(np.mean(list(predicted.values())))
        low, high = self.interval.around(mean)
        return ScanQuality(
            predicted=predicted,
            mean=mean,
            low=low,
            high=high,
            interval=self.interval.method,
            missing=missing,
            is_low=mean < self.minimum_predicted_dice,
            bound=self.minimum_predicted_dice,
        )


@dataclass(frozen=True)
class ScanQuality:
    """The predicted Dice of the segmentation of a scan."""

    predicted: dict[str, float]
    """Predicted Dice of each structure."""
    mean: float
    """Their mean."""
    low: float
    """Lower end of the 90% interval of the mean."""
    high: float
    """Upper end of the 90% interval of the mean."""
    interval: str
    """``conformal`` or ``guess``, see :class:`hstf.method.plr.predicted_dice.DiceInterval`."""
    missing: list[str]
    """Structures that are absent although every labelled case has them."""
    is_low: bool
    """Whether the mean is below that of all labelled cases."""
    bound: float
    """This bound."""
