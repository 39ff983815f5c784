"""Train nnU-Net on the labelled cases of an experiment, and let it be an external teacher of it.

    python tests/benchmarks/nnunet_round_trip.py results/mine --python /envs/nnunet/bin/python

nnU-Net v2 is in an environment of its own (``pip install nnunetv2``). The script runs, in this
order: ``hstf nnunet --round 0``; planning with the integrity check of nnU-Net; short trainings of
all folds with predictions of the cases that each fold has not seen; predictions of the unlabelled
cases by all folds, with probabilities; the first round of a second experiment, which reuses the
warm-up, up to its pseudo-labels, with these files as an external teacher. It prints the weights of
the external teacher and, where the case sheet has labels of the unlabelled cases, the Dice of the
pseudo-labels without and with it. So it shows that both directions work with the real package;
some hundred iterations say nothing about nnU-Net.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from nnunet_runs import NnUnet

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.experiment.cases import Case, Split, read_cases
from hstf.experiment.layout import Layout
from hstf.imaging.label_values import class_indices
from hstf.imaging.volumes import read_label
from hstf.runtime.files import read_json
from hstf.scoring.confusion import structure_dice

ROOT = Path(__file__).resolve().parents[2]
DATASET = 501
TEACHER = "nnunet"
TRAINING = """
import sys
import torch
from nnunetv2.run.run_training import run_training
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

dataset, fold, iterations = sys.argv[1:]
original = nnUNetTrainer.initialize

def short(self):
    self.num_epochs = 4
    self.num_iterations_per_epoch = int(iterations) // 4
    self.num_val_iterations_per_epoch = 2
    original(self)

nnUNetTrainer.initialize = short
run_training(dataset, "3d_fullres", int(fold), export_validation_probabilities=True,
             device=torch.device("cpu"))
"""
"""A training of a few iterations, run in the environment of nnU-Net."""


@dataclass(frozen=True)
class RoundTrip:
    """Folders and settings."""

    results: Path
    python: Path
    """Python of the environment of nnU-Net."""
    folder: Path
    """All files of the round trip."""
    iterations: int
    cores: str

    @property
    def config(self) -> Config:
        """Configuration of the experiment."""
        return load_config(self.results / "config.yaml")

    @property
    def nnunet(self) -> NnUnet:
        """nnU-Net and its folders."""
        return NnUnet(self.python, self.folder)

    @property
    def dataset(self) -> Path:
        """The raw data set."""
        return self.nnunet.raw / f"Dataset{DATASET}_mine"

    @property
    def trained(self) -> Path:
        """What nnU-Net has trained."""
        return self.nnunet.trained / self.dataset.name / "nnUNetTrainer__nnUNetPlans__3d_fullres"

    def cases(self, split: Split) -> list[Case]:
        """Return the cases of a split."""
        return [case for case in read_cases(self.config).cases if case.split is split]


def main() -> None:
    """Run all steps."""
    arguments = parse()
    trip = RoundTrip(
        arguments.results,
        arguments.python.absolute(),
        arguments.folder.absolute(),
        arguments.iterations,
        arguments.cores,
    )
    train(trip)
    predict(trip)
    collect(trip)
    name = refine(trip)
    report(trip, name)


def parse() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="a finished experiment")
    parser.add_argument("--python", type=Path, required=True, help="Python with nnU-Net v2")
    parser.add_argument("--folder", type=Path, default=Path("nnunet_round_trip"))
    parser.add_argument("--iterations", type=int, default=100, help="of each fold")
    parser.add_argument("--cores", default="2")
    return parser.parse_args()


def train(trip: RoundTrip) -> None:
    """Write the data set, plan, and train all folds."""
    if not trip.dataset.is_dir():
        command = [sys.executable, "-m", "hstf", "nnunet", str(trip.results)]
        subprocess.run([*command, "--output", str(trip.dataset), "--round", "0"], check=True)
    planned = trip.nnunet.preprocessed / trip.dataset.name
    if not planned.is_dir():
        options = ["-d", str(DATASET), "-c", "3d_fullres", "--verify_dataset_integrity"]
        trip.nnunet.run("nnUNetv2_plan_and_preprocess", *options, "-np", "2")
    shutil.copy(trip.dataset / "splits_final.json", planned)
    for fold in folds(trip):
        if not (trip.trained / f"fold_{fold}" / "validation" / "summary.json").is_file():
            trip.nnunet.run("python", "-c", TRAINING, str(DATASET), str(fold), str(trip.iterations))


def folds(trip: RoundTrip) -> range:
    """Return the numbers of the folds."""
    return range(len(read_json(trip.dataset / "splits_final.json")))


def predict(trip: RoundTrip) -> None:
    """Predict the unlabelled cases with all folds."""
    images = trip.folder / "images"
    images.mkdir(exist_ok=True)
    for case in trip.cases(Split.UNLABELLED):
        for number, path in enumerate(case.images):
            shutil.copy(path, images / f"{case.case_id}_{number:04d}.nii.gz")
    options = ["-d", str(DATASET), "-c", "3d_fullres", "-i", str(images)]
    options += ["-o", str(trip.folder / "predicted"), "--save_probabilities", "-device", "cpu"]
    options += [
        "--continue_prediction",
        "-npp",
        "1",
        "-nps",
        "1",
        "-f",
        *[str(fold) for fold in folds(trip)],
    ]
    trip.nnunet.run("nnUNetv2_predict", *options, "-chk", "checkpoint_final.pth")


def collect(trip: RoundTrip) -> None:
    """Put the predictions of all cases into one folder, those of labelled cases out of fold."""
    target = trip.folder / "teacher"
    target.mkdir(exist_ok=True)
    for fold in folds(trip):
        for path in (trip.trained / f"fold_{fold}" / "validation").glob("*.npz"):
            shutil.copy(path, target)
    for path in (trip.folder / "predicted").glob("*.npz"):
        shutil.copy(path, target)


def refine(trip: RoundTrip) -> str:
    """Write the pseudo-labels of a second experiment; return its name."""
    config = trip.config
    name = f"{config.experiment}_{TEACHER}"
    # nnU-Net numbers the classes in the order of the configuration.
    labels = {label: [index] for index, label in enumerate(config.class_names) if index}
    external = {"files": f"{trip.folder}/teacher/{{case}}.npz", "probabilities": True}
    content = {
        "experiment": name,
        "reuse": {"data": str(trip.results), "warmup": str(trip.results)},
        "teacher": {"external": {TEACHER: external | {"labels": labels}}},
    }
    overlay = trip.folder / "external.yaml"
    overlay.write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "snakemake", "round_1_refine"]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--cores", trip.cores, "--configfile"]
    subprocess.run([*command, str(trip.results / "config.yaml"), str(overlay)], check=True)
    return name


def report(trip: RoundTrip, name: str) -> None:
    """Print weights and, with withheld labels, the Dice of the pseudo-labels."""
    config = trip.config
    layouts = {
        "without": Layout.of(config),
        "with": Layout.of(config.model_copy(update={"experiment": name})),
    }
    print((layouts["with"].external_weights).read_text())
    cases = [case for case in trip.cases(Split.UNLABELLED) if case.reference is not None]
    for title, layout in layouts.items():
        print(f"pseudo-labels of round 1 {title} {TEACHER}:", mean_dice(config, layout, cases))


def mean_dice(config: Config, layout: Layout, cases: list[Case]) -> Mapping[str, float]:
    """Return the mean Dice of the pseudo-labels of round 1 by structure."""
    rows = []
    for case in cases:
        assert case.reference is not None
        path = layout.pseudo_label(1, case.case_id)
        found = class_indices(read_label(path).data, config, path)
        truth = class_indices(read_label(case.reference).data, config, case.reference)
        rows.append(structure_dice(found, truth, config.structures))
    means = np.nanmean(rows, axis=0).round(3).tolist() if rows else []
    return dict(zip(config.structures, means, strict=bool(rows)))


if __name__ == "__main__":
    main()
