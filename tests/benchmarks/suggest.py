"""Compare ``hstf suggest`` with random choice over foreground, by withheld labels.

    python tests/benchmarks/suggest.py FOLDER --configfile config/acdc.yaml

Each draw starts with a few labelled patients that are drawn at random. Then patients are added
twice: those whose scans ``hstf suggest`` names, or those that it draws at random over foreground
(``--random-fraction 1``). Their withheld labels are used as if a person had drawn them. After each
step the warm-up is trained anew and scored on the test cases. Both strategies begin with the same
patients and the same networks.

The table ``FOLDER/suggest.csv`` has a row for each number of patients: Dice of both strategies
(mean over the draws), their paired difference, and in how many draws ``suggest`` was better. A run
that was stopped continues where it was. Three draws of 3, 6 and 10 patients are 15 trainings.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import yaml

from hstf.config.load import load_config
from hstf.config.merge import merge
from hstf.experiment.cases import Case, Split, read_cases
from hstf.runtime.files import read_csv, read_json, write_csv

ROOT = Path(__file__).resolve().parents[2]
STRATEGIES = {"suggest": [], "random": ["--random-fraction", "1", "--no-features"]}
"""Options of ``hstf suggest`` by strategy."""
COLUMNS = ["patients", "suggest", "suggest_sd", "random", "random_sd", "difference", "better"]


@dataclass(frozen=True)
class Benchmark:
    """What all experiments have in common."""

    folder: Path
    config: dict[str, Any]
    cases: tuple[Case, ...]
    """The cases of the sheet; all that are no test cases have a label, withheld or not."""
    cores: str

    @property
    def patients(self) -> list[str]:
        """The patients that can be labelled."""
        training = [case for case in self.cases if case.split is not Split.TEST]
        return list(dict.fromkeys(case.group for case in training))

    def dice(self, name: str, labelled: Sequence[str], draw: int) -> float:
        """Train the warm-up on the labels of some patients, predict the others, and score it.

        Args:
            name: name of the experiment.
            labelled: the patients.
            draw: seed of the trainings.
        """
        results = self.folder / "results" / name
        summary = results / "round_0" / "evaluation" / "summary.json"
        if not (results / "round_1" / "refine.csv").is_file() or not summary.is_file():
            path = self._write(name, labelled, draw)
            command = ["snakemake", "round_1_refine", "round_0_evaluate"]
            command += ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(self.folder)]
            command += ["--cores", self.cores, "--quiet", "all", "--configfile", str(path)]
            run(*command)
        return float(read_json(summary)["dice"]["mean"])

    def _write(self, name: str, labelled: Sequence[str], draw: int) -> Path:
        """Write case sheet and configuration of an experiment."""
        rows = []
        modalities = list(self.config["modalities"])
        for case in self.cases:
            split = case.split
            if split is not Split.TEST:
                split = Split.LABELLED if case.group in labelled else Split.UNLABELLED
            row = {"case_id": case.case_id, "label": str(Path(case.label_file or "").resolve())}
            for modality, image in zip(modalities, case.image_files, strict=True):
                row[modality if len(modalities) > 1 else "image"] = str(Path(image).resolve())
            rows.append(row | {"split": str(split), "group": case.group})
        sheet = self.folder / f"{name}.csv"
        write_csv(sheet, rows, list(rows[0]))
        own = {
            "experiment": name,
            "cases": str(sheet),
            "output": str(self.folder / "results"),
            "overrides": str(self.folder / "overrides" / name),
            "rounds": 1,
            "seed": draw,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(merge(self.config, own), sort_keys=False))
        return path

    def add(self, name: str, labelled: Sequence[str], count: int, time: int) -> list[str]:
        """Return the labelled patients and ``count`` more, as the experiment ``name`` suggests.

        Args:
            name: the experiment that was trained on the labels of ``labelled``.
            labelled: the patients.
            count: number of patients to add.
            time: how often was asked before, plus 1.
        """
        strategy = name.split("_")[0]
        groups = {case.case_id: case.group for case in self.cases}
        output = self.folder / "suggestions" / name
        scans = sum(case.group not in labelled for case in self.cases)
        command = ["hstf", "suggest", str(self.folder / "results" / name), "--slices", "0"]
        command += ["--scans", str(scans), "--time", str(time), "--output", str(output)]
        if not (output / "suggest.csv").is_file():
            run(*command, *STRATEGIES[strategy])
        ranked = [groups[row["case_id"]] for row in read_csv(output / "suggest.csv")]
        new = [patient for patient in dict.fromkeys(ranked) if patient not in labelled]
        return [*labelled, *new[:count]]


def run(*command: str) -> None:
    """Run a Python module as a command."""
    subprocess.run([sys.executable, "-m", *command], check=True)


def dice_of_draw(benchmark: Benchmark, counts: Sequence[int], draw: int) -> dict[str, list[float]]:
    """Return the Dice of both strategies for each number of patients."""
    generator = np.random.default_rng(draw)
    first = generator.choice(benchmark.patients, counts[0], replace=False).tolist()
    found: dict[str, list[float]] = {}
    for strategy in STRATEGIES:
        labelled = [str(patient) for patient in first]
        found[strategy] = []
        for time, count in enumerate(counts):
            name = f"{strategy}_{draw}_{count}"
            if time:
                before = f"{strategy}_{draw}_{counts[time - 1]}"
                labelled = benchmark.add(before, labelled, count - len(labelled), time)
            elif strategy != "suggest":  # both begin with the same networks
                link(benchmark.folder / "results", f"suggest_{draw}_{count}", name)
            found[strategy].append(benchmark.dice(name, labelled, draw))
            print(f"{name}: Dice {found[strategy][-1]:.4f}, {', '.join(labelled)}", flush=True)
    return found


def link(results: Path, source: str, target: str) -> None:
    """Give the results of an experiment a second name."""
    if not (results / target).exists():
        (results / target).symlink_to(source, target_is_directory=True)


def table(draws: Sequence[dict[str, list[float]]], counts: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row for each number of patients.

    Example:
        >>> draws = [{"suggest": [0.5, 0.7], "random": [0.5, 0.6]}]
        >>> [row["difference"] for row in table(draws, [3, 6])]
        ['+0.000', '+0.100']
    """
    rows = []
    for index, count in enumerate(counts):
        suggest = [draw["suggest"][index] for draw in draws]
        random = [draw["random"][index] for draw in draws]
        differences = [one - other for one, other in zip(suggest, random, strict=True)]
        rows.append(
            {
                "patients": count,
                "suggest": f"{fmean(suggest):.3f}",
                "suggest_sd": _sd(suggest),
                "random": f"{fmean(random):.3f}",
                "random_sd": _sd(random),
                "difference": f"{fmean(differences):+.3f}",
                "better": f"{sum(value > 0 for value in differences)} of {len(draws)}",
            }
        )
    return rows


def _sd(values: Sequence[float]) -> str:
    return f"{stdev(values):.3f}" if len(values) > 1 else ""


def main() -> None:
    """Run all draws and write the table after each of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--configfile", type=Path, nargs="+", required=True)
    parser.add_argument("--patients", type=int, nargs="+", default=[3, 6, 10])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--cores", default="2")
    args = parser.parse_args()
    config = load_config(*args.configfile)
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    values = config.model_dump(mode="json", exclude_unset=True)
    benchmark = Benchmark(folder, values, read_cases(config).cases, args.cores)
    draws = []
    for draw in range(args.draws):
        draws.append(dice_of_draw(benchmark, args.patients, draw))
        rows = table(draws, args.patients)
        write_csv(folder / "suggest.csv", rows, COLUMNS)
        for row in rows:
            print("  ".join(f"{name} {row[name]}" for name in COLUMNS), flush=True)


if __name__ == "__main__":
    main()
