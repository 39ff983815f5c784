"""The stage that a rule of the workflow runs."""


def stage_of_rule(rule: str) -> str:
    """Return the stage of a rule: the part of its name before the first underscore.

    Example:
        >>> [stage_of_rule(rule) for rule in ("labels_shard", "plan", "out_of_fold")]
        ['labels', 'plan', 'out_of_fold']
    """
    return rule if rule == "out_of_fold" else rule.partition("_")[0]
