"""Turn the parts of the pseudo-label refinement off, one at a time.

    python tests/benchmarks/plr_parts.py results/acdc_3 --round 1
    python tests/benchmarks/plr_parts.py results/acdc_3 --round 1 --train

The first command refines the teacher's predictions of a round again with each part off, and
compares the pseudo-labels with the withheld labels of the unlabelled cases. It needs no training.
With ``--train`` a student learns from each set of pseudo-labels, and the test cases are scored.

The experiment must have the predictions of the teacher in this round, and its case sheet must have
the withheld labels. Each variant is an experiment of its own beside the first one. It differs in
this round only and has hard links to the other files, so that the workflow makes only what differs.
What has been measured is in ``<experiment>_plr_parts.csv``; an interrupted run resumes.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.ndimage import maximum_filter, minimum_filter

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.config.methods import NO_REFINEMENT
from hstf.experiment.cases import Split
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.imaging.affines import THICK, spacing_of
from hstf.imaging.label_values import class_indices
from hstf.imaging.volumes import read_label
from hstf.stages.evaluate.pseudo_label_scores import KEPT_WEIGHT, score_pseudo_labels
from hstf.stages.evaluate.references import read_reference

ROOT = Path(__file__).resolve().parents[2]
NOT_COPIED = {"compare", "state", "logs", "benchmarks"}
LARGE = (".b2nd", ".nii.gz", ".npy", ".pt")


@dataclass(frozen=True)
class Variant:
    """A refinement that differs in one part."""

    name: str
    keys: Mapping[str, Mapping[str, Any]]
    """What differs in the configuration."""
    needs_training: bool = False
    """Whether the pseudo-labels are the same and only the student differs."""


def variants(config: Config, number: int) -> list[Variant]:
    """Return the variants that make a difference in a round of an experiment."""
    found = [Variant("all parts", {})]
    for part, value in NO_REFINEMENT.items():
        is_absent = (part == "judge_lesions" and not config.lesions) or (
            part == "previous_round" and number == 1
        )
        if not is_absent:
            found.append(Variant(f"without {part}", {"refine": {part: value}}))
    for weight in (0.0, 0.5):
        keys = {"refine": {"below_threshold_weight": weight}}
        found.append(Variant(f"below_threshold_weight {weight:g}", keys))
    found.append(Variant("no part", {"refine": NO_REFINEMENT}))
    hard = {"student": {"soft_targets": False}}
    found.append(Variant("hard targets", hard, needs_training=True))
    averaged = {"student": {"ema_blend": 0.5}}
    found.append(Variant("ema_blend 0.5", averaged, needs_training=True))
    return found


def make(results: Path, variant: Variant, number: int, stage: str, cores: str) -> Config:
    """Let the workflow run a stage of a round in a variant; return the configuration."""
    name = f"{results.name}_round_{number}_{variant.name.replace(' ', '_')}"
    folder = results.with_name(name)
    if not folder.is_dir():
        shutil.copytree(results, folder, copy_function=_link_or_copy, ignore=_not_copied)
    overlay = folder.with_suffix(".yaml")
    keys = {"experiment": name, "rounds_overrides": {number: dict(variant.keys)}}
    overlay.write_text(yaml.safe_dump(keys))
    command = [sys.executable, "-m", "snakemake", f"round_{number}_{stage}"]
    command += [
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--cores",
        cores,
        "--quiet",
        "all",
        "--configfile",
    ]
    subprocess.run([*command, str(results / "config.yaml"), str(overlay)], check=True)
    return load_config(folder / "config.yaml")


def _not_copied(folder: str, names: Sequence[str]) -> list[str]:
    """Return the names in a folder that the variants do without."""
    return [name for name in names if name in NOT_COPIED or name.endswith(".lock")]


def _link_or_copy(source: str, target: str) -> str:
    """Link a large file, which jobs replace as a whole; copy a small one."""
    if source.endswith(LARGE):
        os.link(source, target)
        return target
    return shutil.copy2(source, target)


def measure(config: Config, number: int) -> dict[str, float | None]:
    """Compare the pseudo-labels of a round with the withheld labels."""
    context = StageContext.of(config, "evaluate", number)
    summary = score_pseudo_labels(context)
    if summary is None:
        raise SystemExit(f"{config.experiment}: the unlabelled cases have no withheld labels.")
    voxels = summary.foreground_voxels
    return {
        "dice": summary.dice.mean,
        "accepted": summary.accepted.cases,
        "accepted_dice": summary.accepted.mean,
        "rank_correlation": summary.spearman,
        "worst_fifth_found": summary.worst_fifth_found,
        "kept_fraction": voxels.kept_fraction,
        "kept_error": voxels.kept_error,
        "low_weight_error": voxels.low_weight_error,
        **recalls(context),
    }


def recalls(context: StageContext) -> dict[str, float]:
    """Return how much of the true structures a student learns from, at their rim and within.

    A voxel counts if the pseudo-label has its class with a weight of at least 0.5.
    """
    learned = np.zeros(2)
    total = np.zeros(2)
    folder = context.layout.pseudo_labels(context.round)
    for case in context.cases(Split.UNLABELLED):
        path = folder / f"{case.case_id}.nii.gz"
        if case.reference is None or not path.is_file():
            continue
        volume = read_label(path)
        reference = read_reference(case, volume, context.config)
        weight = read_label(folder / f"{case.case_id}.weight.nii.gz").data
        label = class_indices(volume.data, context.config, path)
        is_learned = (label == reference) & (weight >= KEPT_WEIGHT)
        is_foreground = (reference > 0) & (reference < len(context.config.class_names))
        is_rim = rim(reference, spacing_of(volume.affine)) & is_foreground
        for index, region in enumerate((is_rim, is_foreground & ~is_rim)):
            learned[index] += np.count_nonzero(is_learned & region)
            total[index] += np.count_nonzero(region)
    rim_recall, core_recall = learned / total
    return {"rim_recall": float(rim_recall), "core_recall": float(core_recall)}


def rim(reference: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Return the voxels that have a neighbour of another class.

    Args:
        reference: class indices ``(X, Y, Z)``.
        spacing: voxel edges (mm). Neighbours across thick slices do not count.
    """
    size = [3 if step <= THICK * np.median(spacing) else 1 for step in spacing]
    different: np.ndarray = maximum_filter(reference, size) != minimum_filter(reference, size)
    return different


def test_dice(config: Config, number: int) -> dict[str, float | None]:
    """Return the Dice of the test cases after a round, of the ensemble and of single networks."""
    layout = Layout.of(config)
    cases = pd.read_csv(layout.evaluation_cases(number))
    members = pd.read_csv(layout.evaluation(number) / "members.csv")
    return {
        "test_dice": float(cases.groupby("case_id")["dice"].mean().mean()),
        "test_dice_single": float(members["dice"].mean()) if len(members) else None,
    }


def main() -> None:
    """Measure all variants and print the table."""
    arguments = parse()
    results = arguments.results.resolve()
    config = load_config(results / "config.yaml")
    table = results.with_name(f"{results.name}_plr_parts.csv")
    rows: list[dict[Any, Any]] = []
    if table.is_file():
        rows = pd.read_csv(table).to_dict("records")
    done = {(row["variant"], row["round"], row["trained"]) for row in rows}
    for variant in variants(config, arguments.round):
        is_done = (variant.name, arguments.round, arguments.train) in done
        is_wanted = not arguments.only or variant.name in arguments.only
        if is_done or not is_wanted or (variant.needs_training and not arguments.train):
            continue
        rows.append(one(results, variant, arguments))
        pd.DataFrame(rows).to_csv(table, index=False)
    print(pd.DataFrame(rows).round(3).to_string(index=False))


def one(results: Path, variant: Variant, arguments: argparse.Namespace) -> dict[str, Any]:
    """Make a variant and measure it."""
    stage = "evaluate" if arguments.train else "refine"
    made = make(results, variant, arguments.round, stage, arguments.cores)
    row = {"variant": variant.name, "round": arguments.round, "trained": arguments.train}
    row |= measure(made, arguments.round)
    if arguments.train:
        row |= test_dice(made, arguments.round)
    return row


def parse() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="results of an experiment")
    parser.add_argument("--round", type=int, default=1)
    parser.add_argument("--train", action="store_true", help="train a student of each variant too")
    parser.add_argument("--only", nargs="+", default=[], help="names of variants, not all of them")
    parser.add_argument("--cores", default="2")
    return parser.parse_args()


if __name__ == "__main__":
    main()
