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
    """Everything that refinement knows. Mappings go by the name of a structure: a region, or a class without regions."""

    temperature: float
    thresholds: dict[str, float]
    """Confidence (0..1) of each class, background first, from which its voxels are mostly right."""
    structure: dict[str, StructureRule]
    lesions: dict[str, LesionModel]
    """Of the structures that are lesions; the others have none."""
    dice_models: dict[str, DiceModel]
    class_sd: dict[str, float]
    """Standard deviation of the error of each structure's predicted Dice."""
    mean_sd: float
    """The same for the mean over them."""
    minimum_predicted_dice: float
    """A case whose predicted mean Dice is lower is unlike any labelled case."""
    evidence: dict[str, Any]
    """For people: calibration error, reliability, likelihood and Dice of the out-of-fold cases."""

    def rules(self) -> dict[str, StructureRule]:
        """The structure rules, without lesions: components of those are judged one by one."""
        return {name: rule for name, rule in self.structure.items() if name not in self.lesions}

    def may_be_absent(self, name: str) -> bool:
        """Whether a case may lack the structure ``name``."""
        return name in self.lesions or self.structure[name].may_be_absent

    def predicted_dice(self, features: Mapping[str, Features | None]) -> dict[str, float]:
        """Predicted Dice of each structure."""
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
