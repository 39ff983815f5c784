"""BIDS, the Brain Imaging Data Structure (Gorgolewski et al. 2016).

- Images are stored as ``sub-01/[ses-01/]anat/sub-01_T1w.nii.gz``. If a data set has no raw images,
  those in ``derivatives`` are used.
- Labels have the suffix ``dseg``, ``mask``, ``msk``, ``seg`` or ``label``, usually in
  ``derivatives/<pipeline>/sub-01/...``.
- A table ``*dseg.tsv`` with the columns ``index`` and ``name``, beside a label or above it,
  describes the classes. Its name has no entity that the label lacks.
- The column ``site`` of ``participants.tsv`` contains the sites.

Each run of a session is a case. ``--filter`` chooses files by their entities (``run``, ``acq``,
``space``, ``desc`` …).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hstf.datasets.importers.bids_files import File
from hstf.datasets.importers.bids_labels import (
    LABEL_SUFFIXES,
    Scans,
    distinguishing_filter,
    match_labels,
    preferred_labels,
    refuse_label_maps,
    structure_masks,
)
from hstf.datasets.importers.bids_tables import classes_of, read_sites
from hstf.datasets.importers.dataset import (
    DataSet,
    FoundCase,
    Image,
    Note,
    column_names,
    find_volumes,
    modality_of,
    numbered_classes,
)
from hstf.datasets.importers.options import Options
from hstf.datasets.importers.structures import assign_masks
from hstf.imaging.volume_files import stem
from hstf.runtime.errors import HstfError

NAME = re.compile(
    r"(?P<entities>sub-[A-Za-z0-9]+(?:_[A-Za-z]+-[A-Za-z0-9+-]+)*)_(?P<suffix>[A-Za-z0-9]+)"
)
OTHER_FOLDERS = ("func", "dwi", "fmap", "perf", "eeg", "meg")
"""Folders of time series and field maps, which are not segmented."""
MAXIMUM_VALUES = 10
"""Number of values of an entity that a message lists."""


def find(folder: Path, options: Options) -> DataSet:
    """Find the cases of ``folder``: sessions, or their runs. Images of a session are modalities."""
    dataset = DataSet(
        f"{folder.resolve().name}: a BIDS data set.",
        {},
        numbered_classes,
    )
    files = _read_names(dataset, folder, find_volumes(folder, dataset))
    images = [file for file in files if file.suffix not in LABEL_SUFFIXES]
    labels = [file for file in files if file.suffix in LABEL_SUFFIXES]
    images, labels = _filtered(dataset, images, labels, options.filters)
    images = _leave_out_derivatives(dataset, images, options.filters)
    scans = _group_by_scan(dataset, images)
    if not scans and not dataset.problems:
        raise HstfError(
            f"{folder}: contains no image that is named as in BIDS (sub-01/anat/sub-01_T1w.nii.gz)."
        )
    suffixes = list(options.modalities) or _common_suffixes(dataset, scans)
    columns = dict(zip(column_names(suffixes), suffixes, strict=True))
    for column, suffix in columns.items():
        dataset.modalities[column] = options.modalities.get(suffix) or modality_of(suffix)
    complete: Scans = {}
    for name, found in scans.items():
        missing = [suffix for suffix in suffixes if suffix not in found]
        if missing:
            dataset.add_problem(name, f"modality {', '.join(missing)} is missing")
            continue
        complete[name] = {column: found[suffix] for column, suffix in columns.items()}
    candidates = match_labels(dataset, complete, labels)
    masks = structure_masks(dataset, candidates)
    matched = preferred_labels(dataset, candidates)
    dataset.labels = classes_of(folder, options, list(matched.values()))
    if masks and not options.labels:
        refuse_label_maps(dataset, matched)
    sites = read_sites(folder / "participants.tsv")
    for name, found in complete.items():
        subject = name.partition("_")[0]
        label = matched.get(name)
        case = FoundCase(
            name,
            {column: Image(file.path) for column, file in found.items()},
            label.path if label else None,
            group=subject,
            site=sites.get(subject, ""),
        )
        dataset.add(case)
    if masks:
        assign_masks(dataset, masks, options)
    dataset.rules.append(Note("patients", "the subjects sub-<label> of BIDS"))
    return dataset


def _read_names(dataset: DataSet, folder: Path, paths: Iterable[Path]) -> list[File]:
    """Return the files with valid names. Series, and derivatives with other names, are left out."""
    files = []
    series = 0
    derivatives = 0
    for path in paths:
        parts = path.relative_to(folder).parts
        derived = "derivatives" in parts
        if path.parent.name in OTHER_FOLDERS:
            series += 1
            continue
        match = NAME.fullmatch(stem(path))
        if match is None and derived:
            derivatives += 1
        elif match is None:
            dataset.add_problem(
                path,
                "is not named as in BIDS: expected sub-<label>_..._<suffix>."
                " Any other names are imported by hstf import folder",
            )
        else:
            pairs = [text.split("-", 1) for text in match["entities"].split("_")]
            file = File(path, dict(pairs), match["suffix"], derived)
            subject = f"sub-{file.entities['sub']}"
            if subject not in parts and any(part.startswith("sub-") for part in parts[:-1]):
                dataset.add_problem(
                    path,
                    f"two patients mixed: {stem(path)} in folder {path.parent}",
                )
            else:
                files.append(file)
    if series:
        dataset.leave_out(
            f"{series} files in {', '.join(OTHER_FOLDERS)}",
            "series and field maps",
        )
    if derivatives:
        dataset.leave_out(f"{derivatives} derivatives", "not named as in BIDS")
    return files


def _filtered(
    dataset: DataSet,
    images: Sequence[File],
    labels: Sequence[File],
    filters: Mapping[str, str],
) -> tuple[list[File], list[File]]:
    """Return the images and labels that ``--filter`` chooses.

    A filter acts on images, on labels or on both: where any file has the value.

    Raises:
        HstfError: if no file has the value.
    """
    for key, value in filters.items():
        found = Counter(file.entities.get(key, "none") for file in [*images, *labels])
        if not found[value]:
            known = ", ".join(f"{key}-{name}" for name in sorted(found)[:MAXIMUM_VALUES])
            raise HstfError(f"--filter {key}={value}: no file has it. Found: {known}.")
        kept_images = _choose(images, key, value)
        kept_labels = _choose(labels, key, value)
        count = len(images) + len(labels) - len(kept_images) - len(kept_labels)
        if count:
            dataset.leave_out(f"{count} volumes", f"--filter {key}={value}")
        images, labels = kept_images, kept_labels
    return list(images), list(labels)


def _choose(files: Sequence[File], key: str, value: str) -> list[File]:
    """Return the files with a value of an entity.

    Files without the entity are kept in sessions where no other file has the value, so that
    ``run=1`` keeps the scan of a session without runs.
    """
    having = {_kind(file) for file in files if file.entities.get(key, "none") == value}
    if not having:
        return list(files)
    kept = []
    for file in files:
        found = file.entities.get(key, "none")
        without = found == "none" and _kind(file) not in having
        if found == value or without:
            kept.append(file)
    return kept


def _kind(file: File) -> tuple[str, str]:
    """Return the session of a file, and for images their suffix: each is another modality."""
    return file.session, "" if file.suffix in LABEL_SUFFIXES else file.suffix


def _leave_out_derivatives(
    dataset: DataSet,
    images: Sequence[File],
    filters: Mapping[str, str],
) -> list[File]:
    """Return raw images, and derived ones if there are no others or if a filter names them."""
    has_raw = any(not file.derived for file in images)
    kept = []
    for file in images:
        named = any(file.entities.get(key) == value for key, value in filters.items())
        is_scan = modality_of(file.suffix) != "other"
        if not file.derived or (is_scan and (named or not has_raw)):
            kept.append(file)
    count = len(images) - len(kept)
    if count:
        dataset.leave_out(
            f"{count} derived images",
            "raw images are used; --filter desc=VALUE or space=VALUE chooses derived ones",
        )
    return kept


def _group_by_scan(dataset: DataSet, images: Sequence[File]) -> Scans:
    """Return the images of each case: of a session, or of each run if images have runs."""
    sessions: dict[str, list[File]] = defaultdict(list)
    for file in images:
        sessions[file.session].append(file)
    scans: Scans = {}
    for session, files in sessions.items():
        for run in _runs(files):
            name = f"{session}_run-{run}" if run else session
            scans[name] = _of_run(dataset, name, files, run)
    return scans


def _runs(files: Sequence[File]) -> list[str]:
    """Return the runs that are cases. Images without a run belong to all runs of the others."""
    runs: dict[str, set[str]] = defaultdict(set)
    for file in files:
        runs[file.suffix].add(file.run)
    several = [found for found in runs.values() if found != {""}]
    names: set[str] = set()
    for found in several or [{""}]:
        names |= found
    return sorted(names)


def _of_run(
    dataset: DataSet,
    name: str,
    files: Sequence[File],
    run: str,
) -> dict[str, File]:
    """Return the image of each suffix."""
    found: dict[str, File] = {}
    with_runs = {file.suffix for file in files if file.run}
    for file in files:
        if file.run != run and (file.run or file.suffix in with_runs):
            continue
        first = found.setdefault(file.suffix, file)
        if first is not file:
            dataset.add_problem(
                name,
                f"{file.suffix} exists twice: {first.path} and {file.path}; keep one, or choose"
                f" one with --filter {distinguishing_filter(first, file)}",
            )
    return found


def _common_suffixes(dataset: DataSet, scans: Scans) -> list[str]:
    """Return the suffixes that all cases have. Files with other suffixes are left out.

    Raises:
        HstfError: if the cases have no suffix in common.
    """
    counts: Counter[str] = Counter()
    for files in scans.values():
        counts.update(files.keys())
    common = []
    for suffix, count in counts.items():
        if count == len(scans):
            common.append(suffix)
    for suffix in sorted(counts.keys() - set(common)):
        dataset.leave_out(
            f"{counts[suffix]} files {suffix}",
            f"not in all of {len(scans)} sessions",
        )
    if scans and not common:
        found = [f"{suffix} ({count})" for suffix, count in counts.most_common()]
        raise HstfError(
            f"no modality is in all of {len(scans)} sessions: {', '.join(found)}. Choose"
            " modalities with --modalities and leave out the sessions without them with"
            " --leave-out-invalid."
        )
    return sorted(common)
