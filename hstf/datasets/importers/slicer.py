"""Names of segments in segmentations of 3D Slicer (``.seg.nrrd``)."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from hstf.datasets.importers.dataset import Labels, plain_name
from hstf.runtime.errors import join_problems, shortened

ENDING = ".seg.nrrd"
MAXIMUM_HEADER_BYTES = 1 << 20
KEY = re.compile(r"(Segment\d+)_(Name|LabelValue):=(.*)")


def segment_names(labels: Sequence[Path]) -> Labels | None:
    """Return the classes that all ``labels`` name; ``None`` if they are no segmentations of Slicer.

    Raises:
        HstfError: if a segment has another value in another file. Slicer numbers segments in the
            order in which they were made.
    """
    if not labels or not all(path.name.lower().endswith(ENDING) for path in labels):
        return None
    values: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in labels:
        for name, value in _read_segments(path).items():
            values[name].setdefault(value, path)
    if not values:
        return None
    names = {value: name for name, found in values.items() for value in found}
    problems = []
    for name, found in values.items():
        if len(found) > 1:
            places = [f"{value} in {path.name}" for value, path in found.items()]
            problems.append(f"{name} is {' and '.join(places)}")
    for name, found in values.items():
        for value in found:
            if names[value] != name:
                problems.append(f"{value} is {name} in {found[value].name}, and {names[value]}")
    if problems:
        raise join_problems(
            "segments have different values in different files. Export them from 3D Slicer with a"
            " color table (Segmentations, Export to files), or write label maps with equal values.",
            problems,
        )
    ordered = {names[value]: value for value in sorted(names)}
    return Labels({"background": 0} | ordered)


def check_segments(labels: Sequence[Path], classes: Labels) -> None:
    """Check that segmentations of 3D Slicer have the values that ``classes`` state.

    Segments with names that no class has are not checked: the user has named the values anew.

    Raises:
        HstfError: if a segment with the name of a class has another value.
    """
    expected = {name.casefold(): value for name, value in classes.values.items()}
    problems = []
    for path in labels:
        if not path.name.lower().endswith(ENDING):
            continue
        for name, value in _read_segments(path).items():
            stated = expected.get(name.casefold(), value)
            if stated != value:
                problems.append(f"{name} is {value} in {path.name}, and {stated} by --labels")
    if problems:
        raise join_problems(
            "segments have other values than --labels states. State the values of the files. If"
            " they differ between files, export them from 3D Slicer with a color table"
            " (Segmentations, Export to files).",
            shortened(problems),
        )


def crop_advice(path: Path) -> str:
    """Return what to do with a segmentation of Slicer that covers only a part of its scan."""
    if not path.name.lower().endswith(ENDING):
        return ""
    return (
        " 3D Slicer crops segmentations if 'Crop to minimum size' is on: turn it off, or export the"
        " segmentation as a label map with the scan as the reference volume."
    )


def _read_segments(path: Path) -> dict[str, int]:
    """Return the value of each segment in the header of a file."""
    with path.open("rb") as stream:
        header = stream.read(MAXIMUM_HEADER_BYTES).partition(b"\n\n")[0]
    fields: dict[str, dict[str, str]] = defaultdict(dict)
    for line in header.decode("utf-8", errors="replace").splitlines():
        found = KEY.fullmatch(line.strip())
        if found:
            fields[found[1]][found[2]] = found[3].strip()
    segments = {}
    for segment in fields.values():
        value = segment.get("LabelValue", "")
        if segment.get("Name") and value.isdigit():
            segments[plain_name(segment["Name"])] = int(value)
    return segments
