"""Manual overrides: corrected labels and decisions of reviewers, and which of them are in force.

``round_<r>/<case_id>.nii.gz`` is a corrected label. A row of ``decisions.csv`` is a decision of a
reviewer. Both apply from their round until a later round changes them. A corrected label is the
label of the whole case: voxels with the value of ``ignore`` have no weight, and the pseudo-label is
not used there. To correct a part of a pseudo-label, keep the rest of it in the file.

An acceptance counts only for the version of the pseudo-label that was looked at
(:mod:`hstf.experiment.decisions`). A rejection also counts for later versions: to leave a case out
teaches nothing wrong.

This module imports nothing heavy. The workflow calls it when it starts, to find out which file and
which rows the labels of a shard depend on.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hstf.config.experiment import Config
from hstf.experiment.case_names import CaseNames
from hstf.experiment.decisions import Action, Decision, Key, note_versions, read_decisions
from hstf.experiment.layout import Layout
from hstf.experiment.override_folder import corrected_labels
from hstf.experiment.schedule import Schedule
from hstf.runtime.errors import few, join_problems
from hstf.runtime.files import sha256_file
from hstf.runtime.shards import recorded_row


@dataclass(frozen=True)
class Override:
    """What reviewers decided about the label of a case."""

    case_id: str
    number: int
    """The round from which it applies."""
    action: Action
    """Accept the pseudo-label whatever its predicted Dice, replace it by ``file``, or reject the
    case."""
    decisions: tuple[Decision, ...] = ()
    """The rows of the table; none for a corrected label without a row."""
    file: Path | None = None
    """The corrected label, for ``replace``."""

    def decision_on(self, version: str) -> Decision | None:
        """Return the last decision that was made for a version of the pseudo-label.

        Args:
            version: SHA-256 of the pseudo-label.
        """
        made_for = [decision for decision in self.decisions if decision.version == version]
        return made_for[-1] if made_for else None


def overrides_in_force(
    layout: Layout, schedule: Schedule, number: int, case_ids: Collection[str]
) -> dict[str, Override]:
    """Return the override of each case that has one in round ``number``.

    The latest override from a round up to ``number`` is in force. A file means ``replace``; a row
    of the same round names its reviewer, and a ``reject`` row of the same round leaves the case out
    although there is a file. Whether an acceptance counts is decided when the pseudo-label is
    known, see :meth:`Override.decision_on`.

    Args:
        layout: the files of the experiment.
        schedule: the rounds.
        number: the round.
        case_ids: all unlabelled cases; other names in the folder are mistakes.

    Raises:
        HstfError: with all problems of the folder: unknown cases, rounds, actions or files,
            misplaced files, and rows that are malformed or contradict each other.
    """
    problems: list[str] = []
    overrides = read_overrides(layout, schedule, case_ids, problems)
    if problems:
        raise join_problems(
            f"{layout.overrides}: {len(problems)} problems in the overrides.", problems
        )
    return in_force_in(number, overrides)


def read_overrides(
    layout: Layout, schedule: Schedule, case_ids: Collection[str], problems: list[str]
) -> dict[Key, Override]:
    """Return the valid overrides of all rounds, by round and case.

    Args:
        layout: the files of the experiment.
        schedule: the rounds.
        case_ids: all unlabelled cases.
        problems: is extended by everything that is wrong in the folder.

    Raises:
        HstfError: if a folder cannot be read.
    """
    cases = CaseNames(case_ids)
    files = corrected_labels(layout, schedule.last, cases, problems)
    decisions = read_decisions(layout, schedule.last, cases, problems)
    overrides = {}
    for key in files.keys() | decisions.keys():
        overrides[key] = _join(*key, decisions.get(key, []), files.get(key), layout, problems)
    return overrides


def in_force_in(number: int, overrides: Mapping[Key, Override]) -> dict[str, Override]:
    """Return the latest override of each case from a round up to ``number``."""
    in_force = {}
    for key in sorted(overrides):  # later rounds replace earlier ones
        override_round, case_id = key
        if override_round <= number:
            in_force[case_id] = overrides[key]
    return in_force


def note_decisions(layout: Layout, schedule: Schedule, case_ids: Collection[str]) -> str | None:
    """Bind decisions that are read for the first time to the pseudo-label on disk.

    Args:
        layout: the files of the experiment.
        schedule: the rounds.
        case_ids: all unlabelled cases.

    Returns:
        A message if this was not possible; otherwise None.

    Raises:
        HstfError: if the versions that were noted before cannot be read.
    """
    return note_versions(layout, schedule.last, CaseNames(case_ids))


def override_messages(config: Config, in_force: Mapping[int, Mapping[str, Override]]) -> list[str]:
    """Return what the user should know about the overrides before the workflow runs.

    Args:
        config: the whole configuration.
        in_force: by round, what :func:`overrides_in_force` returns.
    """
    unused = unused_overrides(config, in_force)
    if unused is not None:
        return [unused]
    layout = Layout.of(config)
    messages = []
    for number, overrides in in_force.items():
        if Schedule.of(config).has_pseudo_labels(number):
            messages += _open_acceptances(layout, number, overrides.values())
            messages += _questions(layout, number, overrides.values())
            messages += _rejected_corrections(layout, number, overrides.values())
    return messages


def unused_overrides(config: Config, in_force: Mapping[int, Mapping[str, Override]]) -> str | None:
    """Return a message if no student learns from some corrected cases; otherwise None.

    Args:
        config: the whole configuration.
        in_force: by round, what :func:`overrides_in_force` returns.
    """
    schedule = Schedule.of(config)
    given: set[str] = set()
    used: set[str] = set()
    for number, overrides in in_force.items():
        given.update(overrides)
        if schedule.has_pseudo_labels(number):
            used.update(overrides)
    unused = sorted(given - used)
    if not unused:
        return None
    return (
        f"{Layout.of(config).overrides}: method {config.method} does not use pseudo-labels, so the"
        f" corrections of {few(unused)} are not used. To learn from corrected cases, move their"
        " files to another folder, enter them as labels, and set the split to 'labelled'."
    )


def _join(
    number: int,
    case_id: str,
    decisions: list[Decision],
    file: Path | None,
    layout: Layout,
    problems: list[str],
) -> Override:
    """Return the override of a case in one round, from its rows, its file, or both."""
    if not decisions:
        return Override(case_id, number, "replace", file=file)
    action = decisions[0].action
    path = layout.override(number, case_id)
    if action == "replace" and file is None:
        problems.append(
            f"{layout.decisions}: round {number} replaces the label of {case_id}, but {path} is"
            " missing. Put the corrected label there, or change the action"
        )
    if action == "accept" and file is not None:
        problems.append(
            f"{layout.decisions}: round {number} accepts the pseudo-label of {case_id}, but there"
            f" is a corrected label, {path}. Change the action to replace, or remove the file"
        )
    used_file = file if action == "replace" else None
    return Override(case_id, number, action, tuple(decisions), used_file)


def _open_acceptances(layout: Layout, number: int, overrides: Iterable[Override]) -> list[str]:
    """Describe pseudo-labels that were accepted in another version than the one on disk."""
    changed: list[str] = []
    later: list[str] = []
    for override in overrides:
        if override.action != "accept":
            continue
        path = layout.pseudo_label(number, override.case_id)
        version = sha256_file(path) if path.is_file() else None
        if version is not None and override.decision_on(version) is None:
            group = changed if override.number == number else later
            group.append(override.case_id)
    place = f"{layout.decisions}: round {number}"
    messages = []
    if changed:
        messages.append(
            f"{place}: {_counted(changed)} accepted, but not in the present version, so the"
            f" acceptance does not count. Look at {layout.pseudo_labels(number)} and confirm the"
            " row by a new date, or by the SHA-256 of the pseudo-label in the column sha256."
        )
    if later:
        messages.append(
            f"{place}: {_counted(later)} accepted in an earlier round, which does not count for the"
            f" new pseudo-labels. Look at {layout.pseudo_labels(number)} and add rows of round"
            f" {number}."
        )
    return messages


def _counted(case_ids: list[str]) -> str:
    if len(case_ids) == 1:
        return f"the pseudo-label of {case_ids[0]} was"
    return f"the pseudo-labels of {len(case_ids)} cases ({few(case_ids)}) were"


def _questions(layout: Layout, number: int, overrides: Iterable[Override]) -> list[str]:
    """Repeat the questions about corrected labels that no reviewer has answered by a row."""
    messages = []
    for override in overrides:
        if override.file is None or override.decisions:
            continue
        row = recorded_row(layout.labels(number), override.case_id)
        if row is not None and row.get("review") == "question":
            messages.append(f"{override.file}: {row.get('reason')}")
    return messages


def _rejected_corrections(layout: Layout, number: int, overrides: Iterable[Override]) -> list[str]:
    """Name corrected labels that a row of the same round leaves out."""
    messages = []
    for override in overrides:
        path = layout.override(number, override.case_id)
        if override.action == "reject" and override.number == number and path.is_file():
            messages.append(
                f"{path}: is not used, because {layout.decisions} rejects {override.case_id} in"
                f" round {number}."
            )
    return messages
