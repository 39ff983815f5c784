"""A job of the workflow: a rule with its wildcards."""

from dataclasses import dataclass

from hstf.experiment.stage_names import stage_of_rule


@dataclass(frozen=True)
class Job:
    """A job of the workflow: a rule with its wildcards."""

    rule: str
    """Name of the rule, such as ``labels_shard``."""
    round: int | None = None
    part: str = ""
    """Shard or ensemble member."""

    @property
    def stage(self) -> str:
        """The stage that the rule runs."""
        return stage_of_rule(self.rule)

    @property
    def name(self) -> str:
        """Name of the files about the job, such as ``labels.round_1.unlabelled_0``."""
        words = [self.rule.removesuffix("_shard").removesuffix("_member")]
        if self.round is not None:
            words.append(f"round_{self.round}")
        if self.part:
            words.append(self.part)
        return ".".join(words)


def training(number: int, member: str) -> Job:
    """Return the training of an ensemble member in a round."""
    return Job("student_member" if number else "warmup_member", number, member)


def job_of_command(
    stage: str, number: int | None, part: str, scales: bool = False, validation: bool = False
) -> Job:
    """Return the job that a command runs.

    Args:
        stage: the command.
        number: option ``--round``.
        part: option ``--shard`` or ``--member``; empty without them.
        scales: option ``--scales``.
        validation: option ``--validation``.
    """
    if stage == "warmup":
        return Job("warmup_member", 0, part)
    if stage == "student":
        return Job("student_member", number, part)
    if scales:
        return Job("evaluate_scales", number)
    if validation:
        return Job("evaluate_validation", number)
    if stage == "external" and number is not None:
        return Job("external_prompted_shard", number, part)
    if stage == "external" and not part:
        return Job("external_weights")
    if stage == "calibrate" and number is not None:
        return Job("calibrate_round", number)
    if stage in ("monitor", "lesions", "track"):
        return Job(f"{stage}_round", number)
    if part:
        return Job(f"{stage}_shard", number, part)
    if stage in ("refine", "labels", "evaluate"):
        return Job(f"{stage}_table", number)
    return Job(stage)
