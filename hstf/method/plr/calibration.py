"""``calibration.json``: what the labelled cases, predicted out of fold, teach about the teacher."""

from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.imaging.regions import Structures
from hstf.method.plr.anatomy_rules import KnownStructure, StructureRule
from hstf.method.plr.lesions import LesionModel
from hstf.method.plr.predicted_dice import DiceModel, Features
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json, write_json


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
    patients: int
    """How many patients tell: those with a case of which the Dice of some structure is known."""
    minimum_predicted_dice: float
    """A case whose predicted mean Dice is lower is unlike any labelled case."""
    evidence: dict[str, Any]
    """For people: calibration error, reliability, likelihood and Dice of the out-of-fold cases."""

    def known_structure(self, structures: Structures) -> KnownStructure:
        """The structure rules that help, without lesions: components of those are judged one by one."""
        return known_structure(structures, self.structure, self.lesions)

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
            HstfError: the file is missing or torn, or was written by another version.
        """
        content = read_json(path)
        try:
            content["structure"] = {
                name: StructureRule(**rule) for name, rule in content["structure"].items()
            }
            content["lesions"] = {
                n: LesionModel.of_json(model) for n, model in content["lesions"].items()
            }
            content["dice_models"] = {
                name: DiceModel(**model) for name, model in content["dice_models"].items()
            }
            return cls(**content)
        except (KeyError, TypeError, AttributeError) as error:
            raise HstfError(
                f"{path}: holds other fields than this version of hstf writes ({error}). Run hstf calibrate again."
            ) from error


def known_structure(
    structures: Structures, rules: Mapping[str, StructureRule], lesions: Container[str]
) -> KnownStructure:
    """The ``rules`` that segmentations are brought to: those that do not cost Dice, of all but ``lesions``."""
    helping = {
        name: rule for name, rule in rules.items() if rule.dice_gain >= 0 and name not in lesions
    }
    return KnownStructure(structures, helping)


def structure_of_predictions(config: Config) -> KnownStructure | None:
    """What final segmentations are brought to, where ``predict.clean`` says so.

    Raises:
        HstfError: ``calibration.json`` is missing or torn.
    """
    if not config.predict.clean:
        return None
    return Calibration.load(Layout.of(config).calibration).known_structure(config.structures)
