"""What unlabelled scans of another hospital teach: ``python tests/benchmarks/sites.py FOLDER [--fourier 0.5] [--cores 1]``.

Phantoms of two sites: all labelled scans are of the first; unlabelled and test scans are of both, and the second has another
contrast. Prints the mean Dice of the test scans by site, of the warm-up and of the student.
"""

import argparse
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import yaml

from hstf.files import read_csv
from hstf.phantom import PHANTOM_LABELS

ROOT = Path(__file__).resolve().parents[2]
PHANTOM = [
    "--cases", "28", "--labelled", "4", "--test", "8", "--size", "32", "32", "32", "--sites", "2", "--site-shift", "1.0",
    "--lesions", "0", "--noise", "0.05",
]  # fmt: skip


def configuration(folder: Path, fourier: float) -> dict:
    """Small enough for one core and some minutes."""
    augmentation = {"fourier_probability": fourier}
    return {
        "experiment": f"sites_{fourier:g}", "output": str(folder / "results"), "cases": str(folder / "data" / "cases.csv"),
        "overrides": str(folder / "overrides"), "rounds": 1, "shard_size": 100, "device": "cpu",
        "labels": {name: value for name, value in PHANTOM_LABELS.items() if name != "lesion"}, "modalities": {"image": "mr"},
        "plan": {"patch_size": [32, 32, 32], "batch_size": 2, "base_channels": 8, "stages": 3},
        "preprocess": {"workers": 1},
        "warmup": {"folds": 2, "steps": 200, "learning_rate": 0.002},
        "student": {"start": "warmup", "steps": 200, "learning_rate": 0.002, "augmentation": augmentation},
        "teacher": {"scales": [0.8, 1.0, 1.25], "overlap": 0.25},
        "predict": {"overlap": 0.25}, "evaluate": {"bootstrap": 100},
    }  # fmt: skip


def run(*command: str) -> None:
    """Run a command."""
    subprocess.run([sys.executable, "-m", *command], check=True)


def main() -> None:
    """Make the phantoms, run the workflow, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--fourier", type=float, default=0.5, help="augmentation.fourier_probability of the student"
    )
    parser.add_argument("--cores", default="1")
    args = parser.parse_args()
    folder = args.folder.resolve()
    if not (folder / "data" / "cases.csv").exists():
        run("hstf", "phantom", "--output", str(folder / "data"), *PHANTOM)
    config = configuration(folder, args.fourier)
    path = folder / f"{config['experiment']}.yaml"
    path.write_text(yaml.safe_dump(config))
    results = folder / "results" / config["experiment"]
    tables = [results / f"round_{number}" / "evaluation" / "cases.csv" for number in (0, 1)]
    run("snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder), "--cores", args.cores,
        "--configfile", str(path), "--quiet", "rules", "--", *map(str, tables))  # fmt: skip
    for name, table in zip(("warm-up", "student"), tables, strict=True):
        dice = defaultdict(list)
        for row in read_csv(table):
            dice[row["site"]] += [float(row["dice"])] if row["dice"] else []
        print(name, *(f"{site}: {fmean(values):.3f}" for site, values in sorted(dice.items())), sep="   ")


if __name__ == "__main__":
    main()
