# What the rules share: the experiment, and inputs that need more than a name. `w` are a job's wildcards.

from functools import cache, reduce
from pathlib import Path

from hstf.cases import Split, read_cases
from hstf.config import resolve_config
from hstf.config.command import config_text
from hstf.config.load import merge, read_yaml
from hstf.errors import HstfError
from hstf.files import write_text_if_changed
from hstf.layout import Layout, members, warmup_members
from hstf.stages import stage_parameters


def read_experiment():
    """Configuration and case sheet. `hstf config --show --config FILES` merges files in the same way."""
    on_command_line = workflow.overwrite_configfiles
    files = [*workflow.configfiles[len(on_command_line) :], *on_command_line]
    layers = [
        *(read_yaml(Path(file)) for file in files),
        workflow.config_settings.config,
    ]
    try:
        resolved = resolve_config(
            reduce(merge, layers), source=", ".join(map(str, files))
        )
        return resolved, read_cases(resolved)
    except HstfError as error:
        raise WorkflowError(str(error)) from None


CONFIG, SHEET = read_experiment()
LAYOUT = Layout.of(CONFIG)
LOGS, BENCHMARKS = LAYOUT.root / "logs", LAYOUT.root / "benchmarks"
LABELLED, UNLABELLED, TEST = (SHEET.shards(split, CONFIG.shard_size) for split in Split)
CASES = LABELLED | UNLABELLED | TEST  # of each shard
ROUNDS = range(1, CONFIG.rounds + 1)
GPU = 0 if CONFIG.device == "cpu" else 1
TRACKED = (0, *ROUNDS) if CONFIG.tracking.enabled else ()
EXPORTED = LAYOUT.export / "configs" / "metadata.json"
TRAINING_MB = 6000 + int(1000 * CONFIG.plan.memory_gb)


def parameters(stage):
    """The parameters of `stage` in a job's round: an edit reruns exactly what depends on it."""

    def of_round(w):
        return stage_parameters(CONFIG, stage, int(w.get("round", 0)))

    return of_round


def memory(megabytes):
    """Memory of a job, more with each attempt: a job killed for its memory gets further when it is retried."""

    def of_attempt(w, attempt):
        return megabytes * attempt

    return of_attempt


def shard_images(w):
    return [image for case in CASES[w.shard] for image in case.images]


def shard_training_labels(w):
    return [
        case.training_label for case in CASES[w.shard] if case.split is Split.LABELLED
    ]


def references(cases):
    """Labels of `cases`, withheld ones too: for `check` and `evaluate` alone."""
    return [case.reference for case in cases if case.reference is not None]


def shard_references(w):
    return references(CASES[w.shard])


def weights(number):
    """The members of a round's model."""
    return [LAYOUT.weights(number, member) for member in members(CONFIG, number)]


def round_weights(w):
    return weights(int(w.round))


def previous_weights(w):
    return weights(int(w.round) - 1)


def previous_labels(w):
    """What the shard's cases were labelled with in the round before, where the refinement looks at it."""
    number = int(w.round)
    looks_back = number > 1 and CONFIG.for_round(number).refine.previous_round
    return [LAYOUT.labels_shard_table(number - 1, w.shard)] if looks_back else []


def override_files(w):
    return []


def decisions(w):
    return []


def start_weights(w):
    """The weights that a student starts from, where it does not start from scratch."""
    number = int(w.round)
    continues = CONFIG.for_round(number).student.start == "warmup"
    return weights(number - 1) if continues else []


def scored_pseudo_labels(w):
    """A round's pseudo-labels and the withheld labels to score them with."""
    number = int(w.round)
    tables = (
        [LAYOUT.pseudo_labels_table(number, shard) for shard in UNLABELLED]
        if number
        else []
    )
    return tables + (references(SHEET.of(Split.UNLABELLED)) if number else [])


def round_histories(w):
    number = int(w.round)
    return [LAYOUT.history(number, member) for member in members(CONFIG, number)]


def round_tables(w):
    """What a round has in small files, beside its scores."""
    number = int(w.round)
    return (
        [LAYOUT.refine(number), LAYOUT.labels_table(number)]
        if number
        else [LAYOUT.calibration]
    )


def targets():
    """Files of each stage, and of each stage of each round, by the name to ask for."""
    rounds = {
        f"round_{number}_{stage}": files
        for number in ROUNDS
        for stage, files in round_stages(number).items()
    }
    rounds["round_0_evaluate"], rounds["round_0_track"] = LAYOUT.evaluation_summary(
        0
    ), LAYOUT.tracking(0)
    stages = ("teacher", "refine", "labels", "student", "evaluate", "track")
    return {
        "preprocess": [
            LAYOUT.preprocessed_table(shard) for shard in (*LABELLED, *UNLABELLED)
        ],
        "warmup": weights(0),
        **{
            stage: [files for name, files in rounds.items() if name.endswith(stage)]
            for stage in stages
        },
        **rounds,
    }


def round_stages(number):
    """Files of each stage of round `number`."""
    return {
        "teacher": [LAYOUT.teacher_table(number, shard) for shard in UNLABELLED],
        "refine": LAYOUT.refine(number),
        "labels": LAYOUT.labels_table(number),
        "student": weights(number),
        "evaluate": LAYOUT.evaluation_summary(number),
        "track": LAYOUT.tracking(number),
    }
