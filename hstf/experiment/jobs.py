"""The jobs of an experiment: what each of them writes, and which jobs come before it.

The rules of the workflow name the same files; ``tests/workflow/test_keys.py`` compares both. Here
they are needed as plain values, because what a result was made from is recorded and compared, see
:mod:`hstf.experiment.records`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, CaseSheet, Split, evenly_spaced, read_cases
from hstf.experiment.layout import Layout
from hstf.experiment.overrides import Override, overrides_in_force
from hstf.experiment.schedule import Schedule, start_of_seed
from hstf.experiment.stage_names import stage_of_rule

MODEL_FILES = ("model.json", "configs/metadata.json", "README.md", "SHA256SUMS")
"""Files of the exported model in addition to the weights."""
KEY_FOLDER = "keys"
"""Folder of the key files in the results of an experiment."""


@dataclass(frozen=True)
class Job:
    """A job of the workflow: a rule with its wildcards."""

    rule: str
    """Name of the rule, such as ``labels_shard``."""
    round: int | None = None
    part: str = ""
    """Shard or ensemble member."""

    @property
    def stage(self) -> str:
        """The stage that the rule runs."""
        return stage_of_rule(self.rule)

    @property
    def name(self) -> str:
        """Name of the files about the job, such as ``labels.round_1.unlabelled_0``."""
        words = [self.rule.removesuffix("_shard").removesuffix("_member")]
        if self.round is not None:
            words.append(f"round_{self.round}")
        if self.part:
            words.append(self.part)
        return ".".join(words)


class Jobs:
    """All jobs of an experiment."""

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

    # --- what a job writes

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

    # --- the jobs whose results a job reads

    def before(self, job: Job) -> list[Job]:
        """Return the jobs whose results a job reads."""
        number = job.round or 0
        match job.rule:
            case "check":
                return []
            case "plan":
                return [Job("check")]
            case "preprocess_shard":
                return [Job("check"), Job("plan")]
            case "pretrain":
                unlabelled = self._preprocessed(Split.UNLABELLED)
                return [Job("plan"), *self._preprocessed(Split.LABELLED), *unlabelled]
            case "warmup_member":
                return self._before_warmup(job.part)
            case "out_of_fold":
                folds = [Job("warmup_member", 0, member) for member in self.schedule.folds]
                return [Job("plan"), *self._preprocessed(Split.LABELLED), *folds]
            case "calibrate" | "external_weights" | "calibrate_round":
                return self._before_calibrate(job.rule)
            case "external_shard" | "external_prompted_shard":
                return self._before_external(job)
            case "monitor_round":
                return self._before_monitor(number)
            case "teacher_shard":
                shard = Job("preprocess_shard", part=job.part)
                return [Job("plan"), *self.model(number - 1), shard]
            case "lesions_round":
                return self._before_lesions(number)
            case "refine_shard":
                return self._before_refine(number, job.part)
            case "refine_table":
                return self._of_shards("refine_shard", number, Split.UNLABELLED)
            case "labels_shard":
                return [
                    Job("preprocess_shard", part=job.part),
                    Job("refine_shard", number, job.part),
                    Job("refine_table", number),
                ]
            case "labels_table":
                return self._of_shards("labels_shard", number, Split.UNLABELLED)
            case "student_member":
                return self._before_student(number)
            case "evaluate_shard" | "evaluate_scales":
                return [Job("plan"), Job("out_of_fold"), *self.model(number)]
            case "evaluate_validation":
                return self._of_shards("evaluate_shard", number, Split.VALIDATION)
            case "evaluate_table":
                shards = self._of_shards("evaluate_shard", number, Split.TEST)
                return [*shards, *self._refined(number)]
            case "report":
                return self._before_report()
            case "track_round":
                return [Job("plan"), *self._results(number)]
            case "export":
                return self._before_export()
            case "compare":
                return []  # the experiments of the cells are other experiments
        raise ValueError(f"unknown rule {job.rule}")

    def model(self, number: int) -> list[Job]:
        """Return the trainings of the ensemble members of a round."""
        return [_training(number, member) for member in self.schedule.members(number)]

    def trainings(self, number: int) -> list[Job]:
        """Return all trainings of a round, also those for the calibration."""
        return [_training(number, member) for member in self.schedule.trained(number)]

    def _preprocessed(self, split: Split) -> list[Job]:
        return [Job("preprocess_shard", part=name) for name in self.shards_of(split)]

    def _of_shards(self, rule: str, number: int, split: Split) -> list[Job]:
        return [Job(rule, number, name) for name in self.shards_of(split)]

    def _before_warmup(self, member: str) -> list[Job]:
        jobs = [Job("plan"), *self._preprocessed(Split.LABELLED)]
        start = start_of_seed(self.config.warmup, member)
        earlier = self._pretraining if start is None else [_training(0, start)]
        return [*jobs, *earlier]

    @property
    def _pretraining(self) -> list[Job]:
        """The job before a training that would start from random weights."""
        return [Job("pretrain")] if self.config.pretrain.is_on else []

    def starts_from_file(self, job: Job) -> bool:
        """Return whether a training starts from the file ``network.start``."""
        if self.config.network.start is None:
            return False
        if job.rule == "warmup_member":
            return start_of_seed(self.config.warmup, job.part) is None
        if job.rule == "student_member":
            return self.config.for_round(job.round or 0).student.start == "scratch"
        return False

    # --- external teachers

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

    def _before_external(self, job: Job) -> list[Job]:
        jobs = [Job("check"), Job("preprocess_shard", part=job.part)]
        if job.rule == "external_prompted_shard":
            jobs += [Job("external_weights"), Job("teacher_shard", job.round, job.part)]
        elif job.part not in self.shards_of(Split.LABELLED):
            # A teacher without a weight does not predict the unlabelled cases.
            jobs.append(Job("external_weights"))
        elif self.prompted:
            jobs.append(Job("out_of_fold"))
        return jobs

    def _before_calibrate(self, rule: str) -> list[Job]:
        jobs = [Job("plan"), Job("out_of_fold"), *self._preprocessed(Split.LABELLED)]
        if rule != "calibrate":
            jobs += [Job("external_shard", part=name) for name in self.shards_of(Split.LABELLED)]
        if rule == "calibrate_round":
            jobs.append(Job("external_weights"))
        return jobs

    def _external_of(self, number: int, shard: str) -> list[Job]:
        """Return the jobs of external teachers whose results the refinement of a shard reads."""
        names = self.external_in(number)
        if not names:
            return []
        jobs = [Job("external_weights"), Job("external_shard", part=shard)]
        if set(names) & set(self.prompted):
            jobs.append(Job("external_prompted_shard", number, shard))
        return jobs

    def _external_results(self) -> list[Job]:
        """Return all jobs of external teachers, for the report."""
        if not self.external:
            return []
        jobs = [Job("external_weights")]
        for split in (Split.LABELLED, Split.UNLABELLED):
            jobs += [Job("external_shard", part=name) for name in self.shards_of(split)]
        for number in range(1, self.schedule.last + 1):
            if set(self.external_in(number)) & set(self.prompted):
                jobs += self._of_shards("external_prompted_shard", number, Split.UNLABELLED)
        return jobs

    def _before_refine(self, number: int, shard: str) -> list[Job]:
        jobs = [
            self._calibration(number),
            Job("preprocess_shard", part=shard),
            Job("teacher_shard", number, shard),
            *self._external_of(number, shard),
        ]
        if self.ranks_lesions(number):
            jobs.append(Job("lesions_round", number))
        compares = self.config.for_round(number).refine.previous_round
        if compares and self.schedule.has_pseudo_labels(number - 1):
            jobs.append(Job("labels_shard", number - 1, shard))
        return jobs

    def _before_lesions(self, number: int) -> list[Job]:
        preprocessed = self._preprocessed(Split.UNLABELLED)
        teachers = self._of_shards("teacher_shard", number, Split.UNLABELLED)
        external: list[Job] = []
        for shard in self.shards_of(Split.UNLABELLED):
            external += self._external_of(number, shard)
        return [self._calibration(number), *preprocessed, *teachers, *dict.fromkeys(external)]

    def _calibration(self, number: int) -> Job:
        """Return the job of the calibration of a round: of the ensemble, or of a mixture."""
        is_mixed = bool(self.external_in(number))
        return Job("calibrate_round", number) if is_mixed else Job("calibrate")

    def ranks_lesions(self, number: int) -> bool:
        """Return whether the lesions of a round are judged one by one."""
        return bool(self.config.lesions) and self.config.for_round(number).refine.judge_lesions

    def _before_student(self, number: int) -> list[Job]:
        jobs = [Job("plan"), *self._preprocessed(Split.LABELLED)]
        if self.config.for_round(number).student.start == "previous_round":
            jobs += self.model(number - 1)
        else:
            jobs += self._pretraining
        if self.schedule.learns_from(number) != "labels":
            jobs += self._preprocessed(Split.UNLABELLED)
        if self.schedule.has_pseudo_labels(number):
            jobs.append(Job("labels_table", number))
        return jobs

    def _refined(self, number: int) -> list[Job]:
        if not self.schedule.has_pseudo_labels(number):
            return []
        shards = self._of_shards("refine_shard", number, Split.UNLABELLED)
        return [Job("refine_table", number), *shards]

    def _results(self, number: int) -> list[Job]:
        jobs = self.trainings(number)
        if number == 0:
            jobs.append(Job("calibrate"))
        if self.schedule.has_pseudo_labels(number):
            jobs += [Job("refine_table", number), Job("labels_table", number)]
        return [*jobs, Job("evaluate_table", number)]

    def _before_monitor(self, number: int) -> list[Job]:
        jobs = [Job("plan"), *self._preprocessed(Split.UNLABELLED), *self.model(number)]
        if number == 0:
            return [*jobs, *self._preprocessed(Split.LABELLED)]
        jobs += [Job("monitor_round", earlier) for earlier in range(number)]
        if self.schedule.has_pseudo_labels(number):
            jobs += self._of_shards("teacher_shard", number, Split.UNLABELLED)
        return jobs

    def conditions(self, job: Job) -> list[Job]:
        """Return the jobs that decide whether a job may start, and not what it writes.

        They do not depend on ``monitor.on_collapse``: Snakemake runs a job again if the set of its
        input files has changed.
        """
        if job.rule == "teacher_shard" and self.monitored_cases:
            return [Job("monitor_round", (job.round or 0) - 1)]
        return []

    @cached_property
    def monitored_cases(self) -> list[Case]:
        """The unlabelled cases that the model of each round predicts for the stage ``monitor``.

        There are none if no round learns from unlabelled cases.
        """
        if not self.schedule.uses_unlabelled:
            return []
        return evenly_spaced(self.sheet.of(Split.UNLABELLED), self.config.monitor.cases)

    def _choice(self) -> list[Job]:
        """Return the jobs whose results decide which round is exported."""
        jobs = []
        for number in range(self.schedule.last + 1):
            if self.monitored_cases:
                jobs.append(Job("monitor_round", number))
            if self.shards_of(Split.VALIDATION):
                jobs.append(Job("evaluate_validation", number))
        return jobs

    def _before_export(self) -> list[Job]:
        jobs = [Job("plan"), Job("out_of_fold"), Job("calibrate"), *self._choice()]
        for number in range(self.schedule.last + 1):
            jobs += self.model(number)
            jobs += self._results(number)
        return list(dict.fromkeys(jobs))

    def _before_report(self) -> list[Job]:
        jobs = [Job("check"), Job("plan"), Job("calibrate"), *self._choice()]
        jobs += self._external_results()
        for number in range(self.schedule.last + 1):
            jobs += self._results(number)
        jobs += self._pretraining
        return list(dict.fromkeys(jobs))

    def with_results(self) -> list[Job]:
        """Return all jobs whose results people may find in the folder of the experiment."""
        return [*self.all(), Job("evaluate_scales", self.schedule.last), Job("compare")]

    def all(self) -> list[Job]:
        """Return all jobs that lead to the report, the model and the tracking, inputs first."""
        jobs = [Job("report"), Job("export")]
        if self.config.track.enabled:
            jobs += [Job("track_round", number) for number in range(self.schedule.last + 1)]
        ordered: dict[Job, None] = {}
        for job in jobs:
            self._add(job, ordered)
        return list(ordered)

    def _add(self, job: Job, ordered: dict[Job, None]) -> None:
        if job in ordered:
            return
        for earlier in self.before(job):
            self._add(earlier, ordered)
        ordered[job] = None


def _training(number: int, member: str) -> Job:
    return Job("student_member" if number else "warmup_member", number, member)


def job_of_command(
    stage: str, number: int | None, part: str, scales: bool = False, validation: bool = False
) -> Job:
    """Return the job that a command runs.

    Args:
        stage: the command.
        number: option ``--round``.
        part: option ``--shard`` or ``--member``; empty without them.
        scales: option ``--scales``.
        validation: option ``--validation``.
    """
    if stage == "warmup":
        return Job("warmup_member", 0, part)
    if stage == "student":
        return Job("student_member", number, part)
    if scales:
        return Job("evaluate_scales", number)
    if validation:
        return Job("evaluate_validation", number)
    if stage == "external" and number is not None:
        return Job("external_prompted_shard", number, part)
    if stage == "external" and not part:
        return Job("external_weights")
    if stage == "calibrate" and number is not None:
        return Job("calibrate_round", number)
    if stage in ("monitor", "lesions", "track"):
        return Job(f"{stage}_round", number)
    if part:
        return Job(f"{stage}_shard", number, part)
    if stage in ("refine", "labels", "evaluate"):
        return Job(f"{stage}_table", number)
    return Job(stage)
