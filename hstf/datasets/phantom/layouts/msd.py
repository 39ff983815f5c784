"""The layout of the Medical Segmentation Decathlon: the channels of a case in one 4D file."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hstf.datasets.phantom.dataset import save
from hstf.datasets.phantom.layouts.base import ORGANS, Draw, Layout, numbered
from hstf.datasets.phantom.options import PhantomOptions
from hstf.runtime.documents import Document, Part


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
        modality=numbered(options.modalities),
        labels=labels,
        numTraining=labelled,
        numTest=options.cases - labelled,
        training=training,
        test=test,
    )
    description.save(folder / "dataset.json")


MSD = Layout(
    _write_msd,
    ORGANS,
    defaults={"modalities": ("MRI",)},
    finish=_describe_msd,
)
