"""The layout of nnU-Net, version 2: one file for each channel."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hstf.datasets.phantom.dataset import save
from hstf.datasets.phantom.layouts.base import ORGANS, Draw, Layout, numbered
from hstf.datasets.phantom.options import PhantomOptions
from hstf.experiment.cases import Split
from hstf.runtime.documents import Document

IGNORE = 1 + max(ORGANS.values())
"""nnU-Net requires an ignore value above those of all classes."""


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
        labels["ignore"] = IGNORE
    description = NnunetDescription(
        channel_names=numbered(options.modalities),
        labels=labels,
        numTraining=options.labelled,
        file_ending=".nii.gz",
        name="Phantom",
    )
    description.save(folder / "dataset.json")


NNUNET = Layout(
    _write_nnunet,
    ORGANS,
    has_test=True,
    defaults={"modalities": ("MRI",)},
    finish=_describe_nnunet,
    ignore=IGNORE,
)
