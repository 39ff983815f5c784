"""A person's word: corrected labels and decisions in the overrides folder, and which of them is in force.

``round_<r>/<case_id>.nii.gz`` is a corrected label; a row of ``decisions.csv`` (columns :data:`COLUMNS`) says what a
reviewer decided. Either holds from its round on, until a later round says otherwise. A corrected label stands for the
whole case: voxels of the ``ignore`` value have no weight, and the pseudo-label is not put in their place. Who corrects a
part keeps the pseudo-label in the rest of the file, and who ignores a part does so because it is not to be learned from.

This module imports nothing heavy: the workflow calls it while it is read, to learn which file and which row a shard of
labels depends on.
"""

import csv
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.experiment.schedule import Schedule
from hstf.runtime.errors import HstfError, few, join_problems
from hstf.runtime.files import read_csv

Action = Literal["accept", "replace", "reject"]
ACTIONS: tuple[str, ...] = get_args(Action)
COLUMNS = ("round", "case_id", "action", "reviewer", "date", "reason")
SUFFIX = ".nii.gz"
OUTSIDE = "a link that leads out of the overrides folder; put the file itself there"
ROUND_FOLDER = re.compile(r"round_(\d+)")


@dataclass(frozen=True)
class Override:
    """What a person decided about a case's label."""

    case_id: str
    number: int
    """The round from which it holds."""
    action: Action
    """Take the automatic label whatever its score, use ``file`` in its place, or leave the case out."""
    reviewer: str = ""
    date: str = ""
    reason: str = ""
    file: Path | None = None
    """The corrected label, for ``replace``."""


def overrides_in_force(
    layout: Layout, schedule: Schedule, number: int, case_ids: Collection[str]
) -> dict[str, Override]:
    """Return the override of each case that has one in round ``number``.

    The latest override from a round up to ``number`` is in force. A file means ``replace``; a row of
    the same round names its reviewer, and a ``reject`` row of the same round leaves the case out
    although there is a file. The last of several rows for a case and round counts.

    Args:
        layout: the files of the experiment.
        schedule: the rounds.
        number: the round.
        case_ids: all unlabelled cases; other names in the folder are mistakes.

    Raises:
        HstfError: with all problems of the folder: unknown cases, rounds, actions or files, and
            malformed rows.
    """
    problems = _strays(layout.overrides)
    files = _scan_files(layout, schedule.last, case_ids, problems)
    rows = _read_decisions(layout, schedule.last, case_ids, problems)
    overrides = {}
    for key in files.keys() | rows.keys():
        overrides[key] = _join(*key, rows.get(key), files.get(key), layout, problems)
    if problems:
        raise join_problems(
            f"{layout.overrides}: {len(problems)} problems in the overrides.", problems
        )
    in_force = {}
    for key in sorted(overrides):  # later rounds replace earlier ones
        override_round, case_id = key
        if override_round <= number:
            in_force[case_id] = overrides[key]
    return in_force


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
        f" corrections of {few(unused)} are not used. To learn from corrected cases, set their split"
        " to 'labelled'."
    )


Key = tuple[int, str]


def _join(
    number: int,
    case_id: str,
    row: dict[str, str] | None,
    file: Path | None,
    layout: Layout,
    faults: list[str],
) -> Override:
    """The override of a case in one round, from its row, its file, or both."""
    if row is None:
        return Override(case_id, number, "replace", file=file)
    action = row["action"]
    if action == "replace" and file is None:
        faults.append(
            f"decisions.csv: round {number} replaces the label of {case_id}, but"
            f" {layout.override(number, case_id)} is missing. Put the corrected label there or change the action"
        )
    if action != "reject" and file is not None:
        action = "replace"
    kept = file if action == "replace" else None
    return Override(case_id, number, action, row["reviewer"], row["date"], row["reason"], kept)  # type: ignore[arg-type]


def _scan_files(
    layout: Layout, rounds: int, case_ids: Collection[str], faults: list[str]
) -> dict[Key, Path]:
    files: dict[Key, Path] = {}
    for folder in _entries(layout.overrides):
        match = ROUND_FOLDER.fullmatch(folder.name)
        if not folder.is_dir() or not folder.name.startswith("round"):
            continue
        if not match or not 1 <= int(match[1]) <= rounds or folder.name != f"round_{int(match[1])}":
            faults.append(f"{folder.path}: no such round; rounds are round_1 to round_{rounds}")
            continue
        if _leaves(Path(folder.path), layout.overrides):
            faults.append(f"{folder.path}: {OUTSIDE}")
            continue
        for entry in _entries(Path(folder.path)):
            case_id = entry.name.removesuffix(SUFFIX)
            if _leaves(Path(entry.path), layout.overrides):
                faults.append(f"{entry.path}: {OUTSIDE}")
            elif case_id == entry.name:
                faults.append(
                    f"{entry.path}: not a label; corrected labels are called <case_id>{SUFFIX}"
                )
            elif case_id not in case_ids:
                faults.append(
                    f"{entry.path}: {case_id!r} is not an unlabelled case of the case sheet"
                )
            else:
                files[int(match[1]), case_id] = Path(entry.path)
    return files


def _strays(folder: Path) -> list[str]:
    """Corrections above ``folder``, where no experiment looks: ``overrides/round_1`` for ``overrides/mine/round_1``."""
    if folder.parent.name != "overrides":
        return []
    above = [entry.name for entry in _entries(folder.parent)]
    lost = [name for name in above if name == "decisions.csv" or name.startswith("round_")]
    return [
        f"{folder.parent / name}: belongs to no experiment. Those of this one lie in {folder}"
        for name in lost
    ]


def _leaves(path: Path, folder: Path) -> bool:
    """Whether ``path`` in ``folder`` is a link to somewhere else."""
    return path.is_symlink() and not path.resolve().is_relative_to(folder.resolve())


def _entries(folder: Path) -> Iterable[os.DirEntry[str]]:
    """Entries of ``folder`` by name, without hidden files and READMEs."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith((".", "README"))]
    return sorted(shown, key=lambda entry: entry.name)


def _read_decisions(
    layout: Layout, rounds: int, case_ids: Collection[str], faults: list[str]
) -> dict[Key, dict[str, str]]:
    path = layout.decisions
    if not path.is_file():
        return {}
    if _leaves(path, layout.overrides):
        faults.append(f"{path}: {OUTSIDE}")
        return {}
    try:
        rows = read_csv(path)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = next(csv.reader(stream), [])
    except (csv.Error, UnicodeDecodeError) as error:
        raise HstfError(f"{path}: not readable as comma-separated UTF-8 text ({error}).") from error
    missing = [column for column in COLUMNS if header and column not in header]
    if missing:
        faults.append(
            f"{path}: its first line lacks the columns {', '.join(missing)}; expected {','.join(COLUMNS)}"
        )
        return {}
    decisions = {}
    for line, row in enumerate(rows, start=2):
        found = _row_faults(row, rounds, case_ids)
        faults += [f"{path}, line {line}: {fault}" for fault in found]
        if not found:
            decisions[int(row["round"]), row["case_id"]] = row
    return decisions


def _row_faults(row: dict[str, str], rounds: int, case_ids: Collection[str]) -> list[str]:
    if None in row or None in row.values():
        return [
            f"has not the {len(COLUMNS)} cells of the heading; put text that holds commas in double quotes"
        ]
    faults = []
    if not row["round"].isdecimal() or not 1 <= int(row["round"]) <= rounds:
        faults.append(f"round {row['round']!r} is none of 1 to {rounds}")
    if row["case_id"] not in case_ids:
        faults.append(f"{row['case_id']!r} is not an unlabelled case of the case sheet")
    if row["action"] not in ACTIONS:
        faults.append(f"action {row['action']!r} is none of {', '.join(ACTIONS)}")
    return faults
