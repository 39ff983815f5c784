"""BraTS, the brain tumour segmentation challenges (Menze et al. 2015, Baid et al. 2021).

Three layouts are known:

- 2018 to 2021: ``BraTS20_Training_001/BraTS20_Training_001_flair.nii.gz``. In 2018 and 2019
  the cases are stored in the folders ``HGG`` and ``LGG``.
- 2023 and 2024: ``BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz``.
- Task 1 of the Medical Segmentation Decathlon, with 4D images.

Cases without a label, such as the validation set, are unlabelled.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from hstf.datasets.importers import msd
from hstf.datasets.importers.dataset import (
    DataSet,
    FoundCase,
    Image,
    Labels,
    Note,
    find_volumes,
    numbered_classes,
)
from hstf.datasets.importers.options import Options
from hstf.imaging.volume_files import stem
from hstf.runtime.errors import HstfError

FILE = re.compile(
    r"(?P<old>.+)_(?P<old_kind>flair|t1|t1ce|t2|seg)"
    r"|(?P<new>.+)-(?P<new_kind>t2f|t1n|t1c|t2w|seg)",
    re.IGNORECASE,
)
OLD = ("flair", "t1", "t1ce", "t2")
NEW = ("t2f", "t1n", "t1c", "t2w")
TITLE = (
    "BraTS: brain tumours in MR (FLAIR, T1, T1 with contrast, T2),"
    " skull-stripped and registered, 1 mm."
)
PATIENT = re.compile(r"(BraTS-[A-Z]+-[\w]+)-\d{3}|(Brats1[78]_\w+|BraTS19_\w+)_\d+")
SITE = re.compile(r"Brats1\d_([A-Za-z]+|2013)", re.IGNORECASE)
ODD_LABEL = re.compile(r".*segm?", re.IGNORECASE)
"""Case 355 of BraTS 2020 has a label called ``W39_1998.09.19_Segm.nii``."""

Cases = dict[str, dict[str, Path]]
"""Files of each case by type: a modality or ``seg``."""


def find(folder: Path, options: Options) -> DataSet:
    """Find the cases below ``folder``, each with four modalities."""
    if (folder / "dataset.json").is_file():
        return _find_decathlon(folder, options)
    dataset = DataSet(TITLE, {}, numbered_classes)
    cases, others = _group_by_case(dataset, find_volumes(folder, dataset))
    _find_mixed(dataset, cases)
    _adopt_odd_labels(dataset, cases, others)
    if not cases and others:
        raise HstfError(
            f"{folder}: no file is named as in BraTS (<case>_flair, <case>-t2f);"
            f" it contains {others[0].name}."
        )
    columns = _columns(folder, cases)
    dataset.modalities = dict.fromkeys(columns, "mr")
    if any(case.startswith("BraTS-PED") for case in cases):
        dataset.comments.append(
            "The meaning of the values in BraTS-PED differs between years: name the classes."
        )
    else:
        dataset.labels = partial(name_labels, recent=columns is NEW)
    for case, files in cases.items():
        _add(dataset, case, files, columns)
    dataset.rules.append(
        Note("patients", "names without the time point: BraTS-GLI-00001-000 → BraTS-GLI-00001")
    )
    return dataset


def _group_by_case(dataset: DataSet, paths: list[Path]) -> tuple[Cases, list[Path]]:
    """Return the files of each case, and the files with other names."""
    cases: Cases = defaultdict(dict)
    others = []
    for path in paths:
        match = FILE.fullmatch(stem(path))
        if match is None:
            others.append(path)
            continue
        case = match["old"] or match["new"]
        kind = match["old_kind"] or match["new_kind"]
        kind = kind.lower()
        files = cases[case]
        if kind in files:
            dataset.add_problem(
                case,
                f"{kind} exists twice: {files[kind]} and {path}; keep one",
            )
        files[kind] = path
    return cases, others


def _columns(folder: Path, cases: Cases) -> tuple[str, ...]:
    """Return the modalities of the layout that ``cases`` have.

    Raises:
        HstfError: if the names of two layouts are mixed.
    """
    kinds: set[str] = set()
    for files in cases.values():
        kinds.update(files)
    if kinds.isdisjoint(NEW):
        return OLD
    if kinds.isdisjoint(OLD):
        return NEW
    raise HstfError(
        f"{folder}: names of 2018 to 2021 and names of 2023 and later are mixed."
        " Import them separately."
    )


def _add(
    dataset: DataSet,
    case: str,
    files: Mapping[str, Path],
    columns: Iterable[str],
) -> None:
    """Add a case, or record what is missing."""
    missing = [column for column in columns if column not in files]
    if missing == list(columns):
        dataset.add_problem(files["seg"], "a label without its images")
        return
    if missing:
        expected = _expected_path(case, files, missing[0])
        dataset.add_problem(
            case,
            f"modality {', '.join(missing)} is missing, expected {expected}",
        )
        return
    found = FoundCase(
        case,
        {column: Image(files[column]) for column in columns},
        files.get("seg"),
        group=_patient(case),
        site=_site(case),
    )
    dataset.add(found)


def _patient(case: str) -> str:
    match = PATIENT.fullmatch(case)
    if match is None:
        return ""
    return match[1] or match[2]


def _site(case: str) -> str:
    match = SITE.match(case)
    if match is None:
        return ""
    return match[1]


def _expected_path(case: str, files: Mapping[str, Path], kind: str) -> Path:
    """Return the path that a missing modality should have."""
    other = next(iter(files.values()))
    suffix = other.name[len(stem(other)) :]
    separator = "-" if kind in NEW else "_"
    return other.with_name(f"{case}{separator}{kind}{suffix}")


def _find_mixed(dataset: DataSet, cases: Cases) -> None:
    """Record files that are stored in the folder of another case."""
    for case, files in cases.items():
        for path in files.values():
            folder = path.parent.name
            if folder != case and folder in cases:
                dataset.add_problem(
                    path,
                    f"two cases mixed: a file of {case} in folder {folder}",
                )


def _adopt_odd_labels(
    dataset: DataSet,
    cases: Cases,
    others: Iterable[Path],
) -> None:
    """Assign labels with unusual names to the case of their folder, if it has no other label."""
    for path in others:
        case = path.parent.name
        files = cases.get(case, {})
        if files and "seg" not in files and ODD_LABEL.fullmatch(stem(path)):
            files["seg"] = path
            dataset.comments.append(f"{path.name} is used as the label of {case}.")
        else:
            dataset.add_problem(
                path,
                "is not named as in BraTS: expected <case>_flair, _t1, _t1ce, _t2, _seg"
                " or <case>-t2f, -t1n, -t1c, -t2w, -seg",
            )


def name_labels(values: set[int], recent: bool = False) -> Labels:
    """Return the classes for the ``values`` found in the labels.

    The tumour has the values 1, 2, 4 until 2021 and 1, 2, 3 from 2023. In 2024 the value 4 is the
    resection cavity, which is a region of its own.

    Args:
        values: all values in the labels of labelled cases.
        recent: whether files are named as from 2023. The labelled cases may have a cavity and no
            enhancing tumour.
    """
    enhancing = 3 if recent or 3 in values else 4
    classes = {
        "background": 0,
        "necrosis": 1,
        "oedema": 2,
        "enhancing": enhancing,
    }
    regions = _regions(1, 2, enhancing)
    if 4 in values and enhancing == 3:
        classes["resection_cavity"] = 4
        regions["resection_cavity"] = (4,)
    return Labels(classes, regions)


def _regions(
    necrosis: int,
    oedema: int,
    enhancing: int,
) -> dict[str, tuple[int, ...]]:
    """Return the three overlapping regions that the challenge scores."""
    return {
        "whole_tumour": tuple(sorted((necrosis, oedema, enhancing))),
        "tumour_core": tuple(sorted((necrosis, enhancing))),
        "enhancing_tumour": (enhancing,),
    }


def _find_decathlon(folder: Path, options: Options) -> DataSet:
    """Find the cases of task 1 of the decathlon. Its oedema is 1 and its tumour core is 2 and 3."""
    dataset = msd.find(folder, options)
    if len(dataset.modalities) != 4 or not isinstance(dataset.labels, Labels):
        raise HstfError(
            f"{folder}: is a task of the decathlon, but not task 1. Import it with kind msd."
        )
    labels = Labels(
        dataset.labels.values,
        _regions(necrosis=2, oedema=1, enhancing=3),
    )
    return dataclasses.replace(dataset, title=TITLE, labels=labels)
