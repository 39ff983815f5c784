"""The order of the jobs of an experiment: which jobs come before each of them.

The rules of the workflow have the same inputs; ``tests/workflow/test_keys.py`` compares both. Here
they are needed as plain values, because what a result was made from is recorded and compared, see
:mod:`hstf.experiment.records`.
"""

from functools import cached_property

from hstf.experiment.cases import Case, Split, evenly_spaced
from hstf.experiment.job import Job, training
from hstf.experiment.job_files import JobFiles
from hstf.experiment.schedule import start_of_seed


class Jobs(JobFiles):
    """All jobs of an experiment, and which of them come before others."""

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
        return [training(number, member) for member in self.schedule.members(number)]

    def trainings(self, number: int) -> list[Job]:
        """Return all trainings of a round, also those for the calibration."""
        return [training(number, member) for member in self.schedule.trained(number)]

    def _preprocessed(self, split: Split) -> list[Job]:
        return [Job("preprocess_shard", part=name) for name in self.shards_of(split)]

    def _of_shards(self, rule: str, number: int, split: Split) -> list[Job]:
        return [Job(rule, number, name) for name in self.shards_of(split)]

    def _before_warmup(self, member: str) -> list[Job]:
        jobs = [Job("plan"), *self._preprocessed(Split.LABELLED)]
        start = start_of_seed(self.config.warmup, member)
        earlier = self._pretraining if start is None else [training(0, start)]
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
