"""Compare students with and without Fourier mixing on scans of another hospital.

``python tests/benchmarks/sites.py FOLDER`` makes phantoms of two sites. All labelled scans are from
the first site. Unlabelled and test scans are from both, and the second site has another contrast.
One warm-up is the teacher of all students. The script prints the mean Dice of the test scans by
site.
"""

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from hstf.datasets.phantom.options import PHANTOM_LABELS
from hstf.runtime.files import read_csv

ROOT = Path(__file__).resolve().parents[2]

CASES = ["--cases", "28", "--labelled", "4", "--test", "8", "--size", "32", "32", "32"]
CONTRAST = ["--sites", "2", "--site-shift", "1.0", "--lesions", "0", "--noise", "0.05"]
PHANTOM = [*CASES, *CONTRAST]

CONFIG: dict[str, Any] = {
    "rounds": 1,
    "shard_size": 100,
    "device": "cpu",
    "labels": {name: value for name, value in PHANTOM_LABELS.items() if name != "lesion"},
    "modalities": {"image": "mr"},
    "plan": {"patch_size": [32, 32, 32], "batch_size": 2, "base_channels": 8, "stages": 3},
    "preprocess": {"workers": 1},
    "warmup": {"folds": 2, "steps": 200, "learning_rate": 0.002},
    "student": {"start": "previous_round", "steps": 200, "learning_rate": 0.002},
    "teacher": {"scales": [1.0]},
    "predict": {"overlap": 0.25},
    "evaluate": {"bootstrap": 100},
}
"""What all experiments have in common; small enough for one core and a few minutes."""


def configuration(folder: Path, experiment: str, fourier: float) -> dict[str, Any]:
    """Return the configuration of an experiment.

    Args:
        folder: folder of the scans and of all results.
        experiment: name of the experiment.
        fourier: ``fourier_probability`` of the student.
    """
    paths = {
        "experiment": experiment,
        "output": str(folder / "results"),
        "cases": str(folder / "data" / "cases.csv"),
        "overrides": str(folder / "overrides"),
    }
    augmentation = {"fourier_probability": fourier}
    return CONFIG | paths | {"student": CONFIG["student"] | {"augmentation": augmentation}}


def reusing(config: dict[str, Any], experiment: str) -> dict[str, Any]:
    """Return ``config`` with the data and the warm-up of another experiment."""
    results = f"{config['output']}/{experiment}"
    return config | {"reuse": {"data": results, "warmup": results}}


def run(*command: str) -> None:
    """Run a Python module as a command."""
    subprocess.run([sys.executable, "-m", *command], check=True)


def run_experiment(folder: Path, config: dict[str, Any], cores: str, files: Sequence[str]) -> Path:
    """Let the workflow make some files of the results; return the path of the last one."""
    path = folder / f"{config['experiment']}.yaml"
    path.write_text(yaml.safe_dump(config))
    results = Path(config["output"]) / config["experiment"]
    targets = [str(results / file) for file in files]
    command = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--cores", cores, "--configfile", str(path), "--quiet", "all"]
    for target in targets:
        run(*command, "--", target)
    return Path(targets[-1])


def dice_by_site(table: Path) -> str:
    """Return the mean Dice of each site as text."""
    dice = defaultdict(list)
    for row in read_csv(table):
        if row["dice"]:
            dice[row["site"]].append(float(row["dice"]))
    return "   ".join(f"{site}: {fmean(values):.3f}" for site, values in sorted(dice.items()))


def main() -> None:
    """Make the phantoms, run the workflow and print the scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--fourier",
        type=float,
        nargs="+",
        default=[0.0, 0.5],
        help="student.augmentation.fourier_probability of each student",
    )
    parser.add_argument("--cores", default="1")
    args = parser.parse_args()
    folder = args.folder.resolve()
    if not (folder / "data" / "cases.csv").exists():
        run("hstf", "phantom", "--output", str(folder / "data"), *PHANTOM)
    files = ["preprocessed/unlabelled_0.csv", "round_0/evaluation/cases.csv"]
    scores = run_experiment(folder, configuration(folder, "warmup", 0.0), args.cores, files)
    print(f"{'warm-up':24}{dice_by_site(scores)}", flush=True)
    for fourier in args.fourier:
        config = reusing(configuration(folder, f"fourier_{fourier:g}", fourier), "warmup")
        scores = run_experiment(folder, config, args.cores, ["round_1/evaluation/cases.csv"])
        title = f"student, mixing {fourier:g}"
        print(f"{title:24}{dice_by_site(scores)}", flush=True)


if __name__ == "__main__":
    main()
