"""A small experiment with a model of random weights, for the tests of export and predict."""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.experiment.layout import Layout
from hstf.experiment.plan import Normalisation, Plan
from hstf.experiment.round_tables import LABELS
from hstf.method.plr.anatomy import AnatomyRule
from hstf.method.plr.calibration import Calibration, LearnedAnatomy
from hstf.method.plr.predicted_dice import DiceInterval, DiceModel
from hstf.models.base import NetworkSpec
from hstf.models.hybrid import HybridNet
from hstf.models.registry import save_network
from hstf.runtime.files import write_csv
from hstf.stages.plan.fingerprint import Fingerprint, ScanSummary
from support.stages import members


def tiny_plan(channels: int = 1) -> Plan:
    return Plan(
        spacing=(1.5, 1.5, 2.0),
        patch_size=(16, 16, 8),
        batch_size=2,
        channels=(4, 8),
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3), (3, 3, 3)),
        normalisation=(Normalisation(scheme="zscore"),) * channels,
        median_shape=(18, 20, 12),
        reasons={},
    )


def calibration() -> Calibration:
    """Return the calibration of cases that have one liver with holes and one tumour."""
    rules = dict.fromkeys(
        ("liver", "tumour"),
        AnatomyRule(maximum_components=1, minimum_mm3=0.0, has_holes=True, may_be_absent=False),
    )
    return Calibration(
        temperature=1.0,
        thresholds={},
        anatomy_rules=rules,
        lesions={},
        dice_models={},
        class_sd={},
        mean_sd=0.0,
        interval=DiceInterval(half_width=0.1, method="guess", patients=2),
        minimum_predicted_dice=0.0,
        evidence={},
    )


def calibration_of_dice(mean: float = 0.8, bound: float = 0.5) -> Calibration:
    """Return :func:`calibration` with a model of the predicted Dice.

    Args:
        mean: mean Dice of the labelled cases.
        bound: lowest predicted Dice that is like theirs.
    """
    model = DiceModel(mean=mean, slope=1.0, usual={"confidence": 0.5, "scales": 0.9}, absent=0.0)
    return calibration().model_copy(
        update={
            "dice_models": {"liver": model, "tumour": model},
            "minimum_predicted_dice": bound,
        }
    )


def learned_anatomy() -> LearnedAnatomy:
    """Return the anatomy rules of :func:`calibration`."""
    return LearnedAnatomy(rules=calibration().anatomy_rules, lesions=[])


def fingerprint(channels: int) -> Fingerprint:
    """Return the properties of two training scans like those of :func:`write_scan`."""
    scans = []
    for number in range(2):
        summary = ScanSummary(
            case_id=f"patient_{number}",
            shape=(19, 13, 21),
            spacing=(1.2, 1.3, 2.0),
            orientation="LSA",
            cropped_shape=(19, 13, 21),
            intensities=((20.0, 180.0 + number, 400.0, 180.0, 80.0),) * channels,
        )
        scans.append(summary)
    return Fingerprint(scans=tuple(scans), foreground={})


def tiny_experiment(
    folder: Path,
    modalities: Sequence[str] = ("image",),
    students: int = 2,
    programs: Sequence[str] = (),
) -> Config:
    """Write an experiment after its only round: plan, weights and case sheet, but no images."""
    columns = ["case_id", *modalities, "label", "split"]
    rows = [
        {
            "case_id": f"patient_{i}",
            "label": "x.nii.gz",
            "split": split,
            **dict.fromkeys(modalities, "x.nii.gz"),
        }
        for i, split in enumerate(["labelled"] * 2 + ["unlabelled"] * 3 + ["test"])
    ]
    write_csv(folder / "cases.csv", rows, columns)
    config = resolve_config(
        {
            "experiment": "liver",
            "output": str(folder / "results"),
            "cases": str(folder / "cases.csv"),
            "rounds": 1,
            "labels": {"background": 0, "liver": 6, "tumour": 200},
            "modalities": dict.fromkeys(modalities, "mr"),
            "device": "cpu",
            "student": {"members": students},
            "predict": {"flip_axes": [1], "amp": "off"},
            "export": {"programs": list(programs)},
        }
    )
    layout = Layout.of(config)
    unlabelled = [row["case_id"] for row in rows if row["split"] == "unlabelled"]
    labels = [{"case_id": name, "source": "automatic"} for name in unlabelled]
    LABELS.write(layout.labels_table(1), labels)
    plan = tiny_plan(len(modalities))
    plan.save(layout.plan)
    fingerprint(len(modalities)).save(layout.fingerprint)
    calibration().save(layout.calibration)
    learned_anatomy().save(layout.anatomy_rules)
    for seed, member in enumerate(members(config, 1)):
        torch.manual_seed(seed)
        spec = NetworkSpec(
            "hybrid",
            len(modalities),
            3,
            plan.channels,
            plan.strides,
            plan.kernels,
            plan.spacing,
            1,
            2,
        )
        meta = {"member": member, "round": 1, "trained_on": ["patient_0", "patient_1"]}
        save_network(layout.weights(1, member), HybridNet(spec), meta)
    return config


def write_scan(path: Path, seed: int = 0, shape: tuple[int, int, int] = (21, 19, 13)) -> Path:
    """Write a tilted scan of smooth noise in an unusual orientation."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.normal(size=(1, 1, 5, 5, 4)))
    data = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0, 0].numpy()
    affine = np.array([[-1.2, 0.1, 0, 40], [0, 0, 2.0, -20], [-0.1, -1.2, 0, 9], [0, 0, 0, 1]])
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image((100 * (data - data.min())).astype(np.float32) + 5, affine), path)
    return path
