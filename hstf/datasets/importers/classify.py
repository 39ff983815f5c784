"""Decide from paths which volumes are images, which are labels, and what identifies their case."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from hstf.datasets.importers.dataset import modality_of
from hstf.datasets.importers.matching import CHUNK, File, composed
from hstf.datasets.importers.names import (
    IMAGE_WORDS,
    LABEL_WORDS,
    WEAK_IMAGE_WORDS,
    WEAK_LABEL_WORDS,
    FolderName,
    read_folder_name,
    tokens_of,
    without,
)
from hstf.datasets.importers.selection import Selection
from hstf.imaging.volume_files import stem

CHANNEL = re.compile(r"00\d\d")
"""Number of a channel in the layout of nnU-Net."""
FIRST_CHANNEL = "0000"


def classify(
    folder: Path,
    volumes: Sequence[Path],
    selection: Selection,
    columns: Sequence[str] = (),
) -> list[File]:
    """Return ``volumes`` with what their paths show. Those that are not selected are missing.

    Args:
        folder: the data set.
        volumes: all volumes.
        selection: files that the user chose.
        columns: modalities that the user named. A file with such a name is an image, even if it is
            called ``mask``.
    """
    names: dict[str, FolderName] = {}
    files = []
    for path in volumes:
        role = selection.role(path)
        if role == "":
            continue
        files.append(_read_path(folder, path, names))
    files = _with_roles(files)
    chosen = []
    for file in files:
        role = selection.role(file.path)
        if role:
            file = replace(file, role=role)
        elif is_named(file, columns):
            file = replace(file, role="image")
        elif getattr(selection, f"{file.role}s") is not None:
            continue  # its role was chosen for other files
        chosen.append(file)
    return chosen


def is_named(file: File, columns: Sequence[str]) -> bool:
    """Return whether the user has named the modality that the name of a file ends in."""
    return len(columns) > 1 and bool(_with_column(file, columns).column)


def _read_path(folder: Path, path: Path, names: dict[str, FolderName]) -> File:
    """Return what the folders of ``path`` show. ``names`` has the folders that were seen before."""
    role = ""
    weak_role = ""
    split = ""
    split_folder = ""
    identity = []
    parts = path_parts(folder, path)
    for part in parts:
        name = names.get(part)
        if name is None:
            name = read_folder_name(part)
            names[part] = name
        if name.weak:
            weak_role = name.role
        elif name.role:
            role = name.role
        if name.split:
            split, split_folder = name.split, part
        if name.is_identity:
            identity.append(part)
    return File(
        path,
        role or weak_role,
        tuple(identity),
        composed(stem(path)),
        parts,
        split,
        split_folder,
    )


def path_parts(folder: Path, path: Path) -> tuple[str, ...]:
    """Return the names of the folders between ``folder`` and a file."""
    return tuple(composed(part) for part in path.relative_to(folder).parts[:-1])


def _with_roles(files: Sequence[File]) -> list[File]:
    """Return ``files`` with a role for each.

    A word that all names have, for instance in ``seg_study_01`` and ``seg_study_01_mask``, does not
    mark a label.
    """
    others = [file for file in files if file.role != "label"]
    words = Counter[str]()
    for file in others:
        words.update(set(file.tokens))
    marks = {word for word in LABEL_WORDS if 0 < words[word] < len(others)}
    decided = []
    for file in files:
        is_label = file.role == "label" or not marks.isdisjoint(file.tokens)
        decided.append(replace(file, role="label" if is_label else "image"))
    return _with_weak_labels(decided)


def _with_weak_labels(files: Sequence[File]) -> list[File]:
    """Return ``files`` where images such as ``c1_lesion`` beside ``c1`` are labels."""
    plain = defaultdict(set)
    for file in files:
        if file.role == "image" and without(file.tokens, WEAK_LABEL_WORDS) == file.tokens:
            plain[file.path.parent].add(_without_image_words(file))
    decided = []
    for file in files:
        tokens = without(file.tokens, WEAK_LABEL_WORDS)
        if file.role == "image" and tokens != file.tokens:
            beside = plain[file.path.parent]
            if without(tokens, IMAGE_WORDS + WEAK_IMAGE_WORDS) in beside:
                file = replace(file, role="label")
        decided.append(file)
    return decided


def _without_image_words(file: File) -> tuple[str, ...]:
    return without(file.tokens, IMAGE_WORDS + WEAK_IMAGE_WORDS)


def with_columns(files: Iterable[File], columns: Sequence[str]) -> list[File]:
    """Return images with the modality that the end of their name, or a folder, states.

    Args:
        files: images.
        columns: names of the modalities. If there is only one, names do not state it.
    """
    if len(columns) == 1:
        return [replace(file, column=columns[0]) for file in files]
    return [_with_column(file, columns) for file in files]


def _with_column(file: File, columns: Sequence[str]) -> File:
    name = f"_{file.name}"
    matches = []
    for column in columns:
        if re.search(rf"[-_. ]{re.escape(column)}$", name, re.IGNORECASE):
            matches.append(column)
    if matches:
        column = max(matches, key=len)
        rest = name[: -len(column) - 1].strip("-_. ")
        return replace(file, column=column, name=rest)
    for column in columns:
        for part in reversed(file.parts):
            if part.lower() == column.lower():
                folders = tuple(name for name in file.folders if name != part)
                return replace(file, column=column, folders=folders)
    return file


def find_columns(files: Sequence[File]) -> dict[str, str]:
    """Return the modalities that names of images end in, such as T1w and FLAIR.

    Returns:
        Name of the modality for each ending; empty unless most cases have several.
    """
    by_case: dict[tuple[object, ...], set[str]] = defaultdict(set)
    for file in files:
        ending = CHUNK.split(file.name)[-1]
        if not _is_column(ending):
            ending = _column_folder(file)
            if not ending:
                return {}
        found = _with_column(file, [ending])
        by_case[(found.split_folder, found.folders, found.name)].add(ending)
    counts = Counter[str]()
    for endings in by_case.values():
        counts.update(endings)
    columns = [ending for ending, count in counts.items() if count * 2 > len(by_case)]
    channels = [ending for ending in columns if CHANNEL.fullmatch(ending)]
    if len(columns) < 2 or len(by_case) < 2 or (channels and FIRST_CHANNEL not in channels):
        return {}
    return {ending: _column_name(ending) for ending in sorted(columns)}


def _is_column(ending: str) -> bool:
    return modality_of(ending) != "other" or CHANNEL.fullmatch(ending) is not None


def _column_folder(file: File) -> str:
    """Return the name of the last folder that is a modality, or ``""``."""
    for part in reversed(file.parts):
        if modality_of(part) != "other":
            return part
    return ""


def _column_name(ending: str) -> str:
    if CHANNEL.fullmatch(ending):
        return f"channel_{int(ending)}"
    return ending.lower()


def without_channel(files: Sequence[File]) -> list[File]:
    """Return ``files`` without the channel number if all have only the first, ``_0000``."""
    ending = f"_{FIRST_CHANNEL}"
    if all(file.name.endswith(ending) for file in files):
        return [replace(file, name=file.name.removesuffix(ending)) for file in files]
    return list(files)


def role_words(name: str) -> bool:
    """Return whether ``name`` consists of words about images only, such as ``image`` or ``ct``."""
    return not without(tokens_of(name), IMAGE_WORDS + WEAK_IMAGE_WORDS)
