"""Peak memory of every stage with a whole-body CT: ``python tests/benchmarks/big_ct.py FOLDER [--stages ...]``.

Two small labelled scans, and one large one that is labelled by the model and predicted with what was exported. Networks see
it at twice its voxel size, as a low-resolution model of such scans does, or, with ``--spacing 0.75 0.75 1``, on its own
voxels; what is written has those in any case. The network is the smallest: what is measured is what the volume costs. Each
stage is a process of its own; files stay in FOLDER, so that stages can be run one by one.
"""

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import yaml

from hstf.datasets.phantom.dataset import save
from hstf.datasets.phantom.options import PHANTOM_LABELS, PhantomOptions
from hstf.datasets.phantom.scan import generate_case
from hstf.runtime.files import write_csv

SMALL = (96, 96, 96)
SPACING = (0.75, 0.75, 1.0)
LIMIT_GB = 8
CONFIG = {
    "experiment": "big_ct", "labels": PHANTOM_LABELS, "lesions": ["lesion"], "modalities": {"image": "ct"}, "rounds": 1,
    "device": "cpu",
    "plan": {
        "patch_size": [128, 128, 128], "batch_size": 2, "stages": 2, "base_channels": 4,
        "max_channels": 8,
    },
    "preprocess": {"workers": 1},
    "network": {"name": "cnn", "transformer_layers": 1, "transformer_heads": 1, "deep_supervision": False},
    "warmup": {"folds": 2, "steps": 2},
    "student": {"steps": 1, "start": "previous_round"},
    "teacher": {"scales": [1.0], "overlap": 0.0, "flip_axes": [], "window_batch": 1},
    "predict": {"overlap": 0.0, "flip_axes": [], "window_batch": 1},
}  # fmt: skip
STAGES = {
    "check": ["check"],
    "plan": ["plan"],
    "preprocess_labelled": ["preprocess", "--shard", "labelled_0"],
    "preprocess": ["preprocess", "--shard", "unlabelled_0"],
    "warmup_0": ["warmup", "--member", "fold_0"],
    "warmup_1": ["warmup", "--member", "fold_1"],
    "calibrate": ["calibrate"],
    "teacher": ["teacher", "--round", "1", "--shard", "unlabelled_0"],
    "refine": ["refine", "--round", "1", "--shard", "unlabelled_0"],
    "refined": ["refine", "--round", "1"],
    "labels": ["labels", "--round", "1", "--shard", "unlabelled_0"],
    "labelled": ["labels", "--round", "1"],
    "student": ["student", "--round", "1", "--member", "seed_0"],
    "export": ["export"],
    "predict": [],
}


def make_scans(
    folder: Path, size: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    """Scans, case sheet and configuration. The large scan is a coarse phantom with each voxel repeated, and fresh noise."""
    if (folder / "config.yaml").exists():
        return
    rows = []
    for number in range(3):
        large, factor = number == 2, 8
        shape = tuple(n // factor for n in size) if large else SMALL
        case = generate_case(number, PhantomOptions(size=shape, oblique=False))  # type: ignore[arg-type]
        image, label = case.images[0] / np.percentile(case.images[0], 99), case.label
        for axis in range(3) if large else ():
            image, label = image.repeat(factor, axis), label.repeat(factor, axis)
        rng, hu = np.random.default_rng(number), np.empty(image.shape, np.int16)
        for z in range(hu.shape[2]):
            hu[..., z] = 400 * image[..., z] - 200 + rng.normal(0, 15, hu.shape[:2])
        affine = np.diag([*SPACING, 1])
        save(folder / f"scan_{number}.nii.gz", hu, affine)
        save(folder / f"label_{number}.nii.gz", label, affine)
        rows.append({
            "case_id": f"case_{number}", "image": f"scan_{number}.nii.gz",
            "label": "" if large else f"label_{number}.nii.gz", "split": "unlabelled" if large else "labelled",
        })  # fmt: skip
    write_csv(folder / "cases.csv", rows, ["case_id", "image", "label", "split"])
    paths = {
        "output": str(folder / "results"),
        "cases": str(folder / "cases.csv"),
        "overrides": str(folder / "o"),
    }
    plan = {"plan": CONFIG["plan"] | {"spacing": list(spacing)}}  # type: ignore[operator]
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | paths | plan))


def command(folder: Path, stage: str) -> list[str]:
    """The stage's command line."""
    hstf = [sys.executable, "-m", "hstf"]
    if stage == "predict":
        model, scan = folder / "results" / "big_ct" / "export", folder / "scan_2.nii.gz"
        return [*hstf, "predict", "--model", str(model), "--input", str(scan), "--output", str(folder / "predicted"),
                "--existing", "overwrite"]  # fmt: skip
    name, *options = STAGES[stage]
    return [*hstf, name, "--config", str(folder / "config.yaml"), *options]


def measured(arguments: list[str]) -> tuple[float, float, float]:
    """Seconds, and peaks (GB) of resident and of anonymous memory of a process with all its children.

    Pages of files, as of memory maps, can be written out when memory is short; anonymous ones stay.
    """
    start, peaks = time.perf_counter(), [0.0, 0.0]
    process = subprocess.Popen(arguments)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            for kind, used in enumerate(_memory(process.pid)):
                peaks[kind] = max(peaks[kind], used)

    watcher = threading.Thread(target=watch)
    watcher.start()
    failed = process.wait()
    done.set()
    watcher.join()
    if failed:
        raise SystemExit(f"{' '.join(arguments)}: ended with {failed}")
    return time.perf_counter() - start, peaks[0], peaks[1]


def _memory(pid: int) -> tuple[float, float]:
    """Resident and anonymous memory (GB) of a process and its children now; of one that has ended, none."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return 0.0, 0.0
    fields = dict(line.split(":", 1) for line in status.splitlines())
    own = tuple(float(fields.get(name, "0 kB").split()[0]) / 1e6 for name in ("VmRSS", "RssAnon"))
    each = [own, *map(_memory, children)]
    return sum(used for used, _ in each), sum(used for _, used in each)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
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
        help="mm, that networks see; twice that of the scan by default",
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        default=list(STAGES),
        metavar="STAGE",
        help=f"of {', '.join(STAGES)}; all by default",
    )
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    make_scans(args.folder, tuple(args.size), tuple(args.spacing))
    for stage in args.stages:
        seconds, resident, anonymous = measured(command(args.folder, stage))
        verdict = "" if anonymous < LIMIT_GB else f"  over {LIMIT_GB} GB"
        print(
            f"{stage:20}{seconds:7.0f} s{resident:7.2f} GB resident{anonymous:7.2f} GB anonymous{verdict}",
            flush=True,
        )


if __name__ == "__main__":
    main()
