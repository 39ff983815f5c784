"""ACDC, the Automated Cardiac Diagnosis Challenge (Bernard et al. 2018).

The official layout stores in ``training/patient001/``:

- ``patient001_4d.nii.gz``, the cine series;
- ``patient001_frame01.nii.gz``, the end-diastolic frame, and another file for the end-systolic one;
- ``patient001_frame01_gt.nii.gz``, the label of a frame;
- ``Info.cfg`` with the numbers of both frames and the diagnosis.

``testing/`` has the same layout.
"""

import re
from collections import defaultdict
from pathlib import Path

from hstf.datasets.importers.dataset import (
    DataSet,
    FoundCase,
    Image,
    Labels,
    Note,
    find_volumes,
)
from hstf.datasets.importers.options import Options
from hstf.experiment.cases import Split
from hstf.imaging.volume_files import stem
from hstf.runtime.errors import HstfError

FILE = re.compile(r"(?P<patient>patient\d+)_(?:(?P<series>4d)|frame(?P<frame>\d+)(?P<label>_gt)?)")
LABELS = Labels(
    {
        "background": 0,
        "right_ventricle": 1,
        "myocardium": 2,
        "left_ventricle": 3,
    }
)
TITLE = (
    "ACDC: right ventricle, myocardium and left ventricle in cine MR, end-diastole and end-systole."
)
COMMENT = "Two frames of a patient are two cases; 'group' keeps them in one split."

Frame = tuple[str, int]
"""Patient and number of a frame."""


def find(folder: Path, options: Options) -> DataSet:
    """Find the frames below ``folder``. Labelled frames in ``testing`` are the test set."""
    dataset = DataSet(
        TITLE,
        {"image": "mr"},
        LABELS,
        comments=[COMMENT],
    )
    images, labels = _sort_files(dataset, find_volumes(folder, dataset))
    if not images and not dataset.problems:
        raise HstfError(
            f"{folder}: contains no frame of ACDC (training/patient001/patient001_frame01.nii.gz)."
        )
    for frame in labels.keys() - images.keys():
        dataset.add_problem(labels[frame], "a label without its image")
    for frame, path in images.items():
        label = labels.get(frame)
        parts = [part.lower() for part in path.relative_to(folder).parts]
        info = _read_info(path.parent / "Info.cfg")
        case = FoundCase(
            stem(path),
            {"image": Image(path)},
            label,
            group=frame[0],
            official=Split.TEST if label is not None and "testing" in parts else None,
            stratum=info.get("Group", ""),
        )
        dataset.add(case)
    dataset.rules.append(Note("patients", "the number in patient001_frame01"))
    _find_missing_frames(dataset, images)
    return dataset


def _sort_files(
    dataset: DataSet,
    paths: list[Path],
) -> tuple[dict[Frame, Path], dict[Frame, Path]]:
    """Return the images and the labels among ``paths``, by frame."""
    images: dict[Frame, Path] = {}
    labels: dict[Frame, Path] = {}
    series = 0
    for path in paths:
        match = FILE.fullmatch(stem(path))
        if not match:
            dataset.add_problem(
                path,
                "is not named as in ACDC: expected patient001_frame01 or patient001_frame01_gt",
            )
        elif path.parent.name != match["patient"]:
            dataset.add_problem(
                path,
                f"two patients mixed: a file of {match['patient']} in folder {path.parent.name}",
            )
        elif match["series"]:
            series += 1
        else:
            frame = (match["patient"], int(match["frame"]))
            found = labels if match["label"] else images
            if frame in found:
                dataset.add_problem(path, f"exists twice, also as {found[frame]}. Keep one")
            else:
                found[frame] = path
    if series:
        dataset.leave_out(
            f"{series} files *_4d",
            "whole cine series: only two of their frames have labels",
        )
    return images, labels


def _find_missing_frames(dataset: DataSet, images: dict[Frame, Path]) -> None:
    """Record frames that ``Info.cfg`` names but that are missing."""
    frames: dict[Path, set[int]] = defaultdict(set)
    for (_, number), path in images.items():
        frames[path.parent].add(number)
    for folder, numbers in frames.items():
        info = _read_info(folder / "Info.cfg")
        for phase in ("ED", "ES"):
            text = info.get(phase, "")
            if not text.isdigit():
                continue
            number = int(text)
            if number not in numbers:
                dataset.add_problem(
                    folder,
                    f"{folder.name}_frame{number:02d} is missing,"
                    f" which Info.cfg names as the {phase} frame",
                )


def _read_info(path: Path) -> dict[str, str]:
    """Read ``Info.cfg``, which has lines such as ``ED: 1`` and ``Group: DCM``."""
    info: dict[str, str] = {}
    if not path.is_file():
        return info
    text = path.read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        key, _, value = line.partition(":")
        info[key.strip()] = value.strip()
    return info
