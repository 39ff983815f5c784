"""``calibration.json``: what the labelled cases, predicted out of fold, teach about the teacher."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from hstf.files import read_json, write_json
from hstf.refine.lesions import LesionModel
from hstf.refine.score import DiceModel, Features
from hstf.refine.structure import StructureRule


@dataclass(frozen=True)
class Calibration:
    """Everything that refinement knows. Mappings go by class name."""

    temperature: float
    thresholds: dict[str, float]
    """Confidence (0..1) of each class, background too, from which its voxels are mostly right."""
    structure: dict[str, StructureRule]
    lesions: dict[str, LesionModel]
    """Of the lesion classes; the others have none."""
    dice_models: dict[str, DiceModel]
    class_sd: dict[str, float]
    """Standard deviation of the error of each class's predicted Dice."""
    mean_sd: float
    """The same for the mean over the classes."""
    minimum_predicted_dice: float
    """A case whose predicted mean Dice is lower is unlike any labelled case."""
    evidence: dict[str, Any]
    """For people: calibration error, reliability, likelihood and Dice of the out-of-fold cases."""

    def rules(self) -> dict[int, StructureRule]:
        """The structure rules by class index, without lesion classes: components of those are judged one by one."""
        rules = enumerate(self.structure.items(), start=1)
        return {index: rule for index, (name, rule) in rules if name not in self.lesions}

    def lesion_models(self) -> dict[int, LesionModel]:
        """The models of the lesion classes by class index."""
        indices = {name: index for index, name in enumerate(self.structure, start=1)}
        return {indices[name]: model for name, model in self.lesions.items()}

    def may_be_absent(self, name: str) -> bool:
        """Whether a case may lack the class ``name``."""
        return name in self.lesions or self.structure[name].may_be_absent

    def predicted_dice(self, features: Mapping[str, Features | None]) -> dict[str, float]:
        """Predicted Dice of each foreground class."""
        return {name: model.predict(features[name]) for name, model in self.dice_models.items()}

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            HstfError: the file is missing or torn.
        """
        content = read_json(path)
        content["structure"] = {name: StructureRule(**rule) for name, rule in content["structure"].items()}
        content["lesions"] = {n: LesionModel.of_json(model) for n, model in content["lesions"].items()}
        content["dice_models"] = {name: DiceModel(**model) for name, model in content["dice_models"].items()}
        return cls(**content)
