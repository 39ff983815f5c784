# What all rules use: the experiment, and functions that return the inputs of a job. `w` are the wildcards of a
# job. The file that includes this one sets CONFIG and ALIKE: config.smk for the experiment of a run, cell.smk
# for an experiment of a comparison.
#
# What runs is decided by content: a job whose results were made from something else has a new key file
# (hstf/experiment/keys.py).

import shlex
import sys
from pathlib import Path

from hstf.experiment.cases import Split, read_cases
from hstf.experiment.case_rules import (
    refuse_foreign_files,
    refuse_missing_files,
    refuse_no_test_cases,
)
from hstf.experiment.comparison import refuse_method
from hstf.experiment.folds import refuse_too_many_folds
from hstf.experiment.job_inputs import sources_of
from hstf.experiment.job import Job
from hstf.experiment.jobs import Jobs
from hstf.experiment.keys import Keys
from hstf.experiment.label_maps import refuse_wrong_label_maps
from hstf.experiment.layout import Layout
from hstf.experiment.overrides import note_decisions, override_messages
from hstf.experiment.reuse import refuse_missing_start
from hstf.experiment.schedule import Schedule, start_of_seed
from hstf.runtime.errors import HstfError
from hstf.runtime.gpu_lease import count_gpus


# Built from envs/hstf.def; used only with `--software-deployment-method apptainer`.
container: "envs/hstf.sif"


wildcard_constraints:
    round=r"[1-9]\d*",
    shard=r"(labelled|unlabelled|validation|test)_\d+",
    member=r"(fold|seed)_\d+",


LAYOUT = Layout.of(CONFIG)
SCHEDULE = Schedule.of(CONFIG)
LOGS = LAYOUT.root / "logs"
BENCHMARKS = LAYOUT.root / "benchmarks"
ROUNDS = range(1, CONFIG.rounds + 1)
PSEUDO_LABELLED = [number for number in ROUNDS if SCHEDULE.has_pseudo_labels(number)]


def bind_decisions():
    """Bind new decisions of reviewers to the pseudo-labels that are there now."""
    cases = {case.case_id for case in SHEET.of(Split.UNLABELLED)}
    if problem := note_decisions(LAYOUT, SCHEDULE, cases):
        print(problem, file=sys.stderr)


try:
    SHEET = read_cases(CONFIG)
    if CONFIG.phantom is not None:
        refuse_foreign_files(SHEET, Path(CONFIG.phantom.folder))
    elif workflow.is_main_process:
        refuse_missing_files(SHEET)
    refuse_too_many_folds(SHEET.of(Split.LABELLED), CONFIG.warmup.folds)
    if workflow.is_main_process:
        refuse_missing_start(CONFIG)
        refuse_wrong_label_maps(CONFIG)
        bind_decisions()
    JOBS = Jobs(CONFIG, SHEET)
    KEYS = Keys(JOBS)
    if workflow.is_main_process:
        # Of each round; raises their errors before anything runs. On a node of a cluster only the
        # jobs that read them fail: a reviewer may work during a run.
        OVERRIDES = JOBS.overrides
        KEYS.refuse_edited(JOBS.with_results())
except HstfError as error:
    raise WorkflowError(str(error)) from None

# The `hstf` of this Python, even if its environment is not active. A container has its own.
PROGRAMS = shlex.quote(str(Path(sys.executable).parent))
shell.prefix(
    f'case "$APPTAINER_CONTAINER$SINGULARITY_CONTAINER" in "") PATH={PROGRAMS}:$PATH;;'
    f" *) PATH=$PATH:{PROGRAMS};; esac; "
)

LABELLED = SHEET.shards(Split.LABELLED, CONFIG.shard_size)
UNLABELLED = SHEET.shards(Split.UNLABELLED, CONFIG.shard_size)
TEST = SHEET.shards(Split.TEST, CONFIG.shard_size)
VALIDATION = SHEET.shards(Split.VALIDATION, CONFIG.shard_size)
CASES = LABELLED | UNLABELLED | VALIDATION | TEST  # of each shard
TRAINING = [case for case in SHEET.cases if case.split.is_training]
TRACKED = (0, *ROUNDS) if CONFIG.track.enabled else ()
GPU = 0 if CONFIG.device == "cpu" else 1
TRAINING_MB = 6000 + int(1000 * CONFIG.plan.memory_gb)

# Large pages for the tensors of a training, see docs/how-to/speed.md. glibc reads this when a process starts.
TUNABLES = "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=1073741824:glibc.malloc.hugetlb=1"
LARGE_PAGES = f"GLIBC_TUNABLES=${{GLIBC_TUNABLES:-{TUNABLES}}}"


def round_of(w):
    """The round of a job; jobs without a round belong to the warm-up."""
    return int(w.get("round", 0))


def job_of(name, w):
    """The job of the rule of this name with its wildcards."""
    part = w.get("shard") or w.get("member") or ""
    number = 0 if name == "warmup_member" else w.get("round")
    return Job(name, None if number is None else int(number), part)


def key(name):
    """The key file of a job. It is newer than the results if something that they depend on has changed."""

    def of_job(w):
        job = job_of(name, w)
        if not workflow.is_main_process:
            return JOBS.key(job)
        path = KEYS.file(job)
        # Snakemake lists a folder once. With several targets it would not see the keys of the later ones.
        workflow.iocache.exists_local[str(path)] = True
        return path

    return of_job


def memory(megabytes):
    """Memory of a job. A job that ran out of memory gets more at its next attempt."""

    def of_attempt(w, attempt):
        return megabytes * attempt

    return of_attempt


def ranks(stage):
    """Resources of a training: its GPUs, and `launch`, the beginning of its command."""

    def gpus(w):
        return getattr(CONFIG.for_round(round_of(w)), stage).gpus

    def gpu(w):
        return GPU * gpus(w)

    def launch(w):
        if gpus(w) > 1:
            return f"torchrun --standalone --nproc-per-node {gpus(w)} -m hstf"
        return "hstf"

    return {"gpu": gpu, "launch": launch}


def is_on_cluster():
    """Whether jobs run on the nodes of a cluster. A dry run has no nodes, but it knows their number."""
    has_nodes = workflow.output_settings.dryrun and workflow.nodes is not None
    return workflow.non_local_exec or workflow.remote_exec or has_nodes


# Trainings on the same GPU divide its memory. Only a profile or --resources gpu=N allows it.
if not is_on_cluster() and "gpu" not in workflow.global_resources and (gpus := count_gpus()):
    workflow.register_resource("gpu", gpus)


def gpus_at_once():
    """The GPUs that all jobs of this machine may use at once; 0 without a limit."""
    limit = workflow.global_resources.get("gpu")
    # Snakemake adds resources without a limit while it looks at the rules.
    return limit.value or 0 if limit else 0


def side_by_side(count, gpu=0):
    """Threads of one of `count` similar jobs, times the ALIKE experiments of a comparison.

    On one machine they divide the cores among themselves: two trainings on one core each finish before two
    trainings that take turns on both. No more of them run at once than there are GPUs for. On a cluster each job
    has the cores of its node.
    """

    def of_job(w):
        if is_on_cluster() or workflow.cores is None:
            return 8
        at_once = count * ALIKE
        if gpu and gpus_at_once():
            at_once = min(at_once, gpus_at_once() // gpu)
        return min(8, max(1, workflow.cores // max(1, at_once)))

    return of_job


def shard_images(w):
    return [image for case in CASES[w.shard] for image in case.images]


def references(cases):
    """Labels of `cases`, withheld ones included: only for `check` and `evaluate`."""
    return [case.reference for case in cases if case.reference is not None]


def shard_references(w):
    return references(CASES[w.shard])


def weights(number):
    """Weights of the ensemble members of a round."""
    return [LAYOUT.weights(number, member) for member in SCHEDULE.members(number)]


def round_weights(w):
    return weights(int(w.round))


def previous_weights(w):
    return weights(int(w.round) - 1)


def initial_weights():
    """The file from which trainings start that would start from random weights; none if they do."""
    if CONFIG.network.start is not None:
        return [CONFIG.network.start]
    return [LAYOUT.pretrained_weights] if CONFIG.pretrain.is_on else []


def pretraining():
    """What the report shows of the pre-training."""
    if not CONFIG.pretrain.is_on:
        return []
    return [LAYOUT.pretraining_history, LAYOUT.pretraining_examples]


def seed_weights(w):
    """The weights that a network of the warm-up starts from; none if it starts from random weights."""
    start = start_of_seed(CONFIG.warmup, w.member)
    return initial_weights() if start is None else [LAYOUT.weights(0, start)]


def monitor_cases(w):
    """The preprocessed cases that the monitoring of a round reads."""
    shards = UNLABELLED if int(w.round) else LABELLED | UNLABELLED
    return [LAYOUT.preprocessed_table(shard) for shard in shards]


def earlier_monitors(w):
    return [LAYOUT.monitor(number) for number in range(int(w.round))]


def teacher_of_round(w):
    """The teacher's predictions in a round, if it has a teacher."""
    if int(w.round) not in PSEUDO_LABELLED:
        return []
    return [LAYOUT.teacher_table(w.round, shard) for shard in UNLABELLED]


def monitored(w):
    """The monitoring of the teacher: the run may stop after a collapse."""
    job = Job("teacher_shard", int(w.round), w.shard)
    return [path for earlier in JOBS.conditions(job) for path in JOBS.outputs(earlier)]


def evidence():
    """The files that decide which round is exported."""
    files = []
    for number in (0, *ROUNDS):
        if JOBS.monitored_cases:
            files.append(LAYOUT.monitor(number))
        if VALIDATION:
            files.append(LAYOUT.validation_summary(number))
    return files


def start_weights(w):
    """The weights that a student starts from; none if it starts from random weights."""
    start = CONFIG.for_round(int(w.round)).student.start
    return previous_weights(w) if start == "previous_round" else initial_weights()


def training_cases(w):
    """The preprocessed cases that a student learns from."""
    shards = list(LABELLED)
    if SCHEDULE.learns_from(int(w.round)) != "labels":
        shards += UNLABELLED
    return [LAYOUT.preprocessed_table(shard) for shard in shards]


def training_labels(w):
    """The labels of the unlabelled cases, if a student learns from them."""
    return [LAYOUT.labels_table(w.round)] if int(w.round) in PSEUDO_LABELLED else []


def previous_labels(w):
    """The previous round's labels of a shard, if the refinement compares with them."""
    number = int(w.round)
    compares = CONFIG.for_round(number).refine.previous_round
    if number - 1 not in PSEUDO_LABELLED or not compares:
        return []
    return [LAYOUT.labels_shard_table(number - 1, w.shard)]


def lesion_bounds(w):
    """The probability from which lesions are kept in a round, if the configuration has lesions."""
    number = int(w.round)
    return [LAYOUT.lesion_bounds(number)] if JOBS.ranks_lesions(number) else []


def calibration_of_round(w):
    """The calibration of the teacher, or of its mixture with external teachers."""
    is_mixed = bool(JOBS.external_in(int(w.round)))
    return LAYOUT.round_calibration(w.round) if is_mixed else LAYOUT.calibration


def before_external(w):
    """The weights, without which no unlabelled case is predicted; and the prompts of labelled cases."""
    if w.shard in UNLABELLED:
        return [LAYOUT.external_weights]
    if not JOBS.prompted:
        return []
    return [LAYOUT.out_of_fold_table(fold) for fold in SCHEDULE.held_out]


def external_of_shards(number, shards):
    """What the external teachers of a round predict of some shards, and their weights."""
    names = set(JOBS.external_in(int(number)))
    if not names:
        return []
    files = [LAYOUT.external_table(name, shard) for name in JOBS.external for shard in shards]
    if names & set(JOBS.prompted):
        files += [
            LAYOUT.external_table(name, shard, number) for name in JOBS.prompted for shard in shards
        ]
    return [LAYOUT.external_weights, *files]


def external_of_round(w):
    return external_of_shards(w.round, [w.shard])


def external_of_all(w):
    return external_of_shards(w.round, UNLABELLED)


def external_results():
    """All tables of external teachers, and their weights."""
    before = [job for job in JOBS.before(Job("report")) if job.stage == "external"]
    return [path for job in before for path in JOBS.outputs(job)]


def override_files(w):
    return [source.path for source in sources_of(JOBS, job_of("labels_shard", w))]


def scored_pseudo_labels(w):
    """The pseudo-labels of a round and, in a benchmark, the withheld labels to score them with."""
    number = int(w.round)
    if number not in PSEUDO_LABELLED:
        return []
    tables = [LAYOUT.pseudo_labels_table(number, shard) for shard in UNLABELLED]
    return [LAYOUT.refine(number), *tables, *references(SHEET.of(Split.UNLABELLED))]


def results(number):
    """The small files of a round: the history of the training, what it learned from, and its scores."""
    files = [LAYOUT.history(number, member) for member in SCHEDULE.trained(number)]
    if number == 0:
        files.append(LAYOUT.calibration)
    if number in PSEUDO_LABELLED:
        files += [LAYOUT.refine(number), LAYOUT.labels_table(number)]
    return [*files, LAYOUT.evaluation_cases(number), LAYOUT.evaluation_summary(number)]


def control():
    """The scores of the control in the last round, if there is one."""
    return [source.path for source in sources_of(JOBS, Job("report"))]


def round_results(w):
    return results(int(w.round))


def compared(w):
    """The scores of all methods and seeds. Only a request for the comparison raises its errors."""
    try:
        refuse_method(CONFIG)
        refuse_no_test_cases(SHEET)
    except HstfError as error:
        raise WorkflowError(str(error)) from None
    return [path for cell in CELLS for path in cell.results]
