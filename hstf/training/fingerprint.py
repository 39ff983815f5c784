"""Fingerprint of a training: a hash of everything that it depends on."""

from pathlib import Path
from typing import Any

from hstf.config.experiment import Config
from hstf.config.network import START_KEYS
from hstf.config.training import TrainingConfig
from hstf.experiment.dependencies import LEFT_OUT_AT_DEFAULT, SPEED_KEYS, STAGES
from hstf.experiment.plan import Plan
from hstf.runtime.files import sha256_json
from hstf.runtime.stamps import sha256_once
from hstf.training.distributed import is_first_rank
from hstf.training.patches import PatchSource

PLAN_KEYS = ("spacing", "patch_size", "batch_size", "channels", "strides", "kernels")
"""Keys of the plan that a training depends on. The preprocessed files are already normalised."""


def training_fingerprint(
    config: Config,
    training: TrainingConfig,
    plan: Plan,
    source: PatchSource,
    start: Path | None,
    initial: Path | None = None,
) -> str:
    """Hash everything that a training depends on; only the first rank needs it.

    An interrupted training resumes only if its state has the same fingerprint.
    """
    if not is_first_rank():
        return ""
    network = config.network
    content = {
        **facts_of_source(source, plan),
        "versions": [STAGES["warmup"].version, STAGES["student"].version],
        "training": _training_values(training),
        "network": network.model_dump(mode="json", exclude=set(START_KEYS)),
        "labels": list(config.labels.items()),
        "start": sha256_once(start) if start else None,
    }
    if initial is not None:
        content["initial"] = [sha256_once(initial), network.start_keys, network.start_rate]
        if network.start_part != "network":
            content["initial_part"] = network.start_part
    if config.heads:
        content["regions"] = config.heads
    return sha256_json(content)


def _training_values(training: TrainingConfig) -> dict[str, Any]:
    """Return the configuration of a training, without newer keys that have their default."""
    values = training.model_dump(mode="json", exclude=SPEED_KEYS["student"])
    newer = LEFT_OUT_AT_DEFAULT["student"]
    return {key: value for key, value in values.items() if newer.get(key, ...) != value}


def facts_of_source(source: PatchSource, plan: Plan) -> dict[str, Any]:
    """Return everything that the patches of a training depend on."""
    cases = [*source.labelled, *source.pseudo]
    files = []  # in this order, which decides in which order cases are used
    for case in cases:
        # Not the folder: a training resumes after its results were moved.
        files += [(case.case_id, path.name, case.sha256(path)) for path in case.files]
    plan_values = plan.to_json()
    channels = source.acquisition.channels  # decide how intensities are augmented
    facts = {
        "plan": {key: plan_values[key] for key in PLAN_KEYS},
        "seed": source.seed,
        "files": files,
        "pseudo": [case.pseudo for case in cases],
        "channels": [[kind, how.model_dump(mode="json")] for kind, how in channels],
    }
    accepted = [case.case_id for case in cases if case.accepted]
    if accepted:
        facts["accepted"] = accepted
    return facts
