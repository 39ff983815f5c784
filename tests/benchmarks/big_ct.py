"""Measure the peak memory of every stage with a whole-body CT.

``python tests/benchmarks/big_ct.py FOLDER [--stages ...]`` uses two small labelled scans and a big
unlabelled one, which is also predicted with the exported model. The networks see the big scan at
twice its voxel size, as a low-resolution model of such scans does. With ``--spacing 0.75 0.75 1``
they see it at its own voxel size. Results always have the voxel size of the scan. The network is
tiny, so that the numbers are the cost of the volume. Each stage is a process. Files stay in FOLDER,
so that stages can be run one by one.
"""

import argparse
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hstf.datasets.phantom.dataset import save
from hstf.datasets.phantom.options import PHANTOM_LABELS, PhantomOptions
from hstf.datasets.phantom.scan import generate_case
from hstf.experiment.plan import Spacing, Triple
from hstf.runtime.files import write_csv

SMALL = (96, 96, 96)
SPACING = (0.75, 0.75, 1.0)
FACTOR = 8
"""The big scan is a phantom of 1/8 of its size whose voxels are repeated."""
LIMIT_GB = 8
CONFIG: dict[str, Any] = {
    "experiment": "big_ct",
    "labels": PHANTOM_LABELS,
    "lesions": ["lesion"],
    "modalities": {"image": "ct"},
    "rounds": 1,
    "device": "cpu",
    "plan": {
        "patch_size": [128, 128, 128],
        "batch_size": 2,
        "stages": 2,
        "base_channels": 4,
        "max_channels": 8,
    },
    "preprocess": {"workers": 1},
    "network": {
        "name": "cnn",
        "transformer_layers": 1,
        "transformer_heads": 1,
        "deep_supervision": False,
    },
    "warmup": {"folds": 2, "steps": 2},
    "student": {"steps": 1, "start": "previous_round"},
    "teacher": {"scales": [1.0], "overlap": 0.0, "flip_axes": [], "window_batch": 1},
    "predict": {"overlap": 0.0, "flip_axes": [], "window_batch": 1},
}
STAGES = {
    "check": ["check"],
    "plan": ["plan"],
    "preprocess_labelled": ["preprocess", "--shard", "labelled_0"],
    "preprocess": ["preprocess", "--shard", "unlabelled_0"],
    "warmup_0": ["warmup", "--member", "fold_0"],
    "warmup_1": ["warmup", "--member", "fold_1"],
    "calibrate": ["calibrate"],
    "teacher": ["teacher", "--round", "1", "--shard", "unlabelled_0"],
    "lesions": ["lesions", "--round", "1"],
    "refine": ["refine", "--round", "1", "--shard", "unlabelled_0"],
    "refined": ["refine", "--round", "1"],
    "labels": ["labels", "--round", "1", "--shard", "unlabelled_0"],
    "labelled": ["labels", "--round", "1"],
    "student": ["student", "--round", "1", "--member", "seed_0"],
    "export": ["export"],
    "predict": [],
}


@dataclass(frozen=True)
class Cost:
    """Time and peak memory (GB) of a process and its children.

    Memory of files, such as memory maps, can be written out when memory is short. Anonymous memory
    cannot.
    """

    seconds: float
    resident: float
    anonymous: float


def make_experiment(folder: Path, size: Triple, spacing: Spacing) -> None:
    """Write the scans, the case sheet and the configuration, unless they exist."""
    if (folder / "config.yaml").exists():
        return
    rows = []
    for number in range(3):
        is_big = number == 2
        make_scan(folder, number, size if is_big else SMALL, FACTOR if is_big else 1)
        rows.append(
            {
                "case_id": f"case_{number}",
                "image": f"scan_{number}.nii.gz",
                "label": "" if is_big else f"label_{number}.nii.gz",
                "split": "unlabelled" if is_big else "labelled",
            }
        )
    write_csv(folder / "cases.csv", rows, ["case_id", "image", "label", "split"])
    paths = {
        "output": str(folder / "results"),
        "cases": str(folder / "cases.csv"),
        "overrides": str(folder / "overrides"),
    }
    plan = CONFIG["plan"] | {"spacing": list(spacing)}
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | paths | {"plan": plan}))


def make_scan(folder: Path, number: int, size: Triple, factor: int) -> None:
    """Write a phantom in Hounsfield units and its label.

    Args:
        folder: folder of the files.
        number: number and seed of the scan.
        size: voxels of the scan; multiples of ``factor``.
        factor: how often each voxel of the phantom is repeated along each axis.
    """
    x, y, z = size
    shape = (x // factor, y // factor, z // factor)
    case = generate_case(number, PhantomOptions(size=shape, oblique=False))
    image = case.images[0] / np.percentile(case.images[0], 99)
    label = case.label
    if factor > 1:
        for axis in range(3):
            image = image.repeat(factor, axis)
            label = label.repeat(factor, axis)
    rng = np.random.default_rng(number)
    hounsfield = np.empty(image.shape, np.int16)
    # One slice at a time, because the noise of the whole scan would need gigabytes.
    for index in range(hounsfield.shape[2]):
        noise = rng.normal(0, 15, hounsfield.shape[:2])
        hounsfield[..., index] = 400 * image[..., index] - 200 + noise
    affine = np.diag([*SPACING, 1])
    save(folder / f"scan_{number}.nii.gz", hounsfield, affine)
    save(folder / f"label_{number}.nii.gz", label, affine)


def command(folder: Path, stage: str) -> list[str]:
    """Return the command line of a stage."""
    hstf = [sys.executable, "-m", "hstf"]
    if stage == "predict":
        model = folder / "results" / "big_ct" / "export"
        scan = folder / "scan_2.nii.gz"
        paths = ["--model", str(model), "--input", str(scan), "--output", str(folder / "predicted")]
        return [*hstf, "predict", *paths, "--existing", "overwrite"]
    name, *options = STAGES[stage]
    return [*hstf, name, "--config", str(folder / "config.yaml"), *options]


def measure(arguments: list[str]) -> Cost:
    """Run a command and measure it, ten times a second."""
    start = time.perf_counter()
    peaks = [0.0, 0.0]
    process = subprocess.Popen(arguments)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            for kind, used in enumerate(_memory(process.pid)):
                peaks[kind] = max(peaks[kind], used)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(arguments)}: failed with exit code {code}")
    return Cost(time.perf_counter() - start, *peaks)


def _memory(pid: int) -> tuple[float, float]:
    """Return resident and anonymous memory (GB) of a process and its children; 0 if it ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0, 0.0
    fields = dict(line.split(":", 1) for line in status.splitlines())
    resident = _gigabytes(fields.get("VmRSS", "0 kB"))
    anonymous = _gigabytes(fields.get("RssAnon", "0 kB"))
    for child in children:
        child_resident, child_anonymous = _memory(int(child))
        resident += child_resident
        anonymous += child_anonymous
    return resident, anonymous


def _gigabytes(kilobytes: str) -> float:
    return float(kilobytes.split()[0]) / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--size", type=int, nargs=3, default=(512, 512, 800), metavar=("X", "Y", "Z")
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        default=[2 * mm for mm in SPACING],
        metavar=("A", "B", "C"),
        help="voxel size (mm) of the networks; default: twice that of the scan",
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=list(STAGES),
        default=list(STAGES),
        metavar="STAGE",
        help=f"of {', '.join(STAGES)}; default: all",
    )
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    make_experiment(args.folder, tuple(args.size), tuple(args.spacing))
    for stage in args.stages:
        cost = measure(command(args.folder, stage))
        memory = f"{cost.resident:7.2f} GB resident{cost.anonymous:7.2f} GB anonymous"
        verdict = "" if cost.anonymous < LIMIT_GB else f"  over {LIMIT_GB} GB"
        print(f"{stage:20}{cost.seconds:7.0f} s{memory}{verdict}", flush=True)


if __name__ == "__main__":
    main()
