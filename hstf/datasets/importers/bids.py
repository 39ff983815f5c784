"""BIDS, the Brain Imaging Data Structure (Gorgolewski et al. 2016).

- Images are stored as ``sub-01/[ses-01/]anat/sub-01_T1w.nii.gz``.
- Labels are stored as ``derivatives/<pipeline>/sub-01/.../sub-01_..._dseg.nii.gz`` (or ``_mask``).
- A table ``*dseg.tsv`` with the columns ``index`` and ``name`` describes the classes.
- The column ``site`` of ``participants.tsv`` contains the sites.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from hstf.datasets.importers.dataset import (
    DataSet,
    FoundCase,
    Image,
    Labels,
    column_names,
    find_volumes,
    modality_of,
    plain_name,
)
from hstf.datasets.importers.folder import numbered_classes
from hstf.datasets.importers.options import Options
from hstf.imaging.volumes import stem
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_sheet

NAME = re.compile(
    r"(?P<scan>sub-[A-Za-z0-9]+(?:_ses-[A-Za-z0-9]+)?)"
    r"(?:_[A-Za-z]+-[A-Za-z0-9]+)*"
    r"_(?P<suffix>[A-Za-z0-9]+)"
)
LABEL_SUFFIXES = ("dseg", "mask")
OTHER_FOLDERS = ("func", "dwi", "fmap", "perf", "eeg", "meg")
"""Folders of time series and field maps, which are not segmented."""

Sessions = Mapping[str, Mapping[str, Path]]
"""Images of each session by suffix."""


def find(folder: Path, options: Options) -> DataSet:
    """Find the sessions of ``folder``. The images of a session are its modalities."""
    volumes = find_volumes(folder)
    dataset = DataSet(
        f"{folder.resolve().name}: a BIDS data set.",
        {},
        _classes(folder, options),
    )
    raw = []
    derived = []
    for path in volumes:
        if "derivatives" in path.relative_to(folder).parts:
            derived.append(path)
        else:
            raw.append(path)
    sessions = _group_by_session(dataset, _leave_out_series(dataset, raw))
    labels = _find_labels(dataset, derived, sessions)
    if not sessions and not dataset.problems:
        raise HstfError(
            f"{folder}: contains no image that is named as in BIDS (sub-01/anat/sub-01_T1w.nii.gz)."
        )
    suffixes = list(options.modalities) or _common_suffixes(dataset, sessions)
    columns = dict(zip(column_names(suffixes), suffixes, strict=True))
    for column, suffix in columns.items():
        dataset.modalities[column] = options.modalities.get(suffix) or modality_of(suffix)
    sites = _read_sites(folder / "participants.tsv")
    for session, files in sessions.items():
        missing = [suffix for suffix in suffixes if suffix not in files]
        if missing:
            dataset.add_problem(session, f"modality {', '.join(missing)} is missing")
            continue
        subject = session.partition("_")[0]
        case = FoundCase(
            session,
            {column: Image(files[suffix]) for column, suffix in columns.items()},
            labels.get(session),
            group=subject,
            site=sites.get(subject, ""),
        )
        dataset.add(case)
    return dataset


def _leave_out_series(dataset: DataSet, paths: list[Path]) -> list[Path]:
    """Return ``paths`` without time series and field maps, which are recorded as left out."""
    kept = [path for path in paths if path.parent.name not in OTHER_FOLDERS]
    count = len(paths) - len(kept)
    if count:
        dataset.leave_out(
            f"{count} files in {', '.join(OTHER_FOLDERS)}",
            "series and field maps",
        )
    return kept


def _group_by_session(
    dataset: DataSet,
    paths: list[Path],
) -> dict[str, dict[str, Path]]:
    """Return the images of each session by suffix."""
    sessions: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in paths:
        match = NAME.fullmatch(stem(path))
        if match is None:
            dataset.add_problem(
                path,
                "is not named as in BIDS: expected sub-<label>_..._<suffix>",
            )
            continue
        session = match["scan"]
        suffix = match["suffix"]
        subject = session.partition("_")[0]
        if subject not in path.parts:
            dataset.add_problem(
                path,
                f"two patients mixed: {stem(path)} in folder {path.parent}",
            )
            continue
        files = sessions[session]
        if suffix in files:
            dataset.add_problem(
                session,
                f"{suffix} exists twice: {files[suffix]} and {path}; keep one",
            )
            continue
        files[suffix] = path
    return sessions


def _find_labels(
    dataset: DataSet,
    paths: list[Path],
    sessions: Sessions,
) -> dict[str, Path]:
    """Return the label of each session. Other derivatives are left out."""
    labels: dict[str, Path] = {}
    others = 0
    for path in paths:
        match = NAME.fullmatch(stem(path))
        if match is None or match["suffix"] not in LABEL_SUFFIXES:
            others += 1
            continue
        session = match["scan"]
        if session not in sessions:
            dataset.add_problem(path, f"a label without its image: no scan of {session}")
        elif session in labels:
            dataset.add_problem(
                session,
                f"its label exists twice: {labels[session]} and {path}; keep one",
            )
        else:
            labels[session] = path
    if others:
        dataset.leave_out(
            f"{others} derivatives",
            f"neither {' nor '.join(LABEL_SUFFIXES)}",
        )
    return labels


def _common_suffixes(dataset: DataSet, sessions: Sessions) -> list[str]:
    """Return the suffixes that all sessions have. Files with other suffixes are left out.

    Raises:
        HstfError: if the sessions have no suffix in common.
    """
    counts: Counter[str] = Counter()
    for files in sessions.values():
        counts.update(files.keys())
    common = []
    for suffix, count in counts.items():
        if count == len(sessions):
            common.append(suffix)
    for suffix in sorted(counts.keys() - set(common)):
        dataset.leave_out(
            f"{counts[suffix]} files {suffix}",
            f"not in all of {len(sessions)} sessions",
        )
    if sessions and not common:
        found = [f"{suffix} ({count})" for suffix, count in counts.most_common()]
        raise HstfError(
            f"no modality is in all of {len(sessions)} sessions: {', '.join(found)}. Choose"
            " modalities with --modalities and leave out the sessions without them with"
            " --leave-out-invalid."
        )
    return sorted(common)


def _classes(
    folder: Path,
    options: Options,
) -> Labels | Callable[[set[int]], Labels]:
    """Return the classes of the options, or else those of the first table ``*dseg.tsv``."""
    if options.labels:
        return Labels({"background": 0} | options.labels)
    for table in sorted(folder.rglob("*dseg.tsv")):
        values = _read_classes(table)
        if values:
            named = {name: value for name, value in values.items() if value}
            return Labels({"background": 0} | named)
    return numbered_classes


def _read_classes(table: Path) -> dict[str, int]:
    """Return the value of each class in a table of segmentation labels."""
    values = {}
    _, rows = read_sheet(table)
    for _, row in rows:
        index = row.get("index", "")
        if index.isdigit():
            values[plain_name(row["name"])] = int(index)
    return values


def _read_sites(path: Path) -> dict[str, str]:
    """Return the site of each subject in ``participants.tsv``."""
    sites: dict[str, str] = {}
    if not path.is_file():
        return sites
    _, rows = read_sheet(path)
    for _, row in rows:
        subject = row.get("participant_id", "")
        sites[subject] = row.get("site", "")
    return sites
