"""Write the channels of 4D images as separate files, because the workflow reads 3D volumes.

The folder of these files also has a record of what each of them was made from. A file is kept as
long as the record matches: the content decides, not the time of the last change.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hstf.datasets.importers.dataset import DataSet, FoundCase, Image
from hstf.datasets.importers.headers import each_file
from hstf.imaging.stored_voxels import stored_voxels
from hstf.imaging.volume_files import error_text, open_any
from hstf.imaging.volumes import Volume, write_like
from hstf.runtime.documents import Document, Part
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.files import remove_leftovers
from hstf.runtime.stamps import HashedFile, hash_file, remember

RECORD = "extracted_channels.json"
"""Name of the record in the folder of the written files."""
FILES_PER_RECORD = 20
"""Number of 4D files after which the record is written, for an import that is interrupted."""

Target = tuple[int, Path]
"""A channel, and the file to write it to."""
Task = tuple[Path, Sequence[Target]]
"""A 4D file, and the channels to write."""


class Extracted(Part):
    """A file that was written, and what it was made from."""

    source: HashedFile
    channel: int
    target: HashedFile


class ExtractionRecord(Document):
    """All files that were written to a folder."""

    stage = "import"

    files: dict[str, Extracted]
    """By the name of the written file."""


class Request(NamedTuple):
    """A 4D file, its channels, and what earlier imports have written."""

    source: Path
    targets: tuple[Target, ...]
    recorded: dict[str, Extracted]

    def __str__(self) -> str:
        """Return the name of the file, for messages."""
        return str(self.source)


class Outcome(NamedTuple):
    """The files of the channels of a 4D file, or a problem."""

    files: dict[str, Extracted]
    problem: str = ""


def needs_extraction(dataset: DataSet) -> bool:
    """Return whether images of ``dataset`` are channels of 4D files."""
    for case in dataset.cases:
        for image in case.images.values():
            if image.channel is not None:
                return True
    return False


def extract(dataset: DataSet, folder: Path) -> None:
    """Write each channel to ``folder/<case>_<modality>.nii.gz`` and refer the cases to these files.

    The data type of the voxels stays the same. Files that an earlier import has written are kept if
    they have not changed and were made from the same channel of a source with the same content.

    Raises:
        HstfError: if a file cannot be read or written.
    """
    targets: dict[Path, list[Target]] = defaultdict(list)
    cases = []
    for case in dataset.cases:
        cases.append(_replace_images(case, folder, targets))
    _write_all(targets, folder / RECORD)
    dataset.cases = cases


def _replace_images(
    case: FoundCase,
    folder: Path,
    targets: dict[Path, list[Target]],
) -> FoundCase:
    """Return ``case`` with one file for each channel. These files are added to ``targets``."""
    images = dict(case.images)
    for name, (path, channel) in case.images.items():
        if channel is None:
            continue
        target = folder / f"{case.case_id}_{name}.nii.gz"
        images[name] = Image(target)
        targets[path].append((channel, target))
    return dataclasses.replace(case, images=images)


def _write_all(targets: dict[Path, list[Target]], record: Path) -> None:
    """Write all files that the record does not confirm, and the record.

    Raises:
        HstfError: if a file cannot be read or written, or if the record is damaged.
    """
    recorded = ExtractionRecord.load(record).files if record.is_file() else {}
    requests = []
    for path, channels in targets.items():
        names = [target.name for _, target in channels]
        known = {name: recorded[name] for name in names if name in recorded}
        requests.append(Request(path, tuple(channels), known))
    problems = []
    files = dict(recorded)
    try:
        results = each_file(_update, requests, "extract")
        for number, (request, outcome) in enumerate(results, start=1):
            files |= outcome.files
            if outcome.problem:
                problems.append(f"{request.source}: {outcome.problem}")
            if number % FILES_PER_RECORD == 0:
                _save(files, recorded, record)
    finally:  # so that an interrupted import is continued
        _save(files, recorded, record)
    if problems:
        raise join_problems("channels cannot be written.", problems)


def _save(files: dict[str, Extracted], recorded: dict[str, Extracted], record: Path) -> None:
    """Write the record unless nothing has changed."""
    if files != recorded:
        ExtractionRecord(files=dict(sorted(files.items()))).save(record)


def _update(request: Request) -> Outcome:
    """Write the channels of a file that the record does not confirm."""
    try:
        for entry in request.recorded.values():
            _remember(request.source, entry.source)
        # Hashed before it is read: a later change differs from the record.
        source = _hash(request.source)
        stale = [target for target in request.targets if not _is_current(target, source, request)]
        problem = _write_channels((request.source, stale)) if stale else ""
        if problem:
            return Outcome({}, problem.removeprefix(f"{request.source}: "))
        files = {}
        for channel, path in request.targets:
            files[path.name] = Extracted(source=source, channel=channel, target=_hash(path))
        return Outcome(files)
    except HstfError as error:
        return Outcome({}, str(error).removeprefix(f"{request.source}: "))


def _is_current(target: Target, source: HashedFile, request: Request) -> bool:
    """Return whether a file exists as it was written from this channel of this content."""
    channel, path = target
    entry = request.recorded.get(path.name)
    if entry is None or (entry.channel, entry.source.sha256) != (channel, source.sha256):
        return False
    _remember(path, entry.target)
    found = hash_file(path)
    return found is not None and found.sha256 == entry.target.sha256


def _remember(path: Path, recorded: HashedFile) -> None:
    """Save reading a file again that has the stamp with which it was hashed."""
    remember(path, recorded.stamp, recorded.sha256)


def _hash(path: Path) -> HashedFile:
    """Return the digest of a file.

    Raises:
        HstfError: if it is missing or cannot be read.
    """
    found = hash_file(path)
    if found is None:
        raise HstfError(f"{path}: is missing. Restore it and import again.")
    return found


def _write_channels(task: Task) -> str:
    """Write the channels of a file. Returns a description of the problem, or ``""``."""
    path, targets = task
    try:
        image = open_any(path)
        voxels = stored_voxels(image)
        if voxels.dtype == np.float64:
            voxels = voxels.astype(np.float32)
        header = image.header.copy()
        header.set_data_shape(voxels.shape[:3])
        affine = np.asarray(image.affine)
        for channel, target in targets:
            data = np.ascontiguousarray(voxels[..., channel])
            remove_leftovers(target)
            write_like(target, data, Volume(data, affine, header))
    except HstfError as error:
        return str(error)
    except Exception as error:  # damaged bytes raise exceptions of many types
        return f"the voxels cannot be read ({error_text(error)})."
    return ""
