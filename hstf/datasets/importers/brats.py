"""BraTS, the brain tumour segmentation challenges (Menze et al. 2015, Baid et al. 2021).

Three forms: ``BraTS20_Training_001/BraTS20_Training_001_flair.nii.gz`` (2018 to 2021, in 2018 and 2019 below ``HGG``
and ``LGG``), ``BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz`` (2023 and 2024), and task 1 of the Medical
Segmentation Decathlon, 4D. Folders without labels, as the validation set, are unlabelled cases.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from hstf.datasets.importers import msd
from hstf.datasets.importers.dataset import DataSet, FoundCase, Image, Labels, find_volumes
from hstf.datasets.importers.folder import numbered_classes
from hstf.datasets.importers.options import Options
from hstf.imaging.volumes import stem
from hstf.runtime.errors import HstfError

FILE = re.compile(
    r"(?P<old>.+)_(?P<old_kind>flair|t1|t1ce|t2|seg)|(?P<new>.+)-(?P<new_kind>t2f|t1n|t1c|t2w|seg)",
    re.IGNORECASE,
)
OLD, NEW = ("flair", "t1", "t1ce", "t2"), ("t2f", "t1n", "t1c", "t2w")
TITLE = "BraTS: brain tumours in MR (FLAIR, T1, T1 with contrast, T2), skull-stripped and registered, 1 mm."
PATIENT = re.compile(r"(BraTS-[A-Z]+-[\w]+)-\d{3}|(Brats1[78]_\w+|BraTS19_\w+)_\d+")
SITE = re.compile(r"Brats1\d_([A-Za-z]+|2013)", re.IGNORECASE)
ODD_LABEL = re.compile(r".*segm?", re.IGNORECASE)
"""BraTS 2020 has a case, 355, whose label is called ``W39_1998.09.19_Segm.nii``."""


def find(folder: Path, options: Options) -> DataSet:
    """The cases below ``folder``, each with its four modalities."""
    if (folder / "dataset.json").is_file():
        return _decathlon(folder, options)
    dataset = DataSet(TITLE, {}, numbered_classes)
    cases: dict[str, dict[str, Path]] = defaultdict(dict)
    odd = []
    for path in find_volumes(folder):
        match = FILE.fullmatch(stem(path))
        if match is None:
            odd.append(path)
            continue
        case, kind = match["old"] or match["new"], (match["old_kind"] or match["new_kind"]).lower()
        if kind in cases[case]:
            dataset.fault(case, f"{kind} is there twice: {cases[case][kind]} and {path}; keep one")
        cases[case][kind] = path
    _find_mixed(dataset, cases)
    _adopt_odd_labels(dataset, cases, odd)
    kinds = {kind for files in cases.values() for kind in files}
    if not cases and odd:
        raise HstfError(
            f"{folder}: no file is named as BraTS names them (<case>_flair, <case>-t2f); there is {odd[0].name}."
        )
    if kinds & set(OLD) and kinds & set(NEW):
        raise HstfError(
            f"{folder}: names of 2018 to 2021 and of 2023 on are mixed; import them one by one."
        )
    columns = NEW if kinds & set(NEW) else OLD
    dataset.modalities = dict.fromkeys(columns, "mr")
    if any(case.startswith("BraTS-PED") for case in cases):
        dataset.labels = numbered_classes
        dataset.comments.append(
            "What the values mean in BraTS-PED differs from year to year: name the classes."
        )
    else:
        dataset.labels = partial(name_labels, recent=columns is NEW)
    for case, files in cases.items():
        _add(dataset, case, files, columns)
    return dataset


def _add(dataset: DataSet, case: str, files: dict[str, Path], columns: Iterable[str]) -> None:
    missing = [column for column in columns if column not in files]
    if missing == list(columns):
        dataset.fault(files["seg"], "a label without its images")
    elif missing:
        dataset.fault(
            case,
            f"modality {', '.join(missing)} is missing, as {_expected(case, files, missing[0])}",
        )
    else:
        patient, site = PATIENT.fullmatch(case), SITE.match(case)
        dataset.add(
            FoundCase(
                case,
                {column: Image(files[column]) for column in columns},
                files.get("seg"),
                (patient[1] or patient[2]) if patient else "",
                site[1] if site else "",
            )
        )


def _expected(case: str, files: dict[str, Path], kind: str) -> Path:
    """The path at which a missing modality should lie."""
    there = next(iter(files.values()))
    return there.with_name(
        f"{case}{'-' if kind in NEW else '_'}{kind}{there.name[len(stem(there)) :]}"
    )


def _find_mixed(dataset: DataSet, cases: dict[str, dict[str, Path]]) -> None:
    """Files that lie in the folder of another case."""
    for case, files in cases.items():
        for path in files.values():
            if path.parent.name != case and path.parent.name in cases:
                dataset.fault(
                    path, f"two cases mixed: a file of {case} in folder {path.parent.name}"
                )


def _adopt_odd_labels(
    dataset: DataSet, cases: dict[str, dict[str, Path]], odd: Iterable[Path]
) -> None:
    """Give a label of an odd name to the case of its folder, where that has none."""
    for path in odd:
        files = cases.get(path.parent.name, {})
        if files and "seg" not in files and ODD_LABEL.fullmatch(stem(path)):
            files["seg"] = path
            dataset.comments.append(f"{path.name} is taken as the label of {path.parent.name}.")
        else:
            dataset.fault(path, "is no name of BraTS: expected <case>_flair, _t1, _t1ce, _t2, _seg or"
                          " <case>-t2f, -t1n, -t1c, -t2w, -seg")  # fmt: skip


def name_labels(values: set[int], recent: bool = False) -> Labels:
    """The classes behind the ``values`` of the labels: 1, 2, 4 until 2021; 1, 2, 3 from 2023; 2024 adds 4, the cavity after
    surgery, which is a region by itself.

    Args:
        recent: names of 2023 on, should no enhancing tumour be there to tell.
    """
    enhancing = 3 if 3 in values or (recent and 4 not in values) else 4
    classes = {"background": 0, "necrosis": 1, "oedema": 2, "enhancing": enhancing}
    cavity = {"resection_cavity": 4} if {3, 4} <= values else {}
    by_itself = {name: (value,) for name, value in cavity.items()}
    return Labels(classes | cavity, _regions(1, 2, enhancing) | by_itself)


def _regions(necrosis: int, oedema: int, enhancing: int) -> dict[str, tuple[int, ...]]:
    return {
        "whole_tumour": tuple(sorted((necrosis, oedema, enhancing))),
        "tumour_core": tuple(sorted((necrosis, enhancing))),
        "enhancing_tumour": (enhancing,),
    }


def _decathlon(folder: Path, options: Options) -> DataSet:
    """Task 1 of the decathlon, whose oedema is 1 and whose core is 2 and 3."""
    dataset = msd.find(folder, options)
    if len(dataset.modalities) != 4 or not isinstance(dataset.labels, Labels):
        raise HstfError(f"{folder}: is a decathlon task, but not task 1; import it with kind msd.")
    values = dataset.labels.values
    return dataclasses.replace(dataset, title=TITLE, labels=Labels(values, _regions(2, 1, 3)))
