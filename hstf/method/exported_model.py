"""An exported model: a folder with the weights of an ensemble and ``model.json``."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from hstf import __version__
from hstf.config.evaluate import PredictConfig
from hstf.config.preprocess import PreprocessConfig
from hstf.experiment.cases import CASE_ID
from hstf.experiment.plan import Plan
from hstf.method.plr.anatomy_rules import AnatomyRules
from hstf.runtime.documents import Document, Part
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.files import read_json, sha256_file
from hstf.scoring.averages import Statistics
from hstf.scoring.significance import Interval

FORMAT = 2
"""Version of the format of ``model.json``."""
MODEL_FILE = "model.json"


class ModelMember(Part):
    """An ensemble member."""

    name: Annotated[str, Field(pattern=f"^{CASE_ID.pattern}$")]
    """Name without folders: the weights are in ``members/<name>.pt``."""
    sha256: str
    """SHA-256 of its file."""
    trained_as: str
    """SHA-256 of the weights in the results of the experiment."""


class ModelScores(Part):
    """Test scores of the model."""

    cases: int
    """Number of test cases."""
    dice: Interval
    """Mean Dice over the structures."""
    classes: dict[str, Statistics]
    """Dice of each structure."""


class ModelProvenance(Part):
    """Where the model comes from."""

    hstf: str
    round: int
    steps: int
    """Training steps of the last round."""
    cases: dict[str, int]
    """Number of cases of each split, and of pseudo-labels of each source."""
    packages: dict[str, str]
    """Versions."""
    scores: ModelScores | None
    """None if the model is not evaluated."""


class ExportedModel(Document):
    """``model.json``: what prediction needs, and where the model comes from."""

    stage: ClassVar[str] = "export"

    format: int
    experiment: str
    members: list[ModelMember] = Field(min_length=1)
    labels: dict[str, int]
    """File value of each class, in the order of the network's outputs."""
    modalities: dict[str, str]
    """Modality of each image, in the order of the channels."""
    predict: PredictConfig
    preprocess: PreprocessConfig
    plan: Plan
    structure: AnatomyRules | None
    """Anatomy rules that segmentations are changed to obey."""
    provenance: ModelProvenance

    def weights(self, folder: Path) -> list[Path]:
        """Return the weights of the members in an exported folder."""
        return [weights_path(folder, member.name) for member in self.members]


def weights_path(folder: Path, member: str) -> Path:
    """Return the weights of a member in an exported folder.

    Example:
        >>> weights_path(Path("export"), "seed_0").as_posix()
        'export/members/seed_0.pt'
    """
    return folder / "members" / f"{member}.pt"


def read_exported_model(folder: Path) -> ExportedModel:
    """Read ``model.json`` of an exported folder and check the weights.

    Raises:
        HstfError: if the folder has no exported model, if it has another format, or if files are
            missing or have changed.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        raise HstfError(
            f"{folder}: contains no {MODEL_FILE}."
            " Give a folder that `hstf export` wrote to --model."
        )
    content = read_json(path)
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise HstfError(
            f"{path}: has format {found}, but hstf {__version__} reads format {FORMAT}."
            " Export the model again."
        )
    model = ExportedModel.load(path)
    problems = []
    for member in model.members:
        problems += _weight_problems(weights_path(folder, member.name), member.sha256)
    if problems:
        raise join_problems(f"{folder}: is not the model that was exported.", problems)
    return model


def _weight_problems(path: Path, expected: str) -> list[str]:
    """Describe how the weights differ from what ``model.json`` states."""
    if not path.is_file():
        return [f"{path} is missing; copy the folder again"]
    if sha256_file(path) != expected:
        return [f"{path} differs from the file that was exported; copy the folder again"]
    return []
