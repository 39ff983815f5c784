"""Synthetic data sets in the layouts of public ones: file names, data types, axes and label values.

``hstf import`` reads all of them. The anatomy is always the same: in the layout of BraTS, for
instance, the liver has the label of the oedema.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hstf.datasets.phantom.dataset import (
    case_seed,
    save,
    site_of,
    split_of,
    training_label,
)
from hstf.datasets.phantom.options import PHANTOM_LABELS, PhantomOptions
from hstf.datasets.phantom.scan import Phantom, generate_case
from hstf.experiment.cases import Split
from hstf.runtime.documents import Document, Part
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_csv, write_text
from hstf.runtime.progress import track

SECOND_SCAN = 1_000_000
"""Difference between the case numbers of the first and the second scan of a patient."""
BODY_THRESHOLD = 0.15
"""Image values below this one are air."""

Axes = tuple[float, float, float]
RAS: Axes = (1.0, 1.0, 1.0)
LPS: Axes = (-1.0, -1.0, 1.0)


@dataclass(frozen=True)
class Scan:
    """Images and label of a case, as a layout writes them."""

    number: int
    split: Split
    images: list[np.ndarray]
    """Each ``(X, Y, Z)`` with tissues between about 0 and 1."""
    label: np.ndarray
    """``(X, Y, Z)`` uint8 with the label values of the layout."""
    affine: np.ndarray

    @property
    def has_label(self) -> bool:
        """Whether the layout has a label of this case."""
        return self.split is not Split.UNLABELLED


Draw = Callable[[int], Scan]
"""Function that computes scan 0, 1, ... of a case."""


@dataclass(frozen=True)
class Layout:
    """The file layout of a public data set."""

    write: Callable[[Path, Draw, PhantomOptions], None]
    """Function that writes a case to a folder."""
    values: Mapping[str, int]
    """Label value of each class of the phantom. Classes without a value are background."""
    kind: str = ""
    """Kind of ``hstf import``. If empty, it is the name of the layout."""
    axes: Axes = RAS
    """Direction of each array axis along right, anterior and superior."""
    has_test: bool = False
    """Whether the layout has an official test set with labels."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Options with other defaults than those of :class:`PhantomOptions`."""
    finish: Callable[[Path, PhantomOptions, Mapping[str, int]], None] | None = None
    """Function that writes the description of the data set."""
    ignore: int | None = None
    """Label value of voxels without a scribble, if the layout has one."""

    def command(
        self,
        name: str,
        folder: Path,
        options: PhantomOptions,
    ) -> str:
        """Return the command that imports the data set."""
        words = ["hstf", "import", self.kind or name, str(folder)]
        words += ["--output", f"config/{name}.yaml"]
        if options.labelled:
            words += ["--labelled", str(options.labelled)]
        if options.test and not self.has_test:
            words += ["--test", str(options.test)]
        if self.kind == "msd" and len(options.modalities) > 1:
            words += ["--extract", str(folder / "channels")]
        return shlex.join(words)


def write_layout(
    folder: Path,
    layout: Layout,
    options: PhantomOptions,
) -> Path:
    """Write the data set to ``folder``.

    Returns:
        The folder.

    Raises:
        HstfError: if a file cannot be written, or if the layout does not support requested
        scribbles.
    """
    if options.scribbles and layout.ignore is None:
        known = [name for name, other in LAYOUTS.items() if other.ignore is not None]
        raise HstfError(
            "--scribbles: this layout has no value for voxels to ignore."
            f" These have: {', '.join(known)}."
        )
    # The layout defines the array axes.
    options = replace(options, oblique=False)
    for number in track(range(options.cases), "phantom"):
        draw = partial(_draw, layout, options, number)
        layout.write(folder, draw, options)
    if layout.finish is not None:
        layout.finish(folder, options, layout.values)
    return folder


def _draw(
    layout: Layout,
    options: PhantomOptions,
    number: int,
    scan: int,
) -> Scan:
    """Compute a scan of case ``number``."""
    seed = case_seed(options.seed, number + scan * SECOND_SCAN)
    phantom = generate_case(seed, options, site_of(options, number))
    values = np.zeros(max(PHANTOM_LABELS.values()) + 1, np.uint8)
    for name, value in layout.values.items():
        values[PHANTOM_LABELS[name]] = value
    images = []
    for image in phantom.images:
        normalised = image / np.percentile(image, 99)
        images.append(_flip(normalised, layout.axes))
    label = _flip(values[phantom.label], layout.axes)
    if layout.ignore is not None:
        label = training_label(label, options, number, layout.ignore)
    return Scan(
        number=number,
        split=split_of(options, number),
        images=images,
        label=label,
        affine=_flipped_affine(phantom, layout.axes),
    )


def _flip(data: np.ndarray, axes: Axes) -> np.ndarray:
    """Flip ``data`` from RAS to ``axes``."""
    flipped = tuple(axis for axis, sign in enumerate(axes) if sign < 0)
    return np.flip(data, flipped)


def _flipped_affine(phantom: Phantom, axes: Axes) -> np.ndarray:
    """Return the affine of arrays that :func:`_flip` has flipped."""
    flip = np.eye(4)
    for axis, sign in enumerate(axes):
        if sign < 0:
            flip[axis, axis] = -1
            flip[axis, 3] = phantom.label.shape[axis] - 1
    return phantom.affine @ flip


def _to_mr(image: np.ndarray) -> np.ndarray:
    return np.rint(1000 * image).astype(np.int16)


def _to_stripped_mr(image: np.ndarray) -> np.ndarray:
    """Convert to MR with 0 outside the body, as after skull-stripping."""
    stripped = np.where(image < BODY_THRESHOLD, 0, _to_mr(image))
    return stripped.astype(np.int16)


def _to_ct(image: np.ndarray) -> np.ndarray:
    """Convert to Hounsfield units: air is -1000, soft tissue is about 0 to 150."""
    tissue = np.rint(300 * image - 100)
    return np.where(image < BODY_THRESHOLD, -1000, tissue).astype(np.int16)


def _write_acdc(folder: Path, draw: Draw, options: PhantomOptions) -> None:
    frames = {1: draw(0), 9: draw(1)}
    first = frames[1]
    patient = f"patient{first.number + 1:03d}"
    part = "testing" if first.split is Split.TEST else "training"
    target = folder / part / patient
    # ACDC has no origin.
    affine = np.diag([*first.affine.diagonal()[:3], 1.0])
    images = []
    for number, scan in frames.items():
        name = f"{patient}_frame{number:02d}"
        image = _to_mr(scan.images[0])
        images.append(image)
        save(target / f"{name}.nii.gz", image, affine)
        save(target / f"{name}_gt.nii.gz", scan.label, affine)
    series = np.stack(images, axis=-1)
    save(target / f"{patient}_4d.nii.gz", series, affine)
    groups = ("DCM", "HCM", "MINF", "NOR", "RV")
    group = groups[first.number % len(groups)]
    write_text(
        target / "Info.cfg",
        f"ED: 1\nES: 9\nGroup: {group}\nHeight: 170.0\nNbFrame: 12\nWeight: 70.0\n",
    )


def _write_brats(folder: Path, draw: Draw, options: PhantomOptions) -> None:
    scan = draw(0)
    part = "Training" if scan.has_label else "Validation"
    case = f"BraTS20_{part}_{scan.number + 1:03d}"
    target = folder / f"MICCAI_BraTS2020_{part}Data" / case
    _write_brats_case(target, "_", scan, options)


def _write_brats_2023(folder: Path, draw: Draw, options: PhantomOptions) -> None:
    scan = draw(0)
    part = "Training" if scan.has_label else "Validation"
    case = f"BraTS-GLI-{scan.number:05d}-000"
    target = folder / f"ASNR-MICCAI-BraTS2023-GLI-Challenge-{part}Data" / case
    _write_brats_case(target, "-", scan, options)


def _write_brats_case(
    target: Path,
    separator: str,
    scan: Scan,
    options: PhantomOptions,
) -> None:
    # All scans of BraTS have this origin.
    affine = scan.affine.copy()
    affine[:3, 3] = (0, scan.affine[1, 1] * (1 - scan.label.shape[1]), 0)
    prefix = f"{target.name}{separator}"
    for name, image in zip(options.modalities, scan.images, strict=True):
        save(target / f"{prefix}{name}.nii.gz", _to_stripped_mr(image), affine)
    if scan.has_label:
        save(target / f"{prefix}seg.nii.gz", scan.label, affine)


def _write_lits(folder: Path, draw: Draw, options: PhantomOptions) -> None:
    scan = draw(0)
    image = _to_ct(scan.images[0])
    if not scan.has_label:
        target = folder / "LITS-Challenge-Test-Data" / f"test-volume-{scan.number}.nii"
        save(target, image, scan.affine)
        return
    batch = folder / f"Training_Batch{1 + scan.number % 2}"
    save(batch / f"volume-{scan.number}.nii", image, scan.affine)
    save(batch / f"segmentation-{scan.number}.nii", scan.label, scan.affine)


def _write_msd(folder: Path, draw: Draw, options: PhantomOptions) -> None:
    scan = draw(0)
    name = f"phantom_{scan.number:03d}.nii.gz"
    images = [image.astype(np.float32) for image in scan.images]
    image = images[0]
    if len(images) > 1:
        image = np.stack(images, axis=-1)
    part = "imagesTr" if scan.has_label else "imagesTs"
    save(folder / part / name, image, scan.affine)
    if scan.has_label:
        save(folder / "labelsTr" / name, scan.label, scan.affine)


class MsdCase(Part):
    """A labelled case in ``dataset.json`` of the Medical Segmentation Decathlon."""

    image: str
    label: str


class MsdDescription(Document):
    """``dataset.json`` of the Medical Segmentation Decathlon."""

    stage = "phantom"

    name: str
    description: str
    reference: str
    licence: str
    release: str
    tensorImageSize: str
    modality: dict[str, str]
    labels: dict[str, str]
    numTraining: int
    numTest: int
    training: list[MsdCase]
    test: list[str]


def _describe_msd(
    folder: Path,
    options: PhantomOptions,
    values: Mapping[str, int],
) -> None:
    labels = {"0": "background"}
    for class_name, value in values.items():
        labels[str(value)] = class_name
    labelled = options.labelled + options.test
    training = []
    test = []
    for number in range(options.cases):
        name = f"phantom_{number:03d}.nii.gz"
        if number < labelled:
            case = MsdCase(image=f"./imagesTr/{name}", label=f"./labelsTr/{name}")
            training.append(case)
        else:
            test.append(f"./imagesTs/{name}")
    description = MsdDescription(
        name="Phantom",
        description="Synthetic scans",
        reference="hstf phantom",
        licence="CC0",
        release="1.0",
        tensorImageSize="3D" if len(options.modalities) == 1 else "4D",
        modality=_numbered(options.modalities),
        labels=labels,
        numTraining=labelled,
        numTest=options.cases - labelled,
        training=training,
        test=test,
    )
    description.save(folder / "dataset.json")


def _numbered(names: Sequence[str]) -> dict[str, str]:
    """Return ``{"0": "first", "1": "second"}``."""
    return {str(number): name for number, name in enumerate(names)}


def _write_nnunet(folder: Path, draw: Draw, options: PhantomOptions) -> None:
    scan = draw(0)
    part = "Tr" if scan.split is Split.LABELLED else "Ts"
    case = f"phantom_{scan.number:03d}"
    for channel, image in enumerate(scan.images):
        target = folder / f"images{part}" / f"{case}_{channel:04d}.nii.gz"
        save(target, image.astype(np.float32), scan.affine)
    if scan.has_label:
        save(folder / f"labels{part}" / f"{case}.nii.gz", scan.label, scan.affine)


class NnunetDescription(Document):
    """``dataset.json`` of nnU-Net, version 2."""

    stage = "phantom"

    channel_names: dict[str, str]
    labels: dict[str, int]
    numTraining: int
    file_ending: str
    name: str


def _describe_nnunet(
    folder: Path,
    options: PhantomOptions,
    values: Mapping[str, int],
) -> None:
    labels = {"background": 0, **values}
    if options.scribbles:
        labels["ignore"] = NNUNET_IGNORE
    description = NnunetDescription(
        channel_names=_numbered(options.modalities),
        labels=labels,
        numTraining=options.labelled,
        file_ending=".nii.gz",
        name="Phantom",
    )
    description.save(folder / "dataset.json")


def _write_folder(folder: Path, draw: Draw, options: PhantomOptions) -> None:
    scan = draw(0)
    case = f"case_{scan.number:03d}"
    for modality, image in zip(options.modalities, scan.images, strict=True):
        name = case
        if len(options.modalities) > 1:
            name = f"{case}_{modality}"
        save(folder / "images" / f"{name}.nii.gz", _to_mr(image), scan.affine)
    if scan.has_label:
        save(folder / "labels" / f"{case}.nii.gz", scan.label, scan.affine)


def _write_bids(folder: Path, draw: Draw, options: PhantomOptions) -> None:
    scan = draw(0)
    subject = f"sub-{scan.number + 1:03d}"
    for name, image in zip(options.modalities, scan.images, strict=True):
        target = folder / subject / "anat" / f"{subject}_{name}.nii.gz"
        save(target, _to_mr(image), scan.affine)
    if scan.has_label:
        target = folder / "derivatives" / "manual" / subject / "anat"
        save(target / f"{subject}_desc-manual_dseg.nii.gz", scan.label, scan.affine)


class BidsDescription(Document):
    """``dataset_description.json`` of BIDS."""

    stage = "phantom"

    Name: str
    BIDSVersion: str


class BidsDerivative(BidsDescription):
    """``dataset_description.json`` of a BIDS derivative."""

    DatasetType: str


def _describe_bids(
    folder: Path,
    options: PhantomOptions,
    values: Mapping[str, int],
) -> None:
    version = "1.10.0"
    raw = BidsDescription(Name="Phantom", BIDSVersion=version)
    raw.save(folder / "dataset_description.json")
    manual = folder / "derivatives" / "manual"
    derivative = BidsDerivative(
        Name="manual",
        BIDSVersion=version,
        DatasetType="derivative",
    )
    derivative.save(manual / "dataset_description.json")
    lines = ["index\tname"]
    for name, value in values.items():
        lines.append(f"{value}\t{name}")
    write_text(manual / "desc-manual_dseg.tsv", "\n".join(lines) + "\n")
    subjects = []
    for number in range(options.cases):
        subjects.append({"participant_id": f"sub-{number + 1:03d}"})
    write_csv(folder / "participants.tsv", subjects, ["participant_id"])


ORGANS = {name: value for name, value in PHANTOM_LABELS.items() if value}
HEART = {
    "liver": 1,
    "lesion": 1,
    "spleen": 2,
    "kidney": 3,
}
TUMOUR = {
    "lesion": 1,
    "liver": 2,
    "kidney": 4,
}
TUMOUR_2023 = TUMOUR | {"kidney": 3}
NNUNET_IGNORE = 1 + max(ORGANS.values())
"""nnU-Net requires an ignore value above those of all classes."""

LAYOUTS = {
    "acdc": Layout(
        _write_acdc,
        HEART,
        axes=LPS,
        has_test=True,
        defaults={
            "size": (72, 64, 10),
            "spacing": (1.5, 1.5, 10.0),
        },
    ),
    "brats": Layout(
        _write_brats,
        TUMOUR,
        axes=LPS,
        defaults={"modalities": ("flair", "t1", "t1ce", "t2")},
    ),
    "brats2023": Layout(
        _write_brats_2023,
        TUMOUR_2023,
        kind="brats",
        axes=LPS,
        defaults={"modalities": ("t2f", "t1n", "t1c", "t2w")},
    ),
    "lits": Layout(
        _write_lits,
        {"liver": 1, "lesion": 2},
        axes=LPS,
        defaults={
            "size": (48, 48, 32),
            "spacing": (0.8, 0.8, 1.5),
        },
    ),
    "msd": Layout(
        _write_msd,
        ORGANS,
        defaults={"modalities": ("MRI",)},
        finish=_describe_msd,
    ),
    "nnunet": Layout(
        _write_nnunet,
        ORGANS,
        has_test=True,
        defaults={"modalities": ("MRI",)},
        finish=_describe_nnunet,
        ignore=NNUNET_IGNORE,
    ),
    "folder": Layout(_write_folder, ORGANS),
    "bids": Layout(
        _write_bids,
        ORGANS,
        defaults={"modalities": ("T1w",)},
        finish=_describe_bids,
    ),
}
"""Layouts by name, in the order of :data:`hstf.datasets.phantom.options.LAYOUT_NAMES`."""
