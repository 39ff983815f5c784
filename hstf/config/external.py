"""``teacher.external:``, other models that predict beside the ensemble."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from hstf.config.section import FileName, Section

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
IMAGE = "image"
"""The placeholder of the image; ``image:NAME`` is that of one modality."""
OTHER_PLACEHOLDERS = ("images", "output", "folder", "label", "case")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TheirLabel = int | str
"""A value in the output of an external teacher, or its name in the label map of the model."""


class ExternalTeacher(Section):
    """Models of others by name: ``{name: {command: ..., labels: ...}}``. Each has these keys.

    Exactly one of ``command``, ``function`` and ``files`` is set.
    """

    command: str = ""
    """Program with its arguments. It is started once for each case, without a shell. Placeholders:
    ``{image}`` (``{image:t1}`` for one of several modalities) or ``{images}``, a folder with the
    image of each modality; ``{output}``, the file to write, or ``{folder}``, a folder for one
    volume; ``{label}`` and ``{case}``."""
    function: str = ""
    """Instead of a command: ``package.module:function`` in the Python environment of HSTF. It is
    called as ``function(images, output, label)`` in a process of its own; ``images`` has the path
    of each modality."""
    files: FileName = ""
    """Instead of a command: predictions that exist already, such as ``nnunet/{case}.nii.gz``, or
    ``nnunet/{case}.npz`` with ``probabilities: true``."""
    labels: dict[str, tuple[TheirLabel, ...]] = {}
    """For each class (or region) that the model knows, its values in the output, or their names in
    ``label_map``. All other values are background. A class that is not named here keeps the
    probability of the ensemble."""
    label_map: FileName | None = None
    """JSON file with the names of the values: ``dataset.json`` of nnU-Net, or ``{name: value}``."""
    probabilities: bool = False
    """The output has a probability for each value: a NIfTI file with four axes, or a file ``.npz``
    of nnU-Net."""
    prompt: Literal["none", "label"] = "none"
    """``label``: the model gets the present segmentation of the ensemble as ``{label}``."""
    rounds: tuple[int, ...] = ()
    """Rounds in which the model is a teacher. Empty: all rounds."""
    timeout: float = Field(30, gt=0)
    """Minutes after which the command of a case is killed."""
    gpu: bool = True
    """Whether the command may use a GPU. It gets one, as the networks do."""
    version_command: str = ""
    """Prints the version of the model, which is kept in the table of the cases."""
    depends_on: tuple[FileName, ...] = ()
    """Further files, such as weights: if one of them changes, all cases are predicted again. Files
    that the command names are such files anyway."""

    @property
    def words(self) -> list[str]:
        """The command as a list of arguments."""
        return shlex.split(self.command)

    @property
    def placeholders(self) -> set[str]:
        """Names of the placeholders of the command."""
        return set(PLACEHOLDER.findall(self.command))

    def is_used_in(self, number: int) -> bool:
        """Return whether the model is a teacher in a round."""
        return not self.rounds or number in self.rounds

    def is_used_with(self, other: Self) -> bool:
        """Return whether both models are teachers in the same round, at least once."""
        if not self.rounds or not other.rounds:
            return True
        return not set(self.rounds).isdisjoint(other.rounds)

    @field_validator("labels", mode="before")
    @classmethod
    def _as_lists(cls, labels: Any) -> Any:
        """Accept a single value instead of a list."""
        if not isinstance(labels, Mapping):
            return labels
        listed = {}
        for name, values in labels.items():
            is_single = isinstance(values, int | str)
            listed[name] = (values,) if is_single else values
            if any(isinstance(value, bool) for value in listed[name] or ()):
                raise ValueError(f"{name} is true or false, expected values of the output")
            if not listed[name]:
                raise ValueError(f"{name} has no value of the output")
        return listed

    @field_validator("rounds")
    @classmethod
    def _check_rounds(cls, rounds: tuple[int, ...]) -> tuple[int, ...]:
        if any(number < 1 for number in rounds):
            raise ValueError(f"pseudo-labels belong to rounds from 1, found {list(rounds)}")
        return rounds

    @field_validator("command", "version_command")
    @classmethod
    def _check_words(cls, command: str) -> str:
        try:
            shlex.split(command)
        except ValueError as error:
            raise ValueError(f"cannot be split into arguments ({error})") from None
        return command

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        given = [name for name in ("command", "function", "files") if getattr(self, name)]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"expected one of command, function and files, found {found}")
        if not self.labels:
            raise ValueError("labels is empty, expected the values of at least one class")
        if self.command:
            self._check_placeholders()
        if self.function and not re.fullmatch(r"[\w.]+:\w+", self.function):
            raise ValueError(f"function is {self.function!r}, expected package.module:function")
        if self.files and PLACEHOLDER.findall(self.files) != ["case"]:
            raise ValueError(f"files is {self.files!r}, expected a name with {{case}} once")
        if self.files and self.prompt == "label":
            raise ValueError("prompt: label needs a command or a function, files exist already")
        if self.files.endswith(".npz") and not self.probabilities:
            raise ValueError("files .npz have probabilities: set probabilities: true")
        return self

    def _check_placeholders(self) -> None:
        found = self.placeholders
        unknown = [
            name
            for name in sorted(found)
            if name not in (IMAGE, *OTHER_PLACEHOLDERS) and not name.startswith(f"{IMAGE}:")
        ]
        if unknown:
            raise ValueError(
                f"the command has {{{unknown[0]}}}, expected {{image}}, {{image:MODALITY}},"
                " {images}, {output}, {folder}, {label} or {case}"
            )
        kinds = {name.partition(":")[0] for name in found}
        if not kinds & {"output", "folder"} or not kinds & {IMAGE, "images"}:
            raise ValueError("the command needs {image} (or {images}) and {output} (or {folder})")
        if ("label" in found) != (self.prompt == "label"):
            raise ValueError("{label} in the command and prompt: label belong together")


ExternalTeachers = Mapping[str, ExternalTeacher]
"""External teachers by name."""


def external_problems(
    teachers: ExternalTeachers,
    classes: Sequence[str],
    regions: Mapping[str, Sequence[str]],
    modalities: Sequence[str],
) -> list[str]:
    """Describe what is wrong with external teachers.

    Args:
        teachers: the teachers; none is valid.
        classes: names of the foreground classes.
        regions: classes of each region.
        modalities: names of the modalities.

    Returns:
        Sentences without a full stop.
    """
    found: list[str] = []
    for name, teacher in teachers.items():
        problems = []
        if not NAME.fullmatch(name):
            problems.append("is the name of a folder: use letters, digits, '.', '_' and '-'")
        problems += _label_problems(teacher, classes, regions)
        problems += _modality_problems(teacher, modalities)
        found += [f"teacher.external {name}: {problem}" for problem in problems]
    return found


def _label_problems(
    teacher: ExternalTeacher, classes: Sequence[str], regions: Mapping[str, Sequence[str]]
) -> list[str]:
    problems = []
    owner: dict[str, str] = {}
    for name in teacher.labels:
        if name not in classes and name not in regions:
            known = ", ".join([*classes, *regions])
            problems.append(f"labels has {name!r}, expected some of {known}")
            continue
        for class_name in members_of(name, classes, regions):
            other = owner.setdefault(class_name, name)
            if other != name:
                problems.append(
                    f"labels has the class {class_name} in {other} and in {name}: name classes or"
                    " regions that do not overlap"
                )
    values = [value for values in teacher.labels.values() for value in values]
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        problems.append(f"labels has {', '.join(repeated)} for more than one class")
    if any(isinstance(value, str) for value in values) and teacher.label_map is None:
        problems.append("labels has names of values: give the file of the names, label_map")
    if any(isinstance(value, int) and value < 0 for value in values):
        problems.append("labels has a negative value")
    return problems


def members_of(
    name: str, classes: Sequence[str], regions: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return the classes that a key of ``labels`` stands for: itself, or those of a region."""
    return [name] if name in classes else list(regions[name])


def _modality_problems(teacher: ExternalTeacher, modalities: Sequence[str]) -> list[str]:
    found = teacher.placeholders
    problems = []
    if IMAGE in found and len(modalities) > 1:
        problems.append(
            f"the command has {{image}}, but there are {len(modalities)} modalities: name each,"
            f" such as {{image:{modalities[0]}}}"
        )
    for placeholder in sorted(found):
        modality = placeholder.removeprefix(f"{IMAGE}:")
        if placeholder.startswith(f"{IMAGE}:") and modality not in modalities:
            problems.append(
                f"the command has {{{placeholder}}}, expected one of {', '.join(modalities)}"
            )
    return problems
