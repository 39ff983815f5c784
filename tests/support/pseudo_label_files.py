"""A small experiment on disk up to the teacher, for the stages ``refine`` and ``labels``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import TEACHER
from hstf.experiment.scan_tables import PREPROCESSED
from hstf.imaging.arrays import write_array
from hstf.imaging.geometry import Geometry
from hstf.method.plr.anatomy import AnatomyRule
from hstf.method.plr.calibration import Calibration
from hstf.method.plr.predicted_dice import DiceInterval, DiceModel
from hstf.method.tta_summary import Agreement, TtaSummary
from hstf.runtime.files import write_csv
from support.shard_files import write_shard
from support.stages import merge_refined, refine

SHAPE = (30, 24, 16)
AFFINE = np.array([[0, -1.0, 0, 20], [1.2, 0, 0, -7], [0, 0, -2.0, 50], [0, 0, 0, 1]])
SPACING = (1.5, 1.5, 2.0)
SHARD = "unlabelled_0"
VALUES = {"background": 0, "organ": 3, "ignore": 9}
CASES = ("good", "bad")


def make_experiment(folder: Path, **sections: object) -> Config:
    """Write two unlabelled cases, ``good`` and ``bad``, predicted in rounds 1 and 2."""
    rows = []
    for case_id in CASES:
        image = nib.Nifti1Image(
            np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), AFFINE
        )
        nib.save(image, folder / f"{case_id}.nii.gz")
        rows.append({"case_id": case_id, "split": "unlabelled", "image": f"{case_id}.nii.gz"})
    write_csv(folder / "cases.csv", rows, ["case_id", "split", "image", "label"])
    config = Config.model_validate(
        {
            "output": str(folder / "results"),
            "cases": str(folder / "cases.csv"),
            "labels": VALUES,
            "overrides": str(folder / "overrides"),
            "modalities": {"image": "mr"},
            **sections,
        }
    )
    layout = Layout.of(config)
    geometry = Geometry.of(SHAPE, AFFINE, SPACING)
    for case_id in CASES:
        target = layout.preprocessed / case_id
        geometry.save(target / "geometry.json")
        noise = np.random.default_rng(1).normal(size=(1, *geometry.grid_shape)).astype(np.float16)
        write_array(target / "image.b2nd", noise, 32)
    write_shard(
        PREPROCESSED, layout.preprocessed_table(SHARD), CASES, ("geometry.json", "image.b2nd")
    )
    for number in (1, 2):
        for case_id, agreement in zip(CASES, (0.95, 0.3), strict=True):
            write_teacher(layout.teacher(number) / case_id, geometry, agreement)
        write_shard(
            TEACHER,
            layout.teacher_table(number, SHARD),
            CASES,
            ("probabilities.b2nd", "uncertainty.b2nd", "agreement.json"),
        )
    calibration().save(layout.calibration)
    return config


def write_verdicts(config: Config, number: int = 1) -> None:
    """Refine both cases and join the tables."""
    refine(config, number, SHARD)
    merge_refined(config, number)


def calibration() -> Calibration:
    """Return the calibration of one connected organ without holes, of at least 100 mm3.

    Its predicted Dice is the agreement of the scales.
    """
    model = DiceModel(mean=0.95, slope=1.0, usual={"scales": 0.95}, absent=0.0)
    rule = AnatomyRule(
        maximum_components=1, minimum_mm3=100.0, has_holes=False, may_be_absent=False
    )
    thresholds = {"background": 0.5, "organ": 0.6}
    return Calibration(
        temperature=1.0,
        thresholds=thresholds,
        anatomy_rules={"organ": rule},
        lesions={},
        dice_models={"organ": model},
        class_sd={"organ": 0.05},
        mean_sd=0.05,
        interval=DiceInterval(half_width=0.1, method="guess", patients=8),
        minimum_predicted_dice=0.7,
        evidence={},
    )


def ball(shape: tuple[int, ...]) -> np.ndarray:
    """Return a ball with a radius of 9 mm in the centre of the grid."""
    centred = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, SPACING, strict=True)]
    return sum(np.square(axis) for axis in np.meshgrid(*centred, indexing="ij")) < 81  # type: ignore[return-value]


def write_teacher(folder: Path, geometry: Geometry, agreement: float) -> None:
    """Write a ball with a hole in its centre, and a stray voxel in a corner."""
    organ = np.where(ball(geometry.grid_shape), 230, 10).astype(np.uint8)
    organ[tuple(n // 2 for n in organ.shape)] = 60
    organ[0, 0, 0] = 240
    dice = {"organ": agreement}
    summary = tta_summary(
        np.stack([255 - organ, organ]),
        np.full((3, *organ.shape), 10, np.uint8),
        {"scales": {"0.8": dice, "1.0": dice}, "foreground_entropy": {"organ": 0.1}},
    )
    summary.save(folder, 32)


def tta_summary(
    probabilities: np.ndarray, uncertainty: np.ndarray, agreement: Mapping[str, Any]
) -> TtaSummary:
    """Return the summary of TTA views; parts that ``agreement`` lacks are empty."""
    parts: dict[str, Any] = {}
    for name in ("scales", "members", "flips", "foreground_entropy", "volumes_ml"):
        parts[name] = {}
    return TtaSummary(probabilities, uncertainty, Agreement.model_validate(parts | dict(agreement)))
