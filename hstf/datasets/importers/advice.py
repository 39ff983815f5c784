"""What a refused import shows: what was found, the nearest rule, and other ways."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hstf.datasets.importers.classify import classify
from hstf.datasets.importers.dataset import DataSet
from hstf.datasets.importers.matching import File
from hstf.datasets.importers.names import IMAGE_WORDS, LABEL_WORDS
from hstf.datasets.importers.selection import Selection
from hstf.datasets.importers.walk import walk

MAXIMUM_PATTERNS = 8
"""Number of patterns of paths that are shown."""
OTHER_KINDS = {
    "nnunet": r"(?:.*/)?imagesTr/.+_\d{4}\.",
    "bids": r"(?:.*/)?sub-[A-Za-z0-9]+_.*_?[A-Za-z0-9]+\.",
    "acdc": r"(?:.*/)?patient\d+_frame\d+(?:_gt)?\.",
    "brats": r"(?:.*/)?.+(?:_flair|_t1ce|-t2f|-t1c)\.",
    "lits": r"(?:.*/)?(?:volume|segmentation)-\d+\.",
}
"""Names of files by which other kinds are recognised."""


def ways_out(folder: Path, kind: str) -> str:
    """Return what was found in ``folder``, the nearest rule and other ways, as lines of text."""
    try:
        if not folder.is_dir():
            return ""
    except OSError:
        return ""
    volumes = walk(folder).volumes
    files = classify(folder, volumes, Selection(None, None))
    relative = [path.relative_to(folder).as_posix() for path in volumes]
    lines = ["What was found:"]
    for pattern, paths in _patterns(relative):
        lines.append(f"  {pattern} ({len(paths)} volumes, for example {paths[0]})")
    if not volumes:
        lines.append("  no volume")
    lines.append(f"Nearest rule: {_nearest_rule(files)}")
    for other in _suitable_kinds(folder, relative, kind):
        lines.append(f"Names look like those of another kind: hstf import {other} {folder}")
    lines += [
        "Other ways:",
        f"  hstf import folder {folder} --images GLOB --labels GLOB [--match REGEX] --dry-run",
        "    shows the pairs; hstf import --help lists the names that are recognised.",
        "  Or write the case sheet yourself, a CSV file with the columns case_id, image, label and",
        "    split, and a configuration that names it: docs/how-to/own-data.md.",
    ]
    return "\n".join(lines)


def _patterns(paths: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return groups of paths that differ only in numbers, the most frequent first."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(re.sub(r"\d+", "#", path), []).append(path)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    shown = ordered[:MAXIMUM_PATTERNS]
    further = ordered[MAXIMUM_PATTERNS:]
    if further:
        rest = [path for _, members in further for path in members]
        shown.append((f"{len(further)} other patterns", rest))
    return shown


def _nearest_rule(files: Sequence[File]) -> str:
    counts = Counter(file.role for file in files)
    found = f"{counts['image']} images and {counts['label']} labels are recognised by their names"
    if not files:
        return "images/<case>.nii.gz and labels/<case>.nii.gz"
    if not counts["label"]:
        words = ", ".join(LABEL_WORDS[:6])
        return (
            f"{found}. The name of a label, or of its folder, has a word such as {words}:"
            " images/<case>.nii.gz and labels/<case>.nii.gz, or <case>.nii.gz and"
            " <case>_seg.nii.gz."
        )
    if not counts["image"]:
        words = ", ".join(IMAGE_WORDS[:6])
        return f"{found}. The folder of images has a name such as {words}."
    if any(file.folders for file in files if file.role == "image"):
        return f"{found}. <case>/image.nii.gz and <case>/label.nii.gz: the folder is the case."
    return (
        f"{found}. images/<case>.nii.gz and labels/<case>.nii.gz: the name of a label contains"
        " that of its image."
    )


def suitable_kinds(folder: Path, dataset: DataSet, kind: str) -> list[str]:
    """Return other kinds that the names of the files of ``dataset`` suit."""
    paths = []
    for case in dataset.cases:
        files = [image.path for image in case.images.values()]
        for path in [*files, *case.label_files]:
            paths.append(path.relative_to(folder).as_posix())
    return _suitable_kinds(folder, paths, kind)


def _suitable_kinds(folder: Path, paths: Sequence[str], kind: str) -> list[str]:
    """Return other kinds that many names suit."""
    found = []
    for other, pattern in OTHER_KINDS.items():
        suitable = sum(re.match(pattern, path) is not None for path in paths)
        if other != kind and suitable * 4 > len(paths):
            found.append(other)
    if "nnunet" in found and not (folder / "dataset.json").is_file():
        found.remove("nnunet")
    return found
