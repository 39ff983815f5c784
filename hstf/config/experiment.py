"""The whole configuration of an experiment."""

import difflib
import re
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from hstf.config.check import CheckConfig
from hstf.config.compare import CompareConfig
from hstf.config.evaluate import EvaluateConfig, PredictConfig
from hstf.config.export import ExportConfig
from hstf.config.external import external_problems
from hstf.config.merge import merge
from hstf.config.methods import METHODS, Method
from hstf.config.monitor import MonitorConfig
from hstf.config.names import modality_problems, name_problems, refuse_other_names
from hstf.config.network import NetworkConfig
from hstf.config.phantom import PhantomConfig
from hstf.config.plan import PlanConfig
from hstf.config.preprocess import PreprocessConfig
from hstf.config.pretrain import PretrainConfig
from hstf.config.refine import CalibrateConfig, RefineConfig
from hstf.config.regions import region_problems
from hstf.config.report import ReportConfig
from hstf.config.reuse import ReuseConfig
from hstf.config.section import FileName, FolderName, Section, restricted
from hstf.config.teacher import TeacherConfig
from hstf.config.track import TrackConfig
from hstf.config.training import StudentConfig, WarmupConfig
from hstf.config.validation import problems

MAXIMUM_CLASSES = 255
"""Maximum number of classes with the background; the class index 255 marks ignored voxels."""
IGNORE = "ignore"
BACKGROUND = "background"
Modality = Literal["mr", "ct", "pet", "us", "mask", "other"]

ROUND_SECTIONS = {"teacher", "refine", "student", "predict", "evaluate"}
"""Sections that ``rounds_overrides`` may change."""


class Config(Section):
    """An experiment: its scans, its labels, its rounds, and a section for each stage."""

    method: Method = "hstf"
    """One of the methods below. The keys that a method sets win over files and the command line."""
    experiment: str = "demo"
    """Name of the experiment. Its files are stored in ``<output>/<experiment>/``."""
    output: FolderName = Field("results", pattern=r"^[^{}]+$")
    """Folder of all experiments, relative to the working directory."""
    cases: FileName = "config/demo/cases.csv"
    """The case sheet: case_id, image columns, label, split, and optionally group and site."""
    labels: dict[str, int] = {"background": 0, "foreground": 1}
    """Name and file value of each class. ``background`` is 0 unless it is given. ``ignore`` marks
    voxels of unknown class, for instance the unmarked voxels of scribbles. Such voxels are left out
    of training and scores. A name has at most 100 visible characters, without ``;`` and ``=``."""
    regions: dict[str, tuple[str, ...]] = {}
    """Overlapping regions and the classes of each: ``{whole_tumour: [necrosis, oedema,
    enhancing]}``. The network has a sigmoid output for each region, and refinement and scores use
    regions instead of classes. Files on disk stay one label map. Each class must be in a region,
    and no two classes may be in the same regions. Empty: no regions."""
    lesions: tuple[str, ...] = ()
    """Classes that are lesions (regions, if there are any). A case may have any number of lesions
    or none. Refinement judges each connected component separately."""
    withheld_labels: bool = False
    """Use the labels of unlabelled cases for training. This is the upper bound of a benchmark,
    never a result."""
    modalities: dict[str, Modality] = {"image": "mr"}
    """Image columns of the case sheet in channel order, and the modality of each: mr, ct, pet, us,
    mask or other. A mask (organ prior, brain mask, clicks) is left as it is: not normalised, not
    interpolated by ``preprocess``, and not changed by augmentation of intensities. A column cannot
    be called case_id, label, split, group, site or plan."""
    seed: int = Field(0, ge=0)
    """Seed of all random numbers."""
    rounds: int = Field(2, ge=0)
    """Rounds of self-training after the warm-up."""
    rounds_overrides: dict[int, dict[str, Any]] = {}
    """Sections that differ in a round: ``{2: {refine: {...}}}``. All other keys stay the same."""
    shard_size: int | None = Field(None, ge=1)
    """Number of cases in one job of a stage that works case by case. null: 100, and 500 if a split
    has more than 20,000 cases."""
    overrides: FileName | None = None
    """Folder of manual overrides: ``round_<r>/<case_id>.nii.gz`` and ``decisions.csv``. Voxels with
    the value of ``ignore`` get no weight. null: ``overrides/<experiment>``."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the networks. auto uses a GPU if there is one."""

    check: CheckConfig = CheckConfig()
    plan: PlanConfig = PlanConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    network: NetworkConfig = NetworkConfig()
    pretrain: PretrainConfig = PretrainConfig()
    warmup: WarmupConfig = WarmupConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    teacher: TeacherConfig = TeacherConfig()
    refine: RefineConfig = RefineConfig()
    student: StudentConfig = StudentConfig()
    monitor: MonitorConfig = MonitorConfig()
    predict: PredictConfig = PredictConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()
    report: ReportConfig = ReportConfig()
    track: TrackConfig = TrackConfig()
    phantom: PhantomConfig | None = None
    reuse: ReuseConfig = ReuseConfig()
    compare: CompareConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _apply_method(cls, raw: Any) -> Any:
        """Merge the keys of the method over all others."""
        if not isinstance(raw, Mapping):
            return raw
        preset = METHODS.get(raw.get("method"))  # type: ignore[arg-type]
        return merge(raw, preset.keys_for(raw)) if preset is not None else raw

    @field_validator("method", mode="before")
    @classmethod
    def _check_method(cls, name: Any) -> Any:
        if name in METHODS:
            return name
        near = difflib.get_close_matches(str(name), METHODS, n=1)
        suggestion = f" Did you mean {near[0]!r}?" if near else ""
        methods = ", ".join(METHODS)
        raise ValueError(f"there is no method {name!r}.{suggestion} The methods are {methods}")

    @model_validator(mode="after")
    def _check_cross_teaching(self) -> Self:
        if self.student.objective == "cross_teaching" and self.network.name != "pair":
            raise ValueError(
                "student.objective cross_teaching needs two networks: set network.name to pair"
            )
        return self

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if self.network.start is not None and self.pretrain.is_on:
            raise ValueError(
                f"network.start is {self.network.start} and pretrain.task is {self.pretrain.task},"
                " but a training has one start: remove network.start, or set pretrain.task to none"
            )
        return self

    @field_validator("experiment")
    @classmethod
    def _check_experiment(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(
                f"experiment {name!r} is the name of a folder:"
                " use letters, digits, '.', '_' and '-'"
            )
        return name

    @field_validator("labels", "regions", "modalities", mode="before")
    @classmethod
    def _check_names(cls, content: Any) -> Any:
        if isinstance(content, Mapping):
            refuse_other_names(content)
        return content

    @field_validator("labels", mode="before")
    @classmethod
    def _check_label_values(cls, labels: Any) -> Any:
        """Refuse truth values, which would be converted to 0 and 1."""
        if isinstance(labels, Mapping):
            wrong = [name for name, value in labels.items() if isinstance(value, bool)]
            if wrong:
                raise ValueError(f"the value of {', '.join(wrong)} is true or false, not a number")
        return labels

    @field_validator("labels")
    @classmethod
    def _sort_labels(cls, labels: dict[str, int]) -> dict[str, int]:
        """Put the background first and check names and values."""
        found = name_problems(labels)
        if found:
            raise ValueError("; ".join(found))
        ordered = {BACKGROUND: labels.get(BACKGROUND, 0)} | labels
        values = list(ordered.values())
        equal = [f"{name} {value}" for name, value in ordered.items() if values.count(value) > 1]
        if equal:
            hint = "" if BACKGROUND in labels else f". {BACKGROUND!r} is 0 unless it is given"
            raise ValueError(f"two labels have the same value: {', '.join(equal)}{hint}")
        if len(ordered.keys() - {IGNORE}) < 2:
            raise ValueError("labels must name at least one class in addition to the background")
        outside = {name: value for name, value in ordered.items() if not 0 <= value <= 255}
        if outside:
            raise ValueError(
                f"label values must be between 0 and 255, found {outside}. Number the values in the"
                " label files anew. Voxels to ignore can have the value 255"
            )
        classes = len(ordered.keys() - {IGNORE})
        if classes > MAXIMUM_CLASSES:
            raise ValueError(
                f"there are {classes} classes with the background, but at most {MAXIMUM_CLASSES}"
                " are possible: one of the 256 numbers of a voxel marks voxels to ignore"
            )
        return ordered

    @field_validator("modalities")
    @classmethod
    def _check_modalities(cls, modalities: dict[str, Modality]) -> dict[str, Modality]:
        found = modality_problems(modalities)
        if not modalities:
            found = ["there is no modality: name each image column of the case sheet"]
        if found:
            raise ValueError("; ".join(found))
        return modalities

    @model_validator(mode="after")
    def _check_regions(self) -> Self:
        found = name_problems(self.regions)
        found += region_problems(self.regions, self.class_names[1:])
        if found:
            raise ValueError(f"regions: {'; '.join(found)}")
        return self

    @model_validator(mode="after")
    def _check_lesions(self) -> Self:
        unknown = [name for name in self.lesions if name not in self.structures]
        if unknown:
            kind = "regions" if self.regions else "classes"
            raise ValueError(
                f"lesions name {', '.join(unknown)}, expected some of the {kind}"
                f" {', '.join(self.structures)}"
            )
        return self

    @model_validator(mode="after")
    def _check_rounds_overrides(self) -> Self:
        for number in self.rounds_overrides:
            if self.for_round(number).teacher.external != self.teacher.external:
                raise ValueError(
                    f"rounds_overrides {number}: teacher.external cannot differ by round. Give each"
                    " external teacher its rounds, such as rounds: [1]"
                )
        return self

    @model_validator(mode="after")
    def _check_external(self) -> Self:
        found = external_problems(
            self.teacher.external, self.class_names[1:], self.regions, list(self.modalities)
        )
        if found:
            raise ValueError("; ".join(found))
        return self

    @model_validator(mode="after")
    def _check_cross_fitting(self) -> Self:
        """Refuse members that start from members with other parts of the scans."""
        students = [self.for_round(number).student for number in range(1, self.rounds)]
        for number, (previous, student) in enumerate(pairwise(students), start=2):
            is_cross_fitted = student.members > 1 and student.cross_fit
            same_members = student.members == previous.members
            same_parts = same_members and student.cross_fit == previous.cross_fit
            if is_cross_fitted and student.start == "previous_round" and not same_parts:
                raise ValueError(
                    f"round {number} cross-fits {student.members} members that start from the"
                    f" members of round {number - 1}, which have learned from other parts of the"
                    " scans. Use the same student.members and student.cross_fit in both rounds, or"
                    " student.start: scratch"
                )
        return self

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, background first. The position is the class index in arrays."""
        return [name for name in self.labels if name != IGNORE]

    @property
    def class_values(self) -> list[int]:
        """File value of each class, in the order of :attr:`class_names`."""
        return [self.labels[name] for name in self.class_names]

    @property
    def structures(self) -> dict[str, tuple[int, ...]]:
        """Class indices of each region, or of each foreground class if there are no regions."""
        names = self.class_names
        regions = self.regions or {name: (name,) for name in names[1:]}
        structures = {}
        for name, region_classes in regions.items():
            indices = [names.index(class_name) for class_name in region_classes]
            structures[name] = tuple(sorted(indices))
        return structures

    @property
    def structure_kind(self) -> str:
        """What a structure is called in texts."""
        return "region" if self.regions else "class"

    @property
    def heads(self) -> tuple[tuple[int, ...], ...]:
        """Class indices of each sigmoid output of the network; empty for a softmax."""
        return tuple(self.structures.values()) if self.regions else ()

    @property
    def ignore_value(self) -> int | None:
        """File value of voxels that are left out of training and scores, if there is one."""
        return self.labels.get(IGNORE)

    def for_round(self, number: int) -> "Config":
        """Return the configuration of round ``number``, with ``rounds_overrides`` merged into it.

        Raises:
            ValueError: if a section cannot differ by round or is not valid.
        """
        override = self.rounds_overrides.get(number)
        if not override:
            return self
        unknown = sorted(override.keys() - ROUND_SECTIONS)
        if unknown:
            raise ValueError(
                f"rounds_overrides {number}: {', '.join(unknown)} cannot differ by round."
                f" Possible are {', '.join(sorted(ROUND_SECTIONS))}"
            )
        plain = self.model_dump(mode="json", exclude={"rounds_overrides"})
        try:
            return Config.model_validate(merge(plain, override))
        except ValidationError as error:
            found = "; ".join(problems(error, Config))
            raise ValueError(f"rounds_overrides {number}: {found}") from None

    def restricted_to(self, keys: Collection[str]) -> "Config":
        """Return a copy that has only ``keys``: reading another key raises AttributeError.

        Args:
            keys: names of sections and keys; ``section.key`` for one key of a section.
        """
        return restricted(self, keys)
