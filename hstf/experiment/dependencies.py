"""What each stage depends on in addition to its files: its version and keys of the configuration.

A stage gets exactly the keys that it declares here (:mod:`hstf.experiment.context`). The same keys
are its Snakemake ``params`` and part of the records of its cases, so that an edit of the
configuration reruns exactly what depends on it.
"""

from dataclasses import dataclass
from typing import Any

from hstf.config.experiment import Config
from hstf.config.network import START_KEYS, NetworkConfig

ARCHITECTURE = tuple(f"network.{k}" for k in NetworkConfig.model_fields if k not in START_KEYS)
"""Keys about the architecture of the network."""


@dataclass(frozen=True)
class Dependencies:
    """What the output of a stage depends on."""

    version: int
    """Raise it when the output changes its meaning: Snakemake cannot see a change of the code."""
    keys: tuple[str, ...]
    """Keys and sections of the configuration; ``section.key`` for one key of a section."""
    free_keys: tuple[str, ...] = ()
    """Keys that the stage reads although its output does not depend on them, such as names of
    folders in a message. An edit of them reruns nothing."""


TTA_KEYS = (
    "teacher.scales",
    "teacher.flip_axes",
    "teacher.overlap",
    "teacher.window_batch",
    "teacher.amp",
)
"""Keys of ``teacher`` that change the predictions of the ensemble: all but external teachers."""

CLEANING_KEYS = (
    "refine.calibrate",
    "refine.keep_components",
    "refine.judge_lesions",
    "refine.fill_holes",
    "refine.lesion_probability",
    "refine.minimum_lesion_fraction",
)
"""The parts of the refinement that change a label; weights and verdicts come afterwards."""

STAGES: dict[str, Dependencies] = {
    "check": Dependencies(1, ("check", "labels", "modalities"), free_keys=("withheld_labels",)),
    "plan": Dependencies(
        3,
        ("plan", "modalities", "labels", "preprocess.axes", "preprocess.crop"),
        free_keys=("preprocess.workers",),
    ),
    "preprocess": Dependencies(4, ("preprocess", "labels", "modalities")),
    # No labels: whatever it reads of them would be a leak.
    "pretrain": Dependencies(
        2,
        ("pretrain", *ARCHITECTURE, "modalities", "seed", "warmup.augmentation"),
    ),
    "warmup": Dependencies(
        6,
        ("warmup", "network", "modalities", "labels", "regions", "seed"),
        # The pre-training is a job before this one.
        free_keys=("pretrain.task",),
    ),
    "out_of_fold": Dependencies(
        2,
        # The folds are drawn from the seed.
        (*TTA_KEYS, "labels", "regions", "lesions", "warmup.folds", "seed", "preprocess.chunk"),
    ),
    "external": Dependencies(
        2,
        ("teacher.external", "labels", "regions", "check.affine_tolerance_mm", "preprocess.chunk"),
        free_keys=("modalities",),  # their names; an edit of the images checks them again
    ),
    "calibrate": Dependencies(
        12,
        (
            "calibrate",
            *CLEANING_KEYS,
            "labels",
            "regions",
            "lesions",
            "seed",
        ),
        # What is mixed is among the files.
        free_keys=("teacher.external",),
    ),
    "monitor": Dependencies(
        2,
        (
            "monitor.cases",
            "monitor.minimum_volume",
            "monitor.minimum_presence",
            "monitor.minimum_agreement",
            "predict.overlap",
            "predict.window_batch",
            "predict.amp",
            "labels",
            "regions",
        ),
    ),
    "teacher": Dependencies(
        3,
        (*TTA_KEYS, "labels", "regions", "seed", "preprocess.chunk"),
        free_keys=("monitor.on_collapse", "monitor.cases"),
    ),
    "lesions": Dependencies(
        2,
        (
            *CLEANING_KEYS,
            "labels",
            "regions",
        ),
        free_keys=("teacher.external",),  # what is mixed is among the files
    ),
    "refine": Dependencies(
        10,
        ("refine", "labels", "regions", "lesions", "preprocess.chunk"),
        free_keys=("teacher.external",),  # what is mixed is among the files
    ),
    "labels": Dependencies(
        5,
        ("labels", "student.soft_targets", "preprocess.chunk", "check.affine_tolerance_mm"),
        # Whether the run goes on, not what is written.
        free_keys=("monitor.on_collapse", "monitor.minimum_weight"),
    ),
    "student": Dependencies(
        7,
        ("student", "network", "modalities", "labels", "regions", "seed"),
        free_keys=("pretrain.task",),
    ),
    "evaluate": Dependencies(
        8,
        ("evaluate", "lesions", "predict", "preprocess", "modalities", "labels", "regions", "seed"),
        # The rule of the scales has compare.scales among its own parameters.
        free_keys=("check.affine_tolerance_mm", "compare"),
    ),
    "report": Dependencies(
        5,
        ("report", "evaluate"),
        # Tables and models that the report reads are made again if one of these keys is edited.
        free_keys=(
            "method",
            "monitor.cases",
            "preprocess.axes",
            "pretrain.task",
            "withheld_labels",
            "cases",
            "seed",
            "labels",
            "modalities",
            "regions",
            "lesions",
            "refine",
            "teacher.external",
        ),
    ),
    "compare": Dependencies(
        4,
        ("compare.methods", "compare.seeds", "evaluate.bootstrap"),
        # An edit of one of these keys runs the compared experiments again.
        free_keys=("labels", "regions", "seed"),
    ),
    "track": Dependencies(
        1,
        ("track",),
        # The parameters of the run in MLflow. An edit runs the round again, and then its tracking.
        free_keys=(
            "plan",
            "preprocess",
            "pretrain",
            "warmup",
            "calibrate",
            "teacher",
            "refine",
            "student",
            "predict",
            "evaluate",
            "network",
            "modalities",
            "labels",
            "regions",
            "lesions",
            "seed",
        ),
    ),
    "export": Dependencies(
        8,
        ("export", "predict", "preprocess", "modalities", "labels"),
        # An edit trains, calibrates or monitors the model again, and then exports it.
        free_keys=(
            "method",
            "monitor.cases",
            "regions",
            *TTA_KEYS,
            "student.steps",
            "warmup.steps",
        ),
    ),
}

ORDERED_KEYS = {"labels", "modalities", "regions"}
"""Mappings whose order matters: it is the order of classes, channels and network outputs."""

LEFT_OUT_AT_DEFAULT: dict[str, dict[str, Any]] = {
    "network": {"start": None, "start_keys": {}, "start_part": "network", "start_rate": 1.0},
    "warmup": {"extra_steps": 0},
    "student": {"fine_tune": 0.0},
}
"""Newer keys that change nothing at their default: results of earlier versions stay valid."""

LEFT_OUT_OF_STAGE: dict[str, dict[str, dict[str, Any]]] = {
    "plan": {"preprocess": {"crop": True}},
}
"""The same for keys that are newer in one stage only."""

SPEED_KEYS = {
    "check": {"workers"},
    "preprocess": {"workers"},
    "pretrain": {"checkpoint_seconds", "compile", "gpu_cache_gb"},
    "warmup": {
        "checkpoint_seconds",
        "compile",
        "gpu_cache_gb",
        "gpus",
        "fold_members",  # the number of jobs
        "seeds",  # the number of jobs
        "seed_start",  # parameters of the jobs that train on all labelled cases
        "seed_steps",
    },
    "student": {
        "checkpoint_seconds",
        "compile",
        "gpu_cache_gb",
        "gpus",
        "members",  # the number of jobs; with cross-fitting, also a parameter of each job
    },
    "teacher": {"window_batch"},
    "refine": {
        "overlays",
        "accepted_fraction",  # a parameter of the joined table only
    },
    "predict": {"window_batch"},
    "evaluate": {"control"},  # the report has the scores of the control among its files
}
"""Keys that change how long a stage takes or what it shows, never what it writes."""

EXTERNAL_SPEED_KEYS = {"timeout", "gpu"}
"""The same of each external teacher."""


def stage_parameters(config: Config, stage: str, number: int = 0) -> dict[str, Any]:
    """Return version and configuration of a stage in round ``number`` as plain JSON values."""
    dependencies = STAGES[stage]
    included = _as_pydantic_include(dependencies.keys)
    values = config.for_round(number).model_dump(mode="json", include=included)
    for name in ORDERED_KEYS & values.keys():
        # JSON objects have no order, lists do.
        values[name] = [list(item) for item in values[name].items()]
    left_out = LEFT_OUT_AT_DEFAULT | LEFT_OUT_OF_STAGE.get(stage, {})
    for section, defaults in left_out.items():
        content = values.get(section, {})
        kept = {k: v for k, v in content.items() if k not in defaults or v != defaults[k]}
        values |= {section: kept} if content else {}
    for section, speed_keys in SPEED_KEYS.items():
        content = values.get(section)
        if isinstance(content, dict):
            values[section] = {k: v for k, v in content.items() if k not in speed_keys}
    _drop_external_speed_keys(values)
    return {"version": dependencies.version, **values}


def _drop_external_speed_keys(values: dict[str, Any]) -> None:
    """Remove keys of external teachers that change no result, in place."""
    external = values.get("teacher", {}).get("external")
    if external is not None:
        # A list: their order counts, because they are mixed one after the other.
        values["teacher"]["external"] = [
            [name, {k: v for k, v in teacher.items() if k not in EXTERNAL_SPEED_KEYS}]
            for name, teacher in external.items()
        ]


def _as_pydantic_include(keys: tuple[str, ...]) -> dict[str, Any]:
    """Convert ``section`` and ``section.key`` to the ``include`` argument of pydantic."""
    included: dict[str, Any] = {}
    for key in keys:
        section, _, inner = key.partition(".")
        if inner:
            included.setdefault(section, set()).add(inner)
        else:
            included[section] = True
    return included
