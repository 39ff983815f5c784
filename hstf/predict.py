"""``hstf predict``: segment any NIfTI files with an exported model; no workflow is needed."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hstf.errors import HstfError, join_faults
from hstf.export import ExportedModel
from hstf.inference import Predictor
from hstf.progress import track
from hstf.volumes import read_image, write_like

SUFFIXES = (".nii.gz", ".nii")
Existing = Literal["refuse", "skip", "overwrite"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=Path, required=True, metavar="FOLDER", help="folder that hstf export wrote"
    )
    parser.add_argument(
        "--input", type=Path, required=True, metavar="FILE_OR_FOLDER",
        help="a NIfTI file or a folder of them; for several modalities files named <case>_<modality>.nii.gz",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where segmentations go")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the network runs"
    )
    parser.add_argument(
        "--existing", choices=("refuse", "skip", "overwrite"), default="refuse",
        help="what to do when a segmentation exists already",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    predict(args.model, args.input, args.output, args.device, args.existing)
    return 0


@dataclass(frozen=True)
class Scan:
    """One scan to segment."""

    name: str
    """File name of its segmentation."""
    images: tuple[Path, ...]
    """One file per modality, in channel order."""


def predict(
    model_folder: Path, source: Path, output: Path, device: str = "auto", existing: Existing = "refuse"
) -> list[Path]:
    """Segment ``source`` (a file or a folder) into ``output``; returns the files written.

    A segmentation has the name of its scan, or ``<case>.nii.gz`` for several modalities, the scan's geometry, and the
    label values that the model was trained with.

    Raises:
        HstfError: before any compute, all faults of the model, the input's names and the output folder; after all other
            scans are done, each scan that could not be segmented.
    """
    model = ExportedModel.read(model_folder)
    scans = to_do(find_scans(source, list(model.modalities)), output, existing)
    if not scans:
        return []
    predictor = Predictor.load(
        model.weights, model.plan, model.predict, model.modalities, device, model.preprocess
    )  # fmt: skip
    values = np.array(list(model.labels.values()), np.uint8)
    faults = []
    for scan in track(scans, "predict"):
        try:
            _segment(predictor, scan, values, output / scan.name)
        except (HstfError, MemoryError) as error:
            faults.append(f"{scan.name}: {error if isinstance(error, HstfError) else 'not enough memory'}")
            print(f"hstf predict: {faults[-1]}", file=sys.stderr, flush=True)
    if faults:
        raise join_faults(f"{len(faults)} of {len(scans)} scans were not segmented; the others were.", faults)
    return [output / scan.name for scan in scans]


def _segment(predictor: Predictor, scan: Scan, values: np.ndarray, target: Path) -> None:
    volumes = [read_image(path) for path in scan.images]
    label = predictor.predict(volumes, members=False).label
    write_like(target, values[label], volumes[0])


def find_scans(source: Path, modalities: Sequence[str]) -> list[Scan]:
    """The scans of a file or folder (not of its subfolders), by name.

    Raises:
        HstfError: nothing there, or modalities missing; all are named.
    """
    if not source.exists():
        raise HstfError(f"{source}: does not exist. Give a NIfTI file or a folder of them to --input.")
    files = [source] if source.is_file() else sorted(path for path in source.iterdir() if path.is_file())
    files = [path for path in files if suffix_of(path) and not path.name.startswith(".")]
    if not files:
        raise HstfError(f"{source}: no NIfTI files (.nii or .nii.gz) there.")
    if len(modalities) == 1:
        return [Scan(path.name, (path,)) for path in files]
    return _grouped(files, modalities)


def suffix_of(path: Path) -> str:
    """``.nii.gz``, ``.nii``, or nothing for other files."""
    return next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")


def _grouped(files: Iterable[Path], modalities: Sequence[str]) -> list[Scan]:
    """Files ``<case>_<modality>.nii.gz`` by case; a file stands for its whole case."""
    cases: dict[str, Path] = {}
    faults = []
    for path in files:
        stem = path.name.removesuffix(suffix_of(path))
        modality = next(
            (m for m in sorted(modalities, key=len, reverse=True) if stem.endswith(f"_{m}")), None
        )
        if modality is None or stem == f"_{modality}":
            faults.append(
                f"{path.name}: expected <case>_<modality>.nii.gz with one of {', '.join(modalities)}"
            )
        else:
            cases[stem.removesuffix(f"_{modality}")] = path.parent
    scans = []
    for case, folder in cases.items():
        images = [_existing(folder, f"{case}_{modality}") for modality in modalities]
        faults += [
            f"{case}: {case}_{modality}.nii.gz is missing"
            for modality, image in zip(modalities, images, strict=True)
            if image is None
        ]
        scans.append(Scan(f"{case}.nii.gz", tuple(image for image in images if image is not None)))
    if faults:
        raise join_faults(f"the model needs {len(modalities)} files for each scan.", faults)
    return scans


def _existing(folder: Path, stem: str) -> Path | None:
    return next((folder / f"{stem}{s}" for s in SUFFIXES if (folder / f"{stem}{s}").is_file()), None)


def to_do(scans: Sequence[Scan], output: Path, existing: Existing) -> list[Scan]:
    """The scans to segment into ``output``.

    Raises:
        HstfError: segmentations would overwrite the scans, or exist already and ``existing`` is ``refuse``.
    """
    if output.exists() and not output.is_dir():
        raise HstfError(f"{output}: is a file. Give a folder to --output.")
    folders = {
        folder
        for scan in scans
        for path in scan.images
        for folder in (path.parent.resolve(), path.resolve().parent)
    }
    if output.resolve() in folders:
        raise HstfError(f"{output}: holds the scans themselves. Give another folder to --output.")
    done = [scan for scan in scans if (output / scan.name).exists()]
    if done and existing == "refuse":
        raise join_faults(
            f"{output}: {len(done)} segmentations exist already. Add --existing skip or --existing overwrite.",
            [scan.name for scan in done],
        )
    return [scan for scan in scans if existing != "skip" or scan not in done]
