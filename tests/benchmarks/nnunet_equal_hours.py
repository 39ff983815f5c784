"""Train nnU-Net on the cases of an experiment, for as many CPU minutes as the experiment took.

    python tests/benchmarks/nnunet_equal_hours.py results/mine --python /envs/nnunet/bin/python \\
        --minutes 25 --spacing 4 4 10

nnU-Net v2 is in an environment of its own (``pip install nnunetv2``). The script writes two data
sets with ``hstf nnunet``: the labelled cases, and the labelled cases with the pseudo-labels of the
last round. nnU-Net plans its own network and patch for each; ``--spacing`` sets the voxel size of
the experiment, so that both see the same voxels. One network is trained on all cases of a data set,
with the loss, the augmentation and the optimiser of nnU-Net. It ends after ``--minutes`` of CPU
time of its process, and the learning rate reaches 0 then. Both trainings run side by side with one
thread each. The networks predict the test cases, and the scores are computed as those of the
experiment. The script prints a row for each data set.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from nnunet_runs import NnUnet

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.experiment.cases import Case, Split, read_cases
from hstf.imaging.affines import steps_of
from hstf.imaging.label_values import class_indices
from hstf.imaging.volumes import read_label
from hstf.runtime.files import read_json
from hstf.scoring.averages import mean_or_nan
from hstf.scoring.metrics import score

Scores = Mapping[str, Mapping[str, float | str]]
"""Metrics of a case by structure."""
PLANS = "hstfSpacing"
TRAINING = """
import sys
import time
import torch
from nnunetv2.run.run_training import get_trainer_from_args

dataset, plans, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
torch.set_num_threads(1)
torch.manual_seed(0)
trainer = get_trainer_from_args(
    dataset, "3d_fullres", "all", plans_identifier=plans, device=torch.device("cpu")
)
trainer.initialize()
trainer.on_train_start()
trainer.network.train()
start = time.process_time()
steps = 0
while (done := (time.process_time() - start) / seconds) < 1:
    for group in trainer.optimizer.param_groups:
        group["lr"] = trainer.initial_lr * (1 - done) ** 0.9
    loss = trainer.train_step(next(trainer.dataloader_train))["loss"]
    steps += 1
    if steps % 20 == 0:
        print(f"{steps} steps, {done:.0%}, loss {loss:.3f}", flush=True)
trainer.save_checkpoint(trainer.output_folder + "/checkpoint_final.pth")
with open(trainer.output_folder + "/steps.json", "w") as file:
    file.write(str(steps))
"""
"""A training that ends after a number of CPU seconds, run in the environment of nnU-Net."""


@dataclass(frozen=True)
class Row:
    """A row of the table: a data set of nnU-Net."""

    name: str
    number: int
    """Number of the data set."""
    options: tuple[str, ...]
    """Options of ``hstf nnunet``."""

    @property
    def folder(self) -> str:
        """Folder of the data set."""
        return f"Dataset{self.number}_{self.name}"


ROWS = (
    Row("labelled", 601, ("--round", "0")),
    Row("pseudolabels", 602, ()),
)


def main() -> None:
    """Train on both data sets, and print the scores."""
    arguments = parse()
    nnunet = NnUnet(arguments.python.absolute(), arguments.folder.absolute())
    for row in ROWS:
        plan(nnunet, row, arguments.results, arguments.spacing)
    with ThreadPoolExecutor(len(ROWS)) as pool:
        jobs = [pool.submit(train, nnunet, row, arguments.minutes) for row in ROWS]
    for job in jobs:
        job.result()
    for row in ROWS:
        predict(nnunet, row)
        report(nnunet, row, arguments.results)


def parse() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="a finished experiment")
    parser.add_argument("--python", type=Path, required=True, help="Python with nnU-Net v2")
    parser.add_argument("--minutes", type=float, required=True, help="CPU minutes of a training")
    parser.add_argument("--spacing", nargs=3, required=True, help="voxel size (mm) along x, y, z")
    parser.add_argument("--folder", type=Path, default=Path("nnunet_equal_hours"))
    return parser.parse_args()


def plan(nnunet: NnUnet, row: Row, results: Path, spacing: Sequence[str]) -> None:
    """Write the data set, plan it and preprocess it."""
    dataset = nnunet.raw / row.folder
    if not dataset.is_dir():
        command = [sys.executable, "-m", "hstf", "nnunet", str(results)]
        subprocess.run([*command, "--output", str(dataset), *row.options], check=True)
    if (nnunet.preprocessed / row.folder / f"{PLANS}_3d_fullres").is_dir():
        return
    options = ["-d", str(row.number), "-c", "3d_fullres", "--verify_dataset_integrity", "-np", "2"]
    # nnU-Net orders axes as z, y, x.
    options += ["-overwrite_target_spacing", *reversed(spacing)]
    nnunet.run(
        "nnUNetv2_plan_and_preprocess",
        *options,
        "-overwrite_plans_name",
        PLANS,
    )


def trained_folder(nnunet: NnUnet, row: Row) -> Path:
    """Return the folder of the trained network."""
    return nnunet.trained / row.folder / f"nnUNetTrainer__{PLANS}__3d_fullres" / "fold_all"


def train(nnunet: NnUnet, row: Row, minutes: float) -> None:
    """Train a network on all cases of the data set, which is done once."""
    if (trained_folder(nnunet, row) / "steps.json").is_file():
        return
    seconds = str(60 * minutes)
    nnunet.run("python", "-c", TRAINING, str(row.number), PLANS, seconds, processes=0)


def predict(nnunet: NnUnet, row: Row) -> None:
    """Predict the validation and test cases."""
    options = ["-d", str(row.number), "-p", PLANS, "-c", "3d_fullres", "-f", "all"]
    options += ["-i", str(nnunet.raw / row.folder / "imagesTs")]
    options += ["-o", str(nnunet.folder / "predicted" / row.name), "--continue_prediction"]
    options += ["-chk", "checkpoint_final.pth", "-device", "cpu", "-npp", "1", "-nps", "1"]
    nnunet.run("nnUNetv2_predict", *options)


def report(nnunet: NnUnet, row: Row, results: Path) -> None:
    """Print the number of steps, and the mean scores of the test cases."""
    config = load_config(results / "config.yaml")
    rows: list[Scores] = []
    for case in read_cases(config).cases:
        if case.split is Split.TEST:
            path = nnunet.folder / "predicted" / row.name / f"{case.case_id}.nii.gz"
            rows.append(scores_of(case, path, config))
    steps = read_json(trained_folder(nnunet, row) / "steps.json")
    cells = []
    for metric in ("dice", "hd95_mm"):
        means = {name: mean_of(rows, name, metric) for name in config.structures}
        cells.append(f"{metric} {mean_or_nan(means.values()):.3f} ({as_text(means)})")
    print(f"{row.name}: {steps} steps, {len(rows)} test cases,", ", ".join(cells), flush=True)


def scores_of(case: Case, path: Path, config: Config) -> Scores:
    """Return the scores of a test case; nnU-Net numbers the classes as the configuration does."""
    assert case.reference is not None
    predicted = read_label(path)
    reference = read_label(case.reference)
    truth = class_indices(reference.data, config, case.reference)
    return score(predicted.data, truth, steps_of(reference.affine), config.structures)


def mean_of(rows: Sequence[Scores], name: str, metric: str) -> float:
    """Return the mean of a metric over the cases."""
    return mean_or_nan(float(row[name][metric]) for row in rows)


def as_text(means: Mapping[str, float]) -> str:
    """Return the means as text."""
    return ", ".join(f"{name} {value:.3f}" for name, value in means.items())


if __name__ == "__main__":
    main()
