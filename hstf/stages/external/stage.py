"""``hstf external``: models of others predict cases, and are measured on the labelled ones.

With ``--shard``, each external teacher (``teacher.external``) predicts the cases of a shard: its
program is started once for each case, or its predictions are on disk already. It predicts labelled
cases and unlabelled cases, never validation or test cases, and it gets no label. A case on which it
fails is missing in its table, with the reason, and is labelled without it.

Without ``--shard``, the predictions of the labelled cases are compared with their labels, and each
class of each teacher gets its weight (:mod:`hstf.stages.external.weights`). A teacher without a
weight does not predict the unlabelled cases.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hstf.config.external import ExternalTeacher
from hstf.experiment.cases import Case, Split, names_of
from hstf.experiment.context import StageContext
from hstf.experiment.dependencies import EXTERNAL_SPEED_KEYS
from hstf.experiment.job_inputs import prediction_file
from hstf.experiment.label_maps import values_of
from hstf.experiment.round_tables import EXTERNAL, TEACHER
from hstf.method.external_weights import ExternalWeights
from hstf.runtime.errors import HstfError
from hstf.runtime.files import make_folder
from hstf.runtime.shards import (
    CaseWork,
    digest_of,
    forget_record,
    read_shard,
    recorded_row,
    refuse_changed_files,
    run_shard,
)
from hstf.runtime.stamps import sha256_once
from hstf.stages.external.prediction import ExternalPrediction, summary_of
from hstf.stages.external.programs import Program
from hstf.stages.external.weights import measure

PREDICTION_VERSION = 1
"""Version of the predictions. That of the stage also rises if only the weights change, which is no
reason to start a program again that may run for hours."""
MINIMUM_CASES = 2
"""A teacher that fails on all cases of a shard with as many cases does not work at all."""


def run(args: argparse.Namespace) -> int:
    """Predict a shard, or measure the external teachers."""
    context = StageContext.of_arguments(args, "external")
    names = used_teachers(context)
    if args.shard is None:
        measure(context, names)
    else:
        external(context, args.shard)
    return 0


def used_teachers(context: StageContext) -> list[str]:
    """Return the names of the external teachers that are used in some round.

    Raises:
        HstfError: if there are none.
    """
    config = context.config
    rounds = range(1, context.schedule.last + 1)
    used = {name for number in rounds for name in context.schedule.external(config, number)}
    if not used:
        raise HstfError(
            "external: no round has an external teacher. Add one to teacher.external; rounds that"
            " learn from labels only have no teacher."
        )
    return [name for name in config.teacher.external if name in used]


def external(context: StageContext, shard: str) -> int:
    """Predict the cases of a shard with all external teachers.

    Returns:
        The number of predictions that were computed; the others were up to date.

    Raises:
        HstfError: if there is no such shard, if a program is missing, or if a teacher fails on
            every case.
    """
    cases = external_shard(context, shard)
    names = used_teachers(context)
    teachers = context.config.teacher.external
    if context.round:
        names = [name for name in names if teachers[name].prompt == "label"]
    wanted = wanted_teachers(context, cases, names)
    computed = 0
    problems = []
    for name in names:
        table = context.layout.external_table(name, shard, context.round)
        if name not in wanted:
            EXTERNAL.write(table, [])
            continue
        computed += _predict(context, name, cases, table)
        rows = {row["case_id"]: row for row in EXTERNAL.records(table)}
        print(f"external {name} {shard}: {summary_of(rows)}", flush=True)
        if len(rows) >= MINIMUM_CASES and all(row["missing"] for row in rows.values()):
            problems.append(f"{name}: {summary_of(rows)}")
    if problems:
        raise HstfError(
            f"external {shard}: a teacher fails on every case: {'; '.join(problems)}. The log has"
            " the end of what it printed. Correct its command, or remove it from teacher.external."
        )
    return computed


def external_shard(context: StageContext, shard: str) -> list[Case]:
    """Return the cases of a shard that external teachers may predict.

    Raises:
        HstfError: if there is no such shard, or if it has other cases.
    """
    cases = context.shard(shard)
    allowed = {Split.UNLABELLED} if context.round else {Split.LABELLED, Split.UNLABELLED}
    if any(case.split not in allowed for case in cases):
        raise HstfError(
            f"--shard {shard}: external teachers predict labelled and unlabelled cases only, with"
            " --round only unlabelled ones."
        )
    return cases


def wanted_teachers(
    context: StageContext, cases: Sequence[Case], names: Sequence[str]
) -> list[str]:
    """Return the teachers that predict a shard.

    All predict the labelled cases. Unlabelled cases are predicted by those that have a weight;
    those that get the segmentation of the ensemble do so in each of their rounds.
    """
    if any(case.split is Split.LABELLED for case in cases):
        return list(names)
    teachers = context.config.teacher.external
    used = ExternalWeights.load(context.layout.external_weights).used(names)
    if context.round:
        return [name for name in used if teachers[name].is_used_in(context.round)]
    return [name for name in used if teachers[name].prompt == "none"]


def _predict(context: StageContext, name: str, cases: Sequence[Case], table: Path) -> int:
    """Predict cases with one teacher and write its table."""
    teacher = context.config.teacher.external[name]
    make_folder(table.parent)
    with TemporaryDirectory(prefix="hstf-external-") as scratch:
        program = Program(name, teacher, context.device, Path(scratch))
        _ = program.path  # a missing program is one error, not one for each case
        works = _works(context, program, cases, table)
        _forget_missing(table.parent, cases)
        title = f"external {name} {table.stem}"
        return run_shard(EXTERNAL, table, _parameters(context, name), works, title)


def _works(
    context: StageContext, program: Program, cases: Sequence[Case], table: Path
) -> list[CaseWork]:
    """Return the work on each case with what it is made from."""
    teacher = program.teacher
    values = values_of(teacher)
    shared = {f"file {path}": digest for path, digest in program.file_digests.items()}
    prompts = _prompt_rows(context, cases, table.stem) if teacher.prompt == "label" else None
    works = []
    for case in cases:
        inputs = shared | _inputs(context, case, teacher)
        if prompts is not None:
            inputs["prompt"] = digest_of(prompts, case.case_id, "teacher")
        prediction = ExternalPrediction(context, case, program, values, table.parent)
        works.append(CaseWork(case.case_id, inputs, prediction.outputs, prediction.write))
    return works


def _inputs(context: StageContext, case: Case, teacher: ExternalTeacher) -> dict[str, str]:
    """Return what the prediction of a case is made from."""
    if teacher.files:
        path = prediction_file(teacher, case)
        inputs = {"prediction": sha256_once(path) if path.is_file() else "missing"}
    else:
        names = context.config.modalities
        inputs = {m: sha256_once(path) for m, path in zip(names, case.images, strict=True)}
    if teacher.probabilities:  # they are stored on the planned grid
        geometry = context.layout.preprocessed / case.case_id / "geometry.json"
        inputs["geometry"] = sha256_once(geometry)
    return inputs


def _parameters(context: StageContext, name: str) -> dict[str, Any]:
    """Return what all predictions of a teacher depend on.

    An edit of ``labels`` starts no program: a label map is stored as the teacher wrote it.
    """
    teacher = context.config.teacher.external[name]
    left_out = {"rounds", "version_command", "depends_on", "label_map", *EXTERNAL_SPEED_KEYS}
    chunk = context.config.preprocess.chunk if teacher.probabilities else None
    if not teacher.probabilities:
        left_out.add("labels")
    return {
        "version": PREDICTION_VERSION,
        "teacher": teacher.model_dump(mode="json", exclude=left_out),
        "modalities": list(context.config.modalities),
        "tolerance": context.config.check.affine_tolerance_mm,
        "chunk": chunk,
    }


def _prompt_rows(
    context: StageContext, cases: Sequence[Case], shard: str
) -> Mapping[str, Mapping[str, Any]]:
    """Return the rows of the predictions that a teacher gets, after checking their files."""
    layout = context.layout
    if context.round:
        return read_shard(TEACHER, layout.teacher_table(context.round, shard), names_of(cases))
    rows: dict[str, dict[str, Any]] = {}
    for fold in context.schedule.held_out:
        table = layout.out_of_fold_table(fold)
        of_fold = TEACHER.records(table)
        refuse_changed_files(of_fold, table)
        rows |= {row["case_id"]: row for row in of_fold}
    return rows


def _forget_missing(folder: Path, cases: Sequence[Case]) -> None:
    """Remove the records of cases without a prediction, so that a new run tries them again."""
    for case in cases:
        row = recorded_row(folder, case.case_id)
        if row is not None and row["missing"]:
            forget_record(folder, case.case_id)
