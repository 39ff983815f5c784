"""Phantoms in the form in which the owners of public data sets distribute theirs: names, types, axes, label values.

``hstf import`` reads each of them. The anatomy stays that of the phantom: the liver plays the oedema, say.
"""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hstf.datasets.phantom.dataset import case_seed, save, split_of, training_label
from hstf.datasets.phantom.options import PHANTOM_LABELS, PhantomOptions
from hstf.datasets.phantom.scan import Phantom, generate_case
from hstf.experiment.cases import Split
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_csv, write_json, write_text
from hstf.runtime.progress import track

SECOND_SCAN = 1_000_000
"""Seeds of the further scans of a patient lie so far from those of the first."""
RAS, LPS = (1.0, 1.0, 1.0), (-1.0, -1.0, 1.0)


@dataclass(frozen=True)
class Scan:
    """What a layout writes of a case."""

    number: int
    split: Split
    images: list[np.ndarray]
    """Each ``(X, Y, Z)``: tissues between about 0 and 1."""
    label: np.ndarray
    """``(X, Y, Z)`` uint8, the layout's values."""
    affine: np.ndarray

    @property
    def has_label(self) -> bool:
        """Whether owners that keep labels back would give this one away."""
        return self.split is not Split.UNLABELLED


@dataclass(frozen=True)
class Layout:
    """The form of a data set."""

    write: Callable[[Path, Callable[[int], Scan], PhantomOptions], None]
    """Writes a case below a folder; it is given scan 0, 1 ... of the case when it asks."""
    values: Mapping[str, int]
    """Value of each class of the phantom in the label files; the others are background."""
    kind: str = ""
    """Kind of import; empty: the layout's name."""
    axes: tuple[float, float, float] = RAS
    """Direction of each array axis along right, anterior and superior."""
    has_test: bool = False
    """Whether the owners give a test set with labels."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Options that differ from those of a plain data set."""
    finish: Callable[[Path, PhantomOptions, Mapping[str, int]], None] | None = None
    """Writes what describes the data set."""
    ignore: int | None = None
    """Value of voxels beside scribbles, in layouts whose owners have one."""

    def command(self, name: str, folder: Path, options: PhantomOptions) -> str:
        """The command that imports the data set."""
        words = [
            "hstf",
            "import",
            self.kind or name,
            str(folder),
            "--output",
            f"config/{name}.yaml",
        ]
        words += ["--labelled", str(options.labelled)] if options.labelled else []
        words += ["--test", str(options.test)] if options.test and not self.has_test else []
        words += (
            ["--extract", str(folder / "channels")]
            if self.kind == "msd" and len(options.modalities) > 1
            else []
        )
        return shlex.join(words)


def write_layout(folder: Path, layout: Layout, options: PhantomOptions) -> Path:
    """Write the data set below ``folder``, which is returned.

    Raises:
        HstfError: a file cannot be written, or scribbles are asked of a layout that knows none.
    """
    if options.scribbles and layout.ignore is None:
        known = ", ".join(name for name, other in LAYOUTS.items() if other.ignore is not None)
        raise HstfError(
            f"--scribbles: this layout has no value for voxels to ignore. These have: {known}."
        )
    options = replace(options, oblique=False)  # the axes are the layout's
    for number in track(range(options.cases), "phantom"):
        layout.write(
            folder, lambda scan, number=number: _draw(layout, options, number, scan), options
        )  # type: ignore[misc]
    if layout.finish is not None:
        layout.finish(folder, options, layout.values)
    return folder


def _draw(layout: Layout, options: PhantomOptions, number: int, scan: int) -> Scan:
    split = split_of(options, number)
    site = 0 if split is Split.LABELLED else number % options.sites
    phantom = generate_case(case_seed(options.seed, number + scan * SECOND_SCAN), options, site)
    values = np.zeros(max(PHANTOM_LABELS.values()) + 1, np.uint8)
    for name, value in layout.values.items():
        values[PHANTOM_LABELS[name]] = value
    images = [_along(image / np.percentile(image, 99), layout.axes) for image in phantom.images]
    label = _along(values[phantom.label], layout.axes)
    if layout.ignore is not None:
        label = training_label(label, options, number, layout.ignore)
    return Scan(number, split, images, label, _affine(phantom, layout.axes))


def _along(data: np.ndarray, axes: tuple[float, float, float]) -> np.ndarray:
    """``data``, whose axes run along RAS, with axes that run along ``axes``."""
    return np.flip(data, tuple(axis for axis, sign in enumerate(axes) if sign < 0))


def _affine(phantom: Phantom, axes: tuple[float, float, float]) -> np.ndarray:
    """The affine of the flipped array."""
    turn = np.eye(4)
    for axis, sign in enumerate(axes):
        if sign < 0:
            turn[axis, axis], turn[axis, 3] = -1, phantom.label.shape[axis] - 1
    return phantom.affine @ turn


def _mr(image: np.ndarray) -> np.ndarray:
    return np.rint(1000 * image).astype(np.int16)


def _stripped(image: np.ndarray) -> np.ndarray:
    """MR in which all is 0 outside the body, as it is outside the brain after skull-stripping."""
    return np.where(image < 0.15, 0, _mr(image)).astype(np.int16)


def _ct(image: np.ndarray) -> np.ndarray:
    """Hounsfield units: air is -1000, soft tissue about 0 to 150."""
    return np.where(image < 0.15, -1000, np.rint(300 * image - 100)).astype(np.int16)


# --- the layouts -----------------------------------------------------------------------------------


def _acdc(folder: Path, draw: Callable[[int], Scan], options: PhantomOptions) -> None:
    frames = {1: draw(0), 9: draw(1)}
    scan = frames[1]
    patient = f"patient{scan.number + 1:03d}"
    target = folder / ("testing" if scan.split is Split.TEST else "training") / patient
    affine = np.diag([*scan.affine.diagonal()[:3], 1.0])  # ACDC has no origin
    for frame, of_frame in frames.items():
        save(target / f"{patient}_frame{frame:02d}.nii.gz", _mr(of_frame.images[0]), affine)
        save(target / f"{patient}_frame{frame:02d}_gt.nii.gz", of_frame.label, affine)
    series = np.stack([_mr(of_frame.images[0]) for of_frame in frames.values()], axis=-1)
    save(target / f"{patient}_4d.nii.gz", series, affine)
    group = ("DCM", "HCM", "MINF", "NOR", "RV")[scan.number % 5]
    write_text(
        target / "Info.cfg",
        f"ED: 1\nES: 9\nGroup: {group}\nHeight: 170.0\nNbFrame: 12\nWeight: 70.0\n",
    )


def _brats(folder: Path, draw: Callable[[int], Scan], options: PhantomOptions) -> None:
    scan = draw(0)
    part = "Training" if scan.has_label else "Validation"
    case = f"BraTS20_{part}_{scan.number + 1:03d}"
    _brats_case(folder / f"MICCAI_BraTS2020_{part}Data" / case, "_", scan, options)


def _brats_2023(folder: Path, draw: Callable[[int], Scan], options: PhantomOptions) -> None:
    scan = draw(0)
    part = "Training" if scan.has_label else "Validation"
    case = f"BraTS-GLI-{scan.number:05d}-000"
    _brats_case(
        folder / f"ASNR-MICCAI-BraTS2023-GLI-Challenge-{part}Data" / case, "-", scan, options
    )


def _brats_case(target: Path, separator: str, scan: Scan, options: PhantomOptions) -> None:
    affine = scan.affine.copy()
    affine[:3, 3] = (0, scan.affine[1, 1] * (1 - scan.label.shape[1]), 0)  # where all of BraTS lies
    for name, image in zip(options.modalities, scan.images, strict=True):
        save(target / f"{target.name}{separator}{name}.nii.gz", _stripped(image), affine)
    if scan.has_label:
        save(target / f"{target.name}{separator}seg.nii.gz", scan.label, affine)


def _lits(folder: Path, draw: Callable[[int], Scan], options: PhantomOptions) -> None:
    scan = draw(0)
    if not scan.has_label:
        name = f"test-volume-{scan.number}.nii"
        return save(folder / "LITS-Challenge-Test-Data" / name, _ct(scan.images[0]), scan.affine)
    part = folder / f"Training_Batch{1 + scan.number % 2}"
    save(part / f"volume-{scan.number}.nii", _ct(scan.images[0]), scan.affine)
    save(part / f"segmentation-{scan.number}.nii", scan.label, scan.affine)


def _msd(folder: Path, draw: Callable[[int], Scan], options: PhantomOptions) -> None:
    scan = draw(0)
    name = f"phantom_{scan.number:03d}.nii.gz"
    images = [image.astype(np.float32) for image in scan.images]
    image = images[0] if len(images) == 1 else np.stack(images, axis=-1)
    save(folder / ("imagesTr" if scan.has_label else "imagesTs") / name, image, scan.affine)
    if scan.has_label:
        save(folder / "labelsTr" / name, scan.label, scan.affine)


def _describe_msd(folder: Path, options: PhantomOptions, values: Mapping[str, int]) -> None:
    names = [f"phantom_{number:03d}.nii.gz" for number in range(options.cases)]
    labelled = options.labelled + options.test
    classes = {"background": 0} | dict(values)
    write_json(folder / "dataset.json", {
        "name": "Phantom",
        "description": "Synthetic scans",
        "reference": "hstf phantom",
        "licence": "CC0",
        "release": "1.0",
        "tensorImageSize": "3D" if len(options.modalities) == 1 else "4D",
        "modality": {str(k): name for k, name in enumerate(options.modalities)},
        "labels": {str(value): name for name, value in classes.items()},
        "numTraining": labelled,
        "numTest": options.cases - labelled,
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names[:labelled]],
        "test": [f"./imagesTs/{name}" for name in names[labelled:]],
    })  # fmt: skip


def _nnunet(folder: Path, draw: Callable[[int], Scan], options: PhantomOptions) -> None:
    scan = draw(0)
    part, case = "Tr" if scan.split is Split.LABELLED else "Ts", f"phantom_{scan.number:03d}"
    for channel, image in enumerate(scan.images):
        save(
            folder / f"images{part}" / f"{case}_{channel:04d}.nii.gz",
            image.astype(np.float32),
            scan.affine,
        )
    if scan.has_label:
        save(folder / f"labels{part}" / f"{case}.nii.gz", scan.label, scan.affine)


def _describe_nnunet(folder: Path, options: PhantomOptions, values: Mapping[str, int]) -> None:
    write_json(folder / "dataset.json", {
        "channel_names": {str(k): name for k, name in enumerate(options.modalities)},
        "labels": {"background": 0} | dict(values) | ({"ignore": NNUNET_IGNORE} if options.scribbles else {}),
        "numTraining": options.labelled,
        "file_ending": ".nii.gz",
        "name": "Phantom",
    })  # fmt: skip


def _folder(folder: Path, draw: Callable[[int], Scan], options: PhantomOptions) -> None:
    scan = draw(0)
    case, several = f"case_{scan.number:03d}", len(options.modalities) > 1
    for name, image in zip(options.modalities, scan.images, strict=True):
        save(
            folder / "images" / f"{case}{f'_{name}' if several else ''}.nii.gz",
            _mr(image),
            scan.affine,
        )
    if scan.has_label:
        save(folder / "labels" / f"{case}.nii.gz", scan.label, scan.affine)


def _bids(folder: Path, draw: Callable[[int], Scan], options: PhantomOptions) -> None:
    scan = draw(0)
    subject = f"sub-{scan.number + 1:03d}"
    for name, image in zip(options.modalities, scan.images, strict=True):
        save(folder / subject / "anat" / f"{subject}_{name}.nii.gz", _mr(image), scan.affine)
    if scan.has_label:
        target = folder / "derivatives" / "manual" / subject / "anat"
        save(target / f"{subject}_desc-manual_dseg.nii.gz", scan.label, scan.affine)


def _describe_bids(folder: Path, options: PhantomOptions, values: Mapping[str, int]) -> None:
    write_json(folder / "dataset_description.json", {"Name": "Phantom", "BIDSVersion": "1.10.0"})
    description = {"Name": "manual", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    write_json(folder / "derivatives" / "manual" / "dataset_description.json", description)
    table = [f"{value}\t{name}" for name, value in values.items()]
    write_text(
        folder / "derivatives" / "manual" / "desc-manual_dseg.tsv",
        "\n".join(["index\tname", *table]) + "\n",
    )
    subjects = [{"participant_id": f"sub-{number + 1:03d}"} for number in range(options.cases)]
    write_csv(folder / "participants.tsv", subjects, ["participant_id"])


ORGANS = {name: value for name, value in PHANTOM_LABELS.items() if value}
TUMOUR = {"lesion": 1, "liver": 2, "kidney": 4}
NNUNET_IGNORE = 1 + max(ORGANS.values())  # nnU-Net wants it above all classes

LAYOUTS = {
    "acdc": Layout(_acdc, {"liver": 1, "lesion": 1, "spleen": 2, "kidney": 3}, axes=LPS, has_test=True,
        defaults={"size": (72, 64, 10), "spacing": (1.5, 1.5, 10.0)}),
    "brats": Layout(_brats, TUMOUR, axes=LPS, defaults={"modalities": ("flair", "t1", "t1ce", "t2")}),
    "brats2023": Layout(_brats_2023, TUMOUR | {"kidney": 3}, "brats", LPS,
        defaults={"modalities": ("t2f", "t1n", "t1c", "t2w")}),
    "lits": Layout(_lits, {"liver": 1, "lesion": 2}, axes=LPS,
        defaults={"size": (48, 48, 32), "spacing": (0.8, 0.8, 1.5), "lesions": 2.0}),
    "msd": Layout(_msd, ORGANS, defaults={"modalities": ("MRI",)}, finish=_describe_msd),
    "nnunet": Layout(_nnunet, ORGANS, has_test=True, defaults={"modalities": ("MRI",)}, finish=_describe_nnunet,
        ignore=NNUNET_IGNORE),
    "folder": Layout(_folder, ORGANS),
    "bids": Layout(_bids, ORGANS, defaults={"modalities": ("T1w",)}, finish=_describe_bids),
}  # fmt: skip
"""Layouts by name."""
