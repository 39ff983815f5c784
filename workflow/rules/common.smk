# What the rules share: the experiment, and inputs that need more than a name. `w` are the wildcards of a job. Whoever
# includes this file has set CONFIG and ALIKE: config.smk for the experiment of a run, cell.smk for one of a comparison.

import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from hstf.experiment.cases import Split, read_cases, refuse_few_patients, refuse_missing_files, refuse_no_test_cases
from hstf.experiment.comparison import refuse_method
from hstf.method.cross_fitting import crosses
from hstf.runtime.errors import HstfError
from hstf.experiment.layout import Layout
from hstf.experiment.schedule import learns_from, members, pseudo_labelled
from hstf.experiment.overrides import overrides_in_force, unused_overrides
from hstf.experiment.dependencies import stage_parameters


# Built from envs/hstf.def; only `--software-deployment-method apptainer` uses it.
container: "envs/hstf.sif"


wildcard_constraints:
    round=r"[1-9]\d*",
    shard=r"(labelled|unlabelled|test)_\d+",
    member=r"(fold|seed)_\d+",


def read_overrides():
    """What persons decided about unlabelled cases, as it is in force in each round."""
    cases = {case.case_id for case in SHEET.of(Split.UNLABELLED)}
    return {number: overrides_in_force(CONFIG, number, cases) for number in ROUNDS}


try:
    SHEET = read_cases(CONFIG)
    if CONFIG.phantom is None and workflow.is_main_process:
        refuse_missing_files(SHEET)
    refuse_few_patients(SHEET.of(Split.LABELLED), CONFIG.warmup.folds)
    ROUNDS = range(1, CONFIG.rounds + 1)
    PSEUDO_LABELLED = [number for number in ROUNDS if pseudo_labelled(CONFIG, number)]
    OVERRIDES = read_overrides()
except HstfError as error:
    raise WorkflowError(str(error)) from None

# `hstf` is the one that belongs to this Python, also where its environment is not active.
shell.prefix(f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")

LAYOUT = Layout.of(CONFIG)
LOGS, BENCHMARKS = LAYOUT.root / "logs", LAYOUT.root / "benchmarks"
LABELLED, UNLABELLED, TEST = (SHEET.shards(split, CONFIG.shard_size) for split in Split)
CASES = LABELLED | UNLABELLED | TEST  # of each shard
TRAINING = [case for case in SHEET.cases if case.split is not Split.TEST]
TRACKED = (0, *ROUNDS) if CONFIG.track.enabled else ()
GPU = 0 if CONFIG.device == "cpu" else 1
TRAINING_MB = 6000 + int(1000 * CONFIG.plan.memory_gb)


def parameters(stage):
    """The parameters of `stage` in the round of a job: an edit reruns exactly what depends on it."""

    def of_job(w):
        return stage_parameters(CONFIG, stage, int(w.get("round", 0)))

    return of_job


def memory(megabytes):
    """Memory of a job, more with each attempt: what was killed for its memory gets further when it is tried again."""

    def of_attempt(w, attempt):
        return megabytes * attempt

    return of_attempt


def ranks(stage):
    """Resources of a training of `stage` in the round of a job: its GPUs, and `launch`, how its command begins."""

    def gpus(w):
        return getattr(CONFIG.for_round(int(w.get("round", 0))), stage).gpus

    def gpu(w):
        return GPU * gpus(w)

    def launch(w):
        if gpus(w) > 1:
            return f"torchrun --standalone --nproc-per-node {gpus(w)} -m hstf"
        return "hstf"

    return {"gpu": gpu, "launch": launch}


def side_by_side(count):
    """Threads of one of `count` like jobs (and as many in each of the ALIKE experiments of a comparison). Here they share
    the cores: two networks on a core each are done well before two that take turns on both. On a cluster each has a
    node's."""

    def of_job(w):
        if workflow.non_local_exec or workflow.remote_exec or workflow.cores is None:
            return 8
        return min(8, max(1, workflow.cores // max(1, count * ALIKE)))

    return of_job


def shard_images(w):
    return [image for case in CASES[w.shard] for image in case.images]


def shard_training_labels(w):
    return [case.training_label for case in CASES[w.shard] if case.split is Split.LABELLED]


def references(cases):
    """Labels of `cases`, withheld ones too: for `check` and `evaluate` alone."""
    return [case.reference for case in cases if case.reference is not None]


def shard_references(w):
    return references(CASES[w.shard])


def weights(number):
    """The members of the model of a round."""
    return [LAYOUT.weights(number, member) for member in members(CONFIG, number)]


def round_weights(w):
    return weights(int(w.round))


def previous_weights(w):
    return weights(int(w.round) - 1)


def start_weights(w):
    """The weights that a student starts from, unless it starts from scratch."""
    return previous_weights(w) if CONFIG.for_round(int(w.round)).student.start == "previous_round" else []


def training_cases(w):
    """The scans that a student learns from."""
    alone = learns_from(CONFIG, int(w.round)) == "labels"
    return [LAYOUT.preprocessed_table(shard) for shard in (LABELLED if alone else (*LABELLED, *UNLABELLED))]


def training_labels(w):
    """What the unlabelled scans are labelled with, where a student learns from that."""
    return [LAYOUT.labels_table(w.round)] if int(w.round) in PSEUDO_LABELLED else []


def previous_labels(w):
    """What a shard was labelled with in the round before, where the refinement looks back."""
    number = int(w.round)
    looks_back = number - 1 in PSEUDO_LABELLED and CONFIG.for_round(number).refine.previous_round
    return [LAYOUT.labels_shard_table(number - 1, w.shard)] if looks_back else []


def accepted_share(w):
    """The largest share of the cases that a round accepts."""
    return CONFIG.for_round(int(w.round)).refine.share_in(int(w.round))


def soft_targets(w):
    """What the probabilities of soft targets come from, where the student learns from them."""
    soft = CONFIG.for_round(int(w.round)).student.soft_targets
    return [LAYOUT.teacher_table(w.round, w.shard)] if soft else []


def shard_overrides(w):
    in_force = OVERRIDES[int(w.round)]
    return [in_force[case.case_id] for case in CASES[w.shard] if case.case_id in in_force]


def override_files(w):
    return [override.file for override in shard_overrides(w) if override.file is not None]


def override_rows(w):
    return [{key: str(value) for key, value in asdict(override).items()} for override in shard_overrides(w)]


def dealt_patients(before):
    """The patients of the unlabelled cases, by which cross-fitting deals them out to the members of the round of a job, or
    of the one `before` it; nothing where all members learn from all."""

    def of_job(w):
        crossed = crosses(CONFIG, int(w.round) - before)
        return {case.case_id: case.group for case in SHEET.of(Split.UNLABELLED)} if crossed else {}

    return of_job


def shard_patients(w):
    """Patient and site of each case of a shard, which scores are grouped by."""
    return {case.case_id: [case.group, case.site] for case in CASES[w.shard]}


def scored_pseudo_labels(w):
    """The pseudo-labels of a round and, in a benchmark, the withheld labels to score them with."""
    number = int(w.round)
    if number not in PSEUDO_LABELLED:
        return []
    tables = [LAYOUT.pseudo_labels_table(number, shard) for shard in UNLABELLED]
    return [LAYOUT.refine(number), *tables, *references(SHEET.of(Split.UNLABELLED))]


def results(number):
    """The small files of a round: how the training went, what it learned from, how the model scores."""
    histories = [LAYOUT.history(number, member) for member in members(CONFIG, number)]
    tables = [] if number else [LAYOUT.calibration]
    if number in PSEUDO_LABELLED:
        tables = [LAYOUT.refine(number), LAYOUT.labels_table(number)]
    return [*histories, *tables, LAYOUT.evaluation_cases(number), LAYOUT.evaluation_summary(number)]


def round_results(w):
    return results(int(w.round))


def compared(w):
    """Scores of all cells. Only who asks for a comparison is told that there is none."""
    try:
        refuse_method(CONFIG)
        refuse_no_test_cases(SHEET)
    except HstfError as error:
        raise WorkflowError(str(error)) from None
    return [path for cell in CELLS for path in cell.results]
