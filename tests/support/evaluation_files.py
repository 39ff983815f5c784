"""An experiment to evaluate, and a predictor that replaces its networks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from hstf.config.experiment import Config
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import LABELS as LABELS_TABLE
from hstf.experiment.round_tables import REFINE
from hstf.imaging.regions import Structures, structure_mask
from hstf.imaging.volumes import Volume
from hstf.method.inference import Prediction
from hstf.runtime.files import sha256_file, write_csv, write_text
from hstf.scoring.documents import CaseScores, EvaluationSummary
from hstf.stages.evaluate import cases as evaluate_cases
from hstf.stages.evaluate import summary as evaluate_summary
from support.stages import members
from support.tiny_model import calibration, learned_anatomy

SHAPE = (12, 10, 8)
AFFINE = np.diag([2.0, 1.0, 3.0, 1.0])
LABELS = {"background": 0, "liver": 7, "tumour": 3, "ignore": 99}
LIVER = 7
TUMOUR = 3
CASES = {
    "a": ("test", "p1"),
    "b": ("test", "p1"),
    "c": ("test", "p2"),
    "l": ("labelled", "p3"),
    "u": ("unlabelled", "p4"),
    "v": ("unlabelled", "p5"),
}
"""Split and patient of each case."""


def truth(position: int) -> np.ndarray:
    """Return the file values of a box of liver that starts at ``position`` on X, with a tumour."""
    label = np.zeros(SHAPE, np.uint8)
    label[1 + position : 7, 2:8, 1:6] = LIVER
    label[2 + position : 4 + position, 3:5, 2:4] = TUMOUR
    return label


def write_nifti(path: Path, data: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, AFFINE), path)
    return path


@dataclass
class FakePredictor:
    """Segments an image whose voxels are file values.

    The members are correct, and the ensemble is shifted by ``shift`` voxels along X.
    """

    names: Sequence[str]
    shift: int
    calls: list[int] = field(default_factory=list)
    """Number of volumes of each call."""

    def predict(self, volumes: list[Volume], probabilities_of: Structures) -> Prediction:
        self.calls.append(len(volumes))
        values = volumes[0].data
        indices = np.select([values == LIVER, values == TUMOUR], [1, 2]).astype(np.uint8)
        label = np.roll(indices, self.shift, axis=0)
        probabilities = {}
        for name, classes in probabilities_of.items():
            probabilities[name] = (structure_mask(label, classes) * 204).astype(np.uint8)
        return Prediction(label, dict.fromkeys(self.names, indices), probabilities)


def make_experiment(folder: Path) -> Config:
    """Write the scans, plan, calibration and weights of an experiment.

    There are three test scans of two patients, two unlabelled cases (one has a withheld label) and
    one labelled case.
    """
    rows = []
    for number, (case_id, (split, group)) in enumerate(CASES.items()):
        label = truth(number % 3)
        write_nifti(folder / f"{case_id}.nii.gz", label.astype(np.float32))
        write_nifti(folder / f"{case_id}_label.nii.gz", label)
        row = {
            "case_id": case_id,
            "image": f"{case_id}.nii.gz",
            "split": split,
            "group": group,
            "site": "x",
            "label": "" if case_id == "v" else f"{case_id}_label.nii.gz",
        }
        rows.append(row)
    write_csv(folder / "cases.csv", rows, list(rows[0]))
    config = Config.model_validate(
        {
            "experiment": "toy",
            "cases": "cases.csv",
            "labels": LABELS,
            "rounds": 1,
            "shard_size": 2,
            "warmup": {"folds": 2, "seeds": 0},
            "student": {"members": 1},
            "evaluate": {"bootstrap": 100},
        }
    )
    layout = Layout.of(config)
    write_text(layout.plan, "{}")
    calibration().save(layout.calibration)
    learned_anatomy().save(layout.anatomy_rules)
    for number in (0, 1):
        for member in members(config, number):
            write_text(layout.weights(number, member), f"{number} {member}")
    return config


def install_predictors(config: Config, monkeypatch: pytest.MonkeyPatch) -> dict[int, FakePredictor]:
    """Replace the model of each round: the warm-up is shifted by two voxels, the student by one."""
    fakes = {}
    for number in (0, 1):
        fakes[number] = FakePredictor(members(config, number), shift=2 - number)
    monkeypatch.setattr(evaluate_cases, "load_predictor", lambda context: fakes[context.round])
    return fakes


def write_pseudo_labels(config: Config) -> None:
    """Write the pseudo-labels of round 1.

    They are shifted by one voxel and have no weight in the upper half of Z. Case v has no withheld
    label.
    """
    layout = Layout.of(config)
    folder = layout.pseudo_labels(1)
    weight = np.full(SHAPE, 255, np.uint8)
    weight[..., 4:] = 0
    rows = []
    for case_id, predicted in (("u", 0.75), ("v", 0.5)):
        files = [
            write_nifti(folder / f"{case_id}.nii.gz", np.roll(truth(1), 1, axis=0)),
            write_nifti(folder / f"{case_id}.weight.nii.gz", weight),
        ]
        row = {
            "case_id": case_id,
            "accepted": True,
            "predicted_dice": predicted,
            "predicted_dice_low": predicted - 0.05,
            "predicted_dice_high": predicted + 0.05,
            "files": [file.name for file in files],
            "sha256": [sha256_file(file) for file in files],
        }
        rows.append(row)
    REFINE.write(layout.pseudo_labels_table(1, "unlabelled_0"), rows)
    REFINE.write(layout.refine(1), rows)
    labels = [{"case_id": "u", "source": "automatic"}, {"case_id": "v", "source": "rejected"}]
    LABELS_TABLE.write(layout.labels_table(1), labels)


def evaluate_shard(config: Config, number: int, shard: str) -> int:
    return evaluate_cases.evaluate_shard(StageContext.of(config, "evaluate", number), shard)


def summarise_round(config: Config, number: int) -> EvaluationSummary:
    return evaluate_summary.summarise_round(StageContext.of(config, "evaluate", number))


def evaluate_all(config: Config, number: int) -> EvaluationSummary:
    for shard in ("test_0", "test_1"):
        evaluate_shard(config, number, shard)
    return summarise_round(config, number)


def report_context(config: Config) -> StageContext:
    return StageContext.of(config, "report")


def read_scores(config: Config, case_id: str) -> CaseScores:
    """Read the scores of a case in the warm-up."""
    return CaseScores.load(Layout.of(config).evaluation_scores(0, case_id))


def with_evaluate(config: Config, **keys: Any) -> Config:
    """Change keys of the section ``evaluate:``."""
    section = config.evaluate.model_copy(update=keys)
    return config.model_copy(update={"evaluate": section})
