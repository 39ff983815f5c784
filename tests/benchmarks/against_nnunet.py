"""Measure hstf, nnU-Net, MONAI and an earlier version of hstf side by side, in one command.

``python tests/benchmarks/against_nnunet.py [--only PART ...] [--data FOLDER] [--against TREE]``

Works that are compared are done in turn on the same machine, several times, and the lowest time of
each counts: other work of the machine only adds to it. With one thread (the default), CPU seconds
depend least on other work; on a quiet machine give ``--threads``. Rows of packages that are not
installed are left out (``pip install nnunetv2 surface-distance-based-measures medpy``).

Parts:
  preprocess_*  whole commands on all scans, planned before, to the same voxel size
  window        sliding window over one scan, with the same network in float32
  scores        scores of one case of 192 x 142 x 88 voxels
  starts        CPU seconds up to the first step, and imports of commands
  batches       CPU seconds of drawing a batch of two patches
  steps_*       a step of a training: PlainConvUNet of the same plan in float32, with the loss, deep
                supervision and augmentation of nnU-Net; it reads no files
  consistency   a student step with and without cross-scale consistency
  trainings     two trainings at once, as the workflow starts them, and one after the other
  predict       hstf predict on one small scan
steps_*, trainings and predict also measure the peak memory.

Results are added to a JSON file, and a table is written beside it. A part that is there is not
measured again, unless ``--only`` names it.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from against import results
from against.parts import PARTS, Settings
from against.processes import ROOT

PACKAGES = ("torch", "nnunetv2", "monai")


def measure(name: str, settings: Settings, path: Path) -> None:
    """Measure a part; its works are written as soon as they are measured."""
    part = facts(settings)
    print(f"--- {name}", flush=True)
    for work, costs in PARTS[name](settings):
        results.add_work(part, work, costs)
        parts = results.read(path) | {name: part}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(parts, indent=1))
        path.with_suffix(".md").write_text(results.table(parts))
        print(results.table({name: {"works": {work: part["works"][work]}}}), flush=True)


def facts(settings: Settings) -> results.Part:
    """Return how and where a part is measured."""
    found: results.Part = {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "processor": processor(),
        "threads": settings.threads,
        "repeats": settings.repeats,
        "scans": "real" if settings.data else "phantoms",
        "hstf": commit(ROOT),
    }
    if settings.against:
        found["before"] = commit(settings.against)
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def processor() -> str:
    """Return the model of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def commit(tree: Path) -> str:
    """Return the commit of a version of hstf."""
    command = ["git", "-C", str(tree), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    """Measure the parts and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, help="measure these parts (again)")
    parser.add_argument("--data", type=Path, help="folder with hippocampus/ and acdc/")
    parser.add_argument("--against", type=Path, help="folder of an earlier version of hstf")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", type=int, help="scans to preprocess; default: 100 and 40")
    parser.add_argument("--steps", type=int, default=20, help="steps of the part trainings")
    parser.add_argument(
        "--brief", action="store_true", help="leave out rows that only explain others"
    )
    parser.add_argument("--folder", type=Path, help="folder of temporary files, to reuse them")
    parser.add_argument("--output", type=Path, default=ROOT / "results/against_nnunet.json")
    args = parser.parse_args()
    os.chdir(ROOT)
    # Processes that are stopped between their turns are ended in any case.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    with tempfile.TemporaryDirectory() as temporary:
        settings = Settings(
            folder=(args.folder or Path(temporary)).resolve(),
            data=args.data.resolve() if args.data else None,
            against=args.against.resolve() if args.against else None,
            threads=args.threads,
            repeats=args.repeats,
            cases=args.cases,
            steps=args.steps,
            brief=args.brief,
        )
        done = results.read(args.output)
        for name in args.only or PARTS:
            if args.only or name not in done:
                measure(name, settings, args.output.resolve())
    print(f"{args.output.with_suffix('.md')}")


if __name__ == "__main__":
    main()
