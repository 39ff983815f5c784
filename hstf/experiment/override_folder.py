"""The files of the overrides folder: corrected labels, and whatever has another name.

Nothing that a reviewer saved is ignored silently. A file with an unknown name is a problem, and the
message states how to correct it. Ignored are only hidden files, names that begin with README, and
what operating systems and editors leave behind.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from hstf.experiment.case_names import UNKNOWN_CASE, CaseNames
from hstf.experiment.layout import Layout
from hstf.runtime.errors import HstfError, few
from hstf.runtime.links import link_problem
from hstf.runtime.stamps import future_date

SUFFIX = ".nii.gz"
OUTSIDE = "a link to a place outside the overrides folder; put the file itself there"
ROUND_FOLDER = re.compile(r"round_([1-9]\d*)")
ROUND_LIKE = re.compile(r"(?:rounds?|r)?[\s_.-]*(\d+)", re.IGNORECASE)
"""``Round_1``, ``1``, ``round-01``: what was probably meant to be the folder of a round."""
TABLE_LIKE = re.compile(r".*decision.*|.*\.(csv|tsv|xlsx?|xlsm|ods|numbers)", re.IGNORECASE)
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
LABEL_LIKE = re.compile(r".*\.(nii|gz|nrrd|nhdr|mha|mhd|img|hdr|mgz|dcm)\b.*", re.IGNORECASE)
IGNORED = re.compile(r"\..*|README.*|~\$.*|.*~|Thumbs\.db|desktop\.ini|@eaDir|__MACOSX|lost\+found")
OVERRIDES = "overrides"
"""Name of the folder with the overrides of all experiments."""
CONFIGURED = re.compile(r"^overrides: *['\"]?(.+?)['\"]? *$", re.MULTILINE)
"""The overrides folder in the resolved configuration of an experiment."""


def corrected_labels(
    layout: Layout, rounds: int, cases: CaseNames, problems: list[str]
) -> dict[tuple[int, str], Path]:
    """Return the corrected label of each round and case.

    Args:
        layout: the files of the experiment.
        rounds: number of the last round.
        cases: the unlabelled cases.
        problems: is extended by everything in the folder, or beside it, that would be ignored.

    Raises:
        HstfError: if a folder cannot be read.
    """
    folder = layout.overrides
    problems += _misplaced(layout)
    files: dict[tuple[int, str], Path] = {}
    if problem := link_problem(folder):
        problems.append(f"{problem}, or remove the link if there are no overrides")
        return files
    if folder.exists() and not folder.is_dir():
        problems.append(f"{folder}: is a file; the overrides of an experiment are a folder")
        return files
    for entry in entries(folder):
        path = folder / entry.name
        match = ROUND_FOLDER.fullmatch(entry.name)
        if entry.name in (layout.decisions.name, layout.decisions_seen.name):
            problems += _table_problems(path, folder)
        elif match is None or int(match[1]) > rounds or not entry.is_dir():
            problems.append(f"{path}: {_misnamed(entry, folder, rounds)}")
        elif leaves(path, folder):
            problems.append(f"{path}: {OUTSIDE}")
        else:
            for case_id, file in _labels_of_round(path, folder, cases, problems):
                files[int(match[1]), case_id] = file
    return files


def leaves(path: Path, folder: Path) -> bool:
    """Return whether ``path`` is a link to a place outside ``folder``."""
    return path.is_symlink() and not path.resolve().is_relative_to(folder.resolve())


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name, without those that are ignored.

    Raises:
        HstfError: if the folder cannot be read.
    """
    if not folder.is_dir():
        return []
    try:
        with os.scandir(folder) as found:
            visible = [entry for entry in found if not IGNORED.fullmatch(entry.name)]
    except OSError as error:
        raise HstfError(f"{folder}: cannot be read ({error.strerror or error}).") from error
    return sorted(visible, key=lambda entry: entry.name)


# --- the folder of the experiment


def _table_problems(path: Path, folder: Path) -> list[str]:
    if leaves(path, folder):
        return [f"{path}: {OUTSIDE}"]
    if path.is_dir():
        return [f"{path}: is a folder; {path.name} is a table"]
    if not path.is_file():
        return [f"{path}: is a link to a missing file"]
    return []


def _misnamed(entry: os.DirEntry[str], folder: Path, rounds: int) -> str:
    """Describe an entry that is neither the folder of a round nor the table, and its correction."""
    folders = "round_1" if rounds == 1 else f"round_1 to round_{rounds}"
    match = ROUND_LIKE.fullmatch(entry.name)
    if match is not None and not 1 <= int(match[1]) <= rounds:
        return f"no such round; rounds are {folders}"
    if match is not None and not entry.is_dir():
        return f"is a file. Corrected labels are in the folder round_{int(match[1])}"
    if match is not None:
        return f"is not read. Rename the folder to round_{int(match[1])}"
    if entry.name.casefold().startswith("round"):
        return f"is not read. The folders of corrected labels are called {folders}"
    if not entry.is_dir() and TABLE_LIKE.fullmatch(entry.name):
        return _misnamed_table(entry.name, folder)
    if LABEL_LIKE.fullmatch(entry.name):
        return f"belongs to no round. Move it to {folder}/round_<r>/<case_id>{SUFFIX}"
    return (
        f"is not read here. Corrected labels are in the folders {folders}, and decisions in"
        " decisions.csv. Rename or move it; a file whose name begins with README may stay"
    )


def _misnamed_table(name: str, folder: Path) -> str:
    if name.casefold().endswith(SPREADSHEETS):
        return (
            "is not read, because it is a spreadsheet. Save it as CSV (UTF-8) with the name"
            f" {folder / 'decisions.csv'}, and remove it"
        )
    return (
        "is not read. The table of decisions is called decisions.csv: rename this file, or move its"
        " rows to decisions.csv and remove it"
    )


def _labels_of_round(
    folder: Path, overrides: Path, cases: CaseNames, problems: list[str]
) -> Iterator[tuple[str, Path]]:
    """Yield case and file of each corrected label in the folder of a round."""
    for entry in entries(folder):
        path = folder / entry.name
        case_id = entry.name.removesuffix(SUFFIX)
        if leaves(path, overrides):
            problems.append(f"{path}: {OUTSIDE}")
        elif case_id == entry.name or case_id not in cases:
            problems.append(f"{path}: {_misnamed_label(entry, overrides, cases)}")
        elif entry.is_dir():
            problems.append(f"{path}: is a folder; put the corrected label itself there, as a file")
        elif not path.is_file():
            problems.append(f"{path}: is a link to a missing file")
        elif date := future_date(path):
            problems.append(f"{path}: {date}")
        else:
            yield case_id, path


def _misnamed_label(entry: os.DirEntry[str], overrides: Path, cases: CaseNames) -> str:
    """Describe an entry that is not the corrected label of a case, and its correction."""
    name = entry.name
    if TABLE_LIKE.fullmatch(name):
        return f"is not read here. The decisions of all rounds are in {overrides / 'decisions.csv'}"
    case_id = cases.at_start_of(name)
    if case_id is None:
        if name.endswith(SUFFIX):
            return (
                f"{name.removesuffix(SUFFIX)!r} {UNKNOWN_CASE}. If the case is in another split"
                f" now, move the file out of {overrides} and enter its new place in the case sheet;"
                " otherwise remove it"
            )
        return f"not a label; corrected labels are called <case_id>{SUFFIX}"
    expected = case_id + SUFFIX
    rest = name[len(case_id) :].casefold()
    if entry.is_dir():
        return f"is a folder. Put the corrected label itself there, as the file {expected}"
    if rest.startswith(".weight"):
        return "is a voxel weight, not a label. Weights cannot be corrected: remove it"
    if rest == SUFFIX:
        return f"is not read. Rename it to {expected}"
    if ".nii" in rest and rest.endswith(".gz"):
        stem = re.split(r"\.nii", name, maxsplit=1, flags=re.IGNORECASE)[0]
        return (
            f"{stem!r} {UNKNOWN_CASE}. If it is the label of {case_id}, rename it to {expected};"
            " otherwise remove it"
        )
    return f"is not a compressed NIfTI file. Save it in the editor as {expected}, and remove it"


# --- beside the folder of the experiment


def _misplaced(layout: Layout) -> list[str]:
    """Describe overrides beside the folder that no experiment reads."""
    folder = layout.overrides
    problems = _in_other_letter_case(folder)
    parent = folder.parent
    if parent.name != OVERRIDES:
        return problems
    is_used = _has_files(folder)
    orphans = []
    for entry in entries(parent):
        path = parent / entry.name
        if _is_misplaced(entry):
            problems.append(
                f"{path}: belongs to no experiment. The overrides of this experiment are in"
                f" {folder}: move it there, or remove it"
            )
        elif not is_used and path != folder and _has_overrides(path):
            orphans.append(path)
    if orphans:
        known = _known_folders(layout)
        orphans = [path for path in orphans if path.absolute() not in known]
    if orphans:
        problems.append(_orphan_problem(orphans, folder))
    return problems


def _in_other_letter_case(folder: Path) -> list[str]:
    """Describe a folder that differs from a missing one in its letter case only."""
    for path in (folder, *folder.parents):
        parent = path.parent
        if path.exists() or not parent.is_dir():
            continue
        wanted = path.name.casefold()
        for entry in entries(parent):
            if entry.name.casefold() == wanted and entry.is_dir():
                return [f"{parent / entry.name}: is not read. Rename the folder to {path}"]
    return []


def _is_misplaced(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry of ``overrides/`` is what belongs in the folder of an experiment."""
    if not entry.is_dir():
        is_override = TABLE_LIKE.fullmatch(entry.name) or LABEL_LIKE.fullmatch(entry.name)
        return is_override is not None
    if ROUND_FOLDER.fullmatch(entry.name):
        return True
    # An experiment may be called 1 or r2.
    is_round = ROUND_LIKE.fullmatch(entry.name) is not None
    labels = _readable_entries(Path(entry.path)) if is_round else []
    return any(LABEL_LIKE.fullmatch(label.name) for label in labels)


def _has_files(folder: Path) -> bool:
    """Return whether a folder has files that are not hidden; a README is enough."""
    with suppress(OSError):
        return any(not path.name.startswith(".") for path in folder.iterdir())
    return False


def _has_overrides(folder: Path) -> bool:
    for entry in _readable_entries(folder):
        if not entry.is_dir():
            has_content = TABLE_LIKE.fullmatch(entry.name) is not None
        else:
            is_round = ROUND_LIKE.fullmatch(entry.name) is not None
            has_content = is_round and len(_readable_entries(Path(entry.path))) > 0
        if has_content:
            return True
    return False


def _readable_entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder of another experiment; it may be private to another user."""
    try:
        return entries(folder)
    except HstfError:
        return []


def _known_folders(layout: Layout) -> set[Path]:
    """Return the overrides folders of all experiments that have results."""
    known = set()
    for entry in entries(layout.root.parent):
        if entry.name == layout.root.name:
            continue  # the earlier configuration of this experiment may name another folder
        known.add((layout.overrides.parent / entry.name).absolute())
        config = Path(entry.path) / layout.config.name
        with suppress(OSError):
            text = config.read_text(encoding="utf-8", errors="replace")
            known.update(Path(name).absolute() for name in CONFIGURED.findall(text))
    return known


def _orphan_problem(orphans: Sequence[Path], folder: Path) -> str:
    names = few(str(path) for path in orphans)
    return (
        f"{folder} has no overrides, but {names} has, and there are no results of an experiment of"
        " this name. If the experiment was renamed, rename this folder too. If the overrides are of"
        f" another experiment, put an empty file README into {folder}"
    )
