"""Manual overrides: corrected labels and decisions of reviewers, and which of them are in force.

``round_<r>/<case_id>.nii.gz`` is a corrected label. A row of ``decisions.csv`` (columns
:data:`COLUMNS`) is a decision of a reviewer. Both apply from their round until a later round
changes them. A corrected label is the label of the whole case: voxels with the value of ``ignore``
have no weight, and the pseudo-label is not used there. To correct a part of a pseudo-label, keep
the rest of it in the file.

This module imports nothing heavy. The workflow calls it when it starts, to find out which file and
which row the labels of a shard depend on.
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
OUTSIDE = "a link to a place outside the overrides folder; put the file itself there"
ROUND_FOLDER = re.compile(r"round_(\d+)")
UNKNOWN_CASE = "is not an unlabelled case of the case sheet"


@dataclass(frozen=True)
class Override:
    """The decision of a reviewer about the label of a case."""

    case_id: str
    number: int
    """The round from which it applies."""
    action: Action
    """Accept the pseudo-label whatever its predicted Dice, replace it by ``file``, or reject the
    case."""
    reviewer: str = ""
    date: str = ""
    reason: str = ""
    file: Path | None = None
    """The corrected label, for ``replace``."""


def overrides_in_force(
    layout: Layout, schedule: Schedule, number: int, case_ids: Collection[str]
) -> dict[str, Override]:
    """Return the override of each case that has one in round ``number``.

    The latest override from a round up to ``number`` is in force. A file means ``replace``; a row
    of the same round names its reviewer, and a ``reject`` row of the same round leaves the case out
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
        f" corrections of {few(unused)} are not used. To learn from corrected cases, set their"
        " split to 'labelled'."
    )


Key = tuple[int, str]
"""Round and case."""


def _join(
    number: int,
    case_id: str,
    row: dict[str, str] | None,
    file: Path | None,
    layout: Layout,
    problems: list[str],
) -> Override:
    """Return the override of a case in one round, from its row, its file, or both."""
    if row is None:
        return Override(case_id, number, "replace", file=file)
    action = row["action"]
    if action == "replace" and file is None:
        problems.append(
            f"decisions.csv: round {number} replaces the label of {case_id}, but"
            f" {layout.override(number, case_id)} is missing. Put the corrected label there, or"
            " change the action"
        )
    if action != "reject" and file is not None:
        action = "replace"
    return Override(
        case_id,
        number,
        action,  # type: ignore[arg-type]
        row["reviewer"],
        row["date"],
        row["reason"],
        file if action == "replace" else None,
    )


def _scan_files(
    layout: Layout, rounds: int, case_ids: Collection[str], problems: list[str]
) -> dict[Key, Path]:
    """Return the corrected labels in the folders ``round_<r>``."""
    files: dict[Key, Path] = {}
    for folder in _entries(layout.overrides):
        if not folder.is_dir() or not folder.name.startswith("round"):
            continue
        match = ROUND_FOLDER.fullmatch(folder.name)
        number = int(match[1]) if match else 0
        if not 1 <= number <= rounds or folder.name != f"round_{number}":
            problems.append(f"{folder.path}: no such round; rounds are round_1 to round_{rounds}")
        elif _leaves(Path(folder.path), layout.overrides):
            problems.append(f"{folder.path}: {OUTSIDE}")
        else:
            for case_id, path in _scan_round(layout, Path(folder.path), case_ids, problems):
                files[number, case_id] = path
    return files


def _scan_round(
    layout: Layout, folder: Path, case_ids: Collection[str], problems: list[str]
) -> Iterable[tuple[str, Path]]:
    """Yield case and file of each corrected label in the folder of a round."""
    for entry in _entries(folder):
        case_id = entry.name.removesuffix(SUFFIX)
        if _leaves(Path(entry.path), layout.overrides):
            problems.append(f"{entry.path}: {OUTSIDE}")
        elif case_id == entry.name:
            problems.append(
                f"{entry.path}: not a label; corrected labels are called <case_id>{SUFFIX}"
            )
        elif case_id not in case_ids:
            problems.append(f"{entry.path}: {case_id!r} {UNKNOWN_CASE}")
        else:
            yield case_id, Path(entry.path)


def _strays(folder: Path) -> list[str]:
    """Describe corrections in the parent of ``folder``, which no experiment reads.

    For instance ``overrides/round_1`` instead of ``overrides/mine/round_1``.
    """
    if folder.parent.name != "overrides":
        return []
    problems = []
    for entry in _entries(folder.parent):
        if entry.name == "decisions.csv" or entry.name.startswith("round_"):
            problems.append(
                f"{folder.parent / entry.name}: belongs to no experiment."
                f" The overrides of this experiment are in {folder}"
            )
    return problems


def _leaves(path: Path, folder: Path) -> bool:
    """Return whether ``path`` is a link to a place outside ``folder``."""
    return path.is_symlink() and not path.resolve().is_relative_to(folder.resolve())


def _entries(folder: Path) -> Iterable[os.DirEntry[str]]:
    """Return the entries of ``folder`` by name, without hidden files and READMEs."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith((".", "README"))]
    return sorted(visible, key=lambda entry: entry.name)


def _read_decisions(
    layout: Layout, rounds: int, case_ids: Collection[str], problems: list[str]
) -> dict[Key, dict[str, str]]:
    """Return the rows of ``decisions.csv``; the last row of a round and case counts."""
    path = layout.decisions
    if not path.is_file():
        return {}
    if _leaves(path, layout.overrides):
        problems.append(f"{path}: {OUTSIDE}")
        return {}
    rows = read_csv(path)
    missing = [name for name in COLUMNS if name not in _header(path)]
    if missing:
        problems.append(
            f"{path}: its first line lacks the columns {', '.join(missing)};"
            f" expected {','.join(COLUMNS)}"
        )
        return {}
    decisions = {}
    for line, row in enumerate(rows, start=2):
        found = _row_problems(row, rounds, case_ids)
        problems += [f"{path}, line {line}: {problem}" for problem in found]
        if not found:
            decisions[int(row["round"]), row["case_id"]] = row
    return decisions


def _header(path: Path) -> list[str]:
    """Return the first line of a CSV file; all columns if the file is empty."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return next(csv.reader(stream), list(COLUMNS))
    except (csv.Error, UnicodeDecodeError) as error:
        raise HstfError(f"{path}: not readable as comma-separated UTF-8 text ({error}).") from error


def _row_problems(row: dict[str, str], rounds: int, case_ids: Collection[str]) -> list[str]:
    if None in row or None in row.values():
        return [
            f"does not have the {len(COLUMNS)} cells of the header; put text with commas in"
            " double quotes"
        ]
    problems = []
    if not row["round"].isdecimal() or not 1 <= int(row["round"]) <= rounds:
        problems.append(f"round {row['round']!r} is not one of 1 to {rounds}")
    if row["case_id"] not in case_ids:
        problems.append(f"{row['case_id']!r} {UNKNOWN_CASE}")
    if row["action"] not in ACTIONS:
        problems.append(f"action {row['action']!r} is not one of {', '.join(ACTIONS)}")
    return problems
