"""What a job reads in addition to the results of other jobs: files of people, and plain values."""

import json
import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hstf.config.external import PLACEHOLDER, ExternalTeacher
from hstf.experiment.cases import Case, CaseSheet, Split
from hstf.experiment.comparison import cells_of, control_of, control_results, scaled_cases
from hstf.experiment.dependencies import stage_parameters
from hstf.experiment.job import Job
from hstf.experiment.jobs import Jobs
from hstf.experiment.layout import Layout
from hstf.experiment.schedule import is_fold


@dataclass(frozen=True)
class Source:
    """A file that a person or another program wrote."""

    name: str
    """What the file is for the job, such as ``case_007/label``."""
    path: Path


# --- files
# --------------------------------------------------------------------------


def sources_of(jobs: Jobs, job: Job) -> list[Source]:
    """Return the scans, labels and overrides that a job reads."""
    match job.rule:
        case "check":
            return list(_training_files(jobs.sheet))
        case "warmup_member" | "student_member":
            return list(_initial_weights(jobs, job))
        case "labels_shard":
            return list(_corrected_labels(jobs, job))
        case "external_shard":
            return list(_external_files(jobs, jobs.external, jobs.shards[job.part]))
        case "external_prompted_shard":
            return list(_external_files(jobs, jobs.prompted, jobs.shards[job.part]))
        case "external_weights":
            return list(_external_files(jobs, jobs.external, ()))
        case "evaluate_shard":
            return list(_test_files(jobs.shards[job.part]))
        case "evaluate_scales":
            return list(_test_files(_scaled_cases(jobs)))
        case "evaluate_table":
            return _withheld_labels(jobs, job.round or 0)
        case "compare":
            return list(_cell_results(jobs))
        case "report":
            return list(_control_results(jobs))
    return []


def _training_files(sheet: CaseSheet) -> Iterator[Source]:
    for case in sheet.cases:
        if case.split.is_training:
            yield from _images(case)
        if case.split is Split.LABELLED:
            yield Source(f"{case.case_id}/label", case.training_label)


def _test_files(cases: Iterable[Case]) -> Iterator[Source]:
    for case in cases:
        yield from _images(case)
        yield from _references([case])


def _references(cases: Iterable[Case]) -> Iterator[Source]:
    for case in cases:
        if case.reference is not None:
            yield Source(f"{case.case_id}/label", case.reference)


def _images(case: Case) -> Iterator[Source]:
    for channel, path in enumerate(case.images):
        yield Source(f"{case.case_id}/image_{channel}", path)


def _initial_weights(jobs: Jobs, job: Job) -> Iterator[Source]:
    """Yield the file ``network.start``, if a training starts from it."""
    start = jobs.config.network.start
    if start is not None and jobs.starts_from_file(job):
        yield Source("network.start", Path(start))


def _corrected_labels(jobs: Jobs, job: Job) -> Iterator[Source]:
    for override in jobs.shard_overrides(job):
        if override.file is not None:
            yield Source(f"{override.case_id}/corrected", override.file)


def _external_files(jobs: Jobs, names: Iterable[str], cases: Iterable[Case]) -> Iterator[Source]:
    """Yield the files of external teachers that people or other programs wrote."""
    for name in names:
        teacher = jobs.config.teacher.external[name]
        for path in program_files(teacher):
            yield Source(f"{name}/{path}", path)
        if teacher.files:
            for case in cases:
                path = prediction_file(teacher, case)
                if path.is_file():
                    yield Source(f"{name}/{case.case_id}", path)


def prediction_file(teacher: ExternalTeacher, case: Case) -> Path:
    """Return the prediction of a case that was made elsewhere."""
    return file_of_teacher(teacher, case.case_id)


def file_of_teacher(teacher: ExternalTeacher, case_id: str) -> Path:
    """Do the same with the name of the case only, which may no longer be in the case sheet."""
    return Path(teacher.files.replace("{case}", case_id))


def program_files(teacher: ExternalTeacher) -> list[Path]:
    """Return the files on which the predictions of an external teacher depend.

    These are ``depends_on``, ``label_map``, and the files that its command names, also as
    ``--weights=FILE`` and within a script of ``bash -c``. A program without a path may be another
    one on each machine; its SHA-256 is in the table only.
    """
    words = [word for word in teacher.words if PLACEHOLDER.search(word) is None]
    if words and "/" not in words[0]:
        del words[0]
    # A script of 'bash -c' has placeholders and files in one word.
    for script in [word for word in teacher.words if " " in word]:
        words += [word for word in _split(script) if PLACEHOLDER.search(word) is None]
    words += [word.partition("=")[2] for word in words if "=" in word]
    # Unlike Path.is_file, this accepts a script that is too long for the name of a file.
    files = [Path(word) for word in words if os.path.isfile(word)]  # noqa: PTH113
    files += [Path(name) for name in teacher.depends_on]
    if teacher.label_map is not None:
        files.append(Path(teacher.label_map))
    return list(dict.fromkeys(files))


def _split(script: str) -> list[str]:
    """Split a script into words; a script with an odd number of quotes has none."""
    try:
        return shlex.split(script)
    except ValueError:
        return []


def _scaled_cases(jobs: Jobs) -> list[Case]:
    if jobs.config.compare is None:
        return []
    return scaled_cases(jobs.config.compare, jobs.sheet.of(Split.TEST))


def _withheld_labels(jobs: Jobs, number: int) -> list[Source]:
    if not jobs.schedule.has_pseudo_labels(number):
        return []
    return list(_references(jobs.sheet.of(Split.UNLABELLED)))


def _cell_results(jobs: Jobs) -> Iterator[Source]:
    for cell in cells_of(jobs.config):
        for path in cell.results:
            yield Source(f"{cell.name}/{path.parent.parent.name}/{path.name}", path)


def _control_results(jobs: Jobs) -> Iterator[Source]:
    control = control_of(jobs.config, jobs.sheet)
    if control is None:
        return
    layout = Layout.of(control.config)
    for path in control_results(layout, jobs.schedule.last, jobs.sheet):
        yield Source(f"control/{path.name}", path)


# --- values
# --------------------------------------------------------------------------


def facts_of(jobs: Jobs, job: Job) -> dict[str, Any]:
    """Return what the results of a job depend on in addition to files, as JSON values.

    These are version and configuration of the stage, and the rows of the case sheet and of the
    table of decisions that it uses. Rows are lists, because their order counts, too.
    """
    number = jobs.schedule.last if job.rule == "export" else job.round or 0
    facts = {
        "parameters": stage_parameters(jobs.config, job.stage, number),
        **_rows_of_tables(jobs, job),
        **_parameters_of_rule(jobs, job),
    }
    # What JSON cannot hold (tuples) would differ from what is read back.
    return json.loads(json.dumps(facts))


def _rows_of_tables(jobs: Jobs, job: Job) -> dict[str, Any]:
    """Return the rows of the case sheet and the decisions that a job uses."""
    match job.rule:
        case "check":
            return {"modalities": list(jobs.config.modalities), "cases": _sheet_rows(jobs.sheet)}
        case "warmup_member" | "out_of_fold" | "external_weights":
            return {"patients": _patients(jobs, Split.LABELLED)}
        case "student_member":
            return _patients_of_student(jobs, job.round or 0)
        case "pretrain":
            labelled = _patients(jobs, Split.LABELLED)
            return {"patients": [*labelled, *_patients(jobs, Split.UNLABELLED)]}
        case "preprocess_shard" | "refine_shard" | "external_shard" | "external_prompted_shard":
            return {"cases": _names(jobs, job)}
        case "lesions_round":
            return {"cases": [case.case_id for case in jobs.sheet.of(Split.UNLABELLED)]}
        case "monitor_round":
            return {"monitored": [case.case_id for case in jobs.monitored_cases]}
        case "teacher_shard":
            return {"cases": _names(jobs, job), **_dealt_patients(jobs, job)}
        case "labels_shard":
            return {"cases": _names(jobs, job), "overrides": _override_rows(jobs, job)}
        case "evaluate_shard":
            cases = jobs.shards[job.part]
            return {"patients": [[case.case_id, case.group, case.site] for case in cases]}
        case "report":
            return _sites(jobs)
    return {}


def _parameters_of_rule(jobs: Jobs, job: Job) -> dict[str, Any]:
    """Return values of the configuration that one rule of a stage uses and the others do not."""
    if job.rule == "refine_table":
        number = job.round or 0
        section = jobs.config.for_round(number).refine
        return {"accepted_fraction": section.accepted_fraction_in(number)}
    if job.rule == "warmup_member" and not is_fold(job.part):
        warmup = jobs.config.warmup
        return {"seed_start": warmup.seed_start, "seed_steps": warmup.steps_of_seeds}
    if job.rule == "evaluate_scales" and jobs.config.compare is not None:
        return {"scales": list(jobs.config.compare.scales)}
    return {}


def _sheet_rows(sheet: CaseSheet) -> list[list[str]]:
    """Return the rows of the labelled and unlabelled cases."""
    rows = []
    for case in sheet.cases:
        if case.split.is_training:
            label = case.label_file if case.split is Split.LABELLED else None
            rows.append([case.case_id, case.split, case.group, *case.image_files, label or ""])
    return rows


def _names(jobs: Jobs, job: Job) -> list[str]:
    return [case.case_id for case in jobs.shards[job.part]]


def _patients(jobs: Jobs, split: Split) -> list[list[str]]:
    return [[case.case_id, case.group] for case in jobs.sheet.of(split)]


def _sites(jobs: Jobs) -> dict[str, Any]:
    """Return the sites of the unlabelled cases, which no stage before the report reads."""
    sites = [[case.case_id, case.site] for case in jobs.sheet.of(Split.UNLABELLED) if case.site]
    return {"sites": sites} if sites else {}


def _patients_of_student(jobs: Jobs, number: int) -> dict[str, Any]:
    others = []
    if jobs.schedule.learns_from(number) != "labels":
        others = _patients(jobs, Split.UNLABELLED)
    rows: dict[str, Any] = {
        "patients": _patients(jobs, Split.LABELLED),
        "other_patients": others,
    }
    if jobs.schedule.rounds[number].is_cross_fitted:
        rows["dealt_among"] = jobs.schedule.members(number)
    return rows


def _dealt_patients(jobs: Jobs, job: Job) -> dict[str, Any]:
    """Return the patients that cross-fitting divides among the members of the earlier round."""
    if not jobs.schedule.rounds[(job.round or 0) - 1].is_cross_fitted:
        return {}
    return {"patients": _patients(jobs, Split.UNLABELLED)}


def _override_rows(jobs: Jobs, job: Job) -> list[dict[str, str]]:
    rows = []
    for override in jobs.shard_overrides(job):
        row = {key: str(value) for key, value in asdict(override).items()}
        del row["file"]  # a source: its content counts, not its name
        rows.append(row)
    return rows
