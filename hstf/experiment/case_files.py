"""Everything of an experiment that belongs to a case, names it, or was made from it.

Names are compared as a whole: files of ``case_1`` never belong to ``case_10`` or ``case_1.b``.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hstf.config.load import load_config
from hstf.experiment import set_aside
from hstf.experiment.case_in_sheet import others_of_patient, scans_in_sheet
from hstf.experiment.case_mentions import (
    TEXT_SUFFIXES,
    files_below,
    is_about,
    mention_of,
    names_case,
    naming,
    text_files,
)
from hstf.experiment.cases import CASE_ID, FILE_ENDINGS
from hstf.experiment.job_files import KEY_FOLDER
from hstf.experiment.job_inputs import file_of_teacher
from hstf.experiment.layout import Layout
from hstf.experiment.override_folder import SUFFIX
from hstf.experiment.remaining_jobs import content_of, jobs_without
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_csv, read_sheet

CASE_FILES = (
    "preprocessed/{case}",
    "preprocessed/.records/{case}.json",
    "round_*/*/.records/{case}.json",
    "round_*/out_of_fold/{case}",
    "round_*/teacher/{case}",
    "external/*/{case}.nii.gz",
    "external/*/{case}.b2nd",
    "external/*/.records/{case}.json",
    "external/*/.work/{case}",
    "round_*/external/*/{case}.nii.gz",
    "round_*/external/*/{case}.b2nd",
    "round_*/external/*/.records/{case}.json",
    "round_*/external/*/.work/{case}",
    "round_*/pseudo_labels/{case}.nii.gz",
    "round_*/pseudo_labels/{case}.weight.nii.gz",
    "round_*/pseudo_labels/{case}.target.b2nd",
    "round_*/pseudo_labels/{case}.lesions.csv",
    "round_*/pseudo_labels/overlays/{case}.png",
    "round_*/labels/{case}",
    "round_*/labels/{case}.nii.gz",
    "round_*/labels/{case}.weight.nii.gz",
    "round_*/evaluation/predictions/{case}.nii.gz",
    "round_*/evaluation/scores/{case}.json",
    "suggest/templates/{case}.nii.gz",
)
"""Files and folders of a single case, below the folder of an experiment."""
OVERRIDES = (
    "round_*/{case}.nii.gz",
    ".history/actions/{case}",
    ".history/open/round_*/{case}",
    ".history/round_*/{case}",
)
"""Corrected labels of a case and the history of its decisions, below the folder of overrides."""
HISTORY = ".history"
"""Folder of the audit desk in the folder of overrides."""
PENDING = f"{HISTORY}/pending.json"
"""A decision that the audit desk was saving when it was killed, below the folder of overrides."""
LEFTOVER = ".tmp-" + "[0-9a-f]" * 8 + "-{name}"
"""What a killed process left of a file."""
PICTURES = ("report/*.html", "compare/*.html", ".check_cache.json")
"""Files about all cases that may show one; the next run makes them again."""
SUGGESTIONS = "suggest/suggest.csv"
"""Table that ``hstf suggest`` writes again, and no stage."""
SET_ASIDE = f"suggest/{set_aside.FILE}"
"""List of cases that are not suggested, which people made with ``hstf suggest``."""
PROVENANCE = "provenance.json"
"""Lists the tables of jobs, also of those that no longer exist; the next run makes it again."""
UNNAMED_PICTURES = "pretrain/examples.png"
"""Pictures of some cases that do not name them; the next run makes them again."""


@dataclass(frozen=True)
class Rows:
    """Rows of a case in a table."""

    table: Path
    lines: tuple[int, ...]
    """Numbers of the lines."""

    def __str__(self) -> str:
        lines = ", ".join(map(str, self.lines[:10]))
        more = ", …" if len(self.lines) > 10 else ""
        return f"{self.table} (line {lines}{more})"


@dataclass(frozen=True)
class Traces:
    """What an experiment has of a case."""

    files: list[Path]
    """Files and folders of this case only."""
    pictures: list[Path]
    """Files that show or name it among others, without something that a person wrote."""
    keys: list[Path]
    """Key files of jobs that run, or ran last, because of the case. The workflow makes them again
    when it starts."""
    gone_jobs: list[Path]
    """Tables with the case of jobs that do not exist without it, and the records, keys and logs of
    these jobs. No run writes them again."""
    tables: list[Rows]
    """Tables that the next run writes again."""
    other_tables: list[Rows]
    """Tables that the next run does not write again."""
    suggestions: list[Path]
    """Tables of ``hstf suggest`` with the case."""
    set_aside: list[Rows]
    """Lists of cases that are not suggested."""
    mentions: list[Path]
    """Other files whose text has its name; a name that is a number may be something else there."""
    pending: list[Path]
    """Decisions about it that the audit desk was saving when it was killed. It would complete
    them."""
    human_tables: list[Rows]
    """The case sheet and decisions of reviewers."""
    human_files: list[Path]
    """Other files in the folders of overrides that have its name, or whose text has it."""
    scans: list[Path]
    """Its scans, its label, and its predictions of external teachers that were made elsewhere."""
    linked: list[Path]
    """What those of the :attr:`files` and :attr:`scans` lead to that are links."""
    same_patient: list[str]
    """Other cases of the patient."""
    folders: list[Path]
    """The folders of results and of overrides that were searched."""
    absent_overrides: list[Path]
    """Folders of overrides that do not exist, seen from the current folder."""
    results: set[Path]
    """What the next run writes."""
    sheet_problem: str
    """Why the jobs without the case are not known: all :attr:`tables` count as written again."""

    @property
    def targets(self) -> list[Path]:
        """The files and folders to remove."""
        of_stages = [*self.files, *self.pictures, *self.keys, *self.gone_jobs]
        return [*of_stages, *self.suggestions, *self.pending]

    @property
    def is_empty(self) -> bool:
        """Whether the experiment knows nothing of the case."""
        of_suggest = self.suggestions or self.set_aside
        tables = self.tables or self.other_tables or self.human_tables
        of_jobs = self.keys or self.gone_jobs
        of_reviewers = self.pending or self.human_files
        return not (self.files or of_jobs or tables or of_suggest or of_reviewers)

    def is_made_again(self, path: Path) -> bool:
        """Return whether the next run writes a file again; True if that is not known."""
        return bool(self.sheet_problem) or path in self.results


def find_traces(root: Path, case: str) -> Traces:
    """Find everything that the folder of an experiment has of a case.

    Args:
        root: ``results/<experiment>``.
        case: the case.

    Raises:
        HstfError: if ``case`` cannot be a case, or if ``root`` is not the folder of an experiment.
    """
    refuse_no_case_id(case)
    folders = experiment_folders(root)
    overrides = list(dict.fromkeys(_overrides_of(folder) for folder in folders))
    files: list[Path] = []
    for folder in folders:
        files += existing(folder, CASE_FILES, case)
    for folder in overrides:
        files += existing(folder, OVERRIDES, case)
    sheet = Path(load_config(root / "config.yaml").cases)
    sheet_rows = rows_of(sheet, case)
    decisions = [rows_of(table, case) for folder in overrides for table in _csv_files(folder)]
    suggest = [folder / name for folder in folders for name in (SUGGESTIONS, SET_ASIDE)]
    others = [path for path in text_files(root) if path not in (*files, *suggest)]
    tables = [rows for path in others if (rows := rows_of(path, case)) is not None]
    scans = [*scans_in_sheet(sheet, case), *_external_files(folders, case)]
    named = naming(others, case, scans)
    pictures = _pictures(folders, named)
    aside = [rows_of(folder / SET_ASIDE, case) for folder in folders]
    with_rows = {rows.table for rows in tables}
    gone, rewritten, problem = jobs_without(case, folders, with_rows, named)
    left = [rows for rows in tables if rows.table not in gone]
    if gone:
        pictures += [path for folder in folders if (path := folder / PROVENANCE).is_file()]
    keys = [key for folder in folders for key in _keys(folder, case) if key not in gone]
    known = {*with_rows, *pictures, *keys, *gone}
    return Traces(
        files=files,
        pictures=pictures,
        keys=keys,
        gone_jobs=gone,
        tables=[rows for rows in left if problem or rows.table in rewritten],
        other_tables=[rows for rows in left if not problem and rows.table not in rewritten],
        suggestions=[table for folder in folders for table in _suggestions(folder, case)],
        set_aside=[rows for rows in aside if rows is not None],
        mentions=[path for path in named if path not in known],
        pending=[path for folder in overrides for path in _pending(folder, case)],
        human_tables=[rows for rows in (sheet_rows, *decisions) if rows is not None],
        human_files=[path for folder in overrides for path in _left_files(folder, case, files)],
        scans=scans,
        linked=[path.resolve() for path in (*files, *scans) if path.is_symlink()],
        same_patient=others_of_patient(sheet, case),
        folders=[*folders, *overrides],
        absent_overrides=[folder for folder in overrides if not folder.exists()],
        results=rewritten,
        sheet_problem=problem,
    )


def refuse_no_case_id(case: str) -> None:
    """Refuse a name that no case can have: a path made from it could be that of other files.

    Raises:
        HstfError: if no case sheet can have such a case.
    """
    if not CASE_ID.fullmatch(case) or case.lower().endswith(FILE_ENDINGS):
        raise HstfError(
            f"{case!r} is not the name of a case. Names are letters, digits, '.', '_' or '-', at"
            " most 128, begin with a letter or digit, and do not end like a file"
            f" ({', '.join(FILE_ENDINGS)}). Give the name as in the case sheet; if it is the value"
            " of a variable of the shell, look whether the variable is set."
        )


def experiment_folders(root: Path) -> list[Path]:
    """Return the folder of an experiment and those of a comparison within it.

    Raises:
        HstfError: if ``root`` is not the folder of an experiment.
    """
    if not (root / "config.yaml").is_file():
        raise HstfError(
            f"{root}: is not the folder of an experiment, it has no config.yaml."
            " Give results/<experiment> to --results."
        )
    nested = sorted(path.parent for path in (root / "compare").rglob("config.yaml"))
    return [root, *nested]


def existing(folder: Path, patterns: Iterable[str], case: str) -> list[Path]:
    """Return the files and folders of a case that exist, and what a killed process left of them."""
    found = []
    for pattern in patterns:
        parent, _, name = pattern.format(case=case).rpartition("/")
        for place in sorted(folder.glob(parent)):
            path = place / name
            if path.exists() or path.is_symlink():
                found.append(path)
            found += sorted(place.glob(LEFTOVER.format(name=name)))
    return found


def rows_of(table: Path, case: str) -> Rows | None:
    """Return the rows of a case in a table with a column ``case_id``; None if there is none."""
    if table.suffix != ".csv" or not table.is_file():
        return None
    try:
        header, rows = read_sheet(table, ("case_id",))
    except HstfError:
        return None  # not a table; it counts if its text names the case
    if "case_id" not in header:
        return None
    lines = tuple(line for line, row in rows if row["case_id"] == case)
    return Rows(table, lines) if lines else None


def _suggestions(folder: Path, case: str) -> Iterator[Path]:
    """Yield the table of suggestions, if the case is in it or is like a suggested one."""
    table = folder / SUGGESTIONS
    if not table.is_file():
        return
    _, rows = read_sheet(table, ("case_id", "like"))
    if any(case in (row.get("case_id"), row.get("like")) for _, row in rows):
        yield table


def _keys(folder: Path, case: str) -> Iterator[Path]:
    """Yield the key files that name a file of the case as a reason."""
    for key in sorted((folder / KEY_FOLDER).glob("*.json")):
        reasons = content_of(key).get("runs_because", [])
        if any(is_about(reason, case) for reason in reasons):
            yield key


def _pending(overrides: Path, case: str) -> Iterator[Path]:
    """Yield the decision about the case that was not completely saved, if there is one."""
    path = overrides / PENDING
    if content_of(path).get("case_id") == case:
        yield path


def _left_files(overrides: Path, case: str, files: Collection[Path]) -> Iterator[Path]:
    """Yield the other files with the name of the case that people left beside overrides."""
    pattern = mention_of(case)
    for path in files_below(overrides):
        is_of_desk = HISTORY in path.relative_to(overrides).parts
        if is_of_desk or path in files or path.suffix == ".csv":
            continue
        stem = path.name.removesuffix(SUFFIX)
        # The name of a label is that of its case as a whole.
        is_label = stem != path.name and CASE_ID.fullmatch(stem) is not None
        is_named = stem == case if is_label else pattern.search(path.name) is not None
        if is_named or (path.suffix in TEXT_SUFFIXES and names_case(path, pattern)):
            yield path


def _overrides_of(folder: Path) -> Path:
    return Layout.of(load_config(folder / "config.yaml")).overrides


def _csv_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.csv"))


def _pictures(folders: Iterable[Path], named: Collection[Path]) -> list[Path]:
    """Return the pages and caches that name the case, and the pictures that may show it."""
    found = []
    for folder in folders:
        for pattern in PICTURES:
            found += [path for path in sorted(folder.glob(pattern)) if path in named]
        found += sorted(folder.glob(UNNAMED_PICTURES))
        if folder / "report" / "report.html" in found:
            found += sorted(folder.glob("report/*.png"))
    return found


def _external_files(folders: Iterable[Path], case: str) -> list[Path]:
    """Return the predictions of a case that were made elsewhere."""
    found: dict[Path, None] = {}
    for folder in folders:
        for teacher in load_config(folder / "config.yaml").teacher.external.values():
            path = file_of_teacher(teacher, case)
            if teacher.files and path.is_file():
                found[path] = None
    return list(found)


def sources_of(folder: Path, case: str) -> dict[int, str]:
    """Return the rounds whose students learned from an unlabelled case, and the label's source.

    Args:
        folder: the folder of an experiment.
        case: the case.
    """
    sources = {}
    for table in sorted(folder.glob("round_*/labels.csv")):
        for row in read_csv(table):
            if row.get("case_id") == case and row.get("source") != "rejected":
                sources[int(table.parent.name.removeprefix("round_"))] = row.get("source", "")
    return sources
