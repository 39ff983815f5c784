"""``hstf predict``: segment volumes (NIfTI, .mha, .nrrd) with an exported model.

The workflow is not needed.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hstf.imaging.volumes import SUFFIXES, read_image, stem, suffix_of, write_like
from hstf.method.exported_model import read_exported_model
from hstf.method.inference import Predictor
from hstf.runtime.errors import HstfError, is_memory_error, join_problems
from hstf.runtime.files import make_folder
from hstf.runtime.progress import track

Existing = Literal["refuse", "skip", "overwrite"]
"""What to do if a segmentation already exists."""


def run(args: argparse.Namespace) -> int:
    """Segment the input of the command line."""
    predict(
        args.model,
        args.input,
        args.output,
        args.device,
        args.existing,
    )
    return 0


@dataclass(frozen=True)
class Scan:
    """A scan to segment."""

    name: str
    """File name of its segmentation."""
    images: tuple[Path, ...]
    """One file for each modality, in channel order."""


def predict(
    model_folder: Path,
    source: Path,
    output: Path,
    device: str = "auto",
    existing: Existing = "refuse",
) -> list[Path]:
    """Segment a file or all files of a folder.

    A segmentation has the geometry of its scan and the label values of the training data. It has
    the name of its scan, or ``<case>.nii.gz`` for several modalities and for scans that are not
    NIfTI.

    Args:
        model_folder: an exported model.
        source: a volume, or a folder of volumes.
        output: folder of the segmentations.
        device: ``auto``, ``cpu`` or ``cuda``.
        existing: what to do if a segmentation already exists.

    Returns:
        The files that were written.

    Raises:
        HstfError: before any computation if the model, the names of the scans or the output folder
            are invalid; after all other scans are segmented if some scans cannot be segmented.
    """
    model = read_exported_model(model_folder)
    found = find_scans(source, list(model.modalities))
    scans = select_scans(found, output, existing)
    if not scans:
        return []
    make_folder(output)
    predictor = Predictor.load(
        model.weights(model_folder),
        model.plan,
        model.predict,
        model.modalities,
        device,
        model.preprocess,
        model.structure,
    )
    values = np.array(list(model.labels.values()), np.uint8)
    problems = []
    for scan in track(scans, "predict"):
        problem = _try_segment(predictor, scan, values, output / scan.name)
        if problem:
            problems.append(f"{scan.name}: {problem}")
            print(f"hstf predict: {problems[-1]}", file=sys.stderr, flush=True)
    if problems:
        raise join_problems(
            f"{len(problems)} of {len(scans)} scans were not segmented. All others were.",
            problems,
        )
    return [output / scan.name for scan in scans]


def _try_segment(
    predictor: Predictor,
    scan: Scan,
    values: np.ndarray,
    target: Path,
) -> str:
    """Segment a scan. Returns a description of the problem, or ``""``."""
    try:
        _segment(predictor, scan, values, target)
    except HstfError as error:
        return str(error)
    except (MemoryError, RuntimeError) as error:
        if is_memory_error(error):
            return "out of memory"
        raise
    return ""


def _segment(
    predictor: Predictor,
    scan: Scan,
    values: np.ndarray,
    target: Path,
) -> None:
    """Segment a scan and write the segmentation to ``target``.

    Args:
        predictor: the loaded model.
        scan: the scan.
        values: label value of each class.
        target: file of the segmentation.
    """
    volumes = [read_image(path) for path in scan.images]
    prediction = predictor.predict(volumes, members=False)
    write_like(target, values[prediction.label], volumes[0])


def find_scans(source: Path, modalities: Sequence[str]) -> list[Scan]:
    """Find the scans of a file or a folder, without its subfolders, sorted by name.

    Raises:
        HstfError: if there is no scan, a modality is missing, or two files have the same name.
    """
    if not source.exists():
        raise HstfError(
            f"{source}: does not exist. Give a volume or a folder of volumes to --input."
        )
    paths = [source] if source.is_file() else _volumes(source)
    if not paths or not suffix_of(paths[0]):
        raise HstfError(
            f"{source}: contains no volume ({', '.join(SUFFIXES)}). Convert DICOM files with"
            " dcm2niix (dcm2niix -z y -o OUTPUT FOLDER)."
        )
    by_name = _by_name(paths)
    if len(modalities) > 1:
        # The other modalities of a single file are stored beside it.
        existing = _by_name(_volumes(paths[0].parent))
        return _group_modalities(by_name, existing, modalities)
    scans = []
    for name, path in by_name.items():
        suffix = ".nii" if suffix_of(path) == ".nii" else ".nii.gz"
        scans.append(Scan(f"{name}{suffix}", (path,)))
    return scans


def _volumes(folder: Path) -> list[Path]:
    """Return the volumes of a folder by name.

    Hidden files are skipped: archives made on macOS contain hidden copies of each file.
    """
    volumes = []
    for path in sorted(folder.iterdir()):
        if suffix_of(path) and path.is_file() and not path.name.startswith("."):
            volumes.append(path)
    return volumes


def _by_name(paths: Iterable[Path]) -> dict[str, Path]:
    """Return volumes by their name without suffix.

    Raises:
        HstfError: if two volumes have the same name.
    """
    by_name: dict[str, Path] = {}
    same: dict[str, list[str]] = {}
    for path in paths:
        name = stem(path)
        first = by_name.setdefault(name, path)
        if first is not path:
            same.setdefault(name, [first.name]).append(path.name)
    if same:
        raise join_problems(
            "a segmentation has the name of its scan, and these scans would have the same one."
            " Rename or remove all but one.",
            [" and ".join(names) for names in same.values()],
        )
    return by_name


def _group_modalities(
    names: Iterable[str],
    existing: Mapping[str, Path],
    modalities: Sequence[str],
) -> list[Scan]:
    """Group files ``<case>_<modality>`` by case.

    Args:
        names: names of the files to segment. One modality of a case is enough.
        existing: all files by name.
        modalities: the modalities of the model.

    Raises:
        HstfError: if a file has no modality in its name, or if a modality of a case is missing.
    """
    cases: list[str] = []
    problems = []
    for name in names:
        case = _case_of(name, modalities)
        if not case:
            problems.append(
                f"{name}: expected <case>_<modality>.nii.gz with one of {', '.join(modalities)}"
            )
        elif case not in cases:
            cases.append(case)
    scans = []
    for case in cases:
        images = []
        for modality in modalities:
            path = existing.get(f"{case}_{modality}")
            if path is None:
                problems.append(f"{case}: {case}_{modality}.nii.gz is missing")
            else:
                images.append(path)
        scans.append(Scan(f"{case}.nii.gz", tuple(images)))
    if problems:
        raise join_problems(
            f"the model needs {len(modalities)} files for each scan.",
            problems,
        )
    return scans


def _case_of(name: str, modalities: Iterable[str]) -> str:
    """Return the case of a file ``<case>_<modality>``, or ``""`` if it has no modality.

    Long names of modalities come first, because one may be the end of another: ``t1_ce`` and
    ``ce``.
    """
    for modality in sorted(modalities, key=len, reverse=True):
        if name.endswith(f"_{modality}"):
            return name.removesuffix(f"_{modality}")
    return ""


def select_scans(
    scans: Sequence[Scan],
    output: Path,
    existing: Existing,
) -> list[Scan]:
    """Return the scans to segment into ``output``.

    Raises:
        HstfError: if segmentations would replace the scans, or if they already exist and
            ``existing`` is ``refuse``.
    """
    if output.exists() and not output.is_dir():
        raise HstfError(f"{output}: is a file. Give a folder to --output.")
    if output.resolve() in _folders(scans):
        raise HstfError(
            f"{output}: contains the scans themselves. Give another folder to --output."
        )
    done = [scan for scan in scans if (output / scan.name).exists()]
    if done and existing == "refuse":
        raise join_problems(
            f"{output}: {len(done)} segmentations already exist."
            " Add --existing skip or --existing overwrite.",
            [scan.name for scan in done],
        )
    if existing == "skip":
        return [scan for scan in scans if scan not in done]
    return list(scans)


def _folders(scans: Iterable[Scan]) -> set[Path]:
    """Return the folders of all images. A link has two: its own one and that of its target."""
    folders = set()
    for scan in scans:
        for path in scan.images:
            folders.add(path.parent.resolve())
            folders.add(path.resolve().parent)
    return folders
