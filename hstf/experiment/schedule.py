"""The rounds of an experiment: their members and what they learn from."""

from hstf.config.experiment import Config


def warmup_members(config: Config) -> list[str]:
    """Names of the warm-up's members: ``fold_k`` trains without fold k, ``seed_k`` on all labelled cases."""
    return [f"fold_{k}" for k in range(config.warmup.folds)] + [
        f"seed_{k}" for k in range(config.warmup.seeds)
    ]


def pseudo_labelled(config: Config, number: int) -> bool:
    """Whether the model of a round learns from pseudo-labels; only then do teacher, refine and labels run."""
    return number > 0 and learns_from(config, number) == "pseudo_labels"


def learns_from(config: Config, number: int) -> str:
    """What the student of a round is given besides the labelled cases: see ``student.learns_from``."""
    return config.for_round(number).student.learns_from


def members(config: Config, number: int) -> list[str]:
    """Names of the members of a round's model."""
    if number == 0:
        return warmup_members(config)
    return [f"seed_{k}" for k in range(config.for_round(number).student.members)]
