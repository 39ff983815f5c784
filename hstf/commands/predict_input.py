"""Find the scans of ``hstf predict``, and explain every file and folder that is left out."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hstf.datasets.importers.walk import Note, walk
from hstf.imaging.volume_files import SUFFIXES, stem, suffix_of
from hstf.runtime.encoding import escape_bytes, is_utf8
from hstf.runtime.errors import HstfError, few, join_problems

TABLE = "predict.csv"
"""What ``hstf predict`` reports about scans, beside the segmentations."""
INVALID_NAME = "the name of the file or of its folder is not valid UTF-8. Rename it"
CONVERT = "Convert DICOM files with hstf import dicom or dcm2niix -z y -o OUTPUT FOLDER."


@dataclass(frozen=True)
class Scan:
    """A scan to segment."""

    name: str
    """File of its segmentation, relative to the output folder."""
    images: tuple[Path, ...]
    """One file for each modality, in channel order."""


@dataclass
class ScansFound:
    """The scans of an input, and what is no scan."""

    scans: list[Scan] = field(default_factory=list)
    left_out: list[Note] = field(default_factory=list)
    """Files and folders that are no scans."""
    problems: list[Note] = field(default_factory=list)
    """Scans with missing files or invalid names, and folders and links that cannot be read."""


def find_scans(source: Path, modalities: Sequence[str], output: Path) -> ScansFound:
    """Find the scans of a file or of a folder with its subfolders, sorted by name.

    Links are followed. Segmentations of earlier runs are left out.

    Args:
        source: a volume, or a folder.
        modalities: the modalities of the model.
        output: folder of the segmentations.

    Raises:
        HstfError: if the input cannot be read, if there is no scan, or if two files have the same
            name.
    """
    if is_readable_folder(source):
        found = _scans_of_folder(source, modalities, output)
    else:
        found = _scans_of_file(source, modalities)
    found = _without_invalid_names(found)
    if not found.scans:
        raise _without_scans(source, found, modalities)
    return found


def is_readable_folder(path: Path) -> bool:
    """Return whether a path is a folder; False for a file.

    Raises:
        HstfError: if it does not exist or cannot be read.
    """
    try:
        if path.is_dir():
            with os.scandir(path):
                return True
        with path.open("rb"):
            return False
    except FileNotFoundError:
        link = " It is a link to a file that is missing." if path.is_symlink() else ""
        raise HstfError(
            f"{path}: does not exist.{link} Give a volume or a folder of volumes to --input."
        ) from None
    except OSError as error:
        raise HstfError(
            f"{path}: cannot be read ({error.strerror}). Change its permissions, or copy it."
        ) from error


def _without_scans(source: Path, found: ScansFound, modalities: Sequence[str]) -> HstfError:
    notes = [f"{what}: {why}" for what, why in [*found.problems, *found.left_out]]
    missing = f"volume ({', '.join(SUFFIXES)})"
    if len(modalities) > 1:
        missing = f"case with a volume <case>_<modality> of each of {', '.join(modalities)}"
    headline = f"{source}: contains no {missing}. {CONVERT}"
    return join_problems(headline, notes) if notes else HstfError(headline)


def _scans_of_file(source: Path, modalities: Sequence[str]) -> ScansFound:
    if not suffix_of(source):
        return ScansFound()
    if len(modalities) == 1:
        return ScansFound([Scan(_segmentation(source), (source,))])
    files = [source, *_other_modalities(source, modalities)]
    _refuse_equal_names(source.parent, files)
    return _group_modalities([source], files, modalities, source.parent)


def _other_modalities(source: Path, modalities: Sequence[str]) -> list[Path]:
    """Return the files beside a file that have the other modalities of its case.

    A file of the same modality in another format is none of them: the one that was given counts.
    """
    case = _case_of(stem(source), modalities)
    names = {f"{case}_{modality}" for modality in modalities} - {stem(source)}
    return [path for path in _list(source.parent) if suffix_of(path) and stem(path) in names]


def _without_invalid_names(found: ScansFound) -> ScansFound:
    """Leave out scans whose names are not UTF-8: ``predict.csv`` could not hold any row then."""
    scans = []
    problems = list(found.problems)
    for scan in found.scans:
        invalid = [str(path) for path in scan.images if not is_utf8(str(path.absolute()))]
        problems += [Note(path, INVALID_NAME) for path in invalid]
        if not invalid:
            scans.append(scan)
    return ScansFound(scans, _escaped(found.left_out), _escaped(problems))


def _escaped(notes: Iterable[Note]) -> list[Note]:
    """Return notes that a text file can hold."""
    return [Note(escape_bytes(what), escape_bytes(why)) for what, why in notes]


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise HstfError(
            f"{folder}: cannot be read ({error.strerror}), so the other modalities are unknown."
        ) from error


def _scans_of_folder(source: Path, modalities: Sequence[str], output: Path) -> ScansFound:
    entries = walk(source)
    volumes, segmentations = _without_segmentations(source, entries.volumes, output)
    found = ScansFound(
        left_out=[*entries.left_out, *segmentations], problems=list(entries.problems)
    )
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(volumes):
        by_folder[path.parent].append(path)
    for folder, paths in by_folder.items():
        of_folder = _scans_of_volumes(paths, modalities, source)
        found.scans += of_folder.scans
        found.left_out += of_folder.left_out
        found.problems += of_folder.problems
        _refuse_equal_names(folder, paths)
    return found


def _scans_of_volumes(paths: Sequence[Path], modalities: Sequence[str], source: Path) -> ScansFound:
    """Return the scans of the volumes of one folder."""
    if len(modalities) > 1:
        return _group_modalities(paths, paths, modalities, source)
    scans = []
    for path in paths:
        folder = path.parent.relative_to(source)
        scans.append(Scan(str(folder / _segmentation(path)), (path,)))
    return ScansFound(scans)


def _segmentation(path: Path) -> str:
    """Return the name of the segmentation of a scan."""
    suffix = ".nii" if suffix_of(path) == ".nii" else ".nii.gz"
    return f"{stem(path)}{suffix}"


def _without_segmentations(
    source: Path, volumes: Iterable[Path], output: Path
) -> tuple[list[Path], list[Note]]:
    """Separate the segmentations of earlier runs below ``source`` from the scans."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in volumes:
        by_folder[path.parent].append(path)
    kept = []
    notes = []
    for folder, paths in by_folder.items():
        inside = [folder, *folder.parents]
        inside = inside[: inside.index(source)]
        if any(_has_segmentations(place, output) for place in inside):
            what = f"{folder.relative_to(source)} ({len(paths)} volumes)"
            notes.append(Note(what, "segmentations of hstf predict"))
        else:
            kept += paths
    return kept, notes


def _has_segmentations(folder: Path, output: Path) -> bool:
    return folder.resolve() == output.resolve() or (folder / TABLE).is_file()


def _refuse_equal_names(folder: Path, paths: Iterable[Path]) -> None:
    """Refuse volumes of a folder that have the same name without suffix.

    Raises:
        HstfError: if there are any.
    """
    same: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        same[stem(path)].append(path.name)
    equal = [" and ".join(names) for names in same.values() if len(names) > 1]
    if equal:
        raise join_problems(
            f"{folder}: a segmentation has the name of its scan, and these scans would have the"
            " same one. Rename or remove all but one.",
            equal,
        )


def _group_modalities(
    paths: Iterable[Path],
    existing: Iterable[Path],
    modalities: Sequence[str],
    source: Path,
) -> ScansFound:
    """Group files ``<case>_<modality>`` of a folder by case.

    Args:
        paths: the files to segment. One modality of a case is enough.
        existing: all volumes of the folder.
        modalities: the modalities of the model.
        source: the input folder.
    """
    found = ScansFound()
    by_name = {stem(path): path for path in existing}
    cases: dict[str, Path] = {}
    for path in paths:
        case = _case_of(stem(path), modalities)
        if case:
            cases.setdefault(case, path.parent)
        else:
            expected = f"expected <case>_<modality>.nii.gz with one of {', '.join(modalities)}"
            found.left_out.append(Note(str(path.relative_to(source)), expected))
    for case, folder in cases.items():
        images = [by_name.get(f"{case}_{modality}") for modality in modalities]
        present = tuple(path for path in images if path is not None)
        if len(present) == len(modalities):
            name = folder.relative_to(source) / f"{case}.nii.gz"
            found.scans.append(Scan(str(name), present))
            continue
        missing = [name for name in modalities if f"{case}_{name}" not in by_name]
        why = f"the model needs {len(modalities)} files for each scan, missing:"
        names = few(f"{case}_{name}.nii.gz" for name in missing)
        found.problems.append(Note(str(folder / case), f"{why} {names}"))
    return found


def _case_of(name: str, modalities: Iterable[str]) -> str:
    """Return the case of a file ``<case>_<modality>``, or ``""`` if it has no modality.

    Long names of modalities come first, because one may be the end of another: ``t1_ce`` and
    ``ce``.
    """
    for modality in sorted(modalities, key=len, reverse=True):
        if name.endswith(f"_{modality}"):
            return name.removesuffix(f"_{modality}")
    return ""
