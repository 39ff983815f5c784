"""LiTS, the Liver Tumor Segmentation challenge (Bilic et al. 2023), in parts or one folder.

``volume-0.nii`` with ``segmentation-0.nii``, anywhere below the folder; ``test-volume-0.nii`` has no label.
"""

import re
from pathlib import Path

from hstf.datasets.importers.dataset import DataSet, FoundCase, Image, Labels, find_volumes
from hstf.datasets.importers.options import Options
from hstf.imaging.volumes import stem
from hstf.runtime.errors import HstfError

FILE = re.compile(r"(?P<kind>volume|segmentation|test-volume|test-segmentation)-(?P<number>\d+)")
LABELS = Labels({"background": 0, "liver": 1, "lesion": 2})
SCORED = (
    "Its owners score the liver with its lesions: 'regions: {liver: [liver, lesion], lesion: [lesion]}' trains and scores"
    " these overlapping regions."
)


def find(folder: Path, options: Options) -> DataSet:
    """The scans below ``folder``."""
    dataset = DataSet(
        "LiTS: liver and liver lesions in contrast-enhanced CT.",
        {"image": "ct"},
        LABELS,
        comments=[SCORED],
    )
    files: dict[str, Path] = {}
    for path in find_volumes(folder):
        match = FILE.fullmatch(stem(path))
        name = f"{match['kind']}-{int(match['number'])}" if match else ""
        if not match:
            dataset.fault(
                path, "is no name of LiTS: expected volume-0, segmentation-0 or test-volume-0"
            )
        elif name in files:
            case = name.replace("segmentation", "volume")
            dataset.fault(case, f"{name} is there twice: {files[name]} and {path}; keep one")
        else:
            files[name] = path
    if not files:
        raise HstfError(
            f"{folder}: no file is named as LiTS names them (volume-0.nii, segmentation-0.nii)."
        )
    for name, path in files.items():
        image = name.replace("segmentation", "volume")
        if image not in files:
            dataset.fault(path, f"a label without its image {image}")
        elif image == name:
            label = files.get(name.replace("volume", "segmentation"))
            test = name.startswith("test") and label is not None
            dataset.add(FoundCase(name, {"image": Image(path)}, label, test=test))
    return dataset
