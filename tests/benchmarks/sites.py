"""What scans of another hospital teach, with Fourier mixing and without: ``python tests/benchmarks/sites.py FOLDER``.

Phantoms of two sites: all labelled scans are of the first; unlabelled and test scans are of both, and the second has another
contrast. One warm-up is the teacher of all students. Prints the mean Dice of the test scans by site.
"""

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import yaml

from hstf.datasets.phantom.options import PHANTOM_LABELS
from hstf.runtime.files import read_csv

ROOT = Path(__file__).resolve().parents[2]
PHANTOM = [
    "--cases", "28", "--labelled", "4", "--test", "8", "--size", "32", "32", "32", "--sites", "2", "--site-shift", "1.0",
    "--lesions", "0", "--noise", "0.05",
]  # fmt: skip


def configuration(folder: Path, experiment: str, fourier: float, reuse: str | None) -> dict:
    """Small enough for one core and some minutes; the students start from the warm-up of the experiment ``reuse``."""
    results = folder / "results"
    shared = {"reuse": dict.fromkeys(("data", "warmup"), str(results / reuse))} if reuse else {}
    return shared | {
        "experiment": experiment, "output": str(results), "cases": str(folder / "data" / "cases.csv"),
        "overrides": str(folder / "overrides"), "rounds": 1, "shard_size": 100, "device": "cpu",
        "labels": {name: value for name, value in PHANTOM_LABELS.items() if name != "lesion"}, "modalities": {"image": "mr"},
        "plan": {"patch_size": [32, 32, 32], "batch_size": 2, "base_channels": 8, "stages": 3},
        "preprocess": {"workers": 1},
        "warmup": {"folds": 2, "steps": 200, "learning_rate": 0.002},
        "student": {
            "start": "previous_round", "steps": 200, "learning_rate": 0.002, "augmentation": {"fourier_probability": fourier},
        },
        "teacher": {"scales": [1.0]}, "predict": {"overlap": 0.25}, "evaluate": {"bootstrap": 100},
    }  # fmt: skip


def run(*command: str) -> None:
    """Run a command."""
    subprocess.run([sys.executable, "-m", *command], check=True)


def run_experiment(folder: Path, config: dict, cores: str, targets: Sequence[str]) -> Path:
    """Make ``targets``, files in the results of an experiment; returns the path of the last."""
    path = folder / f"{config['experiment']}.yaml"
    path.write_text(yaml.safe_dump(config))
    files = [str(folder / "results" / config["experiment"] / target) for target in targets]
    run("snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder), "--cores", cores,
        "--configfile", str(path), "--quiet", "all", "--", *files)  # fmt: skip
    return Path(files[-1])


def dice_by_site(table: Path) -> str:
    """Mean Dice of each site, as text."""
    dice = defaultdict(list)
    for row in read_csv(table):
        dice[row["site"]] += [float(row["dice"])] if row["dice"] else []
    return "".join(f"{site}: {fmean(values):.3f}   " for site, values in sorted(dice.items()))


def main() -> None:
    """Make the phantoms, run the workflow, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--fourier",
        type=float,
        nargs="+",
        default=[0.0, 0.5],
        help="augmentation.fourier_probability of the students",
    )
    parser.add_argument("--cores", default="1")
    args = parser.parse_args()
    folder = args.folder.resolve()
    if not (folder / "data" / "cases.csv").exists():
        run("hstf", "phantom", "--output", str(folder / "data"), *PHANTOM)
    reused = ["preprocessed/unlabelled_0.csv", "round_0/evaluation/cases.csv"]
    warmup = run_experiment(folder, configuration(folder, "warmup", 0.0, None), args.cores, reused)
    print(f"{'warm-up':24}{dice_by_site(warmup)}", flush=True)
    for fourier in args.fourier:
        config = configuration(folder, f"fourier_{fourier:g}", fourier, "warmup")
        student = run_experiment(folder, config, args.cores, ["round_1/evaluation/cases.csv"])
        print(f"{f'student, mixing {fourier:g}':24}{dice_by_site(student)}", flush=True)


if __name__ == "__main__":
    main()
