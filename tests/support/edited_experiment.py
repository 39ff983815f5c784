"""A small experiment that is edited in many ways, and the results that it must have in the end."""

import csv
import hashlib
import os
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

from support.fast_workflow import ROOT, FastWorkflow

SPLITS = ["labelled", "labelled", "labelled", "test", "unlabelled", "unlabelled"]
LABELS = {"background": 0, "liver": 1, "spleen": 2}
CONFIG: dict[str, Any] = {
    "experiment": "edited",
    "cases": "cases.csv",
    "labels": LABELS,
    "overrides": "overrides",
    "rounds": 1,
    "shard_size": 4,
    "device": "cpu",
    "plan": {"memory_gb": 1, "max_patch_voxels": 4096, "base_channels": 4, "stages": 3},
    "network": {"transformer_layers": 1, "transformer_heads": 2},
    "warmup": {"folds": 2, "seeds": 0, "steps": 3, "history_every": 1, "warmup_steps": 1},
    "refine": {"select_cases": False, "below_threshold_weight": 0.5},
    "student": {"members": 1, "steps": 2, "history_every": 1, "warmup_steps": 1},
    "teacher": {"scales": [1.0], "overlap": 0.0},
    "predict": {"overlap": 0.0},
    "evaluate": {"bootstrap": 100},
    "export": {"programs": []},
    "check": {"workers": 1},
    "preprocess": {"workers": 1},
    "track": {"enabled": False},
    # Tiny networks lose classes by chance.
    "monitor": {
        "minimum_volume": 0,
        "minimum_presence": 0,
        "minimum_agreement": 0,
        "minimum_weight": 0,
    },
}
NOT_COMPARED = ("records", "keys", "logs", "benchmarks", "state", ".records", "overlays")
"""Folders with machines, times, pictures and what was interrupted, not with results."""
SIDE = 16
"""Voxels along each axis."""
PLAIN = ("--snakefile", str(ROOT / "Snakefile"), "--configfile", "config.yaml", "--cores", "1")
TARGETS = ("export", "round_0_evaluate", "round_1_evaluate")
"""All results but the report, whose figures take most of the time."""


@dataclass
class Wanted:
    """What the user's files say; the results depend on nothing else."""

    config: dict[str, Any] = field(default_factory=lambda: yaml.safe_load(yaml.safe_dump(CONFIG)))
    rows: dict[str, list[str]] = field(default_factory=dict)
    """Image, label and split of each case."""
    scans: dict[str, int] = field(default_factory=dict)
    """Which version of its content each file has."""
    corrected: dict[str, int] = field(default_factory=dict)
    rejected: tuple[str, ...] = ()

    def key(self) -> str:
        """Return a text that is the same for equal files."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def names() -> list[str]:
    """Return all cases."""
    return [f"case_{number}" for number in range(len(SPLITS))]


def start() -> Wanted:
    """Return the files of an experiment that nobody has edited."""
    wanted = Wanted()
    for name, split in zip(names(), SPLITS, strict=True):
        wanted.rows[name] = [f"{name}.nii", f"{name}_label.nii", split]
        wanted.scans[f"{name}.nii"] = 0
        wanted.scans[f"{name}_label.nii"] = 0
    return wanted


class EditedExperiment:
    """A folder with the files of a user, and what a fresh run makes of them."""

    CONFIG = CONFIG

    def __init__(self, folder: Path, server: FastWorkflow, fresh: Path) -> None:
        """Write the experiment to ``folder``; results of fresh runs are kept in ``fresh``."""
        self.folder = folder
        self.server = server
        self.fresh = fresh
        self.wanted = start()
        folder.mkdir(parents=True)
        write(folder, self.wanted)

    @property
    def results(self) -> Path:
        """The results of the experiment as it is configured now."""
        return self.folder / self.wanted.config.get("output", "results") / "edited"

    def files(self) -> list[Path]:
        """Return all results that are compared."""
        return result_files(self.results)

    def run(self) -> str:
        """Run the plain command to the end; follow the advice of its messages.

        Returns:
            The messages.
        """
        messages = ""
        for _ in range(8):  # one damaged file may hide another
            done = self.server.snakemake(self.folder, *PLAIN, *TARGETS)
            assert "Traceback" not in done.stdout, done.stdout
            if done.returncode == 0:
                return messages
            advice = self._advice(done.stdout)
            messages += done.stdout
            assert advice, f"no advice in:\n{done.stdout[-6000:]}"
            for path in advice:
                if path.is_file():
                    path.unlink()
        raise AssertionError(f"the advice did not help:\n{messages[-6000:]}")

    def _advice(self, output: str) -> list[Path]:
        """Return the files that the message, or the log of a failed job, asks to delete."""
        for log in self.results.glob("logs/**/*.log"):
            if str(log.relative_to(self.folder)) in output:
                output += log.read_text(errors="replace")
        found = []
        for line in output.splitlines():
            if "elete" in line:
                for word in re.findall(r"[\w./-]+\.[a-z0-9]+", line):
                    path = self.folder / word
                    if self.results not in path.parents:
                        continue
                    if path.is_file():
                        found.append(path)
                    else:  # the file of a case is missing: delete the table beside it
                        found += path.parents[1].glob("*.csv")
        return found

    def kill(self, seconds: float) -> bool:
        """Start the plain command and kill it after some seconds.

        Returns:
            Whether it was killed; otherwise it had ended before.
        """
        with self.server.start(self.folder, *PLAIN, *TARGETS) as run:
            try:
                run.wait(seconds)
            except TimeoutError:
                run.kill()
                run.wait()
                return True
        return False

    def verify(self) -> str:
        """Run ``hstf verify`` and follow its advice; return its message.

        The advice is to delete the file of a case, and the table beside it.
        """
        done = self.server.hstf(self.folder, "verify", str(self.results))
        if done.returncode == 1:
            for word in re.findall(r"[\w./-]+\.[a-z0-9]+", done.stdout):
                path = self.folder / word
                if self.results in path.parents:
                    path.unlink(missing_ok=True)
                    for table in path.parents[1].glob("*.csv"):
                        table.unlink()
        return done.stdout

    def differences(self) -> list[str]:
        """Return the names of results that differ from those of a fresh run."""
        expected = self._fresh_results()
        found = digests(self.results)
        every = sorted(expected.keys() | found.keys())
        return [name for name in every if expected.get(name) != found.get(name)]

    def _fresh_results(self) -> dict[str, str]:
        kept = self.fresh / f"{self.wanted.key()}.csv"
        if not kept.is_file():
            folder = self.fresh / self.wanted.key()
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write(folder, self.wanted)
            done = self.server.snakemake(folder, *PLAIN, *TARGETS)
            assert done.returncode == 0, done.stdout[-6000:]
            output = folder / self.wanted.config.get("output", "results") / "edited"
            rows = [",".join(item) for item in digests(output).items()]
            kept.write_text("\n".join(rows))
            shutil.rmtree(folder)
        return dict(line.split(",") for line in kept.read_text().splitlines())


def write(folder: Path, wanted: Wanted) -> None:
    """Write all files of a user."""
    write_config(folder, wanted)
    write_sheet(folder, wanted)
    for name in wanted.scans:
        write_scan(folder, wanted, name)
    for name in wanted.corrected:
        write_corrected(folder, wanted, name)
    write_decisions(folder, wanted)


def write_config(folder: Path, wanted: Wanted) -> None:
    """Write ``config.yaml``."""
    (folder / "config.yaml").write_text(yaml.safe_dump(wanted.config, sort_keys=False))


def write_sheet(folder: Path, wanted: Wanted) -> None:
    """Write the case sheet."""
    with (folder / "cases.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case_id", "image", "label", "split"])
        for name, row in wanted.rows.items():
            writer.writerow([name, *row])


def write_scan(folder: Path, wanted: Wanted, name: str) -> None:
    """Write an image or a label; all versions have the same size."""
    seed = int(re.findall(r"\d", name)[0]) + 10 * wanted.scans[name]
    image, label = volume(seed)
    data = label if "label" in name else image
    nib.save(nib.Nifti1Image(data, np.diag([1.0, 1, 1, 1])), folder / name)


def write_corrected(folder: Path, wanted: Wanted, name: str) -> None:
    """Write a corrected label."""
    path = folder / "overrides" / "round_1" / f"{name}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    _, label = volume(100 + wanted.corrected[name])
    nib.save(nib.Nifti1Image(label, np.diag([1.0, 1, 1, 1])), path)


def write_decisions(folder: Path, wanted: Wanted) -> None:
    """Write ``decisions.csv``, or remove it if there are no decisions."""
    path = folder / "overrides" / "decisions.csv"
    if not wanted.rejected:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["round,case_id,action,reviewer,date,reason"]
    lines += [f"1,{name},reject,AB,2026-01-02,motion" for name in wanted.rejected]
    path.write_text("\n".join(lines) + "\n")


def volume(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image with two boxes, and its label."""
    random = np.random.default_rng(seed)
    label = np.zeros((SIDE, SIDE, SIDE), np.uint8)
    x, y = random.integers(1, 4, 2)
    label[x : x + 6, y : y + 6, 2:9] = 1
    label[x + 7 : x + 11, y + 5 : y + 10, 4:12] = 2
    label[tuple(random.integers(0, SIDE, (3, 8)))] = 1  # no two labels are the same
    image = 40 * label + random.normal(0, 8, label.shape)
    return image.astype(np.float32), label


def result_files(results: Path) -> list[Path]:
    """Return the files of an experiment that must be those of a fresh run."""
    files = []
    for path in sorted(results.rglob("*")):
        parts = path.relative_to(results).parts
        is_hidden = path.name.startswith(".") or path.suffix == ".lock"
        if path.is_file() and not is_hidden and not set(parts) & set(NOT_COMPARED):
            files.append(path)
    return files


def digests(results: Path) -> dict[str, str]:
    """Return the SHA-256 of each result."""
    found = {}
    for path in result_files(results):
        name = str(path.relative_to(results))
        content = path.read_bytes()
        if path.name == "labels.csv" or (path.parent.name == "labels" and path.suffix == ".csv"):
            content = _without_review(path)
        if name == "check.csv":
            content = _of_training_cases(path)
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def _of_training_cases(path: Path) -> bytes:
    """Return the rows of what trainings read: a changed test case is not checked again."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    withheld = [f"{name}_label.nii" for name in names()[SPLITS.index("test") :]]
    return repr([row for row in rows if row["file"] not in (*withheld, "case_3.nii")]).encode()


def _without_review(path: Path) -> bytes:
    """Return a table without the columns that say which version a reviewer has looked at."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    kept = [{k: v for k, v in row.items() if k not in ("review", "reason")} for row in rows]
    return repr(kept).encode()


def set_age(path: Path, seconds: float) -> None:
    """Date a file back."""
    moment = time.time() - seconds
    os.utime(path, (moment, moment))
