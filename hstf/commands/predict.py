"""``hstf predict``: segment any volumes (NIfTI, .mha, .nrrd) with an exported model; no workflow is needed."""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hstf.imaging.volumes import SUFFIXES, read_image, stem, suffix_of, write_like
from hstf.method.inference import Predictor
from hstf.runtime.errors import HstfError, is_memory_error, join_faults
from hstf.runtime.progress import track
from hstf.stages.export import ExportedModel

Existing = Literal["refuse", "skip", "overwrite"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=Path, required=True, metavar="FOLDER", help="folder that hstf export wrote"
    )
    parser.add_argument(
        "--input", type=Path, required=True, metavar="FILE_OR_FOLDER",
        help="a volume (.nii.gz, .nii, .mha, .nrrd) or a folder of them; for several modalities files named"
        " <case>_<modality>.nii.gz",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="where segmentations go"
    )
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
    model_folder: Path,
    source: Path,
    output: Path,
    device: str = "auto",
    existing: Existing = "refuse",
) -> list[Path]:
    """Segment ``source`` (a file or a folder) into ``output``; returns the files written.

    A segmentation has the name of its scan, ``<case>.nii.gz`` for several modalities and for scans that are not NIfTI,
    the scan's geometry, and the label values that the model was trained with.

    Raises:
        HstfError: before any compute, all faults of the model, the input's names and the output folder; after all other
            scans are done, each scan that could not be segmented.
    """
    model = ExportedModel.read(model_folder)
    scans = to_do(find_scans(source, list(model.modalities)), output, existing)
    if not scans:
        return []
    predictor = Predictor.load(
        model.weights,
        model.plan,
        model.predict,
        model.modalities,
        device,
        model.preprocess,
        model.known,
    )
    values = np.array(list(model.labels.values()), np.uint8)
    faults = []
    for scan in track(scans, "predict"):
        try:
            _segment(predictor, scan, values, output / scan.name)
        except (HstfError, MemoryError, RuntimeError) as error:
            if not isinstance(error, HstfError) and not is_memory_error(error):
                raise
            faults.append(
                f"{scan.name}: {error if isinstance(error, HstfError) else 'not enough memory'}"
            )
            print(f"hstf predict: {faults[-1]}", file=sys.stderr, flush=True)
    if faults:
        raise join_faults(
            f"{len(faults)} of {len(scans)} scans were not segmented; the others were.", faults
        )
    return [output / scan.name for scan in scans]


def _segment(predictor: Predictor, scan: Scan, values: np.ndarray, target: Path) -> None:
    volumes = [read_image(path) for path in scan.images]
    label = predictor.predict(volumes, members=False).label
    write_like(target, values[label], volumes[0])


def find_scans(source: Path, modalities: Sequence[str]) -> list[Scan]:
    """The scans of a file or folder (not of its subfolders), by name.

    Raises:
        HstfError: nothing there, modalities missing, or two files of one name; all are named.
    """
    if not source.exists():
        raise HstfError(f"{source}: does not exist. Give a volume or a folder of them to --input.")
    files = [source] if source.is_file() else _volumes(source)
    if not files or not suffix_of(files[0]):
        raise HstfError(
            f"{source}: no volume ({', '.join(SUFFIXES)}) there. Convert DICOM with dcm2niix"
            " (dcm2niix -z y -o OUTPUT FOLDER)."
        )
    by_name = _by_name(files)
    if len(modalities) > 1:
        return _grouped(by_name, _by_name(_volumes(files[0].parent)), modalities)
    plain = {
        name: ".nii" if suffix_of(path) == ".nii" else ".nii.gz" for name, path in by_name.items()
    }
    return [Scan(f"{name}{plain[name]}", (path,)) for name, path in by_name.items()]


def _volumes(folder: Path) -> list[Path]:
    """Volumes of a folder by name; hidden files, as tar of macOS leaves them, are none."""
    return sorted(
        path
        for path in folder.iterdir()
        if suffix_of(path) and path.is_file() and not path.name.startswith(".")
    )


def _by_name(files: Iterable[Path]) -> dict[str, Path]:
    """Volumes by their name without suffix.

    Raises:
        HstfError: two have one name.
    """
    by_name: dict[str, list[Path]] = {}
    for path in files:
        by_name.setdefault(stem(path), []).append(path)
    faults = [" and ".join(path.name for path in same) for same in by_name.values() if same[1:]]
    if faults:
        raise join_faults(
            "a segmentation is called like its scan, and these would share a name. Rename or remove one.",
            faults,
        )
    return {name: same[0] for name, same in by_name.items()}


def _grouped(
    names: Iterable[str], there: Mapping[str, Path], modalities: Sequence[str]
) -> list[Scan]:
    """The scans that ``<case>_<modality>`` of ``names`` belong to, each with all its modalities from ``there``."""
    cases: list[str] = []
    faults = []
    for name in names:
        modality = next(
            (m for m in sorted(modalities, key=len, reverse=True) if name.endswith(f"_{m}")), None
        )
        if modality is None or name == f"_{modality}":
            faults.append(
                f"{name}: expected <case>_<modality>.nii.gz with one of {', '.join(modalities)}"
            )
        else:
            cases.append(name.removesuffix(f"_{modality}"))
    scans = []
    for case in dict.fromkeys(cases):
        images = [there.get(f"{case}_{modality}") for modality in modalities]
        faults += [
            f"{case}: {case}_{modality}.nii.gz is missing"
            for modality, image in zip(modalities, images, strict=True)
            if image is None
        ]
        scans.append(Scan(f"{case}.nii.gz", tuple(image for image in images if image is not None)))
    if faults:
        raise join_faults(f"the model needs {len(modalities)} files for each scan.", faults)
    return scans


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
