"""An experiment with files of many cases, for the tests of ``hstf forget``."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import LABELS
from hstf.runtime.files import write_csv, write_text
from support.report_files import NO_FILES
from support.tiny_model import tiny_experiment

ROOT = Path("results/liver")
PREFIXED = ["p10", "p1.b", "p1-b", "p1_b", "p1.target", "p1.lesions", "P1", "xp1"]
CASES = ["p1", *PREFIXED, "round_1", "labels", "report", "p2"]
"""Names that begin or end with another one, or are the names of folders."""


def files_of_case(case: str) -> list[str]:
    """Return the files of a case in an experiment of one round."""
    files = [
        f"preprocessed/{case}/image.b2nd",
        f"preprocessed/.records/{case}.json",
        f"round_0/out_of_fold/{case}/agreement.json",
        f"round_0/out_of_fold/.records/{case}.json",
        f"round_1/evaluation/predictions/{case}.nii.gz",
        f"round_1/evaluation/scores/{case}.json",
        f"suggest/templates/{case}.nii.gz",
        f"external/sam/{case}.nii.gz",
        f"external/sam/{case}.b2nd",
        f"external/sam/.records/{case}.json",
        f"external/sam/.work/{case}/image.nii.gz",
        f"round_1/evaluation/.records/{case}.json",
        f"round_1/labels/.records/{case}.json",
        f"round_1/labels/{case}/target.b2nd",
        f"round_1/pseudo_labels/overlays/{case}.png",
        f"round_1/pseudo_labels/.tmp-0a1b2c3d-{case}.nii.gz",
        f"round_1/teacher/{case}/probabilities.b2nd",
    ]
    for folder, suffixes in {
        "round_1/labels": ["nii.gz", "weight.nii.gz"],
        "round_1/pseudo_labels": ["nii.gz", "weight.nii.gz", "target.b2nd", "lesions.csv"],
    }.items():
        files += [f"{folder}/{case}.{suffix}" for suffix in suffixes]
    return files


def table(path: Path, cases: Sequence[str]) -> None:
    """Write a table with a row for each case."""
    write_csv(path, [{"case_id": case, "found": "x"} for case in cases], ["case_id", "found"])


def write_experiment() -> None:
    config = tiny_experiment(Path())
    config = config.model_copy(update={"overrides": "overrides", "cases": "cases.csv"})
    root = Layout.of(config).root
    assert root == ROOT
    for case in CASES:
        write_text(Path(f"{case}_t1.nii.gz"), "voxels")
    # A sheet cannot have two names that differ in their letter case only.
    write_sheet([case for case in CASES if case != "P1"])
    write_text(root / "config.yaml", yaml.safe_dump(config.model_dump(mode="json")))
    for case in CASES:
        for name in files_of_case(case):
            write_text(root / name, f"of {case}")
        write_text(Path(f"overrides/round_1/{case}.nii.gz"), "corrected")
    table(root / "check.csv", [*CASES, *CASES])
    table(root / "round_1" / "evaluation" / "cases.csv", CASES)
    table(root / "round_1" / "pseudo_labels" / "unlabelled_0.csv", CASES)
    LABELS.write(
        root / "round_1" / "labels.csv",
        [{"case_id": case, "source": "automatic", **NO_FILES} for case in CASES[1:-1]],
    )
    pages = ("report/report.html", "logs/check.log", ".check_cache.json", "records/check.json")
    for name in pages:
        write_text(root / name, " ".join(CASES))
    write_text(root / "report" / "calibration.png", "picture")
    table(Path("overrides/decisions_seen.csv"), CASES)
    write_text(Path("overrides/decisions.csv"), "round,case_id,action\n1,p10,reject\n1,p1,accept\n")


def write_sheet(cases: Sequence[str]) -> None:
    """Write a case sheet with ``cases``: a labelled one, unlabelled ones, and a test case."""
    splits = ["labelled", *["unlabelled"] * (len(cases) - 2), "test"]
    rows = []
    for case, split in zip(cases, splits, strict=True):
        label = "" if split == "unlabelled" else f"{case}_label.nii.gz"
        rows.append({"case_id": case, "image": f"{case}_t1.nii.gz", "label": label, "split": split})
    write_csv(Path("cases.csv"), rows, list(rows[0]))


def all_files(folder: Path = Path()) -> set[str]:
    return {path.as_posix() for path in folder.rglob("*") if path.is_file()}
