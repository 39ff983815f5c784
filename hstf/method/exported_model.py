"""An exported model: a folder with the weights of an ensemble and ``model.json``.

``SHA256SUMS`` has the SHA-256 of the files that prediction depends on, in the format of the program
``sha256sum``: ``sha256sum --check SHA256SUMS`` in the folder checks them, too.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from hstf import __version__
from hstf.config.evaluate import PredictConfig
from hstf.config.experiment import Modality
from hstf.config.names import modality_problems, name_problems
from hstf.config.preprocess import PreprocessConfig
from hstf.experiment.cases import CASE_ID
from hstf.experiment.plan import Plan
from hstf.imaging.intensity_ranges import IntensityRange
from hstf.imaging.regions import ClassIndices
from hstf.method.plr.anatomy_rules import AnatomyRules
from hstf.method.plr.scan_quality import QualityModel
from hstf.runtime.documents import Document, Part
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.files import read_json, sha256_file, write_text
from hstf.scoring.averages import Statistics
from hstf.scoring.round_choice import RoundChoice
from hstf.scoring.significance import Interval

FORMAT = 5
"""Version of the format of the folder."""
WITH_QUALITY = 5
"""The first version with the calibration of predicted Dice."""
WITHOUT_DIGESTS = 2
"""The last version without ``SHA256SUMS``."""
READ_FORMATS = (WITHOUT_DIGESTS, 3, 4, FORMAT)
"""Versions that can be read. Before version 4, models have no intensities of training scans; before
version 5, they have no calibration of predicted Dice."""
MODEL_FILE = "model.json"
DIGEST_FILE = "SHA256SUMS"
DIGEST_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<name>\S.*)")
DIGEST = r"^[0-9a-f]{64}$"
LabelValue = Annotated[int, Field(ge=0, le=255)]


class ModelMember(Part):
    """An ensemble member."""

    name: Annotated[str, Field(pattern=f"^{CASE_ID.pattern}$")]
    """Name without folders: the weights are in ``members/<name>.pt``."""
    sha256: Annotated[str, Field(pattern=DIGEST)]
    """SHA-256 of its file."""
    trained_as: Annotated[str, Field(pattern=f"{DIGEST}|^$")]
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
    """Training steps of the round."""
    cases: dict[str, int]
    """Number of cases of each split, and of pseudo-labels of each source."""
    packages: dict[str, str]
    """Versions."""
    scores: ModelScores | None
    """None if the model is not evaluated."""
    choice: RoundChoice | None = None
    """Why this round was exported; None in models of format 4 and earlier."""
    method: str = ""
    """Name of the method; empty in models of earlier versions."""
    learns_from: str = ""
    """What the round learned from in addition to the labelled cases; empty as above."""


class ExportedModel(Document):
    """``model.json``: what prediction needs, and where the model comes from."""

    stage: ClassVar[str] = "export"

    format: int
    experiment: str
    members: list[ModelMember] = Field(min_length=1)
    labels: dict[str, LabelValue] = Field(min_length=2)
    """File value of each class, in the order of the network's outputs."""
    modalities: dict[str, Modality] = Field(min_length=1)
    """Modality of each image, in the order of the channels."""
    predict: PredictConfig
    preprocess: PreprocessConfig
    plan: Plan
    intensities: dict[str, IntensityRange] = Field(default_factory=dict)
    """Intensities of the training scans, by modality: what other scans are compared with."""
    structure: AnatomyRules | None
    """Anatomy rules that segmentations are changed to obey."""
    quality: QualityModel | None = None
    """Calibration of the predicted Dice; None in models of format 4 and earlier."""
    provenance: ModelProvenance

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Check what depends on several values."""
        problems = [*name_problems(self.labels), *modality_problems(self.modalities)]
        names = [member.name for member in self.members]
        if len(set(names)) < len(names):
            problems.append("two members have the same name")
        if len(set(self.labels.values())) < len(self.labels):
            problems.append("two labels have the same value")
        if not self.intensities.keys() <= self.modalities.keys():
            problems.append("there are intensities of a modality that the model does not have")
        if len(self.plan.normalisation) != len(self.modalities):
            problems.append("the plan has another number of channels than there are modalities")
        if self.structure is not None:
            problems += _class_problems(self.structure.classes, len(self.labels))
            problems += _rule_problems(self.structure)
        if self.quality is not None:
            problems += _class_problems(self.quality.classes, len(self.labels))
            if not self.quality.dice_models.keys() <= self.quality.classes.keys():
                problems.append("there is a predicted Dice of something that is no structure")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def weights(self, folder: Path) -> list[Path]:
        """Return the weights of the members in an exported folder."""
        return [weights_path(folder, member.name) for member in self.members]


def _class_problems(structures: Mapping[str, ClassIndices], classes: int) -> list[str]:
    problems = []
    for name, indices in structures.items():
        if not indices or not all(0 <= index < classes for index in indices):
            problems.append(f"the structure {name} has classes that do not exist")
    return problems


def _rule_problems(rules: AnatomyRules) -> list[str]:
    problems = []
    for name in rules.rules.keys() - rules.classes.keys():
        problems.append(f"there is an anatomy rule for {name}, which is no structure")
    return problems


def weights_path(folder: Path, member: str) -> Path:
    """Return the weights of a member in an exported folder.

    Example:
        >>> weights_path(Path("export"), "seed_0").as_posix()
        'export/members/seed_0.pt'
    """
    return folder / "members" / f"{member}.pt"


def read_exported_model(folder: Path) -> ExportedModel:
    """Read ``model.json`` of an exported folder and check it and the weights.

    Raises:
        HstfError: if the folder has no exported model or cannot be read, if it has another format
            or values that are not plausible, or if files are missing or have changed.
    """
    try:
        return _read_exported_model(folder)
    except OSError as error:
        raise HstfError(
            f"{error.filename or folder}: cannot be read ({error.strerror}). Change the permissions"
            " of the model, or copy it."
        ) from error


def _read_exported_model(folder: Path) -> ExportedModel:
    path = folder / MODEL_FILE
    if not path.is_file():
        raise HstfError(
            f"{folder}: contains no {MODEL_FILE}."
            " Give a folder that `hstf export` wrote to --model."
        )
    content = _content(path)
    found = content.get("format") if isinstance(content, dict) else None
    if found not in READ_FORMATS:
        readable = " and ".join([", ".join(map(str, READ_FORMATS[:-1])), str(READ_FORMATS[-1])])
        raise HstfError(
            f"{path}: has format {found}, but hstf {__version__} reads the formats {readable}."
            " Export the model again."
        )
    problems = [] if found == WITHOUT_DIGESTS else changed_files(folder, [MODEL_FILE])
    if problems:
        raise join_problems(f"{folder}: is not the model that was exported.", problems)
    model = ExportedModel.load(path)
    for member in model.members:
        problems += _weight_problems(weights_path(folder, member.name), member.sha256)
    if problems:
        raise join_problems(f"{folder}: is not the model that was exported.", problems)
    return model


def _content(path: Path) -> Any:
    """Read ``model.json``.

    Raises:
        HstfError: if it cannot be read. Where a model is used, no stage can write it again.
    """
    try:
        return read_json(path)
    except HstfError as error:
        if isinstance(error.__cause__, OSError):
            raise
        raise HstfError(
            f"{path}: is damaged ({error.__cause__}). Copy the folder again."
        ) from error


def _weight_problems(path: Path, expected: str) -> list[str]:
    """Describe how the weights differ from what ``model.json`` states."""
    if not path.is_file():
        return [f"{path} is missing; copy the folder again"]
    if sha256_file(path) != expected:
        return [f"{path} differs from the file that was exported; copy the folder again"]
    return []


def write_digests(folder: Path) -> None:
    """Write ``SHA256SUMS`` of a new exported folder. ``README.md`` is left to its readers."""
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (DIGEST_FILE, "README.md"):
            lines.append(f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}\n")
    write_text(folder / DIGEST_FILE, "".join(lines))


def changed_files(folder: Path, names: list[str] | None = None) -> list[str]:
    """Describe the files of an exported folder that differ from ``SHA256SUMS``.

    Args:
        folder: the exported folder.
        names: files to check, relative to the folder; None for all that ``SHA256SUMS`` lists.

    Returns:
        Sentences without a full stop.
    """
    path = folder / DIGEST_FILE
    if not path.is_file():
        return [f"{path} is missing; copy the folder again"]
    digests = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        match = DIGEST_LINE.fullmatch(line)
        if match is None or ".." in Path(match["name"]).parts or match["name"].startswith("/"):
            return [f"{path} has a line that hstf did not write: {line[:80]!r}"]
        digests[match["name"]] = match["sha256"]
    problems = []
    for name in digests if names is None else names:
        if name not in digests:
            problems.append(f"{path} does not list {name}; copy the folder again")
        elif not (folder / name).is_file():
            problems.append(f"{folder / name} is missing; copy the folder again")
        elif sha256_file(folder / name) != digests[name]:
            problems.append(
                f"{folder / name} was changed after it was exported; copy the folder again"
            )
    return problems
