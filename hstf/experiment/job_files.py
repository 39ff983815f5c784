"""Which jobs an experiment has, and which files each of them writes.

The rules of the workflow name the same files; ``tests/workflow/test_keys.py`` compares both.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, CaseSheet, Split, read_cases
from hstf.experiment.job import Job
from hstf.experiment.layout import Layout
from hstf.experiment.overrides import Override, overrides_in_force
from hstf.experiment.schedule import Schedule

MODEL_FILES = ("model.json", "configs/metadata.json", "README.md", "SHA256SUMS")
"""Files of the exported model in addition to the weights."""
KEY_FOLDER = "keys"
"""Folder of the key files in the results of an experiment."""


class JobFiles:
    """The jobs of an experiment and their files."""

    def __init__(self, config: Config, sheet: CaseSheet | None = None) -> None:
        """Describe the jobs of ``config``; its case sheet is read when it is needed."""
        self.config = config
        self.layout = Layout.of(config)
        self.schedule = Schedule.of(config)
        self._sheet = sheet

    @cached_property
    def sheet(self) -> CaseSheet:
        """The case sheet."""
        return self._sheet if self._sheet is not None else read_cases(self.config)

    @cached_property
    def shards(self) -> dict[str, list[Case]]:
        """All cases by shard."""
        shards: dict[str, list[Case]] = {}
        for split in Split:
            shards |= self.sheet.shards(split, self.config.shard_size)
        return shards

    def shards_of(self, split: Split) -> list[str]:
        """Return the names of the shards of a split."""
        return [name for name in self.shards if name.startswith(f"{split}_")]

    @cached_property
    def external(self) -> list[str]:
        """Names of the external teachers that are used in some round."""
        rounds = range(1, self.schedule.last + 1)
        names = [name for number in rounds for name in self.external_in(number)]
        return [name for name in self.config.teacher.external if name in names]

    @property
    def prompted(self) -> list[str]:
        """Those that get the segmentation of the ensemble, and predict anew in each round."""
        teachers = self.config.teacher.external
        return [name for name in self.external if teachers[name].prompt == "label"]

    def external_in(self, number: int) -> list[str]:
        """Return the names of the external teachers of a round."""
        return self.schedule.external(self.config, number)

    def has(self, job: Job) -> bool:
        """Return whether the experiment has a job and does not reuse its results."""
        number = job.round or 0
        if not 0 <= number <= self.schedule.last or self.root(job) != self.layout.root:
            return False
        if job.stage == "external" and not self.external:
            return False
        if job.rule.endswith("_shard"):
            return job.part in self.shards
        if job.rule == "pretrain":
            return self.config.pretrain.is_on
        return not job.part or job.part in self.schedule.trained(number)

    def root(self, job: Job) -> Path:
        """Return the results that a job belongs to: of this experiment, or of a reused one."""
        if job.stage in ("check", "plan", "preprocess"):
            return self.layout.data
        if job.stage in ("pretrain", "warmup", "out_of_fold") or (
            job.stage == "evaluate" and job.round == 0
        ):
            return self.layout.warmup
        return self.layout.root

    def record(self, job: Job) -> Path:
        """Return the file with what the results of a job were made from."""
        return self.root(job) / "records" / f"{job.name}.json"

    def key(self, job: Job) -> Path:
        """Return the file that makes Snakemake run a job whose results are not up to date."""
        return self.root(job) / KEY_FOLDER / f"{job.name}.json"

    @cached_property
    def overrides(self) -> dict[int, Mapping[str, Override]]:
        """The manual overrides that are in force in each round."""
        cases = {case.case_id for case in self.sheet.of(Split.UNLABELLED)}
        rounds = range(1, self.schedule.last + 1)
        layout = self.layout
        return {r: overrides_in_force(layout, self.schedule, r, cases) for r in rounds}

    def shard_overrides(self, job: Job) -> list[Override]:
        """Return the overrides of the cases of a shard."""
        in_force = self.overrides[job.round or 0]
        cases = self.shards[job.part]
        return [in_force[case.case_id] for case in cases if case.case_id in in_force]

    def outputs(self, job: Job) -> list[Path]:
        """Return the files of a job that its rule declares."""
        layout = self.layout
        number = job.round or 0
        match job.rule:
            case "check":
                return [layout.check]
            case "plan":
                return [layout.fingerprint, layout.plan]
            case "preprocess_shard":
                return [layout.preprocessed_table(job.part)]
            case "pretrain":
                return self._pretraining_files()
            case "warmup_member" | "student_member":
                return [layout.weights(number, job.part), layout.history(number, job.part)]
            case "out_of_fold":
                return self._out_of_fold_files()
            case "calibrate":
                return [layout.calibration]
            case "external_shard":
                return [layout.external_table(name, job.part) for name in self.external]
            case "external_prompted_shard":
                names = self.prompted
                return [layout.external_table(name, job.part, number) for name in names]
            case "external_weights":
                return [layout.external_weights]
            case "calibrate_round":
                return [layout.round_calibration(number)]
            case "monitor_round":
                return [layout.monitor(number)]
            case "teacher_shard":
                return [layout.teacher_table(number, job.part)]
            case "lesions_round":
                return [layout.lesion_bounds(number)]
            case "refine_shard":
                return [layout.pseudo_labels_table(number, job.part)]
            case "refine_table":
                return self._refine_tables(number)
            case "labels_shard":
                return [layout.labels_shard_table(number, job.part)]
            case "labels_table":
                return [layout.labels_table(number)]
            case "evaluate_shard":
                return [layout.evaluation_table(number, job.part)]
            case "evaluate_table":
                return self._evaluation_tables(number)
            case "evaluate_validation":
                return [layout.validation_table(number), layout.validation_summary(number)]
            case "evaluate_scales":
                return [layout.evaluation_scales(number)]
            case "report":
                return self._report_files()
            case "track_round":
                return [layout.track(number)]
            case "export":
                return self._exported_files()
            case "compare":
                return self._comparison_files()
        raise ValueError(f"unknown rule {job.rule}")

    def _pretraining_files(self) -> list[Path]:
        layout = self.layout
        return [layout.pretrained_weights, layout.pretraining_history, layout.pretraining_examples]

    def _report_files(self) -> list[Path]:
        layout = self.layout
        return [
            layout.report,
            layout.itksnap_labels,
            layout.slicer_colours,
            layout.provenance,
            layout.manifest,
            layout.rounds_table,
        ]

    def _out_of_fold_files(self) -> list[Path]:
        tables = [self.layout.out_of_fold_table(fold) for fold in self.schedule.held_out]
        return [*tables, self.layout.anatomy_rules]

    def _refine_tables(self, number: int) -> list[Path]:
        tables = [self.layout.refine(number)]
        if self.config.lesions:
            tables.append(self.layout.lesions(number))
        return tables

    def _evaluation_tables(self, number: int) -> list[Path]:
        layout = self.layout
        return [
            layout.evaluation_cases(number),
            layout.evaluation_members(number),
            layout.evaluation_lesions(number),
            layout.evaluation_pseudo_labels(number),
            layout.evaluation_summary(number),
        ]

    def _exported_files(self) -> list[Path]:
        folder = self.layout.export
        # Not the weights: which members there are depends on the round that is exported. Their
        # SHA-256 is in SHA256SUMS.
        return [folder / name for name in MODEL_FILES]

    def _comparison_files(self) -> list[Path]:
        names = ("cells.csv", "table.csv", "table.md", "compare.html")
        return [self.layout.compare / name for name in names]
