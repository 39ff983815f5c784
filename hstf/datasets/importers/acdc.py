"""ACDC, the Automated Cardiac Diagnosis Challenge (Bernard et al. 2018), as its owners distribute it.

``training/patient001/`` holds ``patient001_4d.nii.gz`` (the cine series), the end-diastolic and end-systolic frames
``patient001_frame01.nii.gz``, their labels ``patient001_frame01_gt.nii.gz`` and ``Info.cfg``; ``testing/`` likewise.
"""

import re
from collections import defaultdict
from pathlib import Path

from hstf.datasets.importers.dataset import DataSet, FoundCase, Image, Labels, find_volumes
from hstf.datasets.importers.options import Options
from hstf.imaging.volumes import stem
from hstf.runtime.errors import HstfError

FILE = re.compile(r"(?P<patient>patient\d+)_(?:(?P<series>4d)|frame(?P<frame>\d+)(?P<label>_gt)?)")
LABELS = Labels({"background": 0, "right_ventricle": 1, "myocardium": 2, "left_ventricle": 3})


def find(folder: Path, options: Options) -> DataSet:
    """The frames below ``folder``; its ``testing`` part is the test set where it has labels."""
    dataset = DataSet(
        "ACDC: right ventricle, myocardium and left ventricle in cine MR, end-diastole and end-systole.",
        {"image": "mr"},
        LABELS,
        comments=["Two frames of a patient are two cases; 'group' keeps them in one split."],
    )
    images: dict[tuple[str, int], Path] = {}
    labels: dict[tuple[str, int], Path] = {}
    series = 0
    for path in find_volumes(folder):
        match = FILE.fullmatch(stem(path))
        if not match:
            dataset.fault(
                path, "is no name of ACDC: expected patient001_frame01 or patient001_frame01_gt"
            )
        elif path.parent.name != match["patient"]:
            dataset.fault(
                path,
                f"two patients mixed: a file of {match['patient']} in folder {path.parent.name}",
            )
        elif match["series"]:
            series += 1
        else:
            files = labels if match["label"] else images
            files[match["patient"], int(match["frame"])] = path
    if not images and not dataset.faults:
        raise HstfError(
            f"{folder}: no frame of ACDC (training/patient001/patient001_frame01.nii.gz) is there."
        )
    if series:
        dataset.leave_out(
            f"{series} files *_4d", "whole cine series: only two of their frames have labels"
        )
    for key in labels.keys() - images.keys():
        dataset.fault(labels[key], "a label without its image")
    for (patient, frame), path in images.items():
        label = labels.get((patient, frame))
        test = label is not None and "testing" in (
            part.lower() for part in path.relative_to(folder).parts
        )
        info = _info(path.parent / "Info.cfg")
        dataset.add(
            FoundCase(
                stem(path), {"image": Image(path)}, label, patient, "", test, info.get("Group", "")
            )
        )
    _find_missing_frames(dataset, images)
    return dataset


def _find_missing_frames(dataset: DataSet, images: dict[tuple[str, int], Path]) -> None:
    """Frames that ``Info.cfg`` names and that are not there."""
    frames: dict[Path, set[int]] = defaultdict(set)
    for (_, frame), path in images.items():
        frames[path.parent].add(frame)
    for folder, there in frames.items():
        info = _info(folder / "Info.cfg")
        for phase in ("ED", "ES"):
            if info.get(phase, "").isdigit() and int(info[phase]) not in there:
                missing = f"{folder.name}_frame{int(info[phase]):02d}"
                dataset.fault(
                    folder, f"{missing} is missing, which Info.cfg names as the {phase} frame"
                )


def _info(path: Path) -> dict[str, str]:
    """``Info.cfg``: lines such as ``ED: 1`` and ``Group: DCM``."""
    if not path.is_file():
        return {}
    pairs = (
        line.partition(":")
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
    )
    return {key.strip(): value.strip() for key, _, value in pairs}
