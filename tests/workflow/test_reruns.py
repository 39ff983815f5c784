"""The sentences of the documentation about what runs again, each compared with the jobs."""

import contextlib
from typing import Any

from support.workspace import ROOT, Workspace

from hstf.config.load import load_config
from hstf.experiment.job import Job
from hstf.experiment.jobs import Jobs
from hstf.experiment.keys import Keys

PAGE = "docs/concepts/reruns.md"
ROUNDS = (1, 2)
Edit = dict[str, Any]
Runs = set[tuple[str, int | None]]
"""Rules with their rounds."""

REPORT: Runs = {("report", None)}
EXPORT: Runs = {("export", None)}


def of_rounds(*rules: str, rounds: tuple[int, ...] = ROUNDS) -> Runs:
    return {(rule, number) for rule in rules for number in rounds}


EVALUATION = of_rounds("evaluate_shard", "evaluate_table", "track_round") | REPORT | EXPORT
EVALUATION_0 = of_rounds("evaluate_shard", "evaluate_table", rounds=(0,))
TRACK_0 = of_rounds("track_round", rounds=(0,))
MONITORED = of_rounds("monitor_round", rounds=(0, 1, 2))
STUDENTS = of_rounds("student_member", "monitor_round") | EVALUATION
LABELS = of_rounds("labels_shard", "labels_table") | STUDENTS
TEACHER_2 = of_rounds("teacher_shard", rounds=(2,))
REFINED = of_rounds("refine_shard", "refine_table") | LABELS | TEACHER_2
CALIBRATED = {("calibrate", None)} | TRACK_0 | REFINED
SELF_TRAINING = of_rounds("teacher_shard") | CALIBRATED
OUT_OF_FOLD = {("out_of_fold", None)} | EVALUATION_0 | SELF_TRAINING
OTHER = {"command": "segment {image} {output}", "labels": {"foreground": 1}}
EXTERNAL: Runs = {("external_shard", None), ("external_weights", None)}
EXTERNAL |= of_rounds("calibrate_round")
WARMUP = {("warmup_member", 0), ("monitor_round", 0)} | OUT_OF_FOLD
AFTER_ROUND_1 = of_rounds(
    "teacher_shard", "refine_shard", "refine_table", "labels_shard", "labels_table", rounds=(2,)
)


def jobs_that_run(workspace: Workspace) -> Runs:
    """Return the jobs whose results are not up to date."""
    with contextlib.chdir(workspace.folder):
        jobs = Jobs(load_config(workspace.folder / "config.yaml"))
        keys = Keys(jobs, sets_times=False)
        running: list[Job] = [job for job in jobs.all() if keys.state(job).reasons]
        return {(job.rule, job.round) for job in running}


SENTENCES: list[tuple[str, Edit, Runs]] = [
    (
        "| `plan:` | `plan` | `check` |",
        {"plan": {"base_channels": 8}},
        {("plan", None), ("preprocess_shard", None)} | WARMUP,
    ),
    ("| `warmup:`, `network:` | the warm-up trainings |", {"warmup": {"steps": 9}}, WARMUP),
    (
        "| `warmup:`, `network:` | the warm-up trainings |",
        {"network": {"transformer_layers": 3}},
        WARMUP,
    ),
    (
        "| `teacher:` | the out-of-fold predictions, `teacher` of all rounds | the warm-up",
        {"teacher": {"overlap": 0.25}},
        OUT_OF_FOLD,
    ),
    (
        "| `teacher.external` | `external`, the calibration of each round, `refine` of all",
        {"teacher": {"external": {"other": OTHER}}},
        EXTERNAL | REFINED,
    ),
    (
        "the out-of-fold predictions, the evaluation of round 0 |",
        {"calibrate": {"bins": 50}},
        CALIBRATED,
    ),
    ("`calibrate`, `keep_components`,", {"refine": {"keep_components": False}}, CALIBRATED),
    (
        "`lesion_probability` and `minimum_lesion_fraction`",
        {"refine": {"lesion_probability": 0.4}},
        CALIBRATED,
    ),
    (
        "| all other keys of `refine:` | `refine` of all rounds | `calibrate`, the evaluation of",
        {"refine": {"entropy_weight": 2.0}},
        REFINED,
    ),
    ("| all other keys of `refine:` |", {"refine": {"select_cases": False}}, REFINED),
    (
        "| `student:` | the students of all rounds | the pseudo-labels of round 1, the evaluation",
        {"student": {"steps": 9}},
        STUDENTS | AFTER_ROUND_1,
    ),
    (
        "| `evaluate:`, `predict:` | `evaluate` of all rounds | trainings and pseudo-labels |",
        {"evaluate": {"bootstrap": 500}},
        EVALUATION | EVALUATION_0 | TRACK_0,
    ),
    (
        "| `evaluate:`, `predict:` | `evaluate` of all rounds | trainings and pseudo-labels |",
        {"predict": {"overlap": 0.25}},
        EVALUATION | EVALUATION_0 | TRACK_0 | MONITORED,
    ),
    (
        "| `monitor:` | `monitor` of all rounds | everything else, except the report and the"
        " export",
        {"monitor": {"cases": 2}},
        MONITORED | REPORT | EXPORT,
    ),
    (
        "the keys `on_collapse` and `minimum_weight` of `monitor:` run nothing",
        {"monitor": {"on_collapse": "continue", "minimum_weight": 0.01}},
        set(),
    ),
    ("| `report:` | `report` | everything else |", {"report": {"gallery": 3}}, REPORT),
    (
        "| `track:` | `track` of all rounds | everything else |",
        {"track": {"uri": "sqlite:///other.db"}},
        of_rounds("track_round", rounds=(0, 1, 2)),
    ),
    ("| `export:` | `export` | everything else |", {"export": {"programs": []}}, EXPORT),
    (
        "| `check:` | `check` | nothing: all jobs follow |",
        {"check": {"affine_tolerance_mm": 0.5}},
        {("check", None), ("plan", None), ("preprocess_shard", None)} | WARMUP,
    ),
    (
        "| `preprocess.crop`, `preprocess.axes` | `plan` | `check` |",
        {"preprocess": {"axes": "slices"}},
        {("plan", None), ("preprocess_shard", None)} | WARMUP,
    ),
    (
        "`shard_size`, if the shards change | `preprocess` | `check`, `plan` |",
        {"shard_size": 3},
        {("preprocess_shard", None)} | WARMUP,
    ),
    (
        "| the warm-up trainings, `teacher` of round 1 |",
        {"lesions": ["foreground"]},
        OUT_OF_FOLD - of_rounds("teacher_shard", rounds=(1,)) | of_rounds("lesions_round"),
    ),
    (
        "`predict.overlap` or `predict.amp` also runs `monitor`",
        {"predict": {"amp": "off"}},
        EVALUATION | EVALUATION_0 | TRACK_0 | MONITORED,
    ),
    (
        "one of `predict.flip_axes` or `predict.clean` does not",
        {"predict": {"clean": False}},
        EVALUATION | EVALUATION_0 | TRACK_0,
    ),
    ("such as `preprocess.workers`", {"preprocess": {"workers": 3}}, set()),
    (
        "or `student.checkpoint_seconds`, cause no rerun",
        {"student": {"checkpoint_seconds": 9}},
        set(),
    ),
]


def test_reruns_are_those_of_the_documentation(experiment: Workspace) -> None:
    page = (ROOT / PAGE).read_text()
    config = experiment.folder / "config.yaml"
    before = config.read_text()
    for sentence, edit, runs in SENTENCES:
        assert sentence in page
        experiment.configure(**edit)
        assert jobs_that_run(experiment) == runs, sentence
        config.write_text(before)
        assert jobs_that_run(experiment) == set()


def test_an_override_of_a_round_keeps_the_rounds_before(experiment: Workspace) -> None:
    page = (ROOT / "docs" / "how-to" / "add-a-round.md").read_text()
    assert "An override of round 3 causes no rerun of rounds 1 and 2." in page
    experiment.configure(rounds_overrides={2: {"student": {"steps": 9}}})
    rounds = {number for _, number in jobs_that_run(experiment) - REPORT - EXPORT}
    assert rounds == {2}
