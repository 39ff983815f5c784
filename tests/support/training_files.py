"""A preprocessed experiment that trains in seconds, for tests of training and its stages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.experiment.layout import Layout
from hstf.experiment.plan import Normalisation, Plan
from hstf.experiment.round_tables import LABELS
from hstf.experiment.scan_tables import PREPROCESSED
from hstf.imaging.arrays import write_array
from hstf.imaging.class_locations import class_locations
from hstf.models.base import NetworkSpec
from hstf.models.hybrid import HybridNet
from hstf.runtime.files import sha256_file, write_csv
from hstf.training.batch import Batch
from hstf.training.patches import PatchSource, RawBatch, Region, TrainingCase
from hstf.training.state import TrainingState

SHAPE = (12, 11, 9)
CLASSES = 3
PATCH = (8, 8, 8)
PLAN = Plan(
    spacing=(1.0, 1.0, 2.0),
    patch_size=(8, 8, 8),
    batch_size=2,
    channels=(4, 8),
    strides=((1, 1, 1), (2, 2, 2)),
    kernels=((3, 3, 3), (3, 3, 3)),
    normalisation=(Normalisation(scheme="zscore"),),
    median_shape=SHAPE,
    reasons={},
)
TRAINING = {"steps": 6, "warmup_steps": 2, "history_every": 4, "checkpoint_seconds": 0}


def write_experiment(
    folder: Path, groups: Sequence[str] = "abcd", unlabelled: int = 3, **keys: Any
) -> tuple[Config, Path]:
    """Write labelled cases ``l_<i>`` of the patients ``groups`` and unlabelled cases ``u_<i>``.

    Returns the configuration and its file.
    """
    content = {
        "experiment": "tiny",
        "output": str(folder / "results"),
        "cases": str(folder / "cases.csv"),
        "device": "cpu",
        "overrides": str(folder / "overrides"),
        "labels": {"background": 0, "liver": 1, "lesion": 2, "ignore": 9},
        "network": {"transformer_layers": 1, "transformer_heads": 1, "drop_path": 0.2},
        "rounds": 1,
        "warmup": {**TRAINING, "folds": 2, "seeds": 0, "seed_start": "scratch"},
        "student": {**TRAINING, "members": 1, "start": "scratch", "csc": {"every": 2}},
        "teacher": {"scales": [1.0]},
    }
    for key, value in keys.items():
        content[key] = {**content[key], **value} if isinstance(content.get(key), dict) else value
    rows = [
        {
            "case_id": f"l_{i}",
            "image": "x.nii.gz",
            "label": "x.nii.gz",
            "split": "labelled",
            "group": group,
        }
        for i, group in enumerate(groups)
    ]
    rows += [
        {"case_id": f"u_{i}", "image": "x.nii.gz", "split": "unlabelled"} for i in range(unlabelled)
    ]
    write_csv(folder / "cases.csv", rows, ["case_id", "image", "label", "split", "group"])
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    config = load_config(path)
    layout = Layout.of(config)
    PLAN.save(layout.plan)
    for split in ("labelled", "unlabelled"):
        ids = [row["case_id"] for row in rows if row["split"] == split]
        table = [
            write_case(layout.preprocessed / name, labelled=split == "labelled") for name in ids
        ]
        PREPROCESSED.write(layout.preprocessed_table(f"{split}_0"), table)
    return config, path


def write_case(folder: Path, labelled: bool) -> dict[str, Any]:
    """Write a bright liver in noise with a dark lesion; return its row of the table."""
    image, label = scan(folder.name)
    write_array(folder / "image.b2nd", image, 8)
    names = ["image.b2nd"]
    if labelled:
        write_array(folder / "label.b2nd", label, 8)
        np.save(folder / "locations.npy", class_locations(label, CLASSES, folder.name))
        names += ["label.b2nd", "locations.npy"]
    return {
        "case_id": folder.name,
        "files": [f"{folder.name}/{name}" for name in names],
        "sha256": [sha256_file(folder / name) for name in names],
    }


def scan(case_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Image ``(1, X, Y, Z)`` and label ``(X, Y, Z)``."""
    random = np.random.default_rng(list(case_id.encode()))
    x, y, z = random.integers(2, 4, 3)
    label = np.zeros(SHAPE, np.uint8)
    label[x : x + 6, y : y + 6, z : z + 5] = 1
    label[x + 2 : x + 4, y + 2 : y + 4, z + 2 : z + 4] = 2
    image = np.array([-0.5, 2.0, 0.5])[label] + 0.1 * random.normal(size=SHAPE)
    return image[None].astype(np.float16), label


def write_labels(
    config: Config,
    number: int,
    used: Sequence[str],
    rejected: Sequence[str] = (),
    corrected: Sequence[str] = (),
    accepted: Sequence[str] = (),
) -> None:
    """Write ``labels/`` and ``labels.csv`` of a round with the true label of each used case.

    ``corrected`` are used cases with a corrected label, ``accepted`` those that a reviewer
    accepted.
    """
    layout, rows = Layout.of(config), []
    for name in used:
        folder, label = layout.labels(number) / name, scan(name)[1]
        target = np.full((CLASSES + 1, *SHAPE), 255, np.uint8)
        target[:CLASSES] *= label == np.arange(CLASSES).reshape(-1, 1, 1, 1)
        write_array(folder / "target.b2nd", target, 8)
        np.save(folder / "locations.npy", class_locations(label, CLASSES, name))
        files = [folder / "target.b2nd", folder / "locations.npy"]
        names = [str(path.relative_to(layout.round(number))) for path in files]
        digests = [sha256_file(path) for path in files]
        source = "automatic"
        if name in corrected:
            source = "corrected"
        if name in accepted:
            source = "accepted"
        rows.append({"case_id": name, "source": source, "files": names, "sha256": digests})
    rows += [{"case_id": name, "source": "rejected"} for name in rejected]
    LABELS.write(layout.labels_table(number), rows)


def fresh_network(seed: int) -> HybridNet:
    """Random weights drawn from ``seed``."""
    torch.manual_seed(seed)
    spec = NetworkSpec(
        "hybrid", 1, CLASSES, PLAN.channels, PLAN.strides, PLAN.kernels, PLAN.spacing, 1, 1
    )
    return HybridNet(spec)


def some_batch(config: Config, pseudo: list[bool], seed: int = 0) -> Batch:
    """Return a batch of random patches; ``pseudo`` states which are pseudo-labelled."""
    g = torch.Generator().manual_seed(seed)
    source = PatchSource([], [], CLASSES, (8, 8, 8), len(pseudo), 0.5, 0.5, seed)
    shape = (len(pseudo), 1, 10, 10, 10)
    classes = torch.randint(0, CLASSES, shape, generator=g)
    pairs = zip(torch.randn(shape, generator=g), classes, strict=True)
    regions = [Region(image, label[0], CLASSES, ignored=False) for image, label in pairs]
    raw = RawBatch(tuple(regions), tuple(pseudo), tuple("ab"))
    still = config.student.augmentation.model_copy(
        update={
            "affine_probability": 0,
            "elastic_probability": 0,
            "intensity_probability": 0,
            "flip_axes": (),
        }
    )
    return Batch.draw(raw, source, still, torch.Generator().manual_seed(seed))


def new_state(config: Config, step: int = 0) -> TrainingState:
    """Return the state of a student at ``step`` without dropout; the EMA network is the network."""
    state = TrainingState.start(fresh_network(0), config.student)
    state.network.eval()
    state.step = step
    return state


def cases_in(folder: Path, count: int, prefix: str = "l") -> list[TrainingCase]:
    cases = []
    for name in (f"{prefix}_{i}" for i in range(count)):
        image, label = scan(name)
        path = folder / name
        write_array(path / "image.b2nd", image, 8)
        if prefix == "l":
            write_array(path / "target.b2nd", label, 8)
        else:
            target = 255 * (label == np.arange(CLASSES).reshape(-1, 1, 1, 1)).astype(np.uint8)
            weight = np.full((1, *SHAPE), 51, np.uint8)
            write_array(path / "target.b2nd", np.concatenate([target, weight]), 8)
        np.save(path / "locations.npy", np.argwhere(label[None] > 0).astype(np.int32))
        files = [path / file for file in ("image.b2nd", "target.b2nd", "locations.npy")]
        cases.append(TrainingCase(name, *files, pseudo=prefix == "u"))
    return cases


def source_of(
    labelled: list[TrainingCase], pseudo: list[TrainingCase], **keys: object
) -> PatchSource:
    values = {
        "batch_size": 2,
        "labelled_fraction": 0.5,
        "foreground_fraction": 0.5,
        "seed": 7,
    } | keys
    return PatchSource(labelled, pseudo, CLASSES, PATCH, **values)  # type: ignore[arg-type]


def region_of(batch: RawBatch) -> torch.Tensor:
    """Return the regions of a batch ``(B, C + K + 1, ...)``."""
    return torch.stack([region.channels() for region in batch.regions])
