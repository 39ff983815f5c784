"""BIDS (Gorgolewski et al. 2016): images in ``sub-01/[ses-01/]anat/sub-01_T1w.nii.gz``, labels in derivatives.

Labels are ``derivatives/<pipeline>/sub-01/.../sub-01_..._dseg.nii.gz`` (or ``_mask``), their classes in a table
``*dseg.tsv`` with columns ``index`` and ``name``. Sites come from the column ``site`` of ``participants.tsv``.
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
    r"(?P<scan>sub-[A-Za-z0-9]+(?:_ses-[A-Za-z0-9]+)?)(?:_[A-Za-z]+-[A-Za-z0-9]+)*_(?P<suffix>[A-Za-z0-9]+)"
)
LABEL_SUFFIXES = ("dseg", "mask")
OTHER_FOLDERS = ("func", "dwi", "fmap", "perf", "eeg", "meg")
"""Series and field maps: no volumes to segment."""


def find(folder: Path, options: Options) -> DataSet:
    """The sessions of ``folder``; several images of a session are its modalities."""
    volumes = find_volumes(folder)
    dataset = DataSet(f"{folder.resolve().name}: a BIDS data set.", {}, _classes(folder, options))
    raw = [path for path in volumes if "derivatives" not in path.relative_to(folder).parts]
    others = [path for path in raw if path.parent.name in OTHER_FOLDERS]
    if others:
        dataset.leave_out(
            f"{len(others)} files in {', '.join(OTHER_FOLDERS)}", "series and field maps"
        )
    images = _by_session(dataset, [path for path in raw if path not in set(others)])
    derived = [path for path in volumes if "derivatives" in path.relative_to(folder).parts]
    labels = _labels(dataset, derived, images)
    if not images and not dataset.faults:
        raise HstfError(f"{folder}: no image named as in BIDS (sub-01/anat/sub-01_T1w.nii.gz).")
    suffixes = list(options.modalities) or _common(dataset, images)
    columns = column_names(suffixes)
    dataset.modalities = {
        column: options.modalities.get(suffix) or modality_of(suffix)
        for column, suffix in zip(columns, suffixes, strict=True)
    }
    sites = _sites(folder / "participants.tsv")
    for session, files in images.items():
        missing = [suffix for suffix in suffixes if suffix not in files]
        subject = session.partition("_")[0]
        if missing:
            dataset.fault(session, f"modality {', '.join(missing)} is missing")
        else:
            ordered = {c: Image(files[s]) for c, s in zip(columns, suffixes, strict=True)}
            dataset.add(
                FoundCase(session, ordered, labels.get(session), subject, sites.get(subject, ""))
            )
    return dataset


def _by_session(dataset: DataSet, paths: list[Path]) -> dict[str, dict[str, Path]]:
    """Images of each session by suffix."""
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in paths:
        match = NAME.fullmatch(stem(path))
        if match is None:
            dataset.fault(path, "is no name of BIDS: expected sub-<label>_..._<suffix>")
        elif match["scan"].partition("_")[0] not in path.parts:
            dataset.fault(path, f"two patients mixed: {stem(path)} in folder {path.parent}")
        elif match["suffix"] in found[match["scan"]]:
            other = found[match["scan"]][match["suffix"]]
            dataset.fault(
                match["scan"], f"{match['suffix']} is there twice: {other} and {path}; keep one"
            )
        else:
            found[match["scan"]][match["suffix"]] = path
    return found


def _labels(dataset: DataSet, paths: list[Path], sessions: Mapping[str, object]) -> dict[str, Path]:
    """The label of each session; other derivatives are left out."""
    labels: dict[str, Path] = {}
    others = 0
    for path in paths:
        match = NAME.fullmatch(stem(path))
        if match is None or match["suffix"] not in LABEL_SUFFIXES:
            others += 1
        elif match["scan"] not in sessions:
            dataset.fault(path, f"a label without its image: no scan of {match['scan']}")
        elif match["scan"] in labels:
            dataset.fault(
                match["scan"],
                f"its label is there twice: {labels[match['scan']]} and {path}; keep one",
            )
        else:
            labels[match["scan"]] = path
    if others:
        dataset.leave_out(f"{others} derivatives", f"neither {' nor '.join(LABEL_SUFFIXES)}")
    return labels


def _common(dataset: DataSet, images: Mapping[str, Mapping[str, Path]]) -> list[str]:
    """Suffixes that every session has; the others are left out."""
    counts = Counter(suffix for files in images.values() for suffix in files)
    common = [suffix for suffix, count in counts.items() if count == len(images)]
    for suffix in counts.keys() - set(common):
        dataset.leave_out(
            f"{counts[suffix]} files {suffix}", f"not in all of {len(images)} sessions"
        )
    if not common and images:
        there = ", ".join(f"{suffix} ({count})" for suffix, count in counts.most_common())
        raise HstfError(
            f"no modality is in all of {len(images)} sessions: {there}. Choose with --modalities and leave the"
            " sessions without it out with --leave-out-faulty."
        )
    return sorted(common)


def _classes(folder: Path, options: Options) -> Labels | Callable[[set[int]], Labels]:
    """Classes as given, or of the first table of segmentation labels."""
    if options.labels:
        return Labels({"background": 0} | options.labels)
    for table in sorted(folder.rglob("*dseg.tsv")):
        _, rows = read_sheet(table)
        named = {
            plain_name(row["name"]): int(row["index"])
            for _, row in rows
            if row.get("index", "").isdigit()
        }
        if named:
            return Labels(
                {"background": 0} | {name: value for name, value in named.items() if value}
            )
    return numbered_classes


def _sites(path: Path) -> dict[str, str]:
    """``site`` of each subject."""
    if not path.is_file():
        return {}
    _, rows = read_sheet(path)
    return {row.get("participant_id", ""): row.get("site", "") for _, row in rows}
