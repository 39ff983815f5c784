"""What each stage depends on besides its files: the number of its version and its part of the configuration."""

from dataclasses import dataclass
from typing import Any

from hstf.config.experiment import Config


@dataclass(frozen=True)
class Stage:
    """A step of the workflow. Raise ``version`` when its output changes meaning: Snakemake cannot see the code."""

    version: int
    keys: tuple[str, ...]
    """Configuration keys and sections that its output depends on; ``section.key`` for one key of a section."""


STAGES: dict[str, Stage] = {
    "check": Stage(1, ("check", "labels", "modalities")),
    "plan": Stage(1, ("plan", "modalities", "labels")),
    "preprocess": Stage(2, ("preprocess", "labels", "modalities")),
    "warmup": Stage(4, ("warmup", "network", "labels", "regions", "seed", "teacher")),
    "calibrate": Stage(7, ("calibrate", "refine", "labels", "regions", "lesions", "seed")),
    "teacher": Stage(3, ("teacher", "regions")),
    "refine": Stage(6, ("refine", "labels", "regions", "lesions")),
    "labels": Stage(3, ("labels", "student.soft_targets", "refine.calibrate")),
    "student": Stage(5, ("student", "network", "labels", "regions", "seed")),
    "evaluate": Stage(
        4,
        ("evaluate", "lesions", "predict", "preprocess", "modalities", "labels", "regions", "seed"),
    ),
    "report": Stage(1, ("report", "evaluate")),
    "compare": Stage(1, ("compare.methods", "compare.seeds", "evaluate.bootstrap")),
    "track": Stage(1, ("track",)),
    "export": Stage(2, ("predict", "preprocess", "modalities", "labels")),
}

ORDERED = {"labels", "modalities", "regions"}
"""Mappings whose order is that of classes, channels and heads."""

# Keys that change how long a stage takes or how it is shown, never what it writes.
SPEED_KEYS = {
    "check": {"workers"},
    "preprocess": {"workers"},
    "warmup": {"checkpoint_seconds", "gpu_cache_gb", "gpus"},
    "student": {"checkpoint_seconds", "gpu_cache_gb", "gpus"},
    "teacher": {"window_batch"},
    "refine": {"overlays", "share"},  # the share is a parameter of the joined table alone
    "predict": {"window_batch"},
}


def stage_parameters(config: Config, name: str, number: int = 0) -> dict[str, Any]:
    """The version and configuration of stage ``name`` in round ``number``, as plain JSON values.

    Snakemake compares them, and so do the records of the cases: an edit reruns exactly what depends on it.
    """
    stage = STAGES[name]
    values = config.for_round(number).model_dump(mode="json", include=_included(stage.keys))
    for name in ORDERED & values.keys():
        values[name] = [list(item) for item in values[name].items()]  # as JSON keeps them
    for section, keys in SPEED_KEYS.items():
        if isinstance(values.get(section), dict):
            values[section] = {k: v for k, v in values[section].items() if k not in keys}
    return {"version": stage.version, **values}


def _included(keys: tuple[str, ...]) -> dict[str, Any]:
    """``keys`` as pydantic's ``include``."""
    included: dict[str, Any] = {}
    for key in keys:
        section, _, inner = key.partition(".")
        if inner:
            included.setdefault(section, set()).add(inner)
        else:
            included[section] = True
    return included
