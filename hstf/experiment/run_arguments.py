"""The options of a run of the workflow, with which the same run starts again.

Several options of Snakemake take any number of values, such as ``--configfile`` and ``--config``. A
target after their values is read as one more value. So targets come first in every command that is
shown or started here.
"""

import shlex
from collections.abc import Callable, Sequence

PLACEHOLDER = "<your configuration>"
"""Stands for the file of the configuration if the run is not known."""
ONCE = {
    "--forceall": 0,
    "-F": 0,
    "--force": 0,
    "-f": 0,
    "--touch": 0,
    "-t": 0,
    "--dry-run": 0,
    "--dryrun": 0,
    "-n": 0,
    "--directory": 1,
    "-d": 1,
    "--snakefile": 1,
    "-s": 1,
    "--configfile": None,
    "--configfiles": None,
    "--forcerun": None,
    "-R": None,
    "--until": None,
    "-U": None,
    "--omit-from": None,
    "-O": None,
}
"""Options that were meant for one run only, or whose files are named anew. The values are the
numbers of their values; None: any number."""
SECRET_WORDS = ("password", "secret", "token", "access-key")
"""Options with one of these words in their name are not recorded."""

TargetsOf = Callable[[Sequence[str]], Sequence[str]]
"""Returns the targets in the arguments of Snakemake."""


def lasting_arguments(arguments: Sequence[str], targets_of: TargetsOf) -> list[str]:
    """Return the options that a run and its repetition have in common.

    Args:
        arguments: the arguments of Snakemake.
        targets_of: returns the targets in arguments, as Snakemake reads them.

    Example:
        >>> words = ["check", "--cores", "8", "-R", "teacher", "--profile", "slurm"]
        >>> lasting_arguments(words, lambda left: left[:1] if left[0] == "check" else [])
        ['--cores', '8', '--profile', 'slurm']
    """
    return _without_targets(_without_options(arguments), targets_of)


def _without_options(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    surplus: int | None = 0
    for word in arguments:
        if word.startswith("-"):
            name, _, value = word.partition("=")
            if _is_secret(name):
                surplus = 0 if value else 1
                continue
            if name in ONCE:
                surplus = 0 if value else ONCE[name]
                continue
            surplus = 0
        elif surplus is None:
            continue
        elif surplus:
            surplus -= 1
            continue
        kept.append(word)
    return kept


def _is_secret(name: str) -> bool:
    return any(word in name for word in SECRET_WORDS)


def _without_targets(arguments: list[str], targets_of: TargetsOf) -> list[str]:
    """Remove the words that are targets; the same word may also be the value of an option."""
    left = list(arguments)
    for target in list(targets_of(left)):
        for position, word in enumerate(left):
            shorter = [*left[:position], *left[position + 1 :]]
            if word == target and len(targets_of(shorter)) < len(targets_of(left)):
                left = shorter
                break
    return left


def workflow_arguments(
    arguments: Sequence[str] | None, targets: Sequence[str] = (), is_dry: bool = False
) -> list[str]:
    """Return the arguments of Snakemake that start a run again.

    Args:
        arguments: :attr:`hstf.experiment.last_run.LastRun.arguments`; None or empty if they are
            not known.
        targets: where the run stops; empty for the whole workflow.
        is_dry: whether it only lists its jobs.
    """
    dry = ["-n"] if is_dry else []
    options = arguments or ["--cores", "8", "--configfile", PLACEHOLDER]
    return [*targets, *dry, *options]


def workflow_command(
    arguments: Sequence[str] | None, targets: Sequence[str] = (), is_dry: bool = False
) -> str:
    """Return the command that starts a run again, for a terminal.

    Example:
        >>> workflow_command(["--cores", "2", "--configfile", "a.yaml"], ["round_1_labels"])
        'snakemake round_1_labels --cores 2 --configfile a.yaml'
        >>> workflow_command(None, is_dry=True)
        'snakemake -n --cores 8 --configfile <your configuration>'
    """
    words = []
    for word in workflow_arguments(arguments, targets, is_dry):
        words.append(word if word == PLACEHOLDER else shlex.quote(word))
    return " ".join(["snakemake", *words])
