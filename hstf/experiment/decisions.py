"""The decisions of reviewers, and the version of the pseudo-label that each of them was made for.

A row of ``decisions.csv`` is a decision about one pseudo-label. It names the version that the
reviewer looked at by its SHA-256, in the optional column ``sha256``. For a row without it, the
first plain ``snakemake`` that reads the row notes the version on disk in ``decisions_seen.csv``,
beside the table. The file of the reviewer is never written.

This module imports nothing heavy. The workflow calls it when it starts.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from hstf.experiment.case_names import UNKNOWN_CASE, CaseNames
from hstf.experiment.layout import Layout
from hstf.experiment.override_folder import leaves
from hstf.experiment.review_tables import DECISIONS_SEEN
from hstf.runtime.errors import HstfError, few
from hstf.runtime.files import read_csv, read_sheet, sha256_file

Action = Literal["accept", "replace", "reject"]
ACTIONS: tuple[str, ...] = get_args(Action)
COLUMNS = ("round", "case_id", "action", "reviewer", "date", "reason")
VERSION = "sha256"
"""The optional column."""
SHA256 = re.compile(r"[0-9a-f]{64}")
SECONDS = re.compile(r"(?<=\d:\d\d):\d\d([.,]\d+)?")
"""The seconds of a time. Spreadsheets show and save the minutes only."""
MONTHS = (
    "jan",
    "feb",
    "mar|mär|mrz",
    "apr",
    "may|mai",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct|okt",
    "nov",
    "dec|dez",
)
"""How names of months begin."""
NO_VERSION = ""
"""The version of a decision that was made before there was a pseudo-label."""
MISSING_QUOTE = (
    "Most likely a double quote is missing or surplus there. Put text with separators or line"
    " breaks in double quotes"
)


def version_of(row: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the pseudo-label of a row of ``refine.csv``; empty without one.

    Tables of shards name files relative to another folder than the joined table.
    """
    ending = f"/{row['case_id']}.nii.gz"
    for file, digest in zip(row["files"], row["sha256"], strict=True):
        if f"/{file}".endswith(ending):
            return str(digest)
    return ""


@dataclass(frozen=True)
class Decision:
    """A row of the table."""

    round: int
    """The round from which it applies."""
    case_id: str
    action: Action
    reviewer: str = ""
    date: str = ""
    reason: str = ""
    version: str | None = None
    """SHA-256 of the pseudo-label that was looked at. :data:`NO_VERSION`: there was none. None: no
    plain command has read the row yet."""

    @property
    def who(self) -> str:
        """The reviewer, for a message."""
        return self.reviewer or "a reviewer"


Line = tuple[int, Decision]
"""Number of the line in the table, and the decision."""
Key = tuple[int, str]
"""Round and case."""


def read_decisions(
    layout: Layout, rounds: int, cases: CaseNames, problems: list[str]
) -> dict[Key, list[Decision]]:
    """Return the decisions of each round and case, with their versions.

    Args:
        layout: the files of the experiment.
        rounds: number of the last round.
        cases: the unlabelled cases.
        problems: is extended by rows that are not valid or contradict each other.

    Raises:
        HstfError: if the versions cannot be read.
    """
    lines = _read_lines(layout, rounds, cases, problems)
    by_key: dict[Key, list[Line]] = {}
    for line in lines:
        by_key.setdefault((line[1].round, line[1].case_id), []).append(line)
    problems += _contradictions(layout.decisions, by_key.values())
    seen = _read_seen(layout.decisions_seen) if lines else {}
    decisions: dict[Key, list[Decision]] = {}
    for key, of_key in by_key.items():
        decisions[key] = [_with_version(decision, seen) for _, decision in of_key]
    return decisions


def note_versions(layout: Layout, rounds: int, cases: CaseNames) -> str | None:
    """Note which pseudo-label is on disk for each decision that is read for the first time.

    A noted version is never changed: a decision that is made again is a changed row.

    Args:
        layout: the files of the experiment.
        rounds: number of the last round.
        cases: the unlabelled cases.

    Returns:
        A message if the versions could not be stored; otherwise None. Their decisions then count as
        not yet read.

    Raises:
        HstfError: if the versions that were noted before cannot be read.
    """
    lines = _read_lines(layout, rounds, cases, problems=[])
    if not lines:
        return None
    seen = _read_seen(layout.decisions_seen)
    new: dict[Identity, Decision] = {}
    for _, decision in lines:
        if decision.version is None and _identity(decision) not in seen:
            path = layout.pseudo_label(decision.round, decision.case_id)
            version = sha256_file(path) if path.is_file() else NO_VERSION
            new.setdefault(_identity(decision), replace(decision, version=version))
    if not new:
        return None
    try:
        rows = [_to_row(decision) for decision in [*seen.values(), *new.values()]]
        DECISIONS_SEEN.write(layout.decisions_seen, rows)
    except HstfError as error:
        names = few(decision.case_id for decision in new.values())
        return (
            f"{error} It notes which pseudo-label a decision was made for. Without it, 'accept' of"
            f" {names} has no effect: make the folder writable, or enter the SHA-256 of the"
            f" pseudo-label in the column {VERSION} of {layout.decisions}."
        )
    return None


# --- the table of the reviewers


def _read_lines(layout: Layout, rounds: int, cases: CaseNames, problems: list[str]) -> list[Line]:
    """Return the valid rows of the table."""
    path = layout.decisions
    if not path.is_file() or leaves(path, layout.overrides):
        return []
    try:
        header, rows = read_sheet(path, (*COLUMNS, VERSION))
    except HstfError as error:
        problems.append(str(error).removesuffix("."))
        return []
    found = header_problems(header)
    if found:
        problems += [f"{path}: {problem}" for problem in found]
        return []
    lines = []
    for last_line, row in rows:
        first_line = last_line - sum(cell.count("\n") for cell in row.values())
        found = _row_problems(row, list(row), rounds, cases)
        problems += [f"{path}, line {first_line}: {problem}" for problem in found]
        if not found:
            lines.append((first_line, _to_decision(row)))
    return lines


def _to_decision(row: Mapping[str, str]) -> Decision:
    return Decision(
        int(whole_number(row["round"])),
        row["case_id"],
        row["action"].casefold(),  # type: ignore[arg-type]
        row["reviewer"],
        row["date"],
        row["reason"],
        row.get(VERSION, "").casefold() or None,
    )


def whole_number(cell: str) -> str:
    """Return a number without the ``.0`` that pandas and spreadsheets add."""
    return re.sub(r"[.,]0+$", "", cell)


def header_problems(header: Sequence[str]) -> list[str]:
    """Describe columns that the header of the table lacks, or has twice."""
    names = Counter(header)
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        return [
            f"its first line lacks the columns {', '.join(missing)}; expected {','.join(COLUMNS)}"
        ]
    twice = [name for name in (*COLUMNS, VERSION) if names[name] > 1]
    return [f"column {name!r} appears {names[name]} times" for name in twice]


def is_about(row: Mapping[str, str], number: int, case_id: str) -> bool:
    """Return whether a row of the table is a decision on a case in a round."""
    found = whole_number(row["round"])
    return row["case_id"] == case_id and found.isdecimal() and int(found) == number


def _row_problems(
    row: Mapping[str, str], header: Sequence[str], rounds: int, cases: CaseNames
) -> list[str]:
    problems = _swallowed_rows(row, header)
    if problems:
        return problems
    if row[""]:
        return [
            f"has more cells than the header, the last are {row['']!r};"
            " put text with separators in double quotes"
        ]
    number = whole_number(row["round"])
    if not number.isdecimal() or not 1 <= int(number) <= rounds:
        problems.append(f"round {row['round']!r} is not one of 1 to {rounds}")
    if row["case_id"] not in cases:
        problems.append(f"{row['case_id']!r} {UNKNOWN_CASE}{_correction(row, cases)}")
    if row["action"].casefold() not in ACTIONS:
        problems.append(f"action {row['action']!r} is not one of {', '.join(ACTIONS)}")
    version = row.get(VERSION, "")
    if version and not SHA256.fullmatch(version.casefold()):
        problems.append(
            f"{VERSION} {version!r} is not a SHA-256; copy the first one of the column sha256 in"
            " refine.csv, or leave the cell empty"
        )
    return problems


def _correction(row: Mapping[str, str], cases: CaseNames) -> str:
    other = cases.in_other_letter_case(row["case_id"])
    if other:
        return f"; did you mean {other!r}?"
    return ". If the case is in another split now, delete the row"


def _swallowed_rows(row: Mapping[str, str], header: Sequence[str]) -> list[str]:
    """Describe a cell that goes on over several lines without being a text of several lines."""
    for name, cell in row.items():
        if "\n" not in cell:
            continue
        if name != "reason":
            return [f"the cell {name!r} has a line break. {MISSING_QUOTE}"]
        for line in cell.split("\n")[1:]:
            if _looks_like_row(line, header):
                return [f"the cell {name!r} contains a whole row, {line!r}. {MISSING_QUOTE}"]
    return []


def _looks_like_row(text: str, header: Sequence[str]) -> bool:
    cells = [cell.strip(' "').casefold() for cell in re.split("[,;\t]", text)]
    row = dict(zip(header, cells, strict=False))
    has_round = row.get("round", "").isdecimal() and len(cells) > 3
    return has_round or row.get("action") in ACTIONS


def _contradictions(path: Path, groups: Iterable[Sequence[Line]]) -> list[str]:
    """Describe rows that decide differently about the same pseudo-label."""
    problems = []
    for lines in groups:
        first_line, first = lines[0]
        for line, other in lines[1:]:
            if other.action != first.action:
                problems.append(
                    f"{path}, lines {first_line} and {line}: {first.case_id} in round"
                    f" {first.round}: {first.who} decided {first.action!r}, {other.who} decided"
                    f" {other.action!r}. Agree on one and delete the other row"
                )
                break
    return problems


# --- the versions

Identity = tuple[int, str, str, str, tuple[int, ...], str]
"""What makes a row another decision if it changes."""


def _identity(decision: Decision) -> Identity:
    return (
        decision.round,
        decision.case_id,
        decision.action,
        _plain(decision.reviewer),
        _date_numbers(decision.date),
        _plain(decision.reason),
    )


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _date_numbers(date: str) -> tuple[int, ...]:
    """Return the numbers of a date in any order.

    A spreadsheet that saves the table writes all dates in its own format, without seconds. This
    must not make a new decision of each row: it would be bound to a pseudo-label that nobody has
    looked at. English and German names of months count as their numbers.
    """
    text = unicodedata.normalize("NFC", SECONDS.sub("", date)).casefold()
    for number, names in enumerate(MONTHS, start=1):
        text = re.sub(rf"(?<![^\W\d_])({names})[^\W\d_]*", f" {number} ", text)
    numbers = [int(number) % 100 for number in re.findall(r"\d+", text)]
    return tuple(sorted(number for number in numbers if number))


def _with_version(decision: Decision, seen: Mapping[Identity, Decision]) -> Decision:
    noted = seen.get(_identity(decision))
    if decision.version is not None or noted is None:
        return decision
    return replace(decision, version=noted.version)


def _to_row(decision: Decision) -> dict[str, object]:
    values = (
        decision.round,
        decision.case_id,
        decision.action,
        decision.reviewer,
        decision.date,
        decision.reason,
        decision.version,
    )
    return dict(zip((*COLUMNS, VERSION), values, strict=True))


def _read_seen(path: Path) -> dict[Identity, Decision]:
    """Return the decisions whose version was noted.

    Raises:
        HstfError: if the table is damaged.
    """
    if not path.is_file():
        return {}
    seen: dict[Identity, Decision] = {}
    try:
        for row in read_csv(path):
            version = row[VERSION]
            if version and not SHA256.fullmatch(version):
                raise ValueError(version)
            decision = replace(_to_decision(row), version=version)
            seen[_identity(decision)] = decision
    except (HstfError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise HstfError(
            f"{path}: is damaged. It notes which pseudo-label each decision was made for. Restore"
            " it from a copy. If there is none, delete it and look at all accepted pseudo-labels"
            " again."
        ) from error
    return seen
