"""The layout of BIDS: images of a subject, and labels as a derivative."""

from collections.abc import Mapping
from pathlib import Path

from hstf.datasets.phantom.dataset import save
from hstf.datasets.phantom.layouts.base import ORGANS, Draw, Layout, to_mr
from hstf.datasets.phantom.options import PhantomOptions
from hstf.runtime.documents import Document
from hstf.runtime.files import write_csv, write_text


def _write_bids(folder: Path, draw: Draw, options: PhantomOptions) -> None:
    scan = draw(0)
    subject = f"sub-{scan.number + 1:03d}"
    for name, image in zip(options.modalities, scan.images, strict=True):
        target = folder / subject / "anat" / f"{subject}_{name}.nii.gz"
        save(target, to_mr(image), scan.affine)
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


BIDS = Layout(
    _write_bids,
    ORGANS,
    defaults={"modalities": ("T1w",)},
    finish=_describe_bids,
)
