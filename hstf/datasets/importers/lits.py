"""LiTS, the Liver Tumor Segmentation challenge (Bilic et al. 2023).

The files ``volume-0.nii`` and ``segmentation-0.nii`` may be stored in any folder below the given
one. ``test-volume-0.nii`` has no label.
"""

import re
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

FILE = re.compile(r"(?P<kind>volume|segmentation|test-volume|test-segmentation)-(?P<number>\d+)")
TITLE = "LiTS: liver and liver lesions in contrast-enhanced CT."
LABELS = Labels(
    {
        "background": 0,
        "liver": 1,
        "lesion": 2,
    }
)
COMMENT = (
    "The challenge scores the liver with its lesions:"
    " 'regions: {liver: [liver, lesion], lesion: [lesion]}' trains and scores these overlapping"
    " regions."
)


def find(folder: Path, options: Options) -> DataSet:
    """Find the scans below ``folder``."""
    dataset = DataSet(
        TITLE,
        {"image": "ct"},
        LABELS,
        comments=[COMMENT],
    )
    files = _files_by_name(dataset, find_volumes(folder, dataset))
    if not files:
        raise HstfError(
            f"{folder}: no file is named as in LiTS (volume-0.nii, segmentation-0.nii)."
        )
    for name, path in files.items():
        image = name.replace("segmentation", "volume")
        if image not in files:
            dataset.add_problem(path, f"a label without its image {image}")
        elif image == name:
            label = files.get(name.replace("volume", "segmentation"))
            case = FoundCase(
                name,
                {"image": Image(path)},
                label,
                official=Split.TEST if name.startswith("test") and label is not None else None,
            )
            dataset.add(case)
    dataset.rules.append(Note("patients", "each scan is taken as a patient of its own"))
    return dataset


def _files_by_name(dataset: DataSet, paths: list[Path]) -> dict[str, Path]:
    """Return ``paths`` by names such as ``volume-0``, without leading zeros of the number."""
    files: dict[str, Path] = {}
    for path in paths:
        match = FILE.fullmatch(stem(path))
        if not match:
            dataset.add_problem(
                path,
                "is not named as in LiTS: expected volume-0, segmentation-0 or test-volume-0",
            )
            continue
        name = f"{match['kind']}-{int(match['number'])}"
        if name in files:
            dataset.add_problem(
                name.replace("segmentation", "volume"),
                f"{name} exists twice: {files[name]} and {path}; keep one",
            )
            continue
        files[name] = path
    return files
