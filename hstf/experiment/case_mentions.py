"""Which texts name a case.

Names are compared as a whole: ``case_1`` is named neither by ``case_10`` nor by ``case_1.b``.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

OTHER_CASES = {
    ".records",
    "out_of_fold",
    "overlays",
    "predictions",
    "preprocessed",
    "scores",
    "state",
    "teacher",
}
"""Folders whose subfolders or files belong to a single case; only their tables name several."""
LOGS = "logs"
"""Folder of the logs, with a folder for each stage, also for those of the same name."""
TEXT_SUFFIXES = {".csv", ".html", ".json", ".log", ".md", ".tsv", ".txt", ".yaml"}
END = r"(?![\w-])(?!\.(?!(?:nii|weight|target|lesions|json|png|b2nd|csv)\b)\w)"
"""After a case: no other character of a case, unless it begins the suffix of a file."""


def mention_of(case: str) -> re.Pattern[str]:
    """Return a pattern that matches a case in a text, and not a longer case.

    Example:
        >>> bool(mention_of("case_1").search("round_1/teacher/case_1.nii.gz, case_2"))
        True
        >>> bool(mention_of("case_1").search("case_10 my_case_1 case_1.b case_1-b"))
        False
    """
    return re.compile(rf"(?<![\w.-]){re.escape(case)}{END}")


def is_about(reason: str, case: str) -> bool:
    """Return whether a reason names a file of the case: ``case/label`` or ``folder/case.nii.gz``.

    A name without a folder may be that of a job, or a key of the configuration.
    """
    pattern = mention_of(case)
    for word in reason.replace(",", " ").split():
        folder, _, name = word.rpartition("/")
        if folder and (word.startswith(f"{case}/") or pattern.search(name)):
            return True
    return False


def text_files(root: Path) -> list[Path]:
    """Return the text files below ``root`` that may name several cases."""
    found = []
    for path in files_below(root, OTHER_CASES):
        folder = path.parent
        # An experiment may have the name of such a folder.
        has_tables_only = folder != root and folder.name in OTHER_CASES
        if has_tables_only and folder.parent.name != LOGS and path.suffix != ".csv":
            continue
        if path.suffix in TEXT_SUFFIXES:
            found.append(path)
    return found


def files_below(root: Path, leaves: Collection[str] = ()) -> Iterator[Path]:
    """Yield all files below a folder, also in folders that are links to another disk.

    Args:
        root: the folder.
        leaves: names of folders whose subfolders are left out.
    """
    seen = set()
    for name, folders, names in os.walk(root, followlinks=True):
        folder = Path(name)
        place = folder.resolve()
        is_leaf = folder != root and folder.name in leaves and folder.parent.name != LOGS
        if is_leaf or place in seen:
            folders.clear()
        if place in seen:
            continue  # a link to a folder above it
        seen.add(place)
        folders.sort()
        yield from (path for path in map(folder.joinpath, sorted(names)) if path.is_file())


def naming(paths: Iterable[Path], case: str, scans: Iterable[Path]) -> list[Path]:
    """Return the files whose text names the case or one of its scans."""
    pattern = mention_of(case)
    names = [str(scan) for scan in scans]
    found = []
    for path in paths:
        if names_case(path, pattern, names):
            found.append(path)
    return found


def names_case(path: Path, pattern: re.Pattern[str], names: Iterable[str] = ()) -> bool:
    """Return whether the text of a file has a case or one of the ``names`` of scans."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return pattern.search(text) is not None or any(name in text for name in names)
