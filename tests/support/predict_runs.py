"""Exported models and runs of ``hstf predict``, and what a run has written."""

from pathlib import Path

import nibabel as nib
import numpy as np

from hstf.cli import main
from hstf.commands.predict_report import LOCK
from hstf.config.experiment import Config
from hstf.experiment.context import StageContext
from hstf.experiment.product_tables import PREDICT
from hstf.method.inference import Predictor
from hstf.stages.evaluate.cases import load_predictor
from hstf.stages.export import export

LABEL_VALUES = np.array([0, 6, 200])
"""Values of the classes in the tiny experiment."""


def export_model(config: Config) -> Path:
    return export(config)[0]


def evaluated_predictor(config: Config) -> Predictor:
    """Return the predictor of the evaluation of round 1."""
    return load_predictor(StageContext.of(config, "evaluate", 1))


def names(folder: Path) -> list[str]:
    """Return the files below a folder, without the table and its lock."""
    no_segmentations = ("predict.csv", LOCK)
    files = [path for path in folder.rglob("*") if path.is_file()]
    files = [path for path in files if path.name not in no_segmentations]
    return sorted(str(path.relative_to(folder)) for path in files)


def rows_of(output: Path) -> list[dict[str, str]]:
    return PREDICT.records(output / "predict.csv")


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def run_predict(model: Path, source: Path, output: Path, *options: str) -> int:
    """Run ``hstf predict`` on the CPU and return the exit code."""
    command = ["predict", "--device", "cpu"]
    command += ["--model", str(model)]
    command += ["--input", str(source)]
    command += ["--output", str(output)]
    return main([*command, *options])


def messages(output: Path, level: str) -> dict[str, str]:
    """Return what was found in the scans of a level, by scan."""
    return {row["scan"]: row["found"] for row in rows_of(output) if row["level"] == level}
