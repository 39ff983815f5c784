"""The whole configuration of an experiment."""

import difflib
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from hstf.config.check import CheckConfig
from hstf.config.compare import CompareConfig
from hstf.config.evaluate import EvaluateConfig, PredictConfig
from hstf.config.methods import METHODS, Method
from hstf.config.network import NetworkConfig
from hstf.config.phantom import PhantomConfig
from hstf.config.plan import PlanConfig
from hstf.config.preprocess import PreprocessConfig
from hstf.config.refine import CalibrateConfig, RefineConfig
from hstf.config.regions import region_faults
from hstf.config.report import ReportConfig
from hstf.config.reuse import ReuseConfig
from hstf.config.section import Section
from hstf.config.teacher import TeacherConfig
from hstf.config.track import TrackConfig
from hstf.config.training import StudentConfig, WarmupConfig

IGNORE = "ignore"
BACKGROUND = "background"
Modality = Literal["mr", "ct", "pet", "us", "other"]


class Config(Section):
    """An experiment: its scans, its labels, its rounds, and a section for each stage."""

    method: Method = "hstf"
    """One of the methods below. What it sets holds over files and command line."""
    experiment: str = "demo"
    """Name of the experiment; its files lie in ``<output>/<experiment>/``."""
    output: str = Field("results", pattern=r"^[^{}]+$")
    """Folder of all experiments, relative to the working directory."""
    cases: str = "config/demo/cases.csv"
    """The case sheet: case_id, image columns, label, split, and optionally group and site."""
    labels: dict[str, int] = {"background": 0, "foreground": 1}
    """Name and file value of each class. ``background`` is 0 unless given. ``ignore`` marks voxels whose class is unknown,
    such as all beside scribbles: nothing is learned or measured there."""
    regions: dict[str, tuple[str, ...]] = {}
    """Overlapping regions and the classes of each: ``{whole_tumour: [necrosis, oedema, enhancing]}``. They are trained with
    a sigmoid head for each, judged and scored in place of classes, and written as one label map. Every class is in a
    region, and no two classes are in the same ones. None: each class by itself."""
    lesions: tuple[str, ...] = ()
    """Classes, or regions where there are any, that are lesions: a case may have any number of them, or none. Each component
    is judged by itself."""
    withheld_labels: bool = False
    """Unlabelled cases that have a label are learned from as labelled ones: the ceiling of a benchmark, never a result."""
    modalities: dict[str, Modality] = {"image": "mr"}
    """Image columns of the case sheet, in channel order, and what each is: mr, ct, pet, us or other."""
    seed: int = Field(0, ge=0)
    """Seed of everything random."""
    rounds: int = Field(2, ge=0)
    """Rounds of self-training after the warm-up."""
    rounds_overrides: dict[int, dict[str, Any]] = {}
    """Sections that differ in a round: ``{2: {refine: {...}}}``. All other keys stay as they are."""
    shard_size: int = Field(100, ge=1)
    """Cases that one job of a per-case stage handles."""
    overrides: str | None = None
    """Folder of a person's corrections: ``round_<r>/<case_id>.nii.gz``, in which what is to be ignored has no weight, and
    ``decisions.csv``; null: ``overrides/<experiment>``."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks run; auto takes a GPU when there is one."""

    check: CheckConfig = CheckConfig()
    plan: PlanConfig = PlanConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    network: NetworkConfig = NetworkConfig()
    warmup: WarmupConfig = WarmupConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    teacher: TeacherConfig = TeacherConfig()
    refine: RefineConfig = RefineConfig()
    student: StudentConfig = StudentConfig()
    predict: PredictConfig = PredictConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    track: TrackConfig = TrackConfig()
    phantom: PhantomConfig | None = None
    reuse: ReuseConfig = ReuseConfig()
    compare: CompareConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _method_has_the_last_word(cls, raw: Any) -> Any:
        from hstf.config.load import merge

        method = raw.get("method") if isinstance(raw, Mapping) else None
        preset = METHODS.get(method) if isinstance(method, str) else None  # type: ignore[call-overload]
        return merge(raw, preset.overrides) if preset else raw

    @field_validator("method", mode="before")
    @classmethod
    def _known_method(cls, name: Any) -> Any:
        if name in METHODS:
            return name
        near = difflib.get_close_matches(str(name), METHODS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no method {name!r}.{hint} There are {', '.join(METHODS)}")

    @model_validator(mode="after")
    def _cross_teaching_has_two_networks(self) -> Self:
        if self.student.objective == "cross_teaching" and self.network.name != "pair":
            raise ValueError(
                "student.objective cross_teaching needs two networks: set network.name to pair"
            )
        return self

    @field_validator("experiment")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(
                f"experiment {name!r} names a folder: use letters, digits, '.', '_' and '-'"
            )
        return name

    @field_validator("labels")
    @classmethod
    def _background_first(cls, labels: dict[str, int]) -> dict[str, int]:
        ordered = {BACKGROUND: labels.get(BACKGROUND, 0)} | labels
        if len(set(ordered.values())) < len(ordered):
            raise ValueError(f"labels share a value: {ordered}")
        if len(ordered.keys() - {IGNORE}) < 2:
            raise ValueError("labels name no class besides the background")
        if any(not 0 <= value <= 255 for value in ordered.values()):
            raise ValueError(f"label values lie in 0..255, found {ordered}")
        return ordered

    @model_validator(mode="after")
    def _regions_are_made_of_classes(self) -> Self:
        faults = region_faults(self.regions, self.class_names[1:])
        if faults:
            raise ValueError(f"regions: {'; '.join(faults)}")
        return self

    @model_validator(mode="after")
    def _lesions_are_structures(self) -> Self:
        unknown = [name for name in self.lesions if name not in self.structures]
        if unknown:
            kind = "regions" if self.regions else "classes"
            raise ValueError(
                f"lesions name {', '.join(unknown)}, expected some of the {kind} {', '.join(self.structures)}"
            )
        return self

    @model_validator(mode="after")
    def _rounds_overrides_are_valid(self) -> Self:
        for number in self.rounds_overrides:
            self.for_round(number)
        return self

    @model_validator(mode="after")
    def _cross_fitted_students_keep_their_parts(self) -> Self:
        students = [self.for_round(number).student for number in range(1, self.rounds)]
        for number, (before, student) in enumerate(pairwise(students), start=2):
            same = (student.members, student.cross_fit) == (before.members, before.cross_fit)
            if student.members > 1 and student.cross_fit and student.start == "warmup" and not same:
                raise ValueError(
                    f"round {number} cross-fits {student.members} members that start from those of round {number - 1}, which"
                    " have learned from other parts of the scans: use student.members and student.cross_fit alike in both,"
                    " or student.start: scratch"
                )
        return self

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, background first; the index is the class index of arrays and logits."""
        return [name for name in self.labels if name != IGNORE]

    @property
    def class_values(self) -> list[int]:
        """File value of each class, in the order of :attr:`class_names`."""
        return [self.labels[name] for name in self.class_names]

    @property
    def structures(self) -> dict[str, tuple[int, ...]]:
        """Class indices of each structure that is judged and scored: of a region, or of each class where there are none."""
        names = self.class_names
        regions = self.regions or {name: (name,) for name in names[1:]}
        return {name: tuple(sorted(map(names.index, members))) for name, members in regions.items()}

    @property
    def structure_kind(self) -> str:
        """What people call a structure."""
        return "region" if self.regions else "class"

    @property
    def heads(self) -> tuple[tuple[int, ...], ...]:
        """Class indices of each sigmoid head of the network; none: it has a softmax over the classes."""
        return tuple(self.structures.values()) if self.regions else ()

    @property
    def ignore_value(self) -> int | None:
        """File value of voxels to leave out of training and scores, if there is one."""
        return self.labels.get(IGNORE)

    def for_round(self, number: int) -> "Config":
        """The configuration of round ``number``: ``rounds_overrides`` merged over the sections."""
        from hstf.config.load import merge, validate

        override = self.rounds_overrides.get(number)
        if not override:
            return self
        plain = self.model_dump(mode="json", exclude={"rounds_overrides"})
        unknown = sorted(override.keys() - ROUND_SECTIONS)
        if unknown:
            raise ValueError(
                f"rounds_overrides {number}: {', '.join(unknown)} cannot differ by round;"
                f" possible are {', '.join(sorted(ROUND_SECTIONS))}"
            )
        return validate(merge(plain, override), f"rounds_overrides {number}: ")


ROUND_SECTIONS = {"teacher", "refine", "student", "predict", "evaluate"}
