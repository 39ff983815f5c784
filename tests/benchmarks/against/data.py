"""The scans of the comparison: real ones, or phantoms of the same size."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hstf.datasets.phantom.dataset import write_dataset
from hstf.datasets.phantom.options import PHANTOM_LABELS, PhantomOptions
from hstf.experiment.plan import Spacing, Triple
from hstf.runtime.files import write_csv, write_text

SUFFIX = ".nii.gz"


@dataclass(frozen=True)
class Kind:
    """What the scans of a data set look like."""

    name: str
    labels: dict[str, int]
    size: Triple
    """Voxels of a phantom that replaces a scan."""
    spacing: Spacing
    planned: Spacing
    """Voxel size (mm) of the preprocessed scans."""
    cases: int


HIPPOCAMPUS = Kind(
    "hippocampus",
    {"background": 0, "anterior": 1, "posterior": 2},
    (36, 50, 36),
    (1.0, 1.0, 1.0),
    (1.0, 1.0, 1.0),
    100,
)
ACDC = Kind(
    "acdc",
    {"background": 0, "right_ventricle": 1, "myocardium": 2, "left_ventricle": 3},
    (216, 256, 9),
    (1.5, 1.5, 10.0),
    (2.0, 2.0, 10.0),
    40,
)


@dataclass(frozen=True)
class Scans:
    """Files of a data set, and what their labels mean."""

    kind: Kind
    names: list[str]
    images: list[Path]
    labels: list[Path]
    label_values: dict[str, int]

    @classmethod
    def of(cls, kind: Kind, data: Path | None, folder: Path, cases: int | None = None) -> "Scans":
        """Return real scans from ``data``, or phantoms, which are written to ``folder``."""
        count = cases or kind.cases
        if data is not None:
            source = data / kind.name
            values = kind.labels
        else:
            source = folder / "phantoms"
            options = PhantomOptions(count, count, 0, kind.size, kind.spacing, oblique=False)
            write_dataset(source, options)
            values = PHANTOM_LABELS
        images = sorted((source / "images").glob(f"*{SUFFIX}"))[:count]
        if not images:
            raise FileNotFoundError(f"{source / 'images'}: no *{SUFFIX}")
        names = [path.name.removesuffix(SUFFIX) for path in images]
        labels = [source / "labels" / path.name for path in images]
        return cls(kind, names, images, labels, values)

    def write_experiment(self, folder: Path, settings: dict[str, Any]) -> Path:
        """Write a case sheet in which all scans are labelled; return the configuration."""
        rows = []
        for name, image, label in zip(self.names, self.images, self.labels, strict=True):
            row = {"case_id": name, "image": str(image), "label": str(label), "split": "labelled"}
            rows.append(row)
        write_csv(folder / "cases.csv", rows, list(rows[0]))
        config = {
            "experiment": self.kind.name,
            "output": str(folder / "results"),
            "cases": str(folder / "cases.csv"),
            "overrides": str(folder / "overrides"),
            "labels": self.label_values,
            "modalities": {"image": "mr"},
            "shard_size": len(rows),
            "plan": {"spacing": list(self.kind.planned)},
            **settings,
        }
        path = folder / "config.yaml"
        write_text(path, yaml.safe_dump(config))
        return path

    def write_nnunet(self, folder: Path) -> None:
        """Link the scans as the raw data set 1 of nnU-Net."""
        raw = folder / "nnUNet_raw" / f"Dataset001_{self.kind.name}"
        links: Sequence[tuple[str, list[Path], str]] = (
            ("imagesTr", self.images, "_0000"),
            ("labelsTr", self.labels, ""),
        )
        for part, files, channel in links:
            (raw / part).mkdir(parents=True, exist_ok=True)
            for name, path in zip(self.names, files, strict=True):
                link = raw / part / f"{name}{channel}{SUFFIX}"
                link.unlink(missing_ok=True)
                link.symlink_to(path.resolve())
        description = {
            "channel_names": {"0": "MRI"},
            "labels": self.label_values,
            "numTraining": len(self.names),
            "file_ending": SUFFIX,
        }
        write_text(raw / "dataset.json", json.dumps(description))
